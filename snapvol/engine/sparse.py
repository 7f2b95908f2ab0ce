"""Writing into what reads as zeros: zeros are left out, so that holes stay holes."""

from __future__ import annotations

import os

from snapvol.errors import StorageFailed

BLOCK = 4096
_ZERO_BLOCK = bytes(BLOCK)


def write(fd: int, data: bytes, offset: int) -> tuple[int, bool]:
    """Write ``data`` except for the blocks of the file system that it fills with zeros.

    Returns:
        Bytes written, and whether the last byte of ``data`` was among them.

    Raises:
        OSError: it could not be written.
        StorageFailed: the target takes no more.
    """
    view, start, at, end, written = memoryview(data), 0, 0, len(data), 0
    following = -offset % BLOCK or BLOCK
    while at < end:
        following = min(following, end)
        if data[at:following] == _ZERO_BLOCK[: following - at]:
            if at > start:
                written += write_all(fd, view[start:at], offset + start)
            start = following
        at, following = following, following + BLOCK
    if start < end:
        written += write_all(fd, view[start:], offset + start)
    return written, start < end


def write_all(fd: int, data: memoryview, offset: int) -> int:
    """Write all of ``data``; return its length.

    Raises:
        OSError: it could not be written.
        StorageFailed: the target takes no more.
    """
    length = len(data)
    while data:
        written = os.pwrite(fd, data, offset)
        if written <= 0:
            raise StorageFailed("the target takes no more data")
        data, offset = data[written:], offset + written
    return length
