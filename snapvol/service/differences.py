"""What differs between two directory trees: by facts first, by contents where the facts leave it open."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from snapvol.api import ChangeInfo
from snapvol.backend import Change, ChangeKind
from snapvol.errors import StorageFailed

_CHUNK = 1 << 20


def compare(a: Path, b: Path) -> Iterator[Change]:
    """Yield each path that differs from the tree ``a`` to the tree ``b``, the directories before what is in them.

    A path is modified where its type, mode, owner, link target, device, extended attributes or contents differ; a
    file with another modification time alone is not. Files of equal size and modification time are taken for equal.
    What vanishes while it is looked at counts as not there: ``b`` may be in use.

    Raises:
        StorageFailed: a part of a tree cannot be read.
    """
    try:
        with _short(a) as old, _short(b) as new:
            yield from _compare(old, new)
    except OSError as error:
        raise StorageFailed(f"{a} and {b} cannot be compared: {error}") from error


def shown(change: Change) -> ChangeInfo:
    """Return a change as people see it."""
    return ChangeInfo(path=change.path.decode("utf-8", "backslashreplace"), kind=change.kind.value)


@contextmanager
def _short(root: Path) -> Iterator[bytes]:
    """Give the directory a short path, so that its own takes nothing from the 4,096 bytes of those below."""
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield b"/proc/self/fd/%d" % descriptor
    finally:
        os.close(descriptor)


def _compare(a: bytes, b: bytes) -> Iterator[Change]:
    waiting = [b""]  # not recursion: trees may be deeper than Python's stack
    while waiting:
        here = waiting.pop()
        old, new = _entries(os.path.join(a, here)), _entries(os.path.join(b, here))
        deeper = []
        for name in sorted(old.keys() | new.keys()):
            path = os.path.join(here, name)
            before, after = old.get(name), new.get(name)
            if before is None or after is None:
                kind, tree = (ChangeKind.ADDED, b) if before is None else (ChangeKind.REMOVED, a)
                yield from _whole(tree, path, before or after, kind)
            elif stat.S_IFMT(before.st_mode) != stat.S_IFMT(after.st_mode):
                yield from _whole(a, path, before, ChangeKind.REMOVED)
                yield from _whole(b, path, after, ChangeKind.ADDED)
            else:
                if _differ(os.path.join(a, path), before, os.path.join(b, path), after):
                    yield Change(path=path, kind=ChangeKind.MODIFIED)
                if stat.S_ISDIR(before.st_mode):
                    deeper.append(path)
        waiting += reversed(deeper)


def _whole(tree: bytes, path: bytes, facts: os.stat_result | None, kind: ChangeKind) -> Iterator[Change]:
    yield Change(path=path, kind=kind)
    if facts is None or not stat.S_ISDIR(facts.st_mode):
        return
    waiting = [path]
    while waiting:
        here = waiting.pop()
        for name, found in sorted(_entries(os.path.join(tree, here)).items()):
            inside = os.path.join(here, name)
            yield Change(path=inside, kind=kind)
            if stat.S_ISDIR(found.st_mode):
                waiting.append(inside)


def _entries(directory: bytes) -> dict[bytes, os.stat_result]:
    found = {}
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                try:
                    found[entry.name] = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
    except FileNotFoundError:
        return {}
    return found


def _differ(a: bytes, before: os.stat_result, b: bytes, after: os.stat_result) -> bool:
    if _nature(before) != _nature(after):
        return True
    if (before.st_ino, before.st_ctime_ns, before.st_size) == (after.st_ino, after.st_ctime_ns, after.st_size):
        return False
    try:
        if stat.S_ISLNK(before.st_mode):
            return os.readlink(a) != os.readlink(b)
        if _attributes(a) != _attributes(b):
            return True
        return stat.S_ISREG(before.st_mode) and _contents_differ(a, before, b, after)
    except FileNotFoundError:
        return True


def _nature(facts: os.stat_result) -> tuple[int, ...]:
    return facts.st_mode, facts.st_uid, facts.st_gid, facts.st_rdev


def _attributes(path: bytes) -> dict[str, bytes]:
    try:
        names = os.listxattr(path, follow_symlinks=False)
        return {name: os.getxattr(path, name, follow_symlinks=False) for name in names}
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.ENODATA):
            return {}
        raise


def _contents_differ(a: bytes, before: os.stat_result, b: bytes, after: os.stat_result) -> bool:
    if before.st_size != after.st_size:
        return True
    if before.st_mtime_ns == after.st_mtime_ns:
        return False
    with open(a, "rb", opener=_opener) as old, open(b, "rb", opener=_opener) as new:
        while True:
            left, right = old.read(_CHUNK), new.read(_CHUNK)
            if left != right:
                return True
            if not left:
                return False


def _opener(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
