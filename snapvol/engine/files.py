"""Regular files on their way into a repository: taken from the earlier backup, read in part, or read whole."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence

from snapvol.backend import Range, Tree
from snapvol.engine.account import Account
from snapvol.engine.contents import SMALLEST, Cutter, is_zero
from snapvol.engine.descent import Descent, member
from snapvol.engine.metadata import Recorder, attributes
from snapvol.engine.node import Attribute, Node
from snapvol.engine.parent import Base
from snapvol.engine.pieces import Piece, pieces
from snapvol.engine.pipeline import Pipeline, Slot
from snapvol.engine.ranges import Span, spans
from snapvol.engine.sample import Sample
from snapvol.repository import Repository

_Content = tuple[Slot, int, list[Attribute] | None]  # blobs, bytes, extended attributes
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Replaced(Exception):
    """A file is not what it was a moment ago."""


class Files:
    """Makes nodes of files.

    Args:
        repository: with its index loaded.
        tree: what they are in.
        pipeline: takes their blobs.
        base: the earlier backup, or nothing, that unchanged files are taken from.
        recorder: makes the nodes.
        account: is told.
        sample: is offered the pieces that are not read.
    """

    def __init__(
        self,
        repository: Repository,
        tree: Tree,
        pipeline: Pipeline,
        base: Base,
        recorder: Recorder,
        account: Account,
        sample: Sample,
    ) -> None:
        self._repository = repository
        self._tree = tree
        self._pipeline = pipeline
        self._base = base
        self._recorder = recorder
        self._account = account
        self._sample = sample
        self._cutter = Cutter()
        self._links: dict[tuple[int, int], tuple[Slot, int, int]] = {}
        self._open_flags = _OPEN | (os.O_NOATIME if os.geteuid() == 0 else 0)

    def node(
        self,
        place: Descent,
        name: bytes,
        found: os.stat_result,
        before: Node | None,
        ranges: Sequence[Range] | None = None,
    ) -> tuple[Node, Slot | None]:
        """Return the node of a file, and what its content is filled into.

        Args:
            place: its directory.
            name: its name there.
            found: its lstat.
            before: the same in the earlier backup, where that has it.
            ranges: of its contents, what may differ from that; None where it is not known.

        Raises:
            OSError: it is gone or cannot be read.
            Replaced: it became something else.
        """
        account = self._account
        account.regular += 1
        if ranges is None and before is not None and self._tree.stable_inodes and self._unchanged(before, found):
            account.bytes_total += before.size
            account.report(bytes=before.size)
            extended = before.extended_attributes
            return self._recorder.node(name, found, attributes=extended, content=before.content, size=before.size), None
        earlier, changed = None, []
        if ranges is not None and before is not None:
            earlier, changed = pieces(self._repository, before), _changed(before, found, ranges)
        same = earlier is not None and not changed
        account.new += before is None
        account.changed += before is not None and not same
        content = self._linked(place, name, found) if found.st_nlink > 1 else None
        slot, size, extended = content or self._content(place, name, found, earlier, changed)
        account.bytes_total += size
        return self._recorder.node(name, found, attributes=extended, content=slot.content, size=size), slot

    def _unchanged(self, before: Node, found: os.stat_result) -> bool:
        return (
            before.size == found.st_size
            and before.inode == found.st_ino
            and self._base.same_times(before, found)
            and self._base.has_content(before)
        )

    def _linked(self, place: Descent, name: bytes, found: os.stat_result) -> _Content | None:
        """Return what another name of the same file has just had."""
        identity = (found.st_dev, found.st_ino)
        known = self._links.get(identity)
        if known is None:
            return None
        slot, size, left = known
        if left > 1:
            self._links[identity] = (slot, size, left - 1)
        else:
            del self._links[identity]
        return slot, size, readable_attributes(self._account, place, member(place.fd, name), name)

    def _content(
        self, place: Descent, name: bytes, found: os.stat_result, earlier: list[Piece] | None, changed: list[Span]
    ) -> _Content:
        slot = Slot()
        if earlier is not None and not changed:
            extended, size = readable_attributes(self._account, place, member(place.fd, name), name), found.st_size
            slot.content += [piece.blob for piece in earlier]
            taken = earlier
        else:
            extended, size, taken = self._read(place, name, found, slot, earlier or [], changed)
        if found.st_nlink > 1:
            self._links[found.st_dev, found.st_ino] = (slot, size, found.st_nlink - 1)
        if taken:
            self._sample.offer_pieces((*place.names, name), taken)
        return slot, size, extended

    def _read(
        self,
        place: Descent,
        name: bytes,
        found: os.stat_result,
        slot: Slot,
        earlier: Sequence[Piece],
        changed: Sequence[Span],
    ) -> tuple[list[Attribute] | None, int, list[Piece]]:
        """Send a file's contents on their way; return its extended attributes, its size, and what was not read."""
        fd = self._open(place, name)
        try:
            opened = os.fstat(fd)
            if (opened.st_ino, opened.st_dev, stat.S_IFMT(opened.st_mode)) != (
                found.st_ino,
                found.st_dev,
                stat.S_IFREG,
            ):
                raise Replaced("it was replaced by something else while the backup was running")
            extended = readable_attributes(self._account, place, fd, name)
            taken: list[Piece] = []
            if opened.st_size < SMALLEST:
                size = self._small(fd, slot)
            else:
                size = self._large(slot, self._cutter.cut(fd, opened, earlier, changed), taken)
            after = os.fstat(fd)
            if size != found.st_size or after.st_mtime_ns != found.st_mtime_ns or after.st_size != size:
                self._account.problem(place.path(name), "it changed while it was being read")
            return extended, size, taken
        finally:
            os.close(fd)

    def _open(self, place: Descent, name: bytes) -> int:
        try:
            return os.open(name, self._open_flags, dir_fd=place.fd)
        except PermissionError:
            if not self._open_flags & os.O_NOATIME:
                raise
            self._open_flags = _OPEN  # this root may read what it does not own, but not in passing
            return os.open(name, _OPEN, dir_fd=place.fd)

    def _small(self, fd: int, slot: Slot) -> int:
        data = os.read(fd, SMALLEST)
        if data:
            if is_zero(data):
                self._pipeline.put_zeros(slot, len(data))
            else:
                self._pipeline.put(slot, data)
        self._account.bytes_read += len(data)
        self._account.report(bytes=len(data))
        return len(data)

    def _large(self, slot: Slot, cut: Iterable[bytes | int | Piece], taken: list[Piece]) -> int:
        size = 0
        for piece in cut:
            if isinstance(piece, Piece):
                slot.content.append(piece.blob)
                taken.append(piece)
                size += piece.length
                continue
            if isinstance(piece, int):
                self._pipeline.put_zeros(slot, piece)
                length = piece
            else:
                self._pipeline.put(slot, piece)
                length = len(piece)
                self._account.bytes_read += length
            size += length
            self._account.report(bytes=length)
        return size


def _changed(before: Node, found: os.stat_result, ranges: Sequence[Range]) -> list[Span]:
    sizes = sorted((before.size, found.st_size))
    return spans([*ranges, (sizes[0], sizes[1] - sizes[0])], sizes[1])


def readable_attributes(account: Account, place: Descent, where: int | bytes, name: bytes) -> list[Attribute] | None:
    """Read extended attributes; what cannot be read is a problem, but no reason to leave the entry out.

    Args:
        account: is told of the problem.
        place: the directory that the entry is in.
        where: see `attributes`.
        name: of the entry; empty for the directory itself.
    """
    try:
        return attributes(where)
    except OSError as error:
        account.problem(place.path(name), f"its extended attributes cannot be read: {error.strerror}")
    except ValueError as error:
        account.problem(place.path(name), str(error))
    return None
