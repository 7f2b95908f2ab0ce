"""What every kind of storage must offer: the contract that `tests/contract` holds each backend to.

A backend knows its own storage and nothing of Docker, repositories or the network. Its methods are plain synchronous
functions, called from threads; the caller holds a lock per volume, so that two calls never change one volume at once,
while calls for different volumes may overlap. Every method that changes something is atomic against a kill: after
`open` has run again the change is either whole or undone. Every method may raise `StorageFailed` (a tool or system
call failed, nothing has changed), `NoSpace` (likewise) and `PoolUnavailable`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import ClassVar

from msgspec import Struct

from snapvol.errors import Refused, Unsupported
from snapvol.model import Damage, Health, Snapshot, Usage, Volume
from snapvol.settings import ROOT


class Features(Struct, frozen=True, kw_only=True):
    """What a pool can do; asking for more is an `Unsupported` error.

    Attributes:
        snapshots: snapshots, rollback and clones.
        instant: a snapshot is one instant, also while files are being written; else it is a copy made file by file.
        quota: the `size` option.
        resize: a size can be changed later.
        shared_blocks: a snapshot or clone costs only what differs.
        stable_inodes: an unchanged file keeps inode number and ctime from snapshot to snapshot, so that a backup
            may take it for unchanged by size, mtime, ctime and inode.
        reason: why something is missing, and what to do about it: the hint of the error.
        filesystems: what the `fs` option can name, the default first; none where the storage is a filesystem itself.
        backup_kinds: what the `backup.kind` option can name, the default first. Where ``image`` is among them, there
            are `Backend.open_image` and `Backend.stage_image`.
        tracked: the kinds of backups of whose contents the storage itself knows what changed between two snapshots
            (`Backend.changes`, `Backend.image_changes`), so that a backup keeps its snapshot as the base of the next.
    """

    snapshots: bool
    instant: bool
    quota: bool
    resize: bool
    shared_blocks: bool
    stable_inodes: bool
    reason: str | None = None
    filesystems: tuple[str, ...] = ()
    backup_kinds: tuple[str, ...] = ("files",)
    tracked: tuple[str, ...] = ()

    @property
    def keeps_base(self) -> bool:
        """Whether backups of any kind keep their snapshot."""
        return bool(self.tracked)


class Option(Struct, frozen=True, kw_only=True):
    """A volume option that only this kind of storage knows, such as ``btrfs.compression``.

    Attributes:
        key: the option; one that ends in ``.*`` stands for all that begin so.
        help: one line for people.
        choices: the valid values; empty for free text.
    """

    key: str
    help: str
    choices: tuple[str, ...] = ()


class Tree(Struct, frozen=True, kw_only=True):
    """A source for the engine: a directory tree that does not change while it is open.

    Attributes:
        root: the directory whose contents are the volume's.
        identity: the snapshot's id.
        stable_inodes: see `Features`.
    """

    root: Path
    identity: str
    stable_inodes: bool


Range = tuple[int, int]  # offset and length, in bytes


class Image(Struct, frozen=True, kw_only=True):
    """A source for the engine: a block device that does not change while it is open.

    Attributes:
        device: to be read.
        size: in bytes.
        identity: the snapshot's id.
        filesystem: what is on it, as the `fs` option names it.
        mapped: the ranges that may hold something else than zeros, ascending, apart from each other.
    """

    device: Path
    size: int
    identity: str
    filesystem: str
    mapped: tuple[Range, ...]


class ChangeKind(StrEnum):
    """How a path differs between two points in time.

    Attributes:
        ADDED: what is there was not there before: it is new, or had another path. Of a directory that is said of all
            that is in it. Something else may have been there before.
        REMOVED: nothing is there any more. Of a directory that is said of all that was in it.
        MODIFIED: the same file or directory, in which something may differ. What is in a directory is named by itself.
    """

    ADDED = "added"
    REMOVED = "removed"
    MODIFIED = "modified"


class Change(Struct, frozen=True, kw_only=True):
    """One path that differs.

    Attributes:
        path: relative to the volume's root, which is empty itself.
        kind: how.
        ranges: of a regular file that is modified, the (offset, length) pairs of its contents that may differ,
            ascending and apart from each other; none where its contents are the same. What one size has and the other
            has not is among them. None where that is not known, and for anything else.
    """

    path: bytes
    kind: ChangeKind
    ranges: tuple[tuple[int, int], ...] | None = None


class Backend(ABC):
    """One pool on one kind of storage.

    Args:
        pool: the pool's name.
        settings: the pool's table from the settings, without ``backend`` and ``defaults``.
        root: the daemon's directory. Storage whose volumes are mounted has its mountpoints below ``mounts/POOL`` in it.

    Raises:
        SettingsError: a setting is missing, unknown or of the wrong type; names key and nearest valid key.
    """

    kind: ClassVar[str]
    options: ClassVar[tuple[Option, ...]] = ()

    @abstractmethod
    def __init__(self, pool: str, settings: Mapping[str, object], *, root: Path = ROOT) -> None: ...

    @abstractmethod
    def open(self, *, expected: str | None = None) -> str:
        """Make the pool ready: create what it needs on first use, finish or undo what a kill interrupted.

        Only one process has a pool open: the daemon. Safe to call again while no other call is under way. Workers
        beside it construct the backend without opening it, and may then call what only reads: `volumes`, `trashed`,
        `snapshots`, `mountpoint`, `open_snapshot`, `changes`. What an earlier process left mounted or open for itself
        is let go of; mounted volumes stay mounted.

        Args:
            expected: the id that an earlier `open` returned, where the pool was in use before: then nothing is
                created, and another pool in its place is refused.

        Returns:
            The pool's id, which is stored in it.

        Raises:
            PoolUnavailable: the storage is missing, read-only, not the expected one, or open in another process.
            SettingsError: the storage is of another kind than the settings say.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of the pool, so that another process can open it. Mounted volumes stay mounted. Safe to call again."""

    @property
    @abstractmethod
    def features(self) -> Features:
        """What this pool can do, found out by `open`."""

    @abstractmethod
    def health(self) -> Health:
        """Return capacity and condition. Never raises for a pool that is merely unwell."""

    # -- volumes ------------------------------------------------------------------------------------------------

    @abstractmethod
    def volumes(self) -> Sequence[Volume | Damage]:
        """List the live volumes of this pool. What others put into the pool is not listed."""

    @abstractmethod
    def create(self, volume: Volume, *, size: int | None = None, source: Snapshot | None = None) -> None:
        """Make ``volume`` with an empty root, or with the contents of ``source`` (a clone).

        ``uid``, ``gid``, ``mode`` and the storage's own options are taken from ``volume.options``; they apply to a
        clone only where given.

        Raises:
            AlreadyExists: the name is taken in this pool, by us or by somebody else's object.
            Unsupported: ``size`` or ``source`` cannot be served here.
        """

    @abstractmethod
    def record(self, volume: Volume) -> None:
        """Replace the metadata stored for the volume with this name; name and id must be unchanged."""

    @abstractmethod
    def rename(self, volume: Volume, name: str) -> Volume:
        """Give it another name and return it so named; its snapshots follow.

        Raises:
            AlreadyExists: ``name`` is taken.
        """

    @abstractmethod
    def resize(self, volume: Volume, size: int) -> None:
        """Set the quota.

        Raises:
            Unsupported: no quotas here, or a shrink that the storage cannot do.
            Refused: more than ``size`` is in use.
        """

    @abstractmethod
    def usage(self, volume: Volume) -> Usage:
        """Measure. May take long where the storage keeps no counts; where it does, they lag behind by its commits."""

    @abstractmethod
    def destroy(self, volume: Volume) -> None:
        """Remove a live or trashed volume with its snapshots, for ever. The caller has checked that nobody uses it.

        Raises:
            Refused: a clone or hold is in the way, named in the message.
        """

    # -- trash --------------------------------------------------------------------------------------------------

    @abstractmethod
    def trash(self, volume: Volume, when: datetime) -> None:
        """Take the volume with its snapshots out of the way; its name is free at once."""

    @abstractmethod
    def trashed(self) -> Sequence[Volume | Damage]:
        """List what is in the trash; ``deleted`` is set."""

    @abstractmethod
    def undelete(self, volume: Volume, name: str) -> Volume:
        """Bring a trashed volume back as ``name``.

        Raises:
            AlreadyExists: ``name`` is taken.
        """

    # -- mounting -----------------------------------------------------------------------------------------------

    @abstractmethod
    def mountpoint(self, volume: Volume) -> Path:
        """Return where the volume is, or would be, mounted. Pure; the same while the name is the same."""

    @abstractmethod
    def mount(self, volume: Volume) -> Path:
        """Make the contents available at `mountpoint`. Done already: does nothing."""

    @abstractmethod
    def unmount(self, volume: Volume) -> None:
        """Undo `mount`, lazily where it is still busy. Not mounted: does nothing."""

    def sources(self, volume: Volume) -> tuple[str, ...]:
        """Return what the kernel's lists of mounts call the volume's contents, wherever they are mounted.

        ``MAJOR:MINOR`` of a block device, or a dataset's name; nothing where `mountpoint` alone tells who uses it.
        """
        return ()

    # -- snapshots ----------------------------------------------------------------------------------------------

    @abstractmethod
    def snapshots(self, volume: Volume) -> Sequence[Snapshot | Damage]:
        """List the volume's snapshots, oldest first."""

    @abstractmethod
    def snapshot(
        self, volumes: Sequence[Volume], name: str, *, message: str = "", made_by: str = "user"
    ) -> Sequence[Snapshot]:
        """Snapshot all ``volumes``, at one instant where the storage can; all or none.

        Raises:
            AlreadyExists: one of them has a snapshot of that name.
            Unsupported: no snapshots here.
        """

    @abstractmethod
    def destroy_snapshot(self, snapshot: Snapshot) -> None:
        """Remove it.

        Raises:
            NotFound: it is gone, or a later one has its name (another id).
            Protected: it has holds, or a clone needs it; the message names them.
        """

    @abstractmethod
    def hold(self, snapshot: Snapshot, tag: str) -> None:
        """Keep the snapshot from being destroyed until `release`. Held with this tag already: does nothing."""

    @abstractmethod
    def release(self, snapshot: Snapshot, tag: str) -> None:
        """Undo `hold`. Not held with this tag: does nothing."""

    @abstractmethod
    def rollback(self, volume: Volume, snapshot: Snapshot) -> None:
        """Make the volume's contents those of ``snapshot``; its snapshots, newer ones too, all stay.

        The caller has checked that the volume is not in use and has snapshotted its present state.

        Raises:
            Refused: see `refuse_left_out`.
        """

    def left_out(self, volume: Volume) -> Sequence[str]:
        """Return what is in a volume, but not in snapshots taken now: paths below its root, as they can be shown.

        Whatever replaces the contents destroys it for ever: see `refuse_left_out`.
        """
        return ()

    def refuse_left_out(self, volume: Volume, what: str) -> None:
        """Check that snapshots keep all of a volume; `rollback` and `adopt_stage` do it themselves.

        Args:
            volume: whose contents are about to be replaced.
            what: what cannot be done where they do not, for the message.

        Raises:
            Refused: something would be lost for ever.
        """
        paths = self.left_out(volume)
        if paths:
            more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
            raise Refused(
                f"{what}: it holds what no snapshot keeps: {', '.join(paths[:3])}{more}",
                "move that out of the volume or remove it: see `btrfs subvolume list`",
            )

    @abstractmethod
    def open_snapshot(self, snapshot: Snapshot) -> AbstractContextManager[Tree]:
        """Make the snapshot readable while the context lasts.

        Raises:
            NotFound: it is gone, or a later one has its name.
        """

    @abstractmethod
    def changes(self, base: Snapshot, snapshot: Snapshot) -> Iterable[Change] | None:
        """Return what differs from ``base`` to ``snapshot``; None where that is not known.

        A path that is not named is the same in both: inode, times, owner, mode, extended attributes, number of hard
        links and contents. Every name of a file with several is named. A wrong answer corrupts backups silently, so
        None is always right and a guess never is. Bases are compared by id.

        Raises:
            NotFound: one of them is gone, or a later one has its name.
        """

    def open_image(self, snapshot: Snapshot) -> AbstractContextManager[Image]:
        """Make the snapshot readable as a block device while the context lasts.

        Raises:
            NotFound: it is gone, or a later one has its name.
            Unsupported: no images here.
        """
        raise Unsupported(f"{self.kind}: there are no images of snapshots", "back it up as files: backup.kind=files")

    def image_changes(self, base: Snapshot, snapshot: Snapshot) -> Sequence[Range] | None:
        """Return the ranges of the image of ``snapshot`` that may differ from that of ``base``, ascending.

        Ranges that became unmapped are among them. None where it is not known, as with `changes`: then everything
        that is mapped is read. Bases are compared by identity: storage, device and size, never by name.

        Raises:
            NotFound: one of them is gone, or a later one has its name.
        """
        return None

    # -- replacing a volume's contents --------------------------------------------------------------------------

    @abstractmethod
    def stage(self, volume: Volume) -> Path:
        """Return an empty directory, in the volume's storage and under its quota, to be filled with new contents.

        What an earlier stage left is removed first. The volume's own contents are untouched. New contents are as
        large as the old ones; those of a volume that is being restored (its state) as its ``size`` says, which is
        how a volume with a filesystem of its own becomes smaller than it began.
        """

    @abstractmethod
    def adopt_stage(self, volume: Volume) -> None:
        """Replace the volume's contents with what was staged, in one step. The volume is not in use."""

    @abstractmethod
    def discard_stage(self, volume: Volume) -> None:
        """Remove what was staged. Nothing staged: does nothing."""

    def stage_image(self, volume: Volume, size: int) -> Path:
        """Return a block device of ``size`` bytes, all zeros, to be filled with the image of a filesystem.

        What an earlier stage left is removed first. `adopt_stage` takes it for the volume's contents: it checks that
        there is a filesystem that can be mounted, gives it an identity of its own (T11), and grows it to the
        volume's size where that is larger.

        Raises:
            Unsupported: no images here.
            Refused: the image is larger than the volume may be.
        """
        raise Unsupported(f"{self.kind}: volumes are not made from images", "restore into another pool")
