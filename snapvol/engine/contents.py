"""The contents of a file as a sequence of chunks. Holes are seen, not read."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

from pyfastcdc import FastCDC

SMALLEST = 512 << 10
LARGEST = 8 << 20
FIXED = 1 << 20
WINDOW = 2 * LARGEST
_ZEROS = bytes(LARGEST)
_PROBE = _ZEROS[:64]


def is_zero(data: bytes) -> bool:
    """Return whether there is nothing but zero bytes in a piece of at most `LARGEST` bytes."""
    # Comparing bytes runs at the memory's speed, which a memoryview's comparison does not.
    return data[:64] == _PROBE[: len(data)] and data == zeros(len(data))


def zeros(length: int) -> bytes:
    """Return ``length`` zero bytes, at most `LARGEST`; the same object where it is often needed."""
    return _ZEROS if length == LARGEST else bytes(length)


def _extents(fd: int, size: int) -> Iterator[tuple[int, int, bool]]:
    """Yield (start, end, is data) from 0 to ``size``; holes too small to matter count as data."""
    start = position = 0
    while position < size:
        try:
            data = os.lseek(fd, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:  # ENXIO: only a hole is left
                yield start, size, True  # this filesystem does not know holes
                return
            data = size
        data = min(data, size)
        if data - position >= SMALLEST:
            if position > start:
                yield start, position, True
            yield position, data, False
            start = data
        position = data
        if position < size:
            position = min(os.lseek(fd, position, os.SEEK_HOLE), size)
    if size > start:
        yield start, size, True


class Cutter:
    """Reads files through one buffer and cuts them; one file at a time."""

    def __init__(self) -> None:
        self._window = memoryview(bytearray(WINDOW))
        self._by_content = FastCDC(avg_size=1 << 20, min_size=SMALLEST, max_size=LARGEST)

    def cut(self, fd: int, found: os.stat_result, *, fixed: bool = False) -> Iterator[bytes | int]:
        """Yield a file's chunks: their bytes, or the length of a chunk that is all zero.

        Ends early where the file has become shorter than ``found`` says.

        Args:
            fd: the open file.
            found: its fstat.
            fixed: cut every `FIXED` bytes: for files that are changed in place and whose changed ranges are known.

        Raises:
            OSError: it cannot be read.
        """
        size = found.st_size
        sparse = found.st_blocks * 512 < size and size >= SMALLEST
        for start, end, is_data in _extents(fd, size) if sparse else [(0, size, True)]:
            if is_data:
                yield from self._data(fd, start, end, fixed)
            else:
                for at in range(start, end, LARGEST):
                    yield min(LARGEST, end - at)

    def _data(self, fd: int, start: int, end: int, fixed: bool) -> Iterator[bytes | int]:
        window, held = self._window, 0
        while start < end or held:
            wanted = min(WINDOW - held, end - start)
            while wanted:
                got = os.preadv(fd, [window[held : held + wanted]], start)
                if not got:
                    end = start  # shorter than it was
                    break
                held, start, wanted = held + got, start + got, wanted - got
            whole = start >= end
            used = 0
            for length in self._lengths(held, fixed):
                if not whole and used + length == held:
                    break  # where this chunk ends depends on what follows
                piece = bytes(window[used : used + length])
                yield length if is_zero(piece) else piece
                used += length
            window[: held - used] = window[used:held]
            held -= used

    def _lengths(self, held: int, fixed: bool) -> Iterator[int]:
        if fixed:
            return (min(FIXED, held - at) for at in range(0, held, FIXED))
        return (chunk.length for chunk in self._by_content.cut_buf(self._window[:held]))
