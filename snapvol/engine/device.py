"""Reading a block device past the page cache, which belongs to those who work on the machine."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from snapvol.errors import StorageFailed

BLOCK = 4096  # what O_DIRECT takes everywhere: offset, length and address are multiples (open(2))


class Device:
    """A block device, or a file in its place, that does not change while it is open.

    Args:
        path: of it.
        size: bytes that it must have.

    Attributes:
        bytes_read: so far.

    Raises:
        StorageFailed: it cannot be opened, or has another size.
    """

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self.size = size
        self.bytes_read = 0
        self._direct: int | None = None
        try:
            self._cached = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise StorageFailed(f"device {path} cannot be opened: {error.strerror}") from error
        try:
            actual = os.lseek(self._cached, 0, os.SEEK_END)
            if actual != size or not size:
                raise StorageFailed(f"device {path} has {actual} bytes, but the storage says {size}")
            self._direct = self._opened_direct()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of it."""
        for fd in (self._cached, self._direct):
            if fd is not None:
                os.close(fd)

    def read(self, into: memoryview, offset: int) -> None:
        """Fill ``into`` from ``offset`` on.

        It is fastest where offset, length and the memory's address are multiples of `BLOCK`.

        Raises:
            StorageFailed: a byte of it cannot be read; the message names the first block.
        """
        done = 0
        while done < len(into):
            got = self._some(into[done:], offset + done)
            if not got:
                raise StorageFailed(f"device {self.path} ends at byte {offset + done} of {self.size}")
            done += got
        self.bytes_read += done

    def _some(self, into: memoryview, offset: int) -> int:
        try:
            return self._attempt(into, offset)
        except OSError as error:
            # Halves, down to one block: a disk gives up a whole request for one bad sector.
            if len(into) > BLOCK:
                return self._some(into[: max(BLOCK, len(into) // 2 // BLOCK * BLOCK)], offset)
            raise StorageFailed(
                f"device {self.path} cannot be read at byte {offset}: {error.strerror}",
                "see what the kernel says of its disk: dmesg",
            ) from error

    def _attempt(self, into: memoryview, offset: int) -> int:
        if self._direct is not None and not offset % BLOCK and not len(into) % BLOCK:
            try:
                return os.preadv(self._direct, [into], offset)
            except OSError as error:
                if error.errno != errno.EINVAL:  # EINVAL: this device wants more than that, open(2)
                    raise
        got = os.preadv(self._cached, [into], offset)
        os.posix_fadvise(self._cached, offset // BLOCK * BLOCK, len(into) + BLOCK, os.POSIX_FADV_DONTNEED)
        return got

    def _opened_direct(self) -> int | None:
        try:
            return os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECT)
        except OSError as error:
            if error.errno != errno.EINVAL:  # a file system that knows no O_DIRECT
                raise StorageFailed(f"device {self.path} cannot be opened: {error.strerror}") from error
            return None
