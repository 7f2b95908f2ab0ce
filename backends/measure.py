"""How much a tree takes, where the storage keeps no counts."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def short_path(directory: Path) -> Iterator[str]:
    """Give a short path by which this process and its children reach ``directory``.

    The kernel takes paths of up to 4,095 bytes, and the pool's own path must take nothing from a volume's.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield f"/proc/{os.getpid()}/fd/{descriptor}"
    finally:
        os.close(descriptor)


def measure(root: Path) -> int:
    """Return the bytes that the tree at ``root`` takes on the storage; a file with several names counts once.

    What is mounted in it is not counted. A file that vanishes meanwhile is passed over.

    Raises:
        OSError: a directory cannot be read.
    """
    seen: set[int] = set()
    with short_path(root) as start:
        top = os.stat(start)
        total = top.st_blocks * 512
        pending = [os.fsencode(start) + b"/"]
        while pending:
            for path, facts in _children(pending.pop()):
                if facts.st_dev != top.st_dev or facts.st_ino in seen:
                    continue
                total += facts.st_blocks * 512
                if stat.S_ISDIR(facts.st_mode):
                    pending.append(path)
                elif facts.st_nlink > 1:
                    seen.add(facts.st_ino)
    return total


def _children(directory: bytes) -> Iterator[tuple[bytes, os.stat_result]]:
    try:
        entries = os.scandir(directory)
    except FileNotFoundError:
        return
    with entries:
        for entry in entries:
            try:
                yield entry.path, entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
