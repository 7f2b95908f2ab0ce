"""What differs between two snapshots of a subvolume: the kernel's answer, held against both before it is believed."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from msgspec import Struct

from snapvol import shell
from snapvol.backend import Change, ChangeKind, Range
from snapvol.backends import sendstream, subvolume
from snapvol.backends.sendchanges import Found, Names
from snapvol.backends.sendstream import Unknown
from snapvol.errors import StorageFailed

log = logging.getLogger(__name__)

_SAID = 64 << 10  # bytes of messages that are read


class Point(Struct, frozen=True, kw_only=True):
    """A snapshot.

    Attributes:
        root: where it is.
        id: the UUID that it must have.
        name: for messages.
    """

    root: Path
    id: str
    name: str


def changes(base: Point, snapshot: Point) -> list[Change] | None:
    """Return what differs, by path; None where that is not known, which the log explains.

    Raises:
        StorageFailed: `btrfs send` failed, or what it wrote is damaged or ends early.
    """
    try:
        _refuse_changed(base, snapshot)
        names = Names(snapshot.id, base.id)
        with _sent(base.root, snapshot.root) as stream:
            names.follow(sendstream.commands(stream))
        with ExitStack() as stack:
            before = stack.enter_context(_opened(base.root))
            after = stack.enter_context(_opened(snapshot.root))
            return sorted(_Differences(before, after).of(names.found()), key=lambda change: change.path)
    except Unknown as error:
        log.warning("what changed from %s to %s is not known: %s", base.name, snapshot.name, error)
        return None


def _refuse_changed(base: Point, snapshot: Point) -> None:
    """Make sure that both are what they were when they were made, and were made of the same subvolume.

    A snapshot that somebody has made writable for a while is another one, though its UUID is the same.
    """
    known = {}
    for point in (base, snapshot):
        facts = known[point.name] = subvolume.info(point.root)
        if facts.uuid != point.id:
            raise Unknown(f"at {point.root} is another subvolume")
        if not facts.read_only or facts.changed > facts.made:
            raise Unknown(f"{point.name} has been written to since it was made")
    if len({facts.origin for facts in known.values()}) > 1:
        raise Unknown("they are not of the same subvolume")


@contextmanager
def _sent(base: Path, snapshot: Path) -> Iterator[IO[bytes]]:
    """Give the stream of changes; what read it to its end can trust it after the context.

    Raises:
        StorageFailed: its producer failed, whatever the stream says.
    """
    child = shell.start("btrfs", "send", "-q", "--no-data", "-p", base, snapshot)
    try:
        with open(child.stdout, "rb", closefd=False) as stream:
            try:
                yield stream
            except StorageFailed as error:
                # Where it has ended, it knows better why; but it may be waiting for somebody to read on.
                if child.wait(1):
                    raise _failure(child) from error
                raise
        if child.wait(60) != 0:
            raise _failure(child)
    finally:
        child.close()


def _failure(child: shell.Child) -> StorageFailed:
    code = child.wait(0)
    if code is None:
        return StorageFailed("btrfs send does not end")
    said = os.read(child.stderr, _SAID).decode("utf-8", "replace")
    return StorageFailed(f"btrfs send failed (exit {code}): {' '.join(said.split()) or 'no message'}")


@contextmanager
def _opened(root: Path) -> Iterator[int]:
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


class _Differences:
    """Names as changes. Each must fit what is in both snapshots: else the names were not understood.

    Args:
        before: the root of the base, open.
        after: the root of the snapshot, open.
    """

    def __init__(self, before: int, after: int) -> None:
        self._before = before
        self._after = after
        self._found: dict[bytes, Change] = {}
        self._moved: set[bytes] = set()
        self._linked: dict[int, list[Range]] = {}

    def of(self, names: Iterable[Found]) -> Iterable[Change]:
        """Return all changes.

        Raises:
            Unknown: a name does not fit.
        """
        for name in names:
            if name.entry is None:
                if not name.inside:
                    self._gone(name.path)
                continue
            found = _look(self._after, name.path)
            if found is None:
                raise Unknown(f"it leads to {name.path!r}, which is not there")
            if found.st_nlink > 1 and not stat.S_ISDIR(found.st_mode):
                self._linked.setdefault(found.st_ino, []).extend(name.entry.ranges)
            if name.moved:
                self._moved.add(name.path)
            if name.moved and not name.inside:
                self._add(Change(path=name.path, kind=ChangeKind.ADDED))
            elif not name.inside:
                self._same(name.path, found, name.entry.ranges)
        for inode, ranges in self._linked.items():
            for path in subvolume.names(self._after, inode):
                self._other_name(path, ranges)
        return self._found.values()

    def _add(self, change: Change) -> None:
        self._found[change.path] = change

    def _gone(self, path: bytes) -> None:
        if _look(self._after, path) is not None:
            raise Unknown(f"it takes {path!r} away, which is still there")
        if _look(self._before, path) is not None:  # else a name that was used for a while
            self._add(Change(path=path, kind=ChangeKind.REMOVED))

    def _same(self, path: bytes, found: os.stat_result, ranges: list[Range]) -> None:
        before = _look(self._before, path)
        if before is None or (before.st_ino, stat.S_IFMT(before.st_mode)) != (
            found.st_ino,
            stat.S_IFMT(found.st_mode),
        ):
            raise Unknown(f"it changes {path!r}, which the base does not have")
        told = None
        if stat.S_ISREG(found.st_mode):
            sizes = sorted((before.st_size, found.st_size))
            told = _joined([*ranges, (sizes[0], sizes[1] - sizes[0])])
        self._add(Change(path=path, kind=ChangeKind.MODIFIED, ranges=told))

    def _other_name(self, path: bytes, ranges: list[Range]) -> None:
        """Name a file by a name that no command had: its contents and link count are those of the others."""
        above = path
        while above:
            if above in self._moved:
                return
            above = above.rpartition(b"/")[0]
        found = _look(self._after, path)
        if found is None:
            raise Unknown(f"{path!r} is not there")
        self._same(path, found, ranges)


def _look(root: int, path: bytes) -> os.stat_result | None:
    try:
        return os.stat(path or b".", dir_fd=root, follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _joined(ranges: Iterable[Range]) -> tuple[Range, ...]:
    joined: list[Range] = []
    for offset, length in sorted(ranges):
        if not length:
            continue
        if joined and offset <= sum(joined[-1]):
            start = joined[-1][0]
            joined[-1] = (start, max(sum(joined[-1]), offset + length) - start)
        else:
            joined.append((offset, length))
    return tuple(joined)
