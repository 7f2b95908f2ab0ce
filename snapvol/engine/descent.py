"""A place in a directory tree that is held by descriptors, so that no name is ever resolved through a link."""

from __future__ import annotations

import os
from types import TracebackType
from typing import Self

from snapvol.errors import StorageFailed

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Descent:
    """The current directory of a walk, which moves one level at a time; paths may be of any length and depth.

    Only the deepest levels keep their descriptors, since processes have few; a level is found again through ``..``
    and must then be the directory that it was.

    Args:
        root: where to start: a path, in which links are followed, or an open directory.
        keep: how many levels keep a descriptor.
    """

    def __init__(self, root: int | str | bytes | os.PathLike[str], keep: int = 64) -> None:
        self._keep = max(keep, 2)
        first = os.dup(root) if isinstance(root, int) else os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._levels: list[tuple[int, int, int]] = [self._level(first)]
        self._names: list[bytes] = []

    @staticmethod
    def _level(fd: int) -> tuple[int, int, int]:
        found = os.fstat(fd)
        return fd, found.st_dev, found.st_ino

    @property
    def fd(self) -> int:
        """The descriptor of the current directory."""
        return self._levels[-1][0]

    @property
    def device(self) -> int:
        """The current directory's ``st_dev``."""
        return self._levels[-1][1]

    @property
    def names(self) -> tuple[bytes, ...]:
        """The names from the root to here."""
        return tuple(self._names)

    def path(self, name: bytes = b"") -> bytes:
        """Return the path of ``name`` here, relative to the root, for messages."""
        return b"/".join((*self._names, name) if name else self._names)

    def enter(self, name: bytes) -> None:
        """Go into a directory.

        Raises:
            OSError: it is none (a link is none), is gone, or may not be read. The place is unchanged.
        """
        self._levels.append(self._level(os.open(name, DIRECTORY, dir_fd=self.fd)))
        self._names.append(name)
        far = len(self._levels) - 1 - self._keep
        if far > 0 and self._levels[far][0] >= 0:
            fd, device, inode = self._levels[far]
            os.close(fd)
            self._levels[far] = (-1, device, inode)

    def leave(self) -> None:
        """Go back to the directory above.

        Raises:
            StorageFailed: somebody moved this directory in the meantime.
        """
        fd, _, _ = self._levels[-1]
        above, device, inode = self._levels[-2]
        if above < 0:
            above = os.open("..", DIRECTORY, dir_fd=fd)
            if self._level(above)[1:] != (device, inode):
                os.close(above)
                raise StorageFailed(f"directory {self._names[-1]!r} was moved while it was being worked on")
            self._levels[-2] = (above, device, inode)
        os.close(fd)
        self._levels.pop()
        self._names.pop()

    def close(self) -> None:
        """Let go of everything."""
        for fd, _, _ in self._levels:
            if fd >= 0:
                os.close(fd)
        self._levels.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def member(directory: int, name: bytes) -> bytes:
    """Return a path of ``name`` in an open directory, for system calls that take no directory descriptor.

    The path stays short however deep the directory is. Calls must not follow a link at its end.
    """
    return b"/proc/self/fd/%d/%s" % (directory, name)
