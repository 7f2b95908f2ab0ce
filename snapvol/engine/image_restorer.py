"""An image backup onto a block device, or into a sparse file."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from snapvol.engine import reading, sparse
from snapvol.engine.image_layout import LOST, StoredImage, lost_parts, zero_id
from snapvol.engine.manifest import BackupKind
from snapvol.engine.progress import Problem, Progress
from snapvol.engine.rebuild import RestoreResult
from snapvol.engine.restorer import LOST_META, checked
from snapvol.engine.scatter import MOST_WANTED
from snapvol.engine.stamp import FULL, no_space
from snapvol.errors import AlreadyExists, NotFound, Refused, SnapvolError, StorageFailed
from snapvol.repository import BlobKind, Repository

_FLAGS = os.O_WRONLY | os.O_CLOEXEC


def restore_image(repository: Repository, snapshot_id: str, target: Path, *, progress: Progress) -> RestoreResult:
    """Restore an image backup. Takes the repository's lock and loads its index.

    When this returns everything is on the disk, every byte checked. Zeros are not written: holes stay holes. A result
    has one file; `RestoreResult.bytes_written` is what is not zero.

    Args:
        repository: opened.
        snapshot_id: the backup's id, or the unique beginning of it.
        target: a block device that reads as zeros and is at least as long as the image, or a path where there is
            nothing yet: a sparse file of the image's exact size is made there, mode 0600.
        progress: is told; bytes count holes too.

    Raises:
        NotFound: there is no such backup, or no directory for the target.
        AlreadyExists: the target exists and is not a block device. Nothing has changed.
        Refused: the backup is not an image, or the device is too small or in use. Nothing has changed.
        NoSpace: the target is full; a file is removed.
        StorageFailed: the target failed; a file is removed.
        PartlyRestored: some of the image is damaged in the repository; named by offset. The rest is in the target,
            which must not be taken for the image.
        Damaged: the backup cannot be read at all, or is not laid out as an image is.
        Cancelled: nobody wants it any more; a file is removed, a device is left as far as it came.
    """
    with repository.lock():
        identity, document = repository.find_snapshot(snapshot_id)
        repository.load_index()
        start = reading.root(repository, document)
        if start.kind is not BackupKind.IMAGE:
            raise Refused(
                f"backup {identity[:8]} is not an image of a block device", "restore its files: snapvol restore BACKUP"
            )
        image = StoredImage(repository, start.subtree, start.meta)
        progress.total(1, image.size)
        with _opened(target, image.size) as fd:
            spread = _Spread(repository, fd, target, progress)
            spread.run(image)
            progress.advance(0, 1)
    result = RestoreResult(
        files=1,
        dirs=0,
        bytes_written=spread.bytes_written,
        bytes_kept=0,
        removed=0,
        problems=spread.problems(),
        notes=[f"{LOST_META}: {start.lost}"] if start.lost is not None else [],
        filesystem=start.meta.image.filesystem if start.meta is not None and start.meta.image is not None else None,
    )
    return checked(result, identity, "the rest of the image is there, with zeros in their place")


@contextmanager
def _opened(target: Path, size: int) -> Iterator[int]:
    """Open the device, or make the file, and have on the disk what was written; a file goes away again on failure."""
    fd, made = _open_target(target, size)
    try:
        try:
            if made:
                os.ftruncate(fd, size)
            yield fd
            os.fsync(fd)
            if made:
                _sync_directory(target.parent)
        except OSError as error:
            raise _failed(target, error) from error
        finally:
            os.close(fd)
    except BaseException:
        if made:
            with suppress(OSError):
                target.unlink()
        raise


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _open_target(target: Path, size: int) -> tuple[int, bool]:
    try:
        if not stat.S_ISBLK(target.stat().st_mode):
            raise AlreadyExists(f"{target} exists and is not a block device", "remove it, or restore elsewhere")
    except FileNotFoundError:
        return _made(target), True
    except OSError as error:
        raise StorageFailed(f"{target} cannot be looked at: {error.strerror}") from error
    try:
        # O_EXCL without O_CREAT: nobody has it mounted or otherwise in use, open(2).
        fd = os.open(target, _FLAGS | os.O_EXCL)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise Refused(f"device {target} is in use", "see who has it: lsblk, dmsetup ls --tree") from None
        raise StorageFailed(f"device {target} cannot be opened: {error.strerror}") from error
    room = os.lseek(fd, 0, os.SEEK_END)
    if room < size:
        os.close(fd)
        raise Refused(f"the image has {size} bytes, but device {target} only {room}", "make it as large as the image")
    return fd, False


def _made(target: Path) -> int:
    try:
        return os.open(target, _FLAGS | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        raise AlreadyExists(f"{target} exists already", "remove it, or restore elsewhere") from None
    except FileNotFoundError:
        raise NotFound(f"directory {target.parent} does not exist", f"make it: mkdir -p {target.parent}") from None
    except OSError as error:
        raise StorageFailed(f"{target} cannot be made: {error.strerror}") from error


def _failed(target: Path, error: OSError) -> StorageFailed:
    if error.errno in FULL:
        return no_space(os.fsencode(target), error)
    return StorageFailed(f"{target} failed: {error.strerror}")


class _Spread:
    """Gathers what the image wants, then reads it in the order of the packs and writes each piece to its places."""

    def __init__(self, repository: Repository, fd: int, target: Path, progress: Progress) -> None:
        self._repository = repository
        self._fd = fd
        self._target = target
        self._progress = progress
        self._wanted: dict[bytes, list[tuple[int, int]]] = {}
        self._references = 0
        self._lost: list[tuple[int, int, str]] = []
        self.bytes_written = 0

    def run(self, image: StoredImage) -> None:
        self._lost += ((start, end, LOST) for start, end in image.lost)  # they are zeros in the backup
        for segment in image.segments():
            if segment.problem is not None:
                self._lose(segment.offset, segment.size, segment.problem)
            for offset, length, blob in segment.pieces():
                if blob == zero_id(length):
                    self._progress.advance(length, 0)
                else:
                    self._want(bytes.fromhex(blob), offset, length)
            self._progress.cancelled()
        self._flush()

    def _want(self, blob: bytes, offset: int, length: int) -> None:
        self._wanted.setdefault(blob, []).append((offset, length))
        self._references += 1
        if self._references >= MOST_WANTED:
            self._flush()

    def _flush(self) -> None:
        wanted, self._wanted, self._references = self._wanted, {}, 0
        for blob, data in self._repository.read_many(BlobKind.DATA, wanted, lost=self._losing(wanted)):
            for offset, length in wanted.pop(blob):
                if len(data) == length:
                    self.bytes_written += sparse.write(self._fd, data, offset)[0]
                else:
                    self._lose(offset, length, f"a piece has {len(data)} bytes instead of {length}")
                self._progress.advance(length, 0)
            self._progress.cancelled()

    def _losing(self, wanted: dict[bytes, list[tuple[int, int]]]) -> Callable[[bytes, SnapvolError], None]:
        def note(blob: bytes, error: SnapvolError) -> None:
            for offset, length in wanted.pop(blob):
                self._lose(offset, length, error.message)

        return note

    def _lose(self, offset: int, length: int, why: str) -> None:
        self._lost.append((offset, offset + length, why))

    def problems(self) -> list[Problem]:
        """Return what is not restored, neighbours put together."""
        return lost_parts(self._lost)
