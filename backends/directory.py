"""Volumes as plain directories, on whatever file system the pool's path lies."""

from __future__ import annotations

import errno
import fcntl
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from msgspec import Struct

from snapvol import shell
from snapvol.backend import Features
from snapvol.backends import subvolume
from snapvol.backends.measure import measure, short_path
from snapvol.backends.place import LOCK, MARKER, Place, Reserve, absolute, read_settings
from snapvol.backends.removal import remove_tree
from snapvol.backends.trees import Trees
from snapvol.errors import StorageFailed, ToolFailed, Unsupported
from snapvol.model import Usage, new_id
from snapvol.mountinfo import locate
from snapvol.settings import ROOT

_FICLONE = 0x40049409
_NO_REFLINK = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOTTY, errno.ENOSYS, errno.EXDEV)
_PRESERVE = "--preserve=mode,ownership,timestamps,links,xattr"
_ATTEMPTS = 3
# A file that was removed before cp came to it is not in the copy, as if the copy had been made a moment later. A file
# that was replaced is one that always was there, so the copy must be made again.
_VANISHED = re.compile(r"\S*cp: cannot (stat|open|access) .*: No such file or directory\Z")
_REPLACED = re.compile(r"\S*cp: skipping file .*, as it was replaced while being copied\Z")


class DirectorySettings(Struct, frozen=True, kw_only=True):
    """``[pools.NAME]`` of a `directory` pool.

    Attributes:
        path: the pool's directory; made on first use where its parent exists.
        full_copies: copy every byte for a snapshot where the file system cannot share blocks.
        reserve: in percent of the storage; with less free, no new volume or snapshot is made.
    """

    path: str
    full_copies: bool = False
    reserve: Reserve = 2


class Directory(Trees):
    """Volumes as directories; snapshots as copies, sharing blocks where the file system has reflinks.

    A copy is made file by file, so a snapshot of files that are being written is not one instant. Snapshots are kept
    from change by the pool's directory alone, which only its owner may enter.
    """

    kind = "directory"

    def __init__(self, pool: str, settings: Mapping[str, object], *, root: Path = ROOT) -> None:
        checked = read_settings(pool, settings, DirectorySettings)
        super().__init__(pool, Place(pool, absolute(pool, checked.path), checked.reserve))
        self._full_copies = checked.full_copies
        self._reflinks = False

    def _probe(self) -> Features:
        mount = locate(self._place.root).mount
        self._reflinks = _shares_blocks(self._place.root / MARKER, self._place.root / LOCK)
        reasons = []
        if not self._reflinks and not self._full_copies:
            reasons.append(
                f"{mount.filesystem} at {mount.mountpoint} has no reflinks:"
                f" set `full_copies = true` in [pools.{self.pool}] to copy every byte, or use XFS, btrfs, ZFS or LVM"
            )
        if {"prjquota", "pquota"} & set(mount.options):
            reasons.append(
                "sizes are not served by `directory` yet, though project quotas are on: use btrfs, ZFS or LVM"
            )
        else:
            reasons.append(
                f"sizes need quotas, and {mount.filesystem} at {mount.mountpoint} has no project quotas on:"
                " use btrfs, ZFS or LVM"
            )
        return Features(
            snapshots=self._reflinks or self._full_copies,
            instant=False,
            quota=False,
            resize=False,
            shared_blocks=self._reflinks,
            stable_inodes=False,
            reason="; ".join(reasons),
        )

    def _make_root(self, root: Path) -> None:
        os.mkdir(root, 0o755)

    def _copy_roots(self, pairs: Sequence[tuple[Path, Path]], *, read_only: bool) -> None:
        for source, target in pairs:
            self._copy(source, target)
        self._sync(pairs[-1][1])

    def _copy(self, source: Path, target: Path) -> None:
        for attempt in range(1, _ATTEMPTS + 1):
            os.mkdir(target, 0o700)
            try:
                self._copy_once(source, target)
            except ToolFailed as error:
                lines = error.stderr.splitlines()
                changed = [line for line in lines if not _VANISHED.match(line)]
                if not all(_REPLACED.match(line) for line in changed):
                    raise
                if not changed:
                    return
                if attempt == _ATTEMPTS:
                    raise StorageFailed(
                        f"files kept being replaced while they were copied: {changed[0].partition(': ')[2]}",
                        "stop the containers that write there, or keep the volume on btrfs, ZFS or LVM",
                    ) from error
                remove_tree(target)
            else:
                return

    def _copy_once(self, source: Path, target: Path) -> None:
        # By descriptor, so that the pool's own path takes nothing from the 4,096 bytes that a path may have.
        with short_path(source) as old, short_path(target) as new:
            reflink = "--reflink=always" if self._reflinks else "--reflink=never"
            shell.run("cp", "-dRx", _PRESERVE, reflink, "--", f"{old}/.", f"{new}/")

    def _limit(self, root: Path) -> int | None:
        return None

    def _set_limit(self, root: Path, size: int) -> None:
        raise Unsupported(f"pool '{self.pool}' has no quotas", self.features.reason)

    def _usage(self, root: Path) -> Usage:
        return Usage(used=measure(root))

    def _identity(self, root: Path) -> str:
        return new_id()

    def _sync(self, root: Path) -> None:
        shell.run("sync", "-f", "--", root)

    def _left_out(self, root: Path) -> Sequence[str]:
        # On btrfs a container may make subvolumes, which are file systems of their own to cp.
        return subvolume.nested(root) if subvolume.filesystem_id(root) is not None else ()

    def _remove(self, path: Path) -> None:
        remove_tree(path)


def _shares_blocks(source: Path, target: Path) -> bool:
    """Try whether the file system can clone a file: ``source`` over ``target``, whose contents do not matter."""
    with source.open("rb") as old, target.open("r+b") as new:
        try:
            fcntl.ioctl(new.fileno(), _FICLONE, old.fileno())
        except OSError as error:
            if error.errno in _NO_REFLINK:
                return False
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):  # it could, if there were room
                raise
    return True
