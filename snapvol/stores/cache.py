"""Files on this machine that spare requests to a repository's store. None is ever needed, and none is believed unseen.

What is cached of a repository lies below ``ROOT/ID``, where ID is the repository's: snapshots, indexes and pieces of
tree packs as the store holds them, that is sealed, and what was made of the indexes, sealed with the same key. So a
stolen cache says no more than a stolen bucket; less, as key files are not in it: by them passwords could be tried.

Any number of processes may use one cache at once: files are written beside and renamed. They are not synced: what a
power cut tears does not pass its check, and is fetched again.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from msgspec import Struct

from snapvol.stores.base import Buffer

log = logging.getLogger(__name__)

_DIRECTORY_MODE = 0o700
_ABANDONED = 3600  # seconds after which a temporary file cannot belong to a writer that still lives
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class CachePlace(Struct, frozen=True):
    """Where caches lie on this machine.

    Attributes:
        path: the directory; those of the repositories are in it.
        size: bytes that all of them together may have.
    """

    path: Path
    size: int

    def of(self, repository: str) -> Cache:
        """Return the cache of the repository with this id; nothing is made yet."""
        return Cache(self.path, repository, self.size)


class Cache:
    """The cached files of one repository, by name: ``FOLDER/NAME`` or ``NAME``.

    No method raises because of the disk: what cannot be read is not there, and what cannot be written is left out,
    which is logged once.

    Attributes:
        directory: where they lie.
    """

    def __init__(self, root: Path, repository: str, limit: int) -> None:
        self.directory = root / repository
        self._root = root
        self._limit = limit
        self._full = False
        self._mutex = threading.Lock()

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes | None:
        """Return a file, or ``length`` bytes of it from ``offset`` on; None where they are not there.

        Nobody has looked whether they are still those that were written.
        """
        try:
            descriptor = os.open(self.directory / name, _READ)
            try:
                most = os.fstat(descriptor).st_size - offset
                wanted = most if length is None else length
                if not 0 <= wanted <= most:
                    return None
                data = os.pread(descriptor, wanted, offset)
                os.utime(descriptor)  # by this `trim` knows what is used
            finally:
                os.close(descriptor)
        except OSError:
            return None
        return data if len(data) == wanted else None

    def write(self, name: str, parts: Iterable[Buffer]) -> None:
        """Write a file anew from its parts, whole or not at all."""
        if self._full:
            return
        target = self.directory / name
        beside = self.directory / f".{uuid4()}"
        try:
            self._make(target.parent)
            with os.fdopen(os.open(beside, _WRITE, 0o600), "wb") as file:
                for part in parts:
                    file.write(part)
            beside.rename(target)
        except OSError as error:
            with suppress(OSError):
                beside.unlink(missing_ok=True)
            with self._mutex:
                told, self._full = self._full, True
            if not told:
                log.warning("nothing more is cached in %s: %s", self._root, error.strerror)

    def remove(self, names: Iterable[str]) -> None:
        """Remove files; absent ones are fine."""
        for name in names:
            with suppress(OSError):
                (self.directory / name).unlink(missing_ok=True)

    def names(self, folder: str) -> list[tuple[str, int]]:
        """Return the names in a folder, without it, each with its bytes."""
        try:
            with os.scandir(self.directory / folder) as scan:
                return [(entry.name, entry.stat(follow_symlinks=False).st_size) for entry in scan]
        except OSError:
            return []

    def trim(self) -> None:
        """Remove what was not used for longest, whichever repository it is of, until the rest is within the limit."""
        files = sorted(_files(self._root))
        size = sum(length for _, length, _ in files)
        oldest = time.time() - _ABANDONED
        for used, length, path in files:
            abandoned = os.path.basename(path).startswith(".") and used < oldest
            if size <= self._limit and not abandoned:
                continue
            with suppress(OSError):
                os.unlink(path)
            size -= length

    def _make(self, folder: Path) -> None:
        if folder.is_dir():
            return
        for directory in (*reversed(self._root.parents), self._root, self.directory, folder):
            if not directory.is_dir():
                directory.mkdir(mode=_DIRECTORY_MODE, exist_ok=True)


class NoCache(Cache):
    """What stands for a cache where none is wanted: it keeps nothing."""

    def __init__(self) -> None:
        super().__init__(Path(), "", 0)

    def read(self, name: str, offset: int = 0, length: int | None = None) -> None:
        """Nothing is there."""

    def write(self, name: str, parts: Iterable[Buffer]) -> None:
        """Keep nothing."""

    def remove(self, names: Iterable[str]) -> None:
        """Nothing is there."""

    def names(self, folder: str) -> list[tuple[str, int]]:
        """Return none."""
        return []

    def trim(self) -> None:
        """Nothing is there."""


def _files(directory: Path | str) -> Iterator[tuple[float, int, str]]:
    """Yield when each file below was last used, its bytes and its path."""
    try:
        with os.scandir(directory) as scan:
            entries = list(scan)
    except OSError:
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from _files(entry.path)
            continue
        with suppress(OSError):
            found = entry.stat(follow_symlinks=False)
            yield found.st_mtime, found.st_size, entry.path
