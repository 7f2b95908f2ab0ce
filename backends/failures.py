"""What a system call's error number means to the person who asked."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from snapvol.backends.durable import Unreadable
from snapvol.errors import NoSpace, PoolUnavailable, StorageFailed

_FULL = (errno.ENOSPC, errno.EDQUOT)
_GONE = (errno.EROFS, errno.ENODEV, errno.ENXIO, errno.ESTALE, errno.ESHUTDOWN, errno.EHOSTDOWN, errno.ENOTCONN)
ROOM_HINT = "free space in the pool or raise the size"


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn errors of system calls and tools into snapvol's, with ``what`` was being done before them.

    Raises:
        NoSpace: the storage is full or a quota is reached.
        PoolUnavailable: the storage is read-only or has gone away.
        StorageFailed: anything else.
    """
    try:
        yield
    except OSError as error:
        raise _translated(what, error) from error
    except Unreadable as error:
        raise StorageFailed(f"{what}: {error}") from error
    except NoSpace as error:
        raise NoSpace(f"{what}: {error.message}", error.hint) from error
    except StorageFailed as error:
        raise StorageFailed(f"{what}: {error.message}", error.hint) from error


def _translated(what: str, error: OSError) -> StorageFailed | PoolUnavailable:
    where = f" ({os.fsdecode(error.filename)})" if isinstance(error.filename, str | bytes) else ""
    message = f"{what}: {error.strerror or error}{where}"
    if error.errno in _FULL:
        return NoSpace(message, ROOM_HINT)
    if error.errno in _GONE:
        return PoolUnavailable(message, "look at the storage: `dmesg`, `findmnt`")
    return StorageFailed(message)
