"""A directory tree into a repository."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from msgspec import Struct, field

from snapvol.backend import Change, Tree
from snapvol.engine import record
from snapvol.engine.manifest import VolumeMeta
from snapvol.engine.parent import Base
from snapvol.engine.pipeline import Pipeline
from snapvol.engine.progress import Problem, Progress
from snapvol.engine.reading import IMAGE, INCOMPLETE, TAG, Unreadable
from snapvol.engine.survey import announce
from snapvol.engine.walk import Walk
from snapvol.model import now
from snapvol.repository import Repository, SnapshotDocument

_KEPT_PROBLEMS = 100


class BackupResult(Struct, frozen=True, kw_only=True):
    """What a backup did.

    Attributes:
        id: the backup's id.
        files: entries other than directories.
        dirs: directories.
        bytes_total: the sizes of all files.
        bytes_read: bytes read from files or the device (holes and what is known to be unchanged are not read).
        bytes_added: bytes of files that the repository did not have, before compression.
        new: files that the parent does not have. An image counts in the files that it is stored as, up to 1 GiB each
            where it has more than 8 GiB.
        changed: files that differ from the parent's, or had to be read to know.
        unmodified: files taken from the parent without reading.
        problems: what is missing from the backup.
        incomplete: whether anything is.
        base: the earlier backup that unchanged content was taken from without reading it; None where there was none.
        bytes_checked: bytes among ``bytes_read`` that were read only as a sample of what is said to be unchanged.
        notes: what somebody may want to know, such as why an image was read whole.
    """

    id: str
    files: int
    dirs: int
    bytes_total: int
    bytes_read: int
    bytes_added: int
    new: int
    changed: int
    unmodified: int
    problems: list[Problem]
    incomplete: bool
    base: str | None = None
    bytes_checked: int = 0
    notes: list[str] = field(default_factory=list)


def back_up(
    repository: Repository,
    tree: Tree,
    meta: VolumeMeta,
    *,
    parent: str | None,
    progress: Progress,
    host: str | None = None,
    changes: Iterable[Change] | None = None,
) -> BackupResult:
    """Store a tree as a backup of a volume. Takes the repository's lock and loads its index.

    Args:
        repository: opened.
        tree: what is read.
        meta: what else is needed to make the volume again.
        parent: the full id of an earlier backup of the same volume (see `latest_parent`), or None.
        progress: is told.
        host: the name under which backups are grouped; this machine's by default.
        changes: what the storage knows to have changed since ``parent``. Files with known ranges that are large are
            cut at fixed places; everything is still looked at.

    Raises:
        SnapvolError: the repository failed, or the tree's root cannot be read. There is no backup then; what was
            uploaded is used by the next run.
        Cancelled: nobody wants it any more.
    """
    begun = now()
    with repository.lock() as lock:
        before = _parent(repository, parent)
        announce(progress, tree.root, before)
        repository.load_index()
        in_place = frozenset(change.path for change in changes or () if change.ranges is not None)
        with Pipeline(repository) as pipeline:
            walk = Walk(repository, tree, pipeline, Base(repository, before), progress, in_place)
            volume = walk.run()
            pipeline.settle()
        meta = _meta(meta, parent if before else None, walk.problems)
        document = record.document(
            meta,
            record.top_tree(repository, meta, volume),
            host=host,
            begun=begun,
            tags=[INCOMPLETE] if walk.problems else [],
            summary=_summary(walk, pipeline.bytes_added),
        )
        identity = repository.commit_snapshot(document, lock)
    return BackupResult(
        id=identity,
        files=walk.files,
        dirs=walk.dirs,
        bytes_total=walk.bytes_total,
        bytes_read=walk.bytes_read,
        bytes_added=pipeline.bytes_added,
        new=walk.new,
        changed=walk.changed,
        unmodified=walk.unmodified,
        problems=walk.problems,
        incomplete=bool(walk.problems),
        base=meta.base,
    )


def _parent(repository: Repository, parent: str | None) -> SnapshotDocument | None:
    """Return the parent. One that has been forgotten or damaged in the meantime costs time, not the backup."""
    if parent is None:
        return None
    try:
        return repository.find_snapshot(parent)[1]
    except Unreadable:
        return None


def _meta(meta: VolumeMeta, base: str | None, problems: list[Problem]) -> VolumeMeta:
    listed = [str(problem) for problem in problems[:_KEPT_PROBLEMS]]
    return msgspec.structs.replace(meta, base=base, problems=listed)


def _summary(walk: Walk, added: int) -> dict[str, object]:
    return {
        "files_new": walk.new,
        "files_changed": walk.changed,
        "files_unmodified": walk.unmodified,
        "data_added": added,
        "total_files_processed": walk.files,
        "total_bytes_processed": walk.bytes_total,
    }


def latest_parent(repository: Repository, volume_id: str, host: str | None = None) -> str | None:
    """Return the id of the newest backup of this volume's files, from which unchanged files can be taken.

    Backups dated in the future are passed over: a clock that was once wrong must not fix the parent for ever.

    Args:
        repository: opened.
        volume_id: the volume's identity: another volume of the same name is another volume.
        host: only backups made under this host's name.
    """
    tag, present = f"volume-id={volume_id}", now()
    fitting = [
        (document.time, identity)
        for identity, document in repository.snapshots()
        if document.tags
        and TAG in document.tags
        and tag in document.tags
        and IMAGE not in document.tags
        and document.time <= present
        and (host is None or document.hostname == host)
    ]
    return max(fitting)[1] if fitting else None
