"""A thin volume without LVM: a file in the place of a block device, and what of it is mapped."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from snapvol.backend import Image, Range
from snapvol.engine.archiver import BackupResult
from snapvol.engine.base import BaseBackup
from snapvol.engine.image_archiver import CHUNK, back_up_image
from snapvol.engine.manifest import VolumeMeta
from snapvol.engine.progress import Progress, Silent
from snapvol.errors import SnapvolError
from snapvol.model import now
from snapvol.repository import Repository

META = VolumeMeta(id="id-of-disk", name="disk", created=now(), taken=now(), backend="lvm")


class Disk:
    """A device whose every change is known.

    What is not mapped reads as zeros on a thin volume. Here it is garbage: whoever reads it gets a wrong image.

    Args:
        path: of the file to be made.
        size: in bytes.
        garbage: fill it; without it the file is sparse, which large ones must be.
    """

    def __init__(self, path: Path, size: int, *, garbage: bool = True) -> None:
        self.path = path
        self.size = size
        self._contents = bytearray(size if garbage else 0)
        self.mapped: set[Range] = set()
        self.dirty: list[Range] = []
        self._garbage = garbage
        self._snapshots = 0
        path.touch()
        self._fill(0, size)
        os.truncate(path, size)

    @property
    def contents(self) -> bytes:
        """What it reads as; not known without garbage."""
        assert self._garbage
        return bytes(self._contents)

    def write(self, offset: int, data: bytes) -> None:
        self._put(offset, data)
        if self._garbage:
            self._contents[offset : offset + len(data)] = data
        self._unmap(offset, len(data))
        self.mapped.add((offset, len(data)))
        self.dirty.append((offset, len(data)))

    def discard(self, offset: int, length: int) -> None:
        self._fill(offset, length)
        if self._garbage:
            self._contents[offset : offset + length] = bytes(length)
        self._unmap(offset, length)
        self.dirty.append((offset, length))

    def grow(self, size: int) -> None:
        self._fill(self.size, size - self.size)
        os.truncate(self.path, size)
        if self._garbage:
            self._contents.extend(bytes(size - self.size))
        self.size = size

    def shrink(self, size: int) -> None:
        self._unmap(size, self.size - size)
        os.truncate(self.path, size)
        if self._garbage:
            del self._contents[size:]
        self.size = size

    def image(self) -> Image:
        """Return a snapshot of it; what changes from now on is `dirty`."""
        self._snapshots += 1
        mapped = tuple(sorted(self.mapped))
        return Image(
            device=self.path, size=self.size, identity=f"thin/{self._snapshots}", filesystem="ext4", mapped=mapped
        )

    def _fill(self, offset: int, length: int) -> None:
        if self._garbage and length:
            self._put(offset, b"\xaa" * length)

    def _put(self, offset: int, data: bytes) -> None:
        fd = os.open(self.path, os.O_WRONLY)
        try:
            os.pwrite(fd, data, offset)
        finally:
            os.close(fd)

    def _unmap(self, offset: int, length: int) -> None:
        end = offset + length
        kept = set()
        for start, size in self.mapped:
            if start < offset:
                kept.add((start, min(size, offset - start)))
            if start + size > end:
                first = max(start, end)
                kept.add((first, start + size - first))
        self.mapped = {(start, size) for start, size in kept if size}


class Backups:
    """Backs a disk up again and again, each time from the last one."""

    def __init__(self, repository: Repository, disk: Disk) -> None:
        self._repository = repository
        self._disk = disk
        self.base: BaseBackup | None = None

    def run(
        self,
        *,
        chunk: int = CHUNK,
        changed: Sequence[Range] | None = None,
        known: bool = True,
        progress: Progress | None = None,
    ) -> BackupResult:
        """Back up what has changed.

        Args:
            chunk: see `back_up_image`.
            changed: instead of what really has.
            known: whether anything is known of what has changed.
            progress: is told.
        """
        disk, image = self._disk, self._disk.image()
        result = back_up_image(
            self._repository,
            image,
            msgspec.structs.replace(META, taken=now()),
            base=self.base,
            changed=(disk.dirty if changed is None else changed) if known else None,
            progress=progress or Silent(),
            host="here",
            chunk=chunk,
        )
        disk.dirty = []
        self.base = BaseBackup(id=result.id, source=image.identity)
        return result


class Steps(Silent):
    """Counts, and cancels when it is told to."""

    def __init__(self) -> None:
        self.wanted = self.bytes = self.files = 0
        self.stop_after: int | None = None
        self.error: SnapvolError | None = None

    def total(self, files: int, bytes: int) -> None:
        self.wanted = bytes

    def advance(self, bytes: int, files: int) -> None:
        self.bytes += bytes
        self.files += files

    def cancelled(self) -> None:
        if self.error is not None and self.stop_after is not None and self.bytes >= self.stop_after:
            raise self.error
