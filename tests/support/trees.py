"""Directory trees: made to a plan, looked at without trusting the code under test, and compared strictly."""

from __future__ import annotations

import hashlib
import os
import resource
import shutil
import stat
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

BLOCK = 4096
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


@dataclass(frozen=True)
class Entry:
    """One entry of a plan.

    Attributes:
        kind: a ``stat.S_IF…`` format, or "link" for another name of ``target``.
        parts: of a file: bytes to write, or the length of a hole.
        target: a symbolic link's text, or the planned path that "link" is another name of.
        device: of a device node.
    """

    kind: int | str
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime: int = 1_600_000_000_123_456_789
    parts: tuple[bytes | int, ...] = ()
    target: bytes = b""
    device: int = 0
    xattrs: Mapping[str, bytes] = field(default_factory=dict)


Plan = Mapping[bytes, Entry]  # by path relative to the tree's root; a directory before what is in it


def file(*parts: bytes | int, **attributes: object) -> Entry:
    """Return a planned file."""
    return replace(Entry(stat.S_IFREG, parts=parts), **attributes)  # type: ignore[arg-type]


def directory(**attributes: object) -> Entry:
    """Return a planned directory."""
    return replace(Entry(stat.S_IFDIR, mode=0o755), **attributes)  # type: ignore[arg-type]


def symlink(target: bytes, **attributes: object) -> Entry:
    """Return a planned symbolic link."""
    return replace(Entry(stat.S_IFLNK, mode=0o777, target=target), **attributes)  # type: ignore[arg-type]


def acl(*entries: tuple[int, int, int]) -> bytes:
    """Return a POSIX ACL as the kernel stores it: (tag, permissions, id) of each entry."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


SAMPLE_ACL = acl((1, 6, 2**32 - 1), (2, 4, 4242), (4, 4, 2**32 - 1), (16, 6, 2**32 - 1), (32, 4, 2**32 - 1))
SAMPLE_CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)  # cap_net_bind_service, effective


# -- making -----------------------------------------------------------------------------------------------------------


def allow_depth() -> None:
    """Let this process hold a descriptor for each level of a deep tree."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 65536), most))


def _descend(root: Path, names: Sequence[bytes]) -> int:
    fd = os.open(root, _DIRECTORY)
    for name in names:
        below = os.open(name, _DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd = below
    return fd


def grow(root: Path, plan: Plan) -> None:
    """Make what is planned in the existing directory ``root``; paths may be longer than the kernel takes at once."""
    for path, entry in plan.items():
        *above, name = path.split(b"/")
        fd = _descend(root, above)
        try:
            _make(root, fd, name, entry)
        finally:
            os.close(fd)
    # Deepest first, so that nothing touches a directory after its times are set.
    for path, entry in sorted(plan.items(), key=lambda item: -item[0].count(b"/")):
        if entry.kind == stat.S_IFDIR:
            *above, name = path.split(b"/")
            fd = _descend(root, above)
            try:
                _dress(fd, name, entry)
            finally:
                os.close(fd)


def _make(root: Path, fd: int, name: bytes, entry: Entry) -> None:
    if entry.kind == "link":
        *above, first = entry.target.split(b"/")
        source = _descend(root, above)
        try:
            os.link(first, name, src_dir_fd=source, dst_dir_fd=fd, follow_symlinks=False)
        finally:
            os.close(source)
        return
    assert isinstance(entry.kind, int)
    if entry.kind == stat.S_IFDIR:
        os.mkdir(name, 0o700, dir_fd=fd)
        return
    if entry.kind == stat.S_IFREG:
        _write(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=fd), entry.parts)
    elif entry.kind == stat.S_IFLNK:
        os.symlink(entry.target, name, dir_fd=fd)
    else:
        os.mknod(name, entry.kind | 0o600, entry.device, dir_fd=fd)
    _dress(fd, name, entry)


def _write(fd: int, parts: Sequence[bytes | int]) -> None:
    with os.fdopen(fd, "wb") as out:
        for part in parts:
            if isinstance(part, int):
                out.seek(part, os.SEEK_CUR)
            else:
                out.write(part)
        out.truncate(out.tell())


def _dress(fd: int, name: bytes, entry: Entry) -> None:
    assert isinstance(entry.kind, int)
    path = b"/proc/self/fd/%d/%s" % (fd, name)
    os.chown(path, entry.uid, entry.gid, follow_symlinks=False)
    for attribute, value in entry.xattrs.items():
        os.setxattr(path, attribute, value, follow_symlinks=False)
    if entry.kind != stat.S_IFLNK:
        os.chmod(path, entry.mode)
    os.utime(path, ns=(entry.mtime, entry.mtime), follow_symlinks=False)


def fell(root: Path) -> None:
    """Remove a tree, however deep."""
    allow_depth()
    if not root.exists():
        return
    levels: list[tuple[int, list[bytes]]] = [_level(os.open(root, _DIRECTORY))]
    while levels:
        fd, names = levels[-1]
        if not names:
            levels.pop()
            os.close(fd)
            if levels:
                os.rmdir(levels[-1][1].pop(), dir_fd=levels[-1][0])
        elif stat.S_ISDIR(os.stat(names[-1], dir_fd=fd, follow_symlinks=False).st_mode):
            levels.append(_level(os.open(names[-1], _DIRECTORY, dir_fd=fd)))
        else:
            os.unlink(names.pop(), dir_fd=fd)
    shutil.rmtree(root)


def _level(fd: int) -> tuple[int, list[bytes]]:
    return fd, [os.fsencode(name) for name in os.listdir(fd)]


# -- looking ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Seen:
    """What an entry is.

    Attributes:
        kind: its ``stat.S_IF…`` format.
        links: link count of anything but a directory.
        same: the first path, in order, of the same inode.
        content: a digest of a file's bytes.
        allocated: bytes on the disk.
    """

    kind: int
    mode: int
    uid: int
    gid: int
    mtime: int
    size: int
    links: int
    same: bytes
    content: str
    target: bytes
    device: int
    xattrs: tuple[tuple[str, bytes], ...]
    allocated: int


def look(root: Path, *, settled: bool = True) -> dict[bytes, Seen]:
    """Return everything in a tree by its path; the root itself under the empty path.

    Unless ``settled``, what files take on the disk may not be known yet.
    """
    allow_depth()
    if settled:
        os.sync()  # or st_blocks says nothing yet
    seen: dict[bytes, Seen] = {}
    first: dict[tuple[int, int], bytes] = {}
    for path, fd, name in _entries(root):
        found = os.stat(name or ".", dir_fd=fd, follow_symlinks=False)
        same = first.setdefault((found.st_dev, found.st_ino), path)
        seen[path] = _see(fd, name or b".", found, same)
    return seen


def _entries(root: Path) -> Iterator[tuple[bytes, int, bytes]]:
    """Yield (path, descriptor of its directory, name), sorted within each directory, the root first."""
    top = os.open(root, _DIRECTORY)
    yield b"", top, b""
    levels = [(b"", top, sorted(_level(top)[1], reverse=True))]
    while levels:
        above, fd, names = levels[-1]
        if not names:
            os.close(fd)
            levels.pop()
            continue
        name = names.pop()
        path = above + b"/" + name if above else name
        yield path, fd, name
        if stat.S_ISDIR(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
            below = os.open(name, _DIRECTORY, dir_fd=fd)
            levels.append((path, below, sorted(_level(below)[1], reverse=True)))


def _see(fd: int, name: bytes, found: os.stat_result, same: bytes) -> Seen:
    path = b"/proc/self/fd/%d/%s" % (fd, name)
    kind = stat.S_IFMT(found.st_mode)
    special = kind in (stat.S_IFBLK, stat.S_IFCHR)
    xattrs = ((key, os.getxattr(path, key, follow_symlinks=False)) for key in os.listxattr(path, follow_symlinks=False))
    return Seen(
        kind=kind,
        mode=stat.S_IMODE(found.st_mode),
        uid=found.st_uid,
        gid=found.st_gid,
        mtime=found.st_mtime_ns,
        size=found.st_size if kind == stat.S_IFREG else 0,
        links=found.st_nlink if kind != stat.S_IFDIR else 0,
        same=same if kind != stat.S_IFDIR else b"",
        content=_digest(fd, name, found) if kind == stat.S_IFREG else "",
        target=os.readlink(name, dir_fd=fd) if kind == stat.S_IFLNK else b"",
        device=found.st_rdev if special else 0,
        xattrs=tuple(sorted(xattrs)),
        allocated=found.st_blocks * 512 if kind == stat.S_IFREG else 0,
    )


def _digest(fd: int, name: bytes, found: os.stat_result) -> str:
    """Return a digest of a file's bytes; long runs of zeros are passed over, wherever they are holes or not."""
    opened = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=fd)
    digest = hashlib.sha256()
    try:
        at = 0
        while at < found.st_size:
            try:
                data = os.lseek(opened, at, os.SEEK_DATA)
            except OSError:
                break  # nothing but a hole is left
            at = data - data % (1 << 16)
            piece = os.pread(opened, 1 << 16, at)
            if piece.strip(b"\0"):
                digest.update(b"%d:" % at + piece.rstrip(b"\0"))
            at += len(piece)
        digest.update(b"%d" % found.st_size)
    finally:
        os.close(opened)
    return digest.hexdigest()


# -- comparing --------------------------------------------------------------------------------------------------------


def differences(wanted: Mapping[bytes, Seen], found: Mapping[bytes, Seen], *, holes: bool = True) -> list[str]:
    """Return how two trees differ, a line for each difference: everything counts except atime and ctime.

    Args:
        wanted: the one.
        found: the other.
        holes: the other may take at most a block more on the disk than the one, for each file.
    """
    lines = [f"{path!r} is missing" for path in sorted(wanted.keys() - found.keys())]
    lines += [f"{path!r} is there too" for path in sorted(found.keys() - wanted.keys())]
    for path in sorted(wanted.keys() & found.keys()):
        one, other = wanted[path], found[path]
        for name in Seen.__dataclass_fields__:
            a, b = getattr(one, name), getattr(other, name)
            if name == "allocated":
                if holes and b > a + BLOCK:
                    lines.append(f"{path!r}: takes {b} bytes instead of {a}")
            elif a != b:
                lines.append(f"{path!r}: {name} is {b!r} instead of {a!r}")
    return lines


def below(seen: Mapping[bytes, Seen], prefix: bytes) -> dict[bytes, Seen]:
    """Return a subtree with paths, those of hard links too, relative to its root."""
    cut = len(prefix) + 1
    return {
        path[cut:]: replace(entry, same=entry.same[cut:]) if entry.same else entry
        for path, entry in seen.items()
        if path == prefix or path.startswith(prefix + b"/")
    }
