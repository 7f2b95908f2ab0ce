"""System calls that Python's `os` does not have."""

from __future__ import annotations

import ctypes
import errno
import os

_KEEP_SIZE, _PUNCH_HOLE = 1, 2
_libc = ctypes.CDLL(None, use_errno=True)
_fallocate = _libc.fallocate
_fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
_syncfs = _libc.syncfs
_syncfs.argtypes = (ctypes.c_int,)


def sync_filesystem(fd: int) -> None:
    """Return when everything written to the descriptor's filesystem is on its disk.

    Raises:
        OSError: something written before could not be.
    """
    if _syncfs(fd):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def punch_hole(fd: int, offset: int, length: int) -> bool:
    """Make a range of a file a hole; return False where this filesystem cannot.

    Raises:
        OSError: it failed otherwise.
    """
    if not _fallocate(fd, _KEEP_SIZE | _PUNCH_HOLE, offset, length):
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOTSUP, errno.ENOSYS, errno.EINVAL):
        return False
    raise OSError(code, os.strerror(code))
