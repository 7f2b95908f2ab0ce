"""A block device into a repository: an image, of which only what is mapped, and may have changed, is read."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from snapvol.backend import Image, Range
from snapvol.engine.archiver import BackupResult
from snapvol.engine.manifest import VolumeMeta
from snapvol.engine.progress import Progress
from snapvol.repository import Repository

CHUNK = 1 << 20


class ImageBase(Struct, frozen=True, kw_only=True):
    """An earlier image backup of the same volume.

    Attributes:
        id: the backup's full id.
        source: the identity of the snapshot that it is of.
    """

    id: str
    source: str


def base_backup(repository: Repository, volume_id: str, source: str, *, host: str | None = None) -> ImageBase | None:
    """Return the newest image backup of the snapshot with this identity; None where there is none.

    Whether it fits otherwise, and is whole, `back_up_image` finds out.

    Args:
        repository: opened; its index is not needed.
        volume_id: the volume's identity.
        source: the identity of the base snapshot (`Snapshot.id`), which the backend compares the new one with.
        host: only backups made under this host's name.

    Raises:
        RepositoryUnreachable: the repository does not answer.
    """
    raise NotImplementedError


def back_up_image(
    repository: Repository,
    image: Image,
    meta: VolumeMeta,
    *,
    base: ImageBase | None,
    changed: Sequence[Range] | None,
    progress: Progress,
    host: str | None = None,
    chunk: int = CHUNK,
) -> BackupResult:
    """Store the image of a block device as a backup of a volume. Takes the repository's lock and loads its index.

    Args:
        repository: opened.
        image: what is read: only its mapped ranges.
        meta: what else is needed to make the volume again; ``kind``, ``image``, ``source`` and ``base`` are filled in.
        base: the backup (see `base_backup`) of the snapshot that ``changed`` compares with. One that does not fit, by
            size or chunk, or is not whole any more, costs time, not the backup: everything mapped is read.
        changed: what may differ from ``base``; None where that is not known, then everything mapped is read.
        progress: is told; its total is what will be read.
        host: the name under which backups are grouped; this machine's by default.
        chunk: bytes of a piece: a power of two from `SMALLEST_CHUNK` to `LARGEST_CHUNK`. Another one than in the
            volume's earlier backups means that everything is read and stored anew.

    Raises:
        BaseMismatch: a sample of what ``changed`` says is unchanged differs from ``base``. The caller does it again
            with ``base=None`` and says so: also the backups since may be wrong (the message names the base).
        StorageFailed: the device cannot be read, or has another size. There is no backup then.
        UsageError: ``chunk`` is not allowed.
        SnapvolError: the repository failed. What was uploaded is used by the next run.
        Cancelled: nobody wants it any more.
    """
    raise NotImplementedError
