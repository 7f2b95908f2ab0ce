"""The kernel's device-mapper, asked directly: what a thin pool is made of now, and halting devices for an instant.

LVM's own commands take tens of milliseconds and dmsetup's listings are for people; these calls take microseconds.
Nothing here changes what LVM has loaded into the kernel. See linux/dm-ioctl.h, and thin-provisioning.rst in the
kernel's documentation.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from pathlib import Path

from msgspec import Struct

from snapvol.errors import StorageFailed

CONTROL = "/dev/mapper/control"
_HEADER = struct.Struct("=3I I I I i I I I Q 128s 129s 7x")  # struct dm_ioctl
_TARGET = struct.Struct("=Q Q i I 16s")  # struct dm_target_spec
_VERSION = (4, 0, 0)
_DEV_SUSPEND, _DEV_STATUS, _TABLE_STATUS, _TARGET_MSG = 6, 7, 12, 14
_SUSPEND = 2  # DM_SUSPEND_FLAG; without it the call resumes
_BUFFER_FULL = 256
_ROOM = 16 << 10
_METADATA_BLOCK = 4096


class ThinPool(Struct, frozen=True, kw_only=True):
    """What the kernel says of a thin pool.

    Attributes:
        transaction: the number that LVM counts its changes by.
        metadata_used: bytes.
        metadata_size: bytes.
        data_used: chunks.
        data_size: chunks.
        held: the block of the metadata snapshot that somebody has reserved; None for none.
        mode: ``rw``, ``ro``, ``out_of_data_space``.
        needs_check: the metadata must be repaired before it can be changed again.
    """

    transaction: int
    metadata_used: int
    metadata_size: int
    data_used: int
    data_size: int
    held: int | None
    mode: str
    needs_check: bool


def name(group: str, volume: str, layer: str = "") -> str:
    """Return what device-mapper calls a logical volume: hyphens are doubled, one parts the group from the volume."""
    plain = f"{group.replace('-', '--')}-{volume.replace('-', '--')}"
    return f"{plain}-{layer}" if layer else plain


def path(device: str) -> Path:
    """Return the node of a device, which is there without udev, too."""
    return Path("/dev/mapper") / device


def number(device: str, identity: str) -> str | None:
    """Return ``MAJOR:MINOR`` of an active device; None where it is not active, or its name is another's now.

    Args:
        device: its name.
        identity: its device-mapper UUID.

    Raises:
        StorageFailed: the kernel does not tell.
    """
    reply = _asked(_DEV_STATUS, device)
    if reply is None:
        return None
    *_, place, _, uuid = _HEADER.unpack_from(reply)
    return f"{os.major(place)}:{os.minor(place)}" if uuid.partition(b"\0")[0].decode() == identity else None


def has_node(device: str, number: str) -> bool:
    """Return whether the node of a device is that of ``number``."""
    try:
        facts = os.stat(path(device))
    except FileNotFoundError:
        return False
    return stat.S_ISBLK(facts.st_mode) and f"{os.major(facts.st_rdev)}:{os.minor(facts.st_rdev)}" == number


def openers(device: str) -> int:
    """Return how many have a device open, mounts among them; 0 where it is not active.

    Raises:
        StorageFailed: the kernel does not tell.
    """
    reply = _asked(_DEV_STATUS, device)
    return 0 if reply is None else int(_HEADER.unpack_from(reply)[6])


def thin_pool(device: str) -> ThinPool | None:
    """Return the state of a thin pool; None where it is not active.

    Raises:
        StorageFailed: the kernel does not tell, or has given the pool up.
    """
    words = _status(device, "thin-pool")
    if words is None:
        return None
    if len(words) < 5 or not words[0].isdigit():
        raise StorageFailed(f"the kernel has given thin pool {device} up: {' '.join(words)}", "look at `dmesg`")
    metadata_used, metadata_size = (int(part) for part in words[1].split("/"))
    data_used, data_size = (int(part) for part in words[2].split("/"))
    return ThinPool(
        transaction=int(words[0]),
        metadata_used=metadata_used * _METADATA_BLOCK,
        metadata_size=metadata_size * _METADATA_BLOCK,
        data_used=data_used,
        data_size=data_size,
        held=None if words[3] == "-" else int(words[3]),
        mode=words[4],
        needs_check="needs_check" in words[5:],
    )


def thin_used(device: str) -> int | None:
    """Return the bytes that a thin volume has mapped; None where it is not active.

    Raises:
        StorageFailed: the kernel does not tell.
    """
    words = _status(device, "thin")
    if words is None:
        return None
    if not words or not words[0].isdigit():
        raise StorageFailed(f"the kernel has given thin volume {device} up: {' '.join(words)}", "look at `dmesg`")
    return int(words[0]) * 512


def suspended(device: str) -> bool:
    """Return whether a device is halted.

    Raises:
        StorageFailed: the kernel does not tell.
    """
    reply = _asked(_DEV_STATUS, device)
    return reply is not None and bool(_HEADER.unpack_from(reply)[7] & _SUSPEND)


def message(device: str, text: str) -> None:
    """Send a message to the one target of ``device``.

    Raises:
        OSError: the target refuses.
    """
    _call(_TARGET_MSG, device, payload=struct.pack("=Q", 0) + text.encode() + b"\0")


def suspend(device: str) -> None:
    """Halt a device: the file system on it writes everything out, and whoever writes waits until `resume`.

    Raises:
        OSError: it cannot be.
    """
    _call(_DEV_SUSPEND, device, flags=_SUSPEND)


def resume(device: str) -> None:
    """Undo `suspend`. Not halted: does nothing.

    Raises:
        OSError: it is gone.
    """
    _call(_DEV_SUSPEND, device)


def _status(device: str, kind: str) -> list[str] | None:
    """Return the status of a device that is one target of this kind; None where there is none."""
    reply = _asked(_TABLE_STATUS, device)
    if reply is None:
        return None
    header = _HEADER.unpack_from(reply)
    start, targets = header[4], header[5]
    if targets != 1 or _TARGET.unpack_from(reply, start)[4].rstrip(b"\0").decode() != kind:
        return None
    begin = start + _TARGET.size
    return reply[begin : reply.index(b"\0", begin)].decode().split()


def _asked(command: int, device: str) -> bytearray | None:
    """Return the kernel's answer; None where there is no such device."""
    try:
        return _call(command, device)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return None
        raise StorageFailed(
            f"device-mapper does not tell of {device}: {error.strerror}", "modprobe dm-thin-pool; run as root"
        ) from error


def _call(command: int, device: str, *, flags: int = 0, payload: bytes = b"") -> bytearray:
    buffer = bytearray(_ROOM)
    _HEADER.pack_into(buffer, 0, *_VERSION, _ROOM, _HEADER.size, 0, 0, flags, 0, 0, 0, device.encode(), b"")
    buffer[_HEADER.size : _HEADER.size + len(payload)] = payload
    control = os.open(CONTROL, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(control, 3 << 30 | _HEADER.size << 16 | 0xFD << 8 | command, buffer)
    finally:
        os.close(control)
    if _HEADER.unpack_from(buffer)[7] & _BUFFER_FULL:
        raise OSError(errno.EMSGSIZE, "device-mapper has more to say than there is room for", device)
    return buffer
