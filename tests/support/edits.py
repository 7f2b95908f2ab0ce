"""Random changes of a directory tree, for hypothesis: all that programs do to files, in any order."""

from __future__ import annotations

import os
import random
import stat
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from hypothesis import strategies as st

from support.process import run

Edit = tuple[str, int, int]  # what is done, and two numbers that choose to what and how
_NAMES = (b"a", b"b", b"c", b"data", b"\xff\n name", b"o257-8-0", "ü".encode())


def grown(root: Path, seed: int) -> None:
    """Make a tree in which every kind of entry is there to be changed."""
    chance = random.Random(seed)
    for directory in ("a", "b", "b/c", "deep", "deep/er"):
        (root / directory).mkdir()
    for number, path in enumerate(("x", "a/x", "a/y", "b/x", "b/c/x", "deep/er/x", "data")):
        (root / path).write_bytes(chance.randbytes((10, 4096, 70_000, 3_000_000)[number % 4]))
    with (root / "sparse").open("wb") as file:
        for at in (0, 5 << 20, 9 << 20):
            file.seek(at)
            file.write(chance.randbytes(700_000))
    os.symlink("a/x", root / "link")
    os.mkfifo(root / "deep/fifo")
    os.link(root / "a/y", root / "b/y")
    (root / os.fsdecode(b"\xff\n name")).write_bytes(b"q")


def edits(most: int = 12) -> st.SearchStrategy[list[Edit]]:
    """Return scripts for `apply`."""
    one = st.tuples(st.sampled_from(sorted(_DO)), st.integers(0, 50), st.integers(0, 1000))
    return st.lists(one, min_size=1, max_size=most)


def apply(root: Path, script: Sequence[Edit]) -> None:
    """Do it; what cannot be done to what was chosen is passed over."""
    for what, which, how in script:
        paths = _paths(root)
        with suppress(OSError):
            _DO[what](root, paths, which, how)


def _paths(root: Path) -> list[bytes]:
    found = []
    for above, directories, files in os.walk(os.fsencode(root)):
        found += [os.path.join(above, name) for name in (*directories, *files)]
    return sorted(found)


def _one(paths: list[bytes], which: int, wanted: Callable[[int], bool]) -> bytes:
    fitting = [path for path in paths if wanted(os.lstat(path).st_mode)]
    if not fitting:
        raise FileNotFoundError
    return fitting[which % len(fitting)]


def _file(paths: list[bytes], which: int) -> bytes:
    return _one(paths, which, stat.S_ISREG)


def _fresh(root: Path, paths: list[bytes], how: int) -> bytes:
    directories = [os.fsencode(root), *(path for path in paths if stat.S_ISDIR(os.lstat(path).st_mode))]
    return os.path.join(directories[how % len(directories)], _NAMES[how % len(_NAMES)])


def _write(path: bytes, at: int, data: bytes) -> None:
    fd = os.open(path, os.O_RDWR)
    try:
        os.pwrite(fd, data, at)
    finally:
        os.close(fd)


def _noise(how: int) -> bytes:
    return random.Random(how).randbytes((1, 300, 5000, 700_000)[how % 4])


def _overwrite(root: Path, paths: list[bytes], which: int, how: int) -> None:
    path = _file(paths, which)
    _write(path, how * 7919 % max(1, os.stat(path).st_size), _noise(how))


def _append(root: Path, paths: list[bytes], which: int, how: int) -> None:
    path = _file(paths, which)
    _write(path, os.stat(path).st_size, _noise(how))


def _truncate(root: Path, paths: list[bytes], which: int, how: int) -> None:
    path = _file(paths, which)
    os.truncate(path, os.stat(path).st_size * (how % 40) // 20)


def _punch(root: Path, paths: list[bytes], which: int, how: int) -> None:
    path = _file(paths, which)
    size = os.stat(path).st_size
    length = str((4096, 100_000, 700_000)[how % 3])
    run("fallocate", "-p", "-o", str(how * 4096 % max(1, size)), "-l", length, os.fsdecode(path), check=False)


def _create(root: Path, paths: list[bytes], which: int, how: int) -> None:
    path = _fresh(root, paths, which)
    with open(path, "xb") as file:
        file.write(_noise(how))


def _make_directory(root: Path, paths: list[bytes], which: int, how: int) -> None:
    os.mkdir(_fresh(root, paths, which))


def _remove(root: Path, paths: list[bytes], which: int, how: int) -> None:
    path = paths[which % len(paths)]
    if stat.S_ISDIR(os.lstat(path).st_mode):
        for above, directories, files in os.walk(path, topdown=False):
            for name in files:
                os.unlink(os.path.join(above, name))
            for name in directories:
                inside = os.path.join(above, name)
                os.unlink(inside) if os.path.islink(inside) else os.rmdir(inside)
        os.rmdir(path)
    else:
        os.unlink(path)


def _replace(root: Path, paths: list[bytes], which: int, how: int) -> None:
    """Delete a file and make another one under its name."""
    path = _file(paths, which)
    os.unlink(path)
    with open(path, "xb") as file:
        file.write(_noise(how))


def _move(root: Path, paths: list[bytes], which: int, how: int) -> None:
    os.rename(paths[which % len(paths)], _fresh(root, paths, how))


def _swap(root: Path, paths: list[bytes], which: int, how: int) -> None:
    one, other = paths[which % len(paths)], paths[how % len(paths)]
    if other.startswith(one + b"/") or one.startswith(other + b"/") or one == other:
        return
    between = os.fsencode(root / "between")
    os.rename(one, between)
    os.rename(other, one)
    os.rename(between, other)


def _turn(root: Path, paths: list[bytes], which: int, how: int) -> None:
    """Put a directory into one of its own, which takes its place."""
    path = _one(paths, which, stat.S_ISDIR)
    inner = _one([p for p in paths if p.startswith(path + b"/")], how, stat.S_ISDIR)
    between = os.fsencode(root / "between")
    os.rename(inner, between)
    os.rename(path, os.path.join(between, b"turned"))
    os.rename(between, path)


def _hard_link(root: Path, paths: list[bytes], which: int, how: int) -> None:
    os.link(_file(paths, which), _fresh(root, paths, how))


def _clone(root: Path, paths: list[bytes], which: int, how: int) -> None:
    source, target = os.fsdecode(_file(paths, which)), os.fsdecode(_fresh(root, paths, how))
    run("cp", "--reflink=always", source, target, check=False)


def _mode(root: Path, paths: list[bytes], which: int, how: int) -> None:
    path = paths[which % len(paths)]
    if not os.path.islink(path):
        os.chmod(path, 0o600 | how % 0o100)


def _owner(root: Path, paths: list[bytes], which: int, how: int) -> None:
    os.chown(paths[which % len(paths)], how, how, follow_symlinks=False)


def _attribute(root: Path, paths: list[bytes], which: int, how: int) -> None:
    path = paths[which % len(paths)]
    if how % 3:
        os.setxattr(path, b"trusted.x", b"%d" % how, follow_symlinks=False)
    else:
        os.removexattr(path, b"trusted.x", follow_symlinks=False)


def _times(root: Path, paths: list[bytes], which: int, how: int) -> None:
    """Leave no trace of a write in size and modification time."""
    path = paths[which % len(paths)]
    before = os.lstat(path)
    if stat.S_ISREG(before.st_mode) and before.st_size:
        _write(path, how * 4096 % before.st_size, b"z")
        os.truncate(path, before.st_size)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns), follow_symlinks=False)


def _read(root: Path, paths: list[bytes], which: int, how: int) -> None:
    with open(_file(paths, which), "rb") as file:
        file.read()


def _link_anew(root: Path, paths: list[bytes], which: int, how: int) -> None:
    path = _one(paths, which, stat.S_ISLNK)
    os.unlink(path)
    os.symlink(b"%d" % how, path)


_DO: dict[str, Callable[[Path, list[bytes], int, int], None]] = {
    "append": _append,
    "attribute": _attribute,
    "clone": _clone,
    "create": _create,
    "hard-link": _hard_link,
    "link-anew": _link_anew,
    "make-directory": _make_directory,
    "mode": _mode,
    "move": _move,
    "overwrite": _overwrite,
    "owner": _owner,
    "punch": _punch,
    "read": _read,
    "remove": _remove,
    "replace": _replace,
    "swap": _swap,
    "times": _times,
    "truncate": _truncate,
    "turn": _turn,
}
