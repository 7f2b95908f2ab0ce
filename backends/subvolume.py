"""What the kernel tells about btrfs subvolumes, read by ioctl and sysfs rather than out of text meant for people."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from pathlib import Path
from uuid import UUID

from msgspec import Struct

ROOT_INODE = 256  # of every subvolume's root directory

_FS_INFO = 0x8400941F  # _IOR(0x94, 31, 1024 bytes)
_SUBVOLUME_INFO = 0x81F8943C  # _IOR(0x94, 60, 504 bytes)
_TREE_SEARCH = 0xD0009411  # _IOWR(0x94, 17, 4096 bytes)
_DESTROY = 0x5000943F  # _IOW(0x94, 63, 4096 bytes)
_ROOT_REFERENCES = 0xD000943D  # _IOWR(0x94, 61, 4096 bytes)
_INODE_LOOKUP_USER = 0xD000943E  # _IOWR(0x94, 62, 4096 bytes)
_TREE_SEARCH_LARGE = 0xC0709411  # _IOWR(0x94, 17, 112 bytes), with room for the answer behind
_INODE_LOOKUP = 0xD0009412  # _IOWR(0x94, 18, 4096 bytes)
_BY_ID = 1 << 4
_DESTROY_REQUEST = struct.Struct("=qQQ4QQ4032x")  # descriptor, transaction, flags, unused, subvolume id
_ROOT_TREE = 1
_ROOT_REFERENCE = 156
_INODE_REFERENCE = 12
_INODE_MORE_REFERENCES = 13
_KEY = struct.Struct("=QQQQQQQIIIIQQQQ")
_ITEM = struct.Struct("=QQQII")
_NAME = struct.Struct("=QH")  # index, length
_NAME_ELSEWHERE = struct.Struct("=QQH")  # the directory's inode, index, length
_ROOM = 64 << 10
_MOST = 2**64 - 1
_READ_ONLY = 1 << 0  # as the root item has it, not as the ioctls that set it


class Subvolume(Struct, frozen=True, kw_only=True):
    """One subvolume.

    Attributes:
        number: its id in this file system.
        uuid: its identity.
        origin: the identity of what it is a snapshot of; all zeros where it is none.
        read_only: nothing can be written to it now.
        made: the transaction that made it.
        changed: the last one that changed anything in it.
    """

    number: int
    uuid: str
    origin: str
    read_only: bool
    made: int
    changed: int


def filesystem_id(path: Path) -> str | None:
    """Return the UUID of the btrfs that ``path`` lies on, or None for another kind of file system."""
    with _Opened(path) as descriptor:
        answer = bytearray(1024)
        try:
            fcntl.ioctl(descriptor, _FS_INFO, answer)
        except OSError as error:
            if error.errno in (errno.ENOTTY, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
                return None
            raise
    return str(UUID(bytes=bytes(answer[16:32])))


def info(root: Path) -> Subvolume:
    """Return what the subvolume with its root at ``root`` is."""
    with _Opened(root) as descriptor:
        answer = bytearray(504)
        fcntl.ioctl(descriptor, _SUBVOLUME_INFO, answer)
    # treeid u64, name char[256], parent_id u64, dirid u64, generation u64, flags u64, uuid u8[16], parent_uuid u8[16],
    # received_uuid u8[16], ctransid u64, otransid u64
    (number,) = struct.unpack_from("=Q", answer, 0)
    (flags,) = struct.unpack_from("=Q", answer, 288)
    changed, made = struct.unpack_from("=QQ", answer, 344)
    return Subvolume(
        number=number,
        uuid=str(UUID(bytes=bytes(answer[296:312]))),
        origin=str(UUID(bytes=bytes(answer[312:328]))),
        read_only=bool(flags & _READ_ONLY),
        made=made,
        changed=changed,
    )


def children(path: Path, number: int) -> list[int]:
    """Return the ids of the subvolumes directly inside subvolume ``number`` of the file system at ``path``."""
    found: list[int] = []
    start = 0
    with _Opened(path) as descriptor:
        while True:
            batch = _search(descriptor, number, start)
            found += batch
            if not batch or batch[-1] == _MOST:
                return found
            start = batch[-1] + 1


def _search(descriptor: int, number: int, start: int) -> list[int]:
    request = bytearray(4096)
    _KEY.pack_into(
        request, 0,
        _ROOT_TREE, number, number, start, _MOST, 0, _MOST, _ROOT_REFERENCE, _ROOT_REFERENCE, 4096, 0, 0, 0, 0, 0,
    )  # fmt: skip
    fcntl.ioctl(descriptor, _TREE_SEARCH, request)
    (count,) = struct.unpack_from("=I", request, 64)
    found, position = [], _KEY.size
    for _ in range(count):
        _transaction, objectid, offset, kind, length = _ITEM.unpack_from(request, position)
        position += _ITEM.size + length
        if objectid == number and kind == _ROOT_REFERENCE:
            found.append(offset)
    return found


def names(root: int, inode: int) -> list[bytes]:
    """Return every path of an inode in the subvolume whose root is open as ``root``, relative to that."""
    found = []
    for directory, name in _names_of(root, inode):
        request = bytearray(4096)
        struct.pack_into("=QQ", request, 0, 0, directory)
        fcntl.ioctl(root, _INODE_LOOKUP, request)
        found.append(bytes(request[16:]).split(b"\0", 1)[0] + name)
    return found


def _names_of(root: int, inode: int) -> list[tuple[int, bytes]]:
    """Return the directory's inode and the name in it, for each name of an inode."""
    found: list[tuple[int, bytes]] = []
    kind, start = _INODE_REFERENCE, 0
    while True:
        request = bytearray(_KEY.size + 8 + _ROOM)
        _KEY.pack_into(
            request, 0,
            0, inode, inode, start, _MOST, 0, _MOST, kind, _INODE_MORE_REFERENCES, _MOST >> 32, 0, 0, 0, 0, 0,
        )  # fmt: skip
        struct.pack_into("=Q", request, _KEY.size, _ROOM)
        fcntl.ioctl(root, _TREE_SEARCH_LARGE, request)
        (count,) = struct.unpack_from("=I", request, 64)
        if not count:
            return found
        position = _KEY.size + 8
        for _ in range(count):
            _transaction, objectid, offset, kind, length = _ITEM.unpack_from(request, position)
            position += _ITEM.size
            if objectid == inode and kind in (_INODE_REFERENCE, _INODE_MORE_REFERENCES):
                found += _names_in(bytes(request[position : position + length]), kind, offset)
            position += length
            start = offset + 1  # keys ascend by kind, then by offset
        if start > _MOST:
            return found


def _names_in(item: bytes, kind: int, directory: int) -> list[tuple[int, bytes]]:
    found, at = [], 0
    while at < len(item):
        if kind == _INODE_REFERENCE:
            _index, length = _NAME.unpack_from(item, at)
            at += _NAME.size
        else:
            directory, _index, length = _NAME_ELSEWHERE.unpack_from(item, at)
            at += _NAME_ELSEWHERE.size
        found.append((directory, item[at : at + length]))
        at += length
    return found


def nested(root: Path) -> list[str]:
    """Return the paths below ``root``, which need not be a subvolume, of the subvolumes in it; not of those in these.

    Needs no privileges, only the right to enter the directories on the way.
    """
    found = []
    with _Opened(root) as descriptor:
        for number, parent in _references(descriptor):
            request = bytearray(4096)
            struct.pack_into("=QQ", request, 0, parent, number)
            try:
                fcntl.ioctl(descriptor, _INODE_LOOKUP_USER, request)
            except OSError as error:
                # The kernel climbs from the parent to ``root``; where it does not come by, it says so with either.
                if error.errno in (errno.ENOENT, errno.EACCES):
                    continue
                raise
            name, path = request[16:272].split(b"\0", 1)[0], request[272:].split(b"\0", 1)[0]
            found.append(os.fsdecode(bytes(path + name)))
    return found


def _references(descriptor: int) -> list[tuple[int, int]]:
    """Return the number and the parent directory's inode of each subvolume in the one that the directory is in."""
    found: list[tuple[int, int]] = []
    request = bytearray(4096)  # the lowest number wanted, 255 pairs, how many there are
    more = True
    while more:
        more = False
        try:
            fcntl.ioctl(descriptor, _ROOT_REFERENCES, request)
        except OSError as error:
            if error.errno != errno.EOVERFLOW:
                raise
            more = True  # and the lowest number wanted is set for the next turn
        found += [struct.unpack_from("=QQ", request, 8 + 16 * at) for at in range(request[4088])]
    return found


def delete(path: Path, number: int) -> None:
    """Remove subvolume ``number`` of the file system at ``path``, which holds no other; its blocks are freed later.

    By id, because the btrfs tool resolves ids only below the file system's top, and names may contain anything.
    """
    with _Opened(path) as descriptor:
        fcntl.ioctl(descriptor, _DESTROY, bytearray(_DESTROY_REQUEST.pack(0, 0, _BY_ID, 0, 0, 0, 0, number)))


class Quota(Struct, frozen=True, kw_only=True):
    """The counts of one subvolume, in bytes: what it refers to, what only it refers to, and its limit."""

    referenced: int
    exclusive: int
    limit: int | None


def quotas_on(filesystem: str) -> bool:
    """Return whether the file system keeps counts."""
    return _sysfs(filesystem, "enabled") == 1


def quota(filesystem: str, number: int) -> Quota | None:
    """Return the counts of subvolume ``number``; None where the file system keeps none, or wrong ones."""
    if _sysfs(filesystem, "enabled") != 1 or _sysfs(filesystem, "inconsistent") == 1:
        return None
    group = f"0_{number}"
    referenced, exclusive = _sysfs(filesystem, f"{group}/referenced"), _sysfs(filesystem, f"{group}/exclusive")
    if referenced is None or exclusive is None:
        return None
    return Quota(referenced=referenced, exclusive=exclusive, limit=limit(filesystem, number))


def limit(filesystem: str, number: int) -> int | None:
    """Return the limit on what subvolume ``number`` refers to, in bytes."""
    largest = _sysfs(filesystem, f"0_{number}/max_referenced")
    return largest or None


def _sysfs(filesystem: str, name: str) -> int | None:
    try:
        return int(Path(f"/sys/fs/btrfs/{filesystem}/qgroups/{name}").read_text())
    except FileNotFoundError:
        return None


class _Opened:
    """A directory, open for as long as a question takes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = -1

    def __enter__(self) -> int:
        self._descriptor = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        return self._descriptor

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)
