"""The contents of a file as a sequence of chunks. Holes are seen, not read."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence

from pyfastcdc import FastCDC

from snapvol.engine.pieces import Piece, Unchanged
from snapvol.engine.ranges import Span

SMALLEST = 512 << 10
LARGEST = 8 << 20
WINDOW = 2 * LARGEST
_BEHIND = 4096
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

    def cut(
        self, fd: int, found: os.stat_result, earlier: Sequence[Piece] = (), changed: Sequence[Span] = ()
    ) -> Iterator[bytes | int | Piece]:
        """Yield a file's pieces: their bytes, the length of one that is all zero, or one that an earlier backup has.

        The cuts are the same, whatever an earlier backup has. Ends early where the file has become shorter than
        ``found`` says.

        Args:
            fd: the open file.
            found: its fstat.
            earlier: what it was made of.
            changed: what may differ since.

        Raises:
            OSError: it cannot be read.
        """
        size = found.st_size
        sparse = found.st_blocks * 512 < size and size >= SMALLEST
        unchanged = Unchanged(earlier, changed, SMALLEST if sparse else 1) if earlier else None
        for start, end, is_data in _extents(fd, size) if sparse else [(0, size, True)]:
            if is_data:
                yield from self._data(fd, start, end, unchanged)
            else:
                for at in range(start, end, LARGEST):
                    yield min(LARGEST, end - at)

    def _data(self, fd: int, at: int, end: int, unchanged: Unchanged | None) -> Iterator[bytes | int | Piece]:
        window, held = self._window, 0  # bytes from ``at`` on
        while at < end:
            if unchanged is not None and (piece := unchanged.at(at, end)) is not None:
                yield piece
                at, held = at + piece.length, 0
                continue
            wanted = min(_wanted(at, held, unchanged), end - at) - held
            while wanted:
                got = os.preadv(fd, [window[held : held + wanted]], at + held)
                if not got:
                    end = at + held  # shorter than it was
                    break
                held, wanted = held + got, wanted - got
            whole = at + held >= end
            used = 0
            for chunk in self._by_content.cut_buf(window[:held]):
                if not whole and used + chunk.length == held:
                    break  # where this piece ends depends on what follows
                data = bytes(window[used : used + chunk.length])
                yield chunk.length if is_zero(data) else data
                used += chunk.length
                if unchanged is not None and unchanged.at(at + used, end) is not None:
                    held = used  # from here on it is as it was
                    break
            window[: held - used] = window[used:held]
            at, held = at + used, held - used


def _wanted(at: int, held: int, unchanged: Unchanged | None) -> int:
    """Return how many bytes from ``at`` on are to be in memory: up to where pieces may be the earlier ones again."""
    if unchanged is None:
        return WINDOW
    again = unchanged.after(at + held)
    # A little more, to see whether there is a cut, or only an end of what was read.
    return WINDOW if again is None else min(again - at + _BEHIND, WINDOW)
