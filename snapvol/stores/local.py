"""A repository in a directory, laid out as stock restic lays it out."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from snapvol.errors import AlreadyExists, Damaged, NoSpace, NotFound, RepositoryUnreachable, StorageFailed
from snapvol.stores.base import CONFIG, Buffer, Entry, Store, checked_name, checked_prefix, is_name

_DIRECTORY_MODE = 0o700
_FILE_MODE = 0o600
_ABANDONED = 24 * 3600  # seconds after which a temporary file cannot belong to a writer that still lives


class LocalStore(Store):
    """Objects as files below ``root``, readable by their owner only.

    Files are written in ``tmp/``, synced, renamed into place, and the directory is synced: a kill or a full disk leaves
    at most a temporary file, which a later writer removes. Symbolic links and special files in the place of objects are
    refused: somebody else put them there.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self.location = str(root)
        self._swept = False

    def prepare(self) -> None:
        """See `Store.prepare`: all directories, as stock restic makes them."""
        with self._explained("cannot make directories in", CONFIG):
            self._root.mkdir(mode=_DIRECTORY_MODE, parents=True, exist_ok=True)
            below = ["keys", "locks", "snapshots", "index", "tmp", "data", *(f"data/{n:02x}" for n in range(256))]
            for name in below:
                (self._root / name).mkdir(mode=_DIRECTORY_MODE, exist_ok=True)
            _sync_directory(self._root / "data")
            _sync_directory(self._root)

    def put(self, name: str, data: Buffer) -> None:
        """See `Store.put`."""
        target = self._root / checked_name(name)
        with self._explained("cannot write", name):
            if self._holds(target, name, len(data)):
                return
            self._make_parents(target)
            temporary = self._root / "tmp" / f"{uuid4()}"
            try:
                _write_synced(temporary, data)
                temporary.rename(target)
            except BaseException:
                with suppress(OSError):
                    temporary.unlink(missing_ok=True)
                raise
            _sync_directory(target.parent)

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """See `Store.get`."""
        with self._explained("cannot read", name), self._opened(name) as (descriptor, size):
            end = size if length is None else offset + length
            if offset > size or end > size:
                raise Damaged(f"{name} in {self.location} ends at byte {size}, before byte {max(end, offset)}")
            data = os.pread(descriptor, end - offset, offset)
            while len(data) < end - offset:  # one call gives at most 2 GiB, and network filesystems less
                more = os.pread(descriptor, end - offset - len(data), offset + len(data))
                if not more:
                    raise Damaged(f"{name} in {self.location} became shorter while it was read")
                data += more
            return data

    def size(self, name: str) -> int:
        """See `Store.size`."""
        with self._explained("cannot read", name), self._opened(name) as (_, size):
            return size

    def list(self, prefix: str) -> Iterator[Entry]:
        """See `Store.list`."""
        directory = self._root / checked_prefix(prefix)
        with self._explained("cannot list", prefix):
            if not self._root.is_dir():
                raise FileNotFoundError(errno.ENOENT, "no such directory", str(self._root))
            return iter(list(_entries(directory, prefix)))

    def delete(self, names: Sequence[str]) -> None:
        """See `Store.delete`."""
        parents = set()
        failed: OSError | None = None
        failed_name = ""
        for name in names:
            target = self._root / checked_name(name)
            try:
                target.unlink()
                parents.add(target.parent)
            except FileNotFoundError:
                continue
            except OSError as error:
                failed, failed_name = error, name
        with self._explained("cannot delete", failed_name or "objects"):
            for parent in parents:
                _sync_directory(parent)
            if failed is not None:
                raise failed

    def _holds(self, target: Path, name: str, size: int) -> bool:
        try:
            found = target.lstat()
        except FileNotFoundError:
            return False
        if name == CONFIG:
            raise AlreadyExists(f"{self.location} already holds a repository")
        if not stat.S_ISREG(found.st_mode):
            raise Damaged(f"{target} is not a regular file", "look who put it there, and remove it")
        return found.st_size == size

    def _make_parents(self, target: Path) -> None:
        """Make what copying a repository without its empty directories loses; never the root: its disk may be away."""
        for directory in (self._root / "tmp", *reversed(target.relative_to(self._root).parents[:-1])):
            full = self._root / directory
            if not full.is_dir():
                full.mkdir(mode=_DIRECTORY_MODE, exist_ok=True)
                _sync_directory(full.parent)
        self._sweep()

    def _sweep(self) -> None:
        """Remove temporary files of killed writers, once per store."""
        if self._swept:
            return
        self._swept = True
        oldest = time.time() - _ABANDONED
        for entry in os.scandir(self._root / "tmp"):
            with suppress(OSError):
                if entry.stat(follow_symlinks=False).st_mtime < oldest:
                    os.unlink(entry.path)

    @contextmanager
    def _opened(self, name: str) -> Iterator[tuple[int, int]]:
        path = self._root / checked_name(name)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            raise NotFound(f"{name} is not in {self.location}") from None
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENXIO):
                raise Damaged(f"{path} is not a regular file", "look who put it there, and remove it") from None
            raise
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise Damaged(f"{path} is not a regular file", "look who put it there, and remove it")
            yield descriptor, found.st_size
        finally:
            os.close(descriptor)

    @contextmanager
    def _explained(self, what: str, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            message = f"{what} {name} in {self.location}: {error.strerror}"
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise NoSpace(message, "free space there") from error
            if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise RepositoryUnreachable(
                    message, "check the owner and mode of the directory and its mount"
                ) from error
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                raise RepositoryUnreachable(message, "is its disk mounted?") from error
            raise StorageFailed(message, "look at the kernel's log for errors of that disk") from error


def _entries(directory: Path, prefix: str) -> Iterator[Entry]:
    try:
        scan = os.scandir(directory)
    except FileNotFoundError:
        return  # a copy made without empty directories
    with scan:
        for entry in scan:
            name = f"{prefix}{entry.name}"
            if prefix == "data/" and entry.is_dir(follow_symlinks=False):
                yield from _entries(Path(entry.path), f"{name}/")
            elif is_name(name):
                with suppress(FileNotFoundError):  # another process deleted it since
                    yield Entry(name, entry.stat(follow_symlinks=False).st_size)


def _write_synced(path: Path, data: Buffer) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, _FILE_MODE)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
        if os.fstat(descriptor).st_size != len(data):
            raise OSError(errno.EIO, "the file is not as long as what was written to it")
    finally:
        os.close(descriptor)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
