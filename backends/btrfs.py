"""Volumes as btrfs subvolumes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from msgspec import Struct

from snapvol import shell
from snapvol.backend import Change, Features, Option
from snapvol.backends import btrfschanges, subvolume
from snapvol.backends.btrfschanges import Point
from snapvol.backends.failures import explained
from snapvol.backends.measure import measure
from snapvol.backends.place import Place, Reserve, absolute, read_settings
from snapvol.backends.removal import refuse_mounted, remove_tree
from snapvol.backends.trees import Trees
from snapvol.backends.volumedir import DATA
from snapvol.errors import PoolUnavailable, SettingsError, ToolFailed, UsageError
from snapvol.model import Snapshot, Usage, Volume
from snapvol.settings import ROOT

COMPRESSION = Option(
    key="btrfs.compression", help="how new files are compressed", choices=("lzo", "none", "zlib", "zstd")
)
NODATACOW = Option(
    key="btrfs.nodatacow", help="write in place: for databases; no checksums, no compression", choices=("false", "true")
)


class BtrfsSettings(Struct, frozen=True, kw_only=True):
    """``[pools.NAME]`` of a `btrfs` pool.

    Attributes:
        path: the pool's directory on a btrfs; made on first use where its parent exists.
        reserve: in percent of the storage; with less free, no new volume or snapshot is made.
    """

    path: str
    reserve: Reserve = 2


class Btrfs(Trees):
    """Volumes as subvolumes; snapshots as read-only snapshots, named by their subvolume's UUID.

    A subvolume that a container makes inside a volume is no part of the volume's snapshots: btrfs leaves it out.
    """

    kind = "btrfs"
    options = (COMPRESSION, NODATACOW)
    _stable_inodes = True

    def __init__(self, pool: str, settings: Mapping[str, object], *, root: Path = ROOT) -> None:
        checked = read_settings(pool, settings, BtrfsSettings)
        super().__init__(pool, Place(pool, absolute(pool, checked.path), checked.reserve))
        self._filesystem: str | None = None

    def _before_open(self, expected: str | None) -> None:
        """Refuse another kind of file system before anything is made on it."""
        try:
            shell.run("btrfs", "--version")
        except ToolFailed as error:
            raise PoolUnavailable(f"pool '{self.pool}': {error.message}", "apt install btrfs-progs") from error
        root = self._place.root if self._place.root.is_dir() else self._place.root.parent
        try:
            self._filesystem = subvolume.filesystem_id(root)
        except FileNotFoundError:
            return  # there is not even a parent: the place says so
        if self._filesystem is None:
            if expected is not None:
                raise PoolUnavailable(
                    f"pool '{self.pool}': {root} is not on btrfs, but the pool was in use before",
                    f"mount its storage at {self._place.root}",
                )
            raise SettingsError(
                f"[pools.{self.pool}] path: {root} is not on btrfs", 'mount a btrfs there, or set backend = "directory"'
            )

    def _probe(self) -> Features:
        return Features(
            snapshots=True,
            instant=True,
            quota=True,
            resize=True,
            shared_blocks=True,
            stable_inodes=True,
            tracked=("files",) if os.geteuid() == 0 else (),  # only root may ask for changes
        )

    def _check_options(self, volume: Volume) -> None:
        for option in self.options:
            value = volume.options.get(option.key)
            if value is not None and value not in option.choices:
                raise UsageError(
                    f"volume '{volume.name}': {option.key} = '{value}' is not valid",
                    f"valid: {', '.join(option.choices)}",
                )
        compression = volume.options.get(COMPRESSION.key, "none")
        if volume.options.get(NODATACOW.key) == "true" and compression != "none":
            raise UsageError(
                f"volume '{volume.name}': btrfs cannot compress ({compression}) what it writes in place",
                f"leave out {COMPRESSION.key} or {NODATACOW.key}",
            )

    def _make_root(self, root: Path) -> None:
        shell.run("btrfs", "-q", "subvolume", "create", root)

    def _copy_roots(self, pairs: Sequence[tuple[Path, Path]], *, read_only: bool) -> None:
        if len(pairs) > 1:
            # Each snapshot writes out what its origin still has in memory: done before, it does not delay the next.
            self._sync(pairs[0][0])
        for source, target in pairs:
            arguments = ["-r"] if read_only else []
            shell.run("btrfs", "-q", "subvolume", "snapshot", *arguments, source, target)

    def _apply_options(self, root: Path, volume: Volume) -> None:
        compression = volume.options.get(COMPRESSION.key)
        if volume.options.get(NODATACOW.key) == "true":
            shell.run("chattr", "+C", root)
        elif compression is not None:
            os.setxattr(root, "btrfs.compression", compression.encode())

    def _limit(self, root: Path) -> int | None:
        return subvolume.limit(self._known_filesystem(root), subvolume.info(root).number)

    def _set_limit(self, root: Path, size: int) -> None:
        if not subvolume.quotas_on(self._known_filesystem(root)):
            shell.run("btrfs", "quota", "enable", self._place.root)
            shell.run("btrfs", "quota", "rescan", "-w", self._place.root)
        shell.run("btrfs", "qgroup", "limit", str(size), root)

    def _usage(self, root: Path) -> Usage:
        counts = subvolume.quota(self._known_filesystem(root), subvolume.info(root).number)
        if counts is None:
            return Usage(used=measure(root))
        return Usage(used=counts.referenced, exclusive=counts.exclusive, limit=counts.limit)

    def _identity(self, root: Path) -> str:
        return subvolume.info(root).uuid

    def _sync(self, root: Path) -> None:
        shell.run("sync", "-f", root)

    def _left_out(self, root: Path) -> Sequence[str]:
        return subvolume.nested(root)

    def changes(self, base: Snapshot, snapshot: Snapshot) -> Iterable[Change] | None:
        """See `Backend.changes`."""
        with explained(f"what changed from '{base.full_name}' to '{snapshot.full_name}' cannot be found out"):
            return btrfschanges.changes(self._at(base), self._at(snapshot))

    def _at(self, snapshot: Snapshot) -> Point:
        return Point(root=self._snapshot_directory(snapshot) / DATA, id=snapshot.id, name=f"'{snapshot.full_name}'")

    def _remove(self, path: Path) -> None:
        refuse_mounted(path, f"{path} is not removed")
        numbers = [number for root in _roots_in(path) for number in reversed(_with_nested(root))]
        for number in numbers:
            subvolume.delete(self._place.root, number)
        if numbers:
            self._sync(self._place.root)  # or a power cut would bring them back
        if subvolume.quotas_on(self._known_filesystem(self._place.root)):
            self._forget_quotas(numbers)
        remove_tree(path)

    def _forget_quotas(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            # Newer kernels do it themselves when the blocks are freed; until then it is busy.
            with suppress(ToolFailed):
                shell.run("btrfs", "qgroup", "destroy", f"0/{number}", self._place.root)

    def _known_filesystem(self, root: Path) -> str:
        if self._filesystem is None:
            self._filesystem = subvolume.filesystem_id(root)
        if self._filesystem is None:
            raise PoolUnavailable(f"pool '{self.pool}': {root} is not on btrfs any more", "look at `findmnt`")
        return self._filesystem


def _roots_in(path: Path) -> list[Path]:
    """Return the outermost subvolumes at or below ``path``."""
    found: list[Path] = []
    pending = [path]
    while pending:
        directory = pending.pop()
        if os.lstat(directory).st_ino == subvolume.ROOT_INODE:
            found.append(directory)
            continue
        with os.scandir(directory) as entries:
            pending += [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
    return found


def _with_nested(root: Path) -> list[int]:
    """Return the id of the subvolume at ``root`` and of all inside it, each before those that it holds."""
    numbers = [subvolume.info(root).number]
    for number in numbers:
        numbers += subvolume.children(root, number)
    return numbers
