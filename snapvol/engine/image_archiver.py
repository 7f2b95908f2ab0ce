"""A block device into a repository: an image, of which only what is mapped, and may have changed, is read."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from snapvol.backend import Image, Range
from snapvol.engine import record
from snapvol.engine.archiver import BackupResult
from snapvol.engine.base import BaseBackup, sourced
from snapvol.engine.device import Device
from snapvol.engine.image_capture import Capture, Earlier
from snapvol.engine.image_layout import LARGEST_CHUNK, SMALLEST_CHUNK, segments_of
from snapvol.engine.image_plan import plan
from snapvol.engine.manifest import BackupKind, ImageMeta, VolumeMeta
from snapvol.engine.pipeline import Pipeline
from snapvol.engine.progress import Progress
from snapvol.engine.reading import IMAGE, Unreadable
from snapvol.errors import UsageError
from snapvol.model import now
from snapvol.repository import Repository, SnapshotDocument

CHUNK = 1 << 20


def back_up_image(
    repository: Repository,
    image: Image,
    meta: VolumeMeta,
    *,
    base: BaseBackup | None,
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
        chunk: bytes of a piece: a power of two from 64 KiB to 4 MiB. Another one than in the volume's earlier backups
            means that everything is read and stored anew.

    Raises:
        BaseMismatch: a sample of what ``changed`` says is unchanged differs from ``base``. The caller does it again
            with ``base=None`` and says so: also the backups since may be wrong (the message names the base).
        StorageFailed: the device cannot be read, or has another size. There is no backup then.
        UsageError: ``chunk`` is not allowed.
        SnapvolError: the repository failed. What was uploaded is used by the next run.
        Cancelled: nobody wants it any more.
    """
    if not SMALLEST_CHUNK <= chunk <= LARGEST_CHUNK or chunk & (chunk - 1):
        raise UsageError(f"pieces of {chunk} bytes are not allowed", "a power of two from 64K to 4M: backup.chunk=1M")
    begun = now()
    meta = msgspec.structs.replace(
        meta,
        kind=BackupKind.IMAGE,
        image=ImageMeta(size=image.size, filesystem=image.filesystem, chunk=chunk),
        source=image.identity,
        base=None,
    )
    with Device(image.device, image.size) as device, repository.lock() as lock:
        before = _document(repository, base)
        repository.load_index()  # after the snapshots are listed: so it has all that they need
        earlier = None
        if base is not None and changed is not None:
            wanted = msgspec.structs.replace(meta, source=base.source)
            earlier = Earlier.find(repository, base.id, before, wanted)
        usable = earlier is not None and earlier.stored is not None
        meta = msgspec.structs.replace(meta, base=base.id if base is not None and usable else None)
        what = plan(image, chunk, changed if usable else None)
        progress.total(len(segments_of(image.size)), what.bytes_to_read())
        with Pipeline(repository) as pipeline:
            capture = Capture(repository, device, what, pipeline, earlier, meta, progress)
            volume = capture.run()
            pipeline.settle()
        top = record.top_tree(repository, meta, volume)
        summary = _summary(capture, image, pipeline.bytes_added)
        document = record.document(meta, top, host=host, begun=begun, tags=[IMAGE], summary=summary)
        identity = repository.commit_snapshot(document, lock)
    return _result(identity, capture, device, pipeline, meta, earlier)


def _result(
    identity: str, capture: Capture, device: Device, pipeline: Pipeline, meta: VolumeMeta, earlier: Earlier | None
) -> BackupResult:
    return BackupResult(
        id=identity,
        files=capture.files,
        dirs=0,
        bytes_total=device.size,
        bytes_read=device.bytes_read,
        bytes_added=pipeline.bytes_added,
        new=capture.new,
        changed=capture.changed,
        unmodified=capture.unmodified,
        problems=[],
        incomplete=False,
        base=meta.base,
        bytes_checked=capture.bytes_checked,
        notes=[earlier.problem] if earlier is not None and earlier.problem is not None else [],
    )


def _document(repository: Repository, base: BaseBackup | None) -> SnapshotDocument | None:
    try:
        return repository.find_snapshot(base.id)[1] if base is not None else None
    except Unreadable:
        return None


def _summary(capture: Capture, image: Image, added: int) -> dict[str, object]:
    return {
        "files_new": capture.new,
        "files_changed": capture.changed,
        "files_unmodified": capture.unmodified,
        "data_added": added,
        "total_files_processed": capture.files,
        "total_bytes_processed": image.size,
    } | sourced(BackupKind.IMAGE, image.identity)
