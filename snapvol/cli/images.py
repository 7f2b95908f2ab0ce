"""The image of a block device as a file, on a machine without a daemon."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from msgspec import Struct

from snapvol import names
from snapvol.cli import output
from snapvol.engine.backups import Backup
from snapvol.engine.image_restorer import restore_image
from snapvol.engine.progress import Progress
from snapvol.engine.restorer import PartlyRestored
from snapvol.errors import AlreadyExists, InvalidName, StorageFailed
from snapvol.repository import Repository

# What mounts a snapshot's file system without writing: its journal is not replayed (ext4(5), xfs(5)).
_MOUNT_OPTIONS = {"ext4": "ro,loop,noload", "xfs": "ro,loop,norecovery,nouuid"}


class ImageFile(Struct, frozen=True, kw_only=True):
    """A restored image.

    Attributes:
        file: where it is.
        filesystem: on it; None where that is not known any more.
        size: in bytes.
        bytes_written: those of them that are not in holes.
        notes: what somebody should know.
    """

    file: str
    filesystem: str | None
    size: int
    bytes_written: int
    notes: list[str]

    def say(self) -> None:
        """Print what it is, and how to look into it."""
        figures = f"image of {output.size(self.size)}, {output.size(self.bytes_written)} of it in use"
        print(output.printable(f"{self.file}: {figures}"))
        options = _MOUNT_OPTIONS.get(self.filesystem or "", "ro,loop")
        print(output.printable(f"look into it: mount -o {options} {shlex.quote(self.file)} /mnt"))


def restore(repository: Repository, backup: Backup, directory: Path, progress: Progress) -> ImageFile:
    """Restore an image to ``DIRECTORY/VOLUME.img``, a sparse file that has its name only when it is whole.

    Raises:
        AlreadyExists: there is a file of that name, or what an earlier restore left.
        PartlyRestored: parts of it are lost; the rest is in ``VOLUME.img.partial``.
        SnapvolError: as `restore_image`.
    """
    file = directory / f"{_name(backup)}.img"
    partial = file.with_name(f"{file.name}.partial")
    for path in (file, partial):
        if path.is_symlink() or path.exists():
            raise AlreadyExists(f"{path} exists already", "remove it, or restore into another directory")
    try:
        result = restore_image(repository, backup.id, partial, progress=progress)
    except PartlyRestored:
        output.note(f"{partial} has what could be read, and zeros for what is lost; fsck may mend a copy of it")
        raise
    try:
        size = partial.stat().st_size
        partial.rename(file)
        _sync(directory)
    except OSError as error:
        raise StorageFailed(f"{partial} cannot be given its name: {error.strerror}") from error
    return ImageFile(
        file=str(file),
        filesystem=result.filesystem,
        size=size,
        bytes_written=result.bytes_written,
        notes=result.notes,
    )


def _name(backup: Backup) -> str:
    """Return a file's name: the volume's, where it is one (T44: what a backup says of itself is anybody's)."""
    try:
        return names.volume_name(backup.volume or "")[: names.LONGEST - len(".img.partial")]
    except InvalidName:
        return backup.short_id


def _sync(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
