"""Contents into files: blobs arrive pack by pack and go wherever they are wanted."""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from collections.abc import Callable

from snapvol.engine import sparse
from snapvol.engine.contents import LARGEST, SMALLEST, zeros
from snapvol.engine.kernel import punch_hole
from snapvol.engine.node import Node
from snapvol.engine.progress import Progress
from snapvol.engine.stamp import FATAL, FULL, no_space
from snapvol.engine.target import Place, Target
from snapvol.errors import SnapvolError
from snapvol.repository import BlobKind, Repository

MOST_WANTED = 8192
_OPEN = 64
_CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_REOPEN = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC


class File:
    """A file that is being restored.

    Attributes:
        place: its directory.
        name: in it.
        node: what it shall be.
        there: it exists and may be opened.
        fresh: it was made empty, so that zeros need not be written.
        left: blobs that are still to arrive.
        asked: every blob has been asked for.
        failure: why it cannot be whole; None while it can.
    """

    __slots__ = ("asked", "failure", "fresh", "left", "name", "node", "place", "there")

    def __init__(self, place: Place, name: bytes, node: Node) -> None:
        self.place = place
        self.name = name
        self.node = node
        self.there = False
        self.fresh = True
        self.left = 0
        self.asked = False
        self.failure: str | None = None

    def path(self) -> bytes:
        """Return where it is, relative to the target."""
        return self.place.path(self.name)


class Scatter:
    """Gathers what files want, then reads it in the order of the packs and writes it.

    Args:
        repository: with its index loaded.
        target: the files' directories.
        progress: is told of every written byte.
        finish: called with the descriptor of a file that is whole; it sets what is not contents.
    """

    def __init__(
        self, repository: Repository, target: Target, progress: Progress, finish: Callable[[int, File], None]
    ) -> None:
        self._repository = repository
        self._target = target
        self._progress = progress
        self._finish = finish
        self._wanted: dict[bytes, list[tuple[File, int, int]]] = {}
        self._references = 0
        self._open: OrderedDict[File, int] = OrderedDict()
        self._damaged: list[File] = []
        self._zeros = {hashlib.sha256(zeros(size)).digest() for size in (SMALLEST, 1 << 20, 4 << 20, LARGEST)}
        self.bytes_written = 0
        self.bytes_kept = 0

    def close(self) -> None:
        """Let go of all files, whole or not."""
        for fd in self._open.values():
            os.close(fd)
        self._open.clear()

    @property
    def full(self) -> bool:
        """Whether it is time to `flush`."""
        return self._references >= MOST_WANTED

    def restore(self, file: File, existing: bool) -> None:
        """Have a file written; it may take until `flush`.

        Args:
            file: what and where.
            existing: there is a file of that name; only what differs is written.

        Raises:
            NoSpace: the target is full.
            OSError: the file cannot be made.
        """
        blobs = [bytes.fromhex(blob) for blob in file.node.content or ()]
        try:
            lengths = [self._repository.locate(BlobKind.DATA, blob).plain_length for blob in blobs]
        except SnapvolError as error:
            self._fail(file, str(error))
            return
        if sum(lengths) != file.node.size:
            self._fail(file, f"its pieces have {sum(lengths)} bytes, but it should have {file.node.size}")
            return
        if existing:
            file.there, file.fresh = True, False
            self._guard(file, lambda fd: os.ftruncate(fd, file.node.size))
        elif (
            len(blobs) != 1 or blobs[0] in self._zeros or file.node.size > LARGEST
        ):  # else writing its one piece does it
            self._guard(file, lambda fd: os.ftruncate(fd, file.node.size))
        offset = 0
        for blob, length in zip(blobs, lengths, strict=True):
            self._want(file, blob, offset, length)
            offset += length
            if self.full:
                self.flush()
            if file.failure is not None:
                return
        file.asked = True
        if not file.left and file.failure is None:
            self._complete(file)

    def flush(self) -> None:
        """Write everything that is wanted.

        Raises:
            NoSpace: the target is full.
            SnapvolError: the repository does not answer.
        """
        wanted, self._wanted, self._references = self._wanted, {}, 0
        for blob, data in self._repository.read_many(BlobKind.DATA, wanted, lost=self._lost(wanted)):
            for file, offset, length in wanted.pop(blob):
                self._deliver(file, data, offset, length)
            self._progress.cancelled()

    def _want(self, file: File, blob: bytes, offset: int, length: int) -> None:
        if blob in self._zeros:
            if file.fresh:
                self._skip(length)
            else:
                self._guard(file, lambda fd: self._zero(fd, file, offset, length))
        elif not file.fresh and self._equals(self._descriptor(file), blob, offset, length):
            self.bytes_kept += length
            self._skip(length)
        else:
            self._wanted.setdefault(blob, []).append((file, offset, length))
            self._references += 1
            file.left += 1

    def _lost(self, wanted: dict[bytes, list[tuple[File, int, int]]]) -> Callable[[bytes, SnapvolError], None]:
        def note(blob: bytes, error: SnapvolError) -> None:
            for file, _, _ in wanted.pop(blob):
                self._fail(file, error.message)

        return note

    def _deliver(self, file: File, data: bytes, offset: int, length: int) -> None:
        if file.failure is not None:
            return
        if len(data) != length:
            self._fail(file, f"a piece has {len(data)} bytes, but the index says {length}")
            return
        self._guard(file, lambda fd: self._write(fd, data, offset, file.fresh))
        if file.failure is not None:
            return
        file.left -= 1
        self._progress.advance(length, 0)
        if file.asked and not file.left:
            self._complete(file)

    # -- one file -----------------------------------------------------------------------------------------------

    def _guard(self, file: File, work: Callable[[int], None]) -> None:
        """Do something to an open file; what is wrong with this file alone only gives the file up."""
        try:
            work(self._descriptor(file))
        except OSError as error:
            if error.errno in FULL:
                raise no_space(file.path(), error) from error
            if error.errno in FATAL:
                raise
            self._fail(file, f"it cannot be made: {error.strerror}")

    def _descriptor(self, file: File) -> int:
        fd = self._open.get(file)
        if fd is not None:
            self._open.move_to_end(file)
            return fd
        fd = os.open(file.name, _REOPEN if file.there else _CREATE, 0o600, dir_fd=self._target.fd(file.place))
        file.there = True
        self._open[file] = fd
        if len(self._open) > _OPEN:
            os.close(self._open.popitem(last=False)[1])
        return fd

    def _complete(self, file: File) -> None:
        self._guard(file, lambda fd: self._finish(fd, file))
        if file.failure is None:
            os.close(self._open.pop(file))

    def _fail(self, file: File, why: str) -> None:
        """Give a file up. What is there of it is removed: half a file under its name would be taken for the file."""
        if file.failure is not None:
            return
        file.failure = why
        fd = self._open.pop(file, None)
        if fd is not None:
            os.close(fd)
        if file.there:
            os.unlink(file.name, dir_fd=self._target.fd(file.place))
            file.there = False
        self._damaged.append(file)

    def take_damaged(self) -> list[File]:
        """Return the files given up since the last call."""
        damaged, self._damaged = self._damaged, []
        return damaged

    def _skip(self, length: int) -> None:
        self._progress.advance(length, 0)

    def _zero(self, fd: int, file: File, offset: int, length: int) -> None:
        if not punch_hole(fd, offset, length):
            self._write(fd, zeros(length), offset, False)
        self._skip(length)

    def _equals(self, fd: int, blob: bytes, offset: int, length: int) -> bool:
        data = os.pread(fd, length, offset)
        return len(data) == length and hashlib.sha256(data).digest() == blob

    def _write(self, fd: int, data: bytes, offset: int, fresh: bool) -> None:
        if not fresh or len(data) < sparse.BLOCK:
            self.bytes_written += sparse.write_all(fd, memoryview(data), offset)
            return
        written, whole = sparse.write(fd, data, offset)
        self.bytes_written += written
        if not whole and os.fstat(fd).st_size < offset + len(data):
            os.ftruncate(fd, offset + len(data))
