"""Every kind of backup becomes a volume on every kind of storage, and the volume is what it was.

Each guest does its share: LVM's all that is possible without ZFS, ZFS's all that has to do with it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from support import disks, filesystems, servers
from support.everything import everything
from support.servers import Snapvol
from support.storage import STORAGE
from support.trees import Entry, Seen, differences, grow, look

pytestmark = [pytest.mark.root, pytest.mark.storage, pytest.mark.lab]

SOURCES: dict[str, tuple[str, ...]] = {
    "btrfs": ("pool=btrfs",),
    "directory": ("pool=directory",),
    "lvm-image": ("pool=lvm", "size=256M", "backup.kind=image"),
    "lvm-files": ("pool=lvm", "size=320M", "fs=xfs", "backup.kind=files"),
    "zfs": ("pool=zfs", "zfs.acltype=posix", "zfs.xattr=sa"),
}
TARGETS: dict[str, tuple[str, ...]] = {
    "btrfs": ("pool=btrfs",),
    "directory": ("pool=directory",),
    "lvm": ("pool=lvm", "size=320M"),
    "zfs": ("pool=zfs", "zfs.acltype=posix", "zfs.xattr=sa"),
}
SHARE = [
    (source, target) for source in SOURCES for target in TARGETS if ("zfs" in (source, target)) == (STORAGE == "zfs")
]
assert len(SHARE) in (12, 8)
SPARSE = {b"only-a-hole": 256 << 10, b"sparse": 4 << 20}  # bytes that they may take on any storage


@dataclass
class Original:
    """A volume with one of everything, and its backup."""

    seen: Mapping[bytes, Seen]
    backup: str


class Matrix:
    """A daemon with a pool of each kind; volumes are made when first asked for."""

    def __init__(self, host: Snapvol) -> None:
        self.host = host
        self._originals: dict[str, Original] = {}

    def create(self, name: str, *options: str) -> None:
        self.host.cli("create", name, *(word for option in options for word in ("-o", option)), seconds=300)

    def look(self, name: str) -> dict[bytes, Seen]:
        root = Path(self.host.out("mount", name))
        try:
            return look(root)
        finally:
            self.host.cli("unmount", name)

    def original(self, source: str) -> Original:
        if source not in self._originals:
            name = f"of-{source}"
            self.create(name, *SOURCES[source], "mode=2751")
            root = Path(self.host.out("mount", name))
            grow(root, sample())
            seen = look(root)
            self.host.cli("unmount", name)
            self.host.cli("backup", name, seconds=300)
            (backup,) = self.host.json("backups", name)
            self._originals[source] = Original(seen, backup["id"])
        return self._originals[source]


@pytest.fixture(scope="module")
def matrix(place: Path) -> Iterator[Matrix]:
    directory = place / "matrix"
    directory.mkdir()
    made = [disks.another("lvm"), *([disks.another("zfs")] if STORAGE == "zfs" else [])]
    with (
        filesystems.mounted("btrfs", directory / "on") as btrfs,
        filesystems.mounted("xfs", directory / "on") as xfs,
    ):
        pools: dict[str, dict[str, Any]] = {
            "btrfs": {"backend": "btrfs", "path": btrfs / "pool"},
            "directory": {"backend": "directory", "path": xfs / "pool"},
            **{kind: {"backend": kind, **settings} for kind, settings in zip(("lvm", "zfs"), made, strict=False)},
        }
        repository = {"url": directory / "repository", "password_file": servers.password_file(directory)}
        host = Snapvol(
            directory,
            {"daemon": {"default_pool": "btrfs"}, "pools": pools, "repositories": {"default": repository}},
        ).start()
        host.cli("repo", "init")
        try:
            yield Matrix(host)
        finally:
            host.stop()
            for settings in made:
                disks.drop(settings)


def sample() -> dict[bytes, Entry]:
    """Return one of everything that all these file systems can hold: ext4's last second has no fractions."""
    plan = everything()
    return {**plan, b"2446": replace(plan[b"2446"], mtime=15_032_385_534 * 10**9 + 999_999_999)}


def portable(seen: Mapping[bytes, Seen]) -> dict[bytes, Seen]:
    """Leave out what is the storage's own affair: the blocks that something takes, XFS's second names of ACLs."""
    return {
        path: replace(
            entry,
            allocated=0,
            xattrs=tuple(pair for pair in entry.xattrs if not pair[0].startswith("trusted.SGI_ACL_")),
        )
        for path, entry in seen.items()
    }


@pytest.mark.parametrize(("source", "target"), SHARE)
def test_a_backup_becomes_the_same_volume_on_another_storage(matrix: Matrix, source: str, target: str) -> None:
    """T34, T35, T37; T11 where both lie in one pool."""
    original = matrix.original(source)
    name = f"{source}-to-{target}"
    matrix.create(name, *TARGETS[target], f"backup={original.backup}")
    found = matrix.look(name)
    assert differences(portable(original.seen), portable(found), holes=False) == []
    for path, most in SPARSE.items():
        assert found[path].allocated <= most, f"{path!r}: holes have become zeros"
    told = matrix.host.json("inspect", name)
    assert (told["pool"], told["state"]) == (TARGETS[target][0].partition("=")[2], "ready")
    matrix.host.cli("rm", name)


def test_nothing_is_left_of_all_the_restores(matrix: Matrix) -> None:
    """No scratch image, no loop device, no mount but those of volumes that somebody uses."""
    for source in {source for source, _ in SHARE}:
        matrix.original(source)
    state = matrix.host.place / "state"
    assert disks.below(state) == []
    assert [path for path in (state / "tmp").rglob("*") if path.is_file()] == []
    assert not [file for file in Path("/sys/block").glob("loop*/loop/backing_file") if str(state) in file.read_text()]
    assert os.listdir(state)
