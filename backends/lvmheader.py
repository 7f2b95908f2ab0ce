"""A volume group's metadata as it is on its disks: whether it has changed, and what LVM has just made, in no time.

LVM commits by writing the header of each metadata area, which says where the newest metadata is: its bytes differ after
every commit. The metadata is text, as in /etc/lvm/backup, without indentation. See `struct mda_header` in LVM's
lib/format_text/layout.h. Whatever is not as expected is for LVM's own programs to tell.
"""

from __future__ import annotations

import mmap
import os
import re
import struct
from collections.abc import Sequence

from msgspec import Struct

_AT, _SIZE = 4096, 512
_AREA = struct.Struct("<Q")  # its size; preceded by its start
_PLACE = struct.Struct("<Q Q I I")  # of the metadata: offset in the area, length, checksum, flags
_IGNORED = 1  # among the flags: pvchange --metadataignore
_MAGIC = b" LVM2 x[5A%r0N*>"


def read(devices: Sequence[str]) -> bytes | None:
    """Return what changes with every change of the metadata; None where that cannot be told.

    Args:
        devices: the group's physical volumes.
    """
    found = b""
    try:
        for device in devices:
            header = _sector(device)
            if header[4 : 4 + len(_MAGIC)] == _MAGIC:
                found += header
    except OSError:
        return None
    return found or None


class Room(Struct, frozen=True, kw_only=True):
    """How much of the room for a group's metadata is taken.

    Attributes:
        used: bytes.
        size: bytes, more than which LVM does not write.
    """

    used: int
    size: int


def room(devices: Sequence[str]) -> Room | None:
    """Return it for the disk that has the least left; None where that cannot be told.

    LVM keeps the old metadata until the new is there, so half of an area is the most (`_vg_write_raw` in its
    lib/format_text/format-text.c).

    Args:
        devices: the group's physical volumes.
    """
    found: list[Room] = []
    try:
        for device in devices:
            header = _sector(device)
            area, (_, length, _, flags) = _AREA.unpack_from(header, 32)[0], _PLACE.unpack_from(header, 40)
            if header[4 : 4 + len(_MAGIC)] == _MAGIC and length and not flags & _IGNORED:
                found.append(Room(used=length, size=(area - _SIZE) // 2 - _SIZE))
    except OSError:
        return None
    return min(found, key=lambda one: one.size - one.used, default=None)


class Made(Struct, frozen=True, kw_only=True):
    """What LVM has given to a thin volume.

    Attributes:
        uuid: its identity.
        thin_id: by which the thin pool knows it.
        transaction_id: the pool's when it was made.
    """

    uuid: str
    thin_id: int
    transaction_id: int


def made(devices: Sequence[str], name: str) -> Made | None:
    """Return what the metadata says of a thin volume; None where that cannot be told.

    Args:
        devices: the group's physical volumes.
        name: the logical volume's.
    """
    try:
        text = _text(devices)
    except OSError:
        return None
    found = _described(text, name)
    if len(found) != 1:
        return None
    uuid, rest = found[0]
    numbers = {key: re.findall(rf"^{key} = (\d+)$", rest, re.MULTILINE) for key in ("device_id", "transaction_id")}
    if any(len(values) != 1 for values in numbers.values()):
        return None
    return Made(uuid=uuid, thin_id=int(numbers["device_id"][0]), transaction_id=int(numbers["transaction_id"][0]))


def pending(devices: Sequence[str], thin_pool: str) -> bool:
    """Return whether LVM has noted messages to the kernel's thin pool and not yet that they have arrived.

    True, too, where that cannot be told.

    Args:
        devices: the group's physical volumes.
        thin_pool: the logical volume's name.
    """
    try:
        found = _described(_text(devices), thin_pool)
    except OSError:
        return True
    return len(found) != 1 or re.search(r"^message\d+ \{$", found[0][1], re.MULTILINE) is not None


def _described(text: str, name: str) -> list[tuple[str, str]]:
    """Return the UUID of each logical volume of this name, and what is said of it up to its first segment's end."""
    return re.findall(rf'\n{re.escape(name)} \{{\nid = "([\w-]{{38}})"\n(.*?)\n\}}\n\}}', text, re.DOTALL)


def _text(devices: Sequence[str]) -> str:
    """Return the newest metadata that a disk has; empty where none has any."""
    newest, text = 0, ""
    for device in devices:
        header = _sector(device)
        if header[4 : 4 + len(_MAGIC)] != _MAGIC:
            continue
        area, (offset, length, *_) = _AREA.unpack_from(header, 32)[0], _PLACE.unpack_from(header, 40)
        begin = offset // _SIZE * _SIZE
        if not 0 < offset <= area or length > area:
            continue
        raw = _read(device, _AT + begin, min(offset - begin + length, area - begin))[offset - begin :]
        if len(raw) < length:  # it goes on behind the header
            raw += _read(device, _AT + _SIZE, length - len(raw))
        found = raw[:length].rstrip(b"\0").decode("ascii", "replace")
        number = re.search(r"^seqno = (\d+)$", found, re.MULTILINE)
        if number and int(number[1]) > newest:
            newest, text = int(number[1]), found
    return text


def _sector(device: str) -> bytes:
    return _read(device, _AT, _SIZE)


def _read(device: str, offset: int, length: int) -> bytes:
    # Past the page cache, which LVM does not write through; that takes an aligned buffer.
    descriptor = os.open(device, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
    try:
        with mmap.mmap(-1, -(-length // mmap.PAGESIZE) * mmap.PAGESIZE) as pages:
            os.preadv(descriptor, [pages], offset)
            return pages[:length]
    finally:
        os.close(descriptor)
