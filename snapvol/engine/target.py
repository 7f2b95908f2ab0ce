"""The directories that are restored into. No name leads out of them, whatever a backup or another program does."""

from __future__ import annotations

import os
import stat
from collections import OrderedDict
from pathlib import Path
from types import TracebackType
from typing import Self

from snapvol.engine.descent import DIRECTORY, Descent
from snapvol.engine.progress import shown
from snapvol.errors import NotFound, Refused, StorageFailed

_OPEN = 128


class Place:
    """A directory below the target, by its name in the one above it; the target itself has none above."""

    __slots__ = ("above", "depth", "name")

    def __init__(self, above: Place | None, name: bytes) -> None:
        self.above = above
        self.name = name
        self.depth: int = above.depth + 1 if above is not None else 0

    def path(self, name: bytes = b"") -> bytes:
        """Return the path of ``name`` in this directory, relative to the target."""
        names = [name] if name else []
        place: Place | None = self
        while place is not None and place.above is not None:
            names.append(place.name)
            place = place.above
        return b"/".join(reversed(names))


class Target:
    """The directory restored into, and descriptors of a bounded number of directories below.

    Raises:
        NotFound: it does not exist.
        StorageFailed: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._root = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise NotFound(f"directory {path} does not exist", f"make it: mkdir {path}") from None
        except OSError as error:
            raise StorageFailed(f"directory {path} cannot be opened: {error.strerror}") from error
        self.top = Place(None, b"")
        self._device = os.fstat(self._root).st_dev
        self._open: OrderedDict[Place, int] = OrderedDict()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for fd in (self._root, *self._open.values()):
            os.close(fd)
        self._open.clear()

    def fd(self, place: Place) -> int:
        """Return a descriptor of a directory, good until the next call.

        Raises:
            OSError: it is gone, or is no directory any more.
        """
        if place is self.top:
            return self._root
        known = self._open.get(place)
        if known is not None:
            self._open.move_to_end(place)
            return known
        way = [place]
        while (above := way[-1].above) is not None and above is not self.top and above not in self._open:
            way.append(above)
        fd = self._root if above is None or above is self.top else self._open[above]
        for step in reversed(way):
            fd = os.open(step.name, DIRECTORY, dir_fd=fd)
            self._open[step] = fd
            if len(self._open) > _OPEN:
                os.close(self._open.popitem(last=False)[1])
        return fd

    def names(self, place: Place) -> list[bytes]:
        """Return what a directory holds."""
        return [os.fsencode(name) for name in os.listdir(self.fd(place))]

    def find(self, place: Place, name: bytes) -> os.stat_result | None:
        """Return the lstat of an entry, or None where there is none."""
        try:
            return os.stat(name, dir_fd=self.fd(place), follow_symlinks=False)
        except FileNotFoundError:
            return None

    def refuse_mount(self, place: Place) -> None:
        """Make sure that a directory does not lie on another filesystem.

        Raises:
            Refused: something is mounted there.
        """
        if os.fstat(self.fd(place)).st_dev != self._device:
            raise Refused(
                f"'{shown(place.path())}' in the target is another filesystem", "unmount it, or restore elsewhere"
            )

    def remove(self, place: Place, name: bytes) -> int:
        """Remove an entry with all that is below it; return how many entries that were.

        Raises:
            Refused: something is mounted below.
            OSError: it cannot be removed.
        """
        above = self.fd(place)
        found = os.stat(name, dir_fd=above, follow_symlinks=False)
        if not stat.S_ISDIR(found.st_mode):
            os.unlink(name, dir_fd=above)
            return 1
        with Descent(above) as walk:
            return self._remove_directory(walk, name, place)

    def _remove_directory(self, walk: Descent, name: bytes, place: Place) -> int:
        removed = 0
        waiting: list[list[bytes]] = [[name]]
        while waiting:
            if not waiting[-1]:
                waiting.pop()
                if waiting:
                    walk.leave()
                    os.rmdir(waiting[-1].pop(), dir_fd=walk.fd)
                    removed += 1
                continue
            entry = waiting[-1][-1]
            if stat.S_ISDIR(os.stat(entry, dir_fd=walk.fd, follow_symlinks=False).st_mode):
                walk.enter(entry)
                if walk.device != self._device:
                    path = shown(place.path(walk.path()))
                    raise Refused(f"'{path}' in the target is another filesystem", "unmount it, or restore elsewhere")
                waiting.append([os.fsencode(below) for below in os.listdir(walk.fd)])
            else:
                os.unlink(entry, dir_fd=walk.fd)
                waiting[-1].pop()
                removed += 1
        return removed
