"""Pools on every kind of storage that there is a backend for, and the variants of them that tests run on."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from snapvol.backend import Backend
from snapvol.backends import BACKENDS, subvolume
from snapvol.model import Damage, Snapshot, Volume, new_id, now
from support import filesystems
from support.memory import Memory

# btrfs frees what was removed after a commit, by default every 30 s.
OPTIONS = {"ext4": "defaults", "xfs": "defaults", "btrfs": "commit=1"}
TOP = 5  # the number of a btrfs's own subvolume
SIZES = {"ext4": 64 << 20, "xfs": 320 << 20, "btrfs": 512 << 20}


@dataclass(frozen=True)
class Variant:
    """One backend on one file system.

    Attributes:
        backend: the backend's kind.
        filesystem: what its pool lies on; None for no file system of its own.
        settings: the pool's, but for the path.
        missing: the features that it must declare missing.
    """

    backend: str
    filesystem: str | None = None
    settings: Mapping[str, object] = field(default_factory=dict)
    missing: frozenset[str] = frozenset()


NO_SIZES = frozenset({"quota", "resize"})
COPIES = NO_SIZES | {"instant", "shared_blocks", "stable_inodes"}
VARIANTS = {
    "memory": Variant("memory", missing=COPIES),
    "directory-ext4": Variant("directory", "ext4", missing=COPIES | {"snapshots"}),
    "directory-ext4-full": Variant("directory", "ext4", {"full_copies": True}, COPIES),
    "directory-xfs": Variant("directory", "xfs", missing=NO_SIZES | {"instant", "stable_inodes"}),
    "directory-btrfs": Variant("directory", "btrfs", missing=NO_SIZES | {"instant", "stable_inodes"}),
    "btrfs": Variant("btrfs", "btrfs"),
}
TREES = {name: variant for name, variant in VARIANTS.items() if variant.filesystem}


@dataclass
class Pool:
    """An open pool and how to open it once more.

    Attributes:
        backend: as opened last.
        variant: what it is.
        path: the pool's directory; None for one in memory.
        identity: what `open` returned.
    """

    backend: Backend
    variant: Variant
    path: Path | None
    identity: str

    def fresh(self) -> Backend:
        """Return the backend as another process would construct it: not open."""
        return make(self.variant, self.path) if self.path else self.backend

    def reopen(self) -> Backend:
        """Open the pool as the next daemon would."""
        self.backend.close()
        self.backend = self.fresh()
        self.backend.open(expected=self.identity)
        return self.backend

    @property
    def tree(self) -> Path:
        """The directory of a pool that has one."""
        assert self.path is not None
        return self.path

    def volume(self, name: str = "web", **options: str) -> Volume:
        """Create a volume."""
        volume = record(name, **options)
        self.backend.create(volume)
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

    def snapshot(self, volume: Volume, name: str) -> Snapshot:
        """Snapshot one volume."""
        return self.backend.snapshot([volume], name)[0]

    def snapshots(self, volume: Volume) -> list[Snapshot]:
        """Return a volume's snapshots; none may be damaged."""
        found = self.backend.snapshots(volume)
        good = [snapshot for snapshot in found if isinstance(snapshot, Snapshot)]
        assert len(good) == len(found), found
        return good

    def leaks(self) -> list[str]:
        """Return what lies in the pool and belongs to nothing."""
        return sorted(os.listdir(self.path / "tmp")) if self.path else []

    def subvolumes(self) -> list[int]:
        """Return the subvolumes of the file system that the pool lies on; tests have one pool at a time."""
        return subvolume.children(self.tree, TOP) if self.variant.filesystem == "btrfs" else []


def record(name: str, **options: str) -> Volume:
    """Return a new volume's metadata; option keys with underscores for dots."""
    return Volume(id=new_id(), name=name, created=now(), options={k.replace("_", "."): v for k, v in options.items()})


def make(variant: Variant, path: Path) -> Backend:
    """Construct the backend of ``variant`` for a pool at ``path``."""
    return BACKENDS[variant.backend]("pool", {"path": str(path), **variant.settings})


def open_pool(variant: Variant, path: Path) -> Pool:
    """Make a new pool, at ``path`` where it needs one."""
    backend = make(variant, path) if variant.filesystem else Memory("pool")
    return Pool(backend, variant, path if variant.filesystem else None, backend.open())


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
