"""An image backup onto a block device, or into a sparse file."""

from __future__ import annotations

from pathlib import Path

from snapvol.engine.progress import Progress
from snapvol.engine.rebuild import RestoreResult
from snapvol.repository import Repository


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
        Refused: the backup is not an image, or the device is too small. Nothing has changed.
        NoSpace: the target is full; a file is removed.
        StorageFailed: the target failed; a file is removed.
        PartlyRestored: some of the image is damaged in the repository; named by offset. The rest is in the target,
            which must not be taken for the image.
        Damaged: the backup cannot be read at all, or is not laid out as an image is.
        Cancelled: nobody wants it any more; a file is removed, a device is left as far as it came.
    """
    raise NotImplementedError
