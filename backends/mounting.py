"""Mounting by system calls: no program is started, no file in /etc or /run is read, errors have the kernel's words.

A file system is first mounted nowhere (`detached`): only the descriptor that is returned leads to it, and it is gone
with that, whatever is killed. `attach` then gives it a place. See fsopen, fsmount and move_mount in the kernel's
Documentation/filesystems/mount_api.rst; Linux has them since 5.2.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from snapvol.errors import StorageFailed

# The same on every architecture that Linux has gained or kept numbers in step for since 5.1.
_MOVE_MOUNT, _FSOPEN, _FSCONFIG, _FSMOUNT = 429, 430, 431, 432
_CLOEXEC = 1  # FSOPEN_CLOEXEC, FSMOUNT_CLOEXEC
_SET_FLAG, _SET_STRING, _CREATE = 0, 1, 6
_FROM_DESCRIPTOR = 4  # MOVE_MOUNT_F_EMPTY_PATH
_AT_FDCWD = -100
_MNT_DETACH, _UMOUNT_NOFOLLOW = 2, 8
_ATTRIBUTES = {"ro": 1, "nosuid": 2, "nodev": 4, "noexec": 8, "noatime": 0x10}
_LIBC = ctypes.CDLL(None, use_errno=True)


def mount_detached(source: str, filesystem: str, options: Sequence[str] = ()) -> int:
    """Mount ``source`` nowhere and return a descriptor of its root, which the caller closes.

    Args:
        source: a block device, or what the file system takes for one.
        filesystem: its type.
        options: as for mount(8), ``key`` or ``key=value``.

    Raises:
        OSError: the kernel refuses; the text has what it says about it.
    """
    context = _call(_FSOPEN, filesystem.encode(), _CLOEXEC)
    try:
        _configure(context, _SET_STRING, b"source", source.encode())
        for option in options:
            key, has_value, value = option.partition("=")
            if has_value:
                _configure(context, _SET_STRING, key.encode(), value.encode())
            elif option == "ro" or option not in _ATTRIBUTES:
                _configure(context, _SET_FLAG, key.encode(), None)
        _configure(context, _CREATE, None, None)
        return _call(_FSMOUNT, context, _CLOEXEC, sum(_ATTRIBUTES.get(option, 0) for option in options))
    except OSError as error:
        said = _messages(context)
        raise OSError(error.errno, f"{os.strerror(error.errno or 0)}{said}", source) from error
    finally:
        os.close(context)


@contextmanager
def detached(source: str, filesystem: str, options: Sequence[str] = ()) -> Iterator[int]:
    """Give a descriptor of the root of ``source``, mounted nowhere, while the context lasts; see `mount_detached`."""
    descriptor = mount_detached(source, filesystem, options)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def attach(descriptor: int, point: Path) -> None:
    """Give what was mounted nowhere a place.

    Raises:
        OSError: the kernel refuses.
    """
    _call(_MOVE_MOUNT, descriptor, b"", _AT_FDCWD, os.fsencode(point), _FROM_DESCRIPTOR)


def detach(point: Path) -> bool:
    """Unmount what is mounted at ``point``, lazily where it is busy; return whether something was.

    Raises:
        StorageFailed: the kernel refuses.
    """
    for flags in (_UMOUNT_NOFOLLOW, _UMOUNT_NOFOLLOW | _MNT_DETACH):
        if _LIBC.umount2(os.fsencode(point), flags) == 0:
            return True
        code = ctypes.get_errno()
        if code in (errno.EINVAL, errno.ENOENT):  # EINVAL: not a mountpoint
            return False
        if code != errno.EBUSY:
            break
    raise StorageFailed(f"{point} cannot be unmounted: {os.strerror(code)}", f"look at: findmnt {point}")


def _configure(context: int, command: int, key: bytes | None, value: bytes | None) -> None:
    _call(_FSCONFIG, context, command, key, value, 0)


def _call(number: int, *arguments: int | bytes | None) -> int:
    words = [ctypes.c_long(argument) if isinstance(argument, int) else argument for argument in arguments]
    result = int(_LIBC.syscall(ctypes.c_long(number), *words))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def _messages(context: int) -> str:
    """Return what the kernel has written about a failure: lines that begin with their level."""
    lines: list[str] = []
    with suppress(OSError):  # ENODATA: no more
        while len(lines) < 8:
            lines.append(os.read(context, 1024).decode("utf-8", "replace")[2:].strip())
    return f" ({'; '.join(lines)})" if lines else ""
