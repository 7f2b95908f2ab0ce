"""Pools on every kind of storage that there is a backend for, and the variants of them that tests run on.

``SNAPVOL_TEST_STORAGE`` chooses: unset, what any machine has; ``lvm`` or ``zfs``, that storage in a lab guest. There
``SNAPVOL_TEST_THOROUGH=1`` runs also what a change can do without: the hours of it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from snapvol.backend import Backend
from snapvol.backends import BACKENDS, subvolume
from snapvol.model import Damage, Snapshot, Volume, new_id, now
from support import disks, filesystems
from support.memory import Memory
from support.process import run

# btrfs frees what was removed after a commit, by default every 30 s.
OPTIONS = {"ext4": "defaults", "xfs": "defaults", "btrfs": "commit=1"}
TOP = 5  # the number of a btrfs's own subvolume
SIZES = {"ext4": 64 << 20, "xfs": 320 << 20, "btrfs": 512 << 20}
STORAGE = os.environ.get("SNAPVOL_TEST_STORAGE", "")
THOROUGH = not STORAGE or bool(os.environ.get("SNAPVOL_TEST_THOROUGH"))


@dataclass(frozen=True)
class Variant:
    """One backend on one kind of storage.

    Attributes:
        backend: the backend's kind.
        filesystem: what its pool lies on; None for no file system of its own.
        settings: the pool's, but for the place.
        missing: the features that it must declare missing.
        options: of each of its volumes.
        size: of the volumes in tests of sizes, in bytes.
    """

    backend: str
    filesystem: str | None = None
    settings: Mapping[str, object] = field(default_factory=dict)
    missing: frozenset[str] = frozenset()
    options: Mapping[str, str] = field(default_factory=dict)
    size: int = 16 << 20

    @property
    def mounts(self) -> bool:
        """Whether volumes have to be mounted to be reached."""
        return self.backend in ("lvm", "zfs")

    @property
    def privileged(self) -> bool:
        """Whether it takes root."""
        return self.backend != "memory"


NO_BASE = frozenset({"keeps_base"})
NO_SIZES = NO_BASE | {"quota", "resize"}
COPIES = NO_SIZES | {"instant", "shared_blocks", "stable_inodes"}
ANYWHERE = {
    "memory": Variant("memory", missing=COPIES),
    "directory-ext4": Variant("directory", "ext4", missing=COPIES | {"snapshots"}),
    "directory-ext4-full": Variant("directory", "ext4", {"full_copies": True}, COPIES),
    "directory-xfs": Variant("directory", "xfs", missing=NO_SIZES | {"instant", "stable_inodes"}),
    "directory-btrfs": Variant("directory", "btrfs", missing=NO_SIZES | {"instant", "stable_inodes"}),
    "btrfs": Variant("btrfs", "btrfs"),
}
LAB = {
    "lvm-ext4": Variant("lvm", options={"fs": "ext4"}, size=64 << 20),
    "lvm-xfs": Variant("lvm", options={"fs": "xfs"}, size=320 << 20),
    "zfs": Variant("zfs", missing=NO_BASE),
}
EVERYTHING = ANYWHERE | LAB
VARIANTS = {name: v for name, v in LAB.items() if v.backend == STORAGE} if STORAGE else ANYWHERE
assert VARIANTS, f"SNAPVOL_TEST_STORAGE={STORAGE}: neither lvm nor zfs"
# The kinds of pools of the daemons in tests of the whole, see `e2e.conftest.pool`; the first where one is enough.
KINDS = (STORAGE,) if STORAGE else ("btrfs", "xfs")
PLAIN = STORAGE or "ext4"
TREES = {name: variant for name, variant in VARIANTS.items() if variant.filesystem}


def parameters(named: Mapping[str, Variant]) -> list[Any]:
    """Return the parameters of a test or fixture that runs on each of these variants."""
    return [
        pytest.param(variant, id=name, marks=[pytest.mark.root] if variant.privileged else [])
        for name, variant in named.items()
    ]


@dataclass
class Pool:
    """An open pool and how to open it once more.

    Attributes:
        backend: as opened last.
        variant: what it is.
        settings: the pool's, whole.
        root: the daemon's directory.
        identity: what `open` returned.
        foreign: names of what the test itself put beside our volumes.
    """

    backend: Backend
    variant: Variant
    settings: Mapping[str, object]
    root: Path
    identity: str
    foreign: set[str] = field(default_factory=set)

    def fresh(self) -> Backend:
        """Return the backend as another process would construct it: not open."""
        if self.variant.backend == "memory":
            return self.backend
        return BACKENDS[self.variant.backend]("pool", self.settings, root=self.root)

    def reopen(self) -> Backend:
        """Open the pool as the next daemon would."""
        self.backend.close()
        self.backend = self.fresh()
        self.backend.open(expected=self.identity)
        return self.backend

    @property
    def tree(self) -> Path:
        """The directory of a pool that has one."""
        return Path(str(self.settings["path"]))

    def record(self, name: str, **options: str) -> Volume:
        """Return a new volume's metadata; option keys with underscores for dots."""
        return record(name, **{**self.variant.options, **options})

    def volume(self, name: str = "web", **options: str) -> Volume:
        """Create a volume."""
        self.backend.create(self.record(name, **options))
        return self.stored(name)

    def stored(self, name: str) -> Volume:
        """Return the live volume called ``name`` as the storage lists it."""
        found = [volume for volume in self.backend.volumes() if volume.name == name]
        assert len(found) == 1, f"{name}: {found}"
        assert isinstance(found[0], Volume), found[0]
        return found[0]

    def names(self) -> set[str]:
        """Return the names of the live volumes; none may be damaged."""
        found = self.backend.volumes()
        assert not [damage for damage in found if isinstance(damage, Damage)], found
        return {volume.name for volume in found}

    @contextmanager
    def mounted(self, volume: Volume) -> Iterator[Path]:
        """Give the volume's root, mounted for the length of a ``with``."""
        root = self.backend.mount(volume)
        try:
            yield root
        finally:
            self.backend.unmount(volume)

    def put(self, volume: Volume, **files: str) -> None:
        """Write files into the volume's root."""
        with self.mounted(volume) as root:
            for name, text in files.items():
                (root / name).write_text(text)

    def get(self, volume: Volume) -> dict[str, bytes]:
        """Return the volume's regular files and what they hold."""
        with self.mounted(volume) as root:
            return contents(root)

    def snapshot(self, volume: Volume, name: str) -> Snapshot:
        """Snapshot one volume."""
        return self.backend.snapshot([volume], name)[0]

    def snapshots(self, volume: Volume) -> list[Snapshot]:
        """Return a volume's snapshots; none may be damaged."""
        found = self.backend.snapshots(volume)
        good = [snapshot for snapshot in found if isinstance(snapshot, Snapshot)]
        assert len(good) == len(found), found
        return good

    def clear(self) -> None:
        """Destroy all volumes that are not damaged, held or not."""
        everything = [*self.backend.volumes(), *self.backend.trashed()]
        # A clone may have to go before what it was made from.
        volumes = sorted(
            (volume for volume in everything if isinstance(volume, Volume)),
            key=lambda volume: volume.created,
            reverse=True,
        )
        for volume in volumes:
            for snapshot in self.backend.snapshots(volume):
                for tag in snapshot.holds if isinstance(snapshot, Snapshot) else ():
                    assert isinstance(snapshot, Snapshot)
                    self.backend.release(snapshot, tag)
            self.backend.unmount(volume)
        for volume in volumes:
            self.backend.destroy(volume)

    def settle(self) -> None:
        """See on the storage what was written; what it counts may lag behind until then."""
        os.sync()
        if self.variant.backend == "zfs":
            run("zpool", "sync")

    # -- what the storage's own tools say -----------------------------------------------------------------------

    def inventory(self) -> list[str]:
        """Return the storage's own list of what volumes and snapshots are made of; tests have one pool at a time."""
        if self.variant.filesystem == "btrfs":
            return [str(number) for number in subvolume.children(self.tree, TOP)]
        if self.variant.backend == "lvm":
            return sorted({lv.name for lv in disks.logical_volumes()} - self.foreign)
        if self.variant.backend == "zfs":
            everything = disks.datasets(str(self.settings["dataset"]), "filesystem,snapshot")
            return sorted(set(everything) - self.foreign)
        return []

    def leaks(self) -> list[str]:
        """Return what lies in the pool, or is mounted, and belongs to nothing. Nothing is staged or open."""
        if self.variant.filesystem:
            return sorted(os.listdir(self.tree / "tmp"))
        if not self.variant.mounts:
            return []
        return self._unaccounted() + self._mounts_of_nothing()

    def _unaccounted(self) -> list[str]:
        volumes = [v for v in [*self.backend.volumes(), *self.backend.trashed()] if isinstance(v, Volume)]
        snapshots = sum(len(self.backend.snapshots(volume)) for volume in volumes)
        found = self.inventory()
        if self.variant.backend == "zfs":
            if not volumes:
                return found
            # A dataset has a volume's contents, or snapshots that only it has or a clone needs.
            heads = {name for volume in volumes for name in self.backend.sources(volume)}
            used = {name.partition("@")[0] for name in found if "@" in name}
            return [name for name in found if "@" not in name and name not in heads | used]
        return found if len(found) != len(volumes) + snapshots else []

    def _mounts_of_nothing(self) -> list[str]:
        known = {str(self.backend.mountpoint(v)) for v in self.backend.volumes() if isinstance(v, Volume)}
        source = str(self.settings["dataset"]) if self.variant.backend == "zfs" else f"/dev/mapper/{disks.GROUP}-"
        at = set(disks.mounted([source])) | set(disks.below(self.root))
        return sorted(f"mount {point}" for point in at - known - self.foreign)

    def subvolumes(self) -> list[str]:
        """Return `inventory` after everything was destroyed: nothing but what holds an empty pool together."""
        return self.inventory()


def record(name: str, **options: str) -> Volume:
    """Return a new volume's metadata; option keys with underscores for dots."""
    return Volume(id=new_id(), name=name, created=now(), options={k.replace("_", "."): v for k, v in options.items()})


def make(variant: Variant, path: Path) -> Backend:
    """Construct the backend of ``variant`` for a pool in a directory at ``path``."""
    return BACKENDS[variant.backend]("pool", {"path": str(path), **variant.settings})


def open_pool(variant: Variant, path: Path) -> Pool:
    """Make a new pool in a directory at ``path``, or in memory."""
    settings = {"path": str(path), **variant.settings}
    backend = make(variant, path) if variant.filesystem else Memory("pool")
    return Pool(backend, variant, settings, path.parent, backend.open())


def open_disks(variant: Variant, root: Path) -> Pool:
    """Open the session's pool on the lab's disks, with mount points below ``root``."""
    settings = {**disks.pool(variant.backend), **variant.settings}
    backend = BACKENDS[variant.backend]("pool", settings, root=root)
    return Pool(backend, variant, settings, root, backend.open())


@contextmanager
def mounts(place: Path) -> Iterator[Callable[[str], Path]]:
    """Give a function that makes a file system of a kind when first asked, and returns where it is mounted."""
    made: dict[str, Path] = {}
    with ExitStack() as stack:

        def mounted(kind: str) -> Path:
            if kind not in made:
                made[kind] = stack.enter_context(filesystems.mounted(kind, place, SIZES[kind], OPTIONS[kind]))
            return made[kind]

        yield mounted


def contents(root: Path) -> dict[str, bytes]:
    """Return the regular files below ``root`` and what they hold."""
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}
