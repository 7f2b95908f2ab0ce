"""A directory tree into a repository."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from msgspec import Struct, field

from snapvol.backend import Change, Tree
from snapvol.engine import record
from snapvol.engine.account import Account
from snapvol.engine.base import BaseBackup, no_base, sourced
from snapvol.engine.changed import Mark, marked
from snapvol.engine.manifest import BackupKind, VolumeMeta
from snapvol.engine.node import Node
from snapvol.engine.parent import Base, Unusable
from snapvol.engine.pipeline import Pipeline
from snapvol.engine.progress import Problem, Progress
from snapvol.engine.reading import IMAGE, INCOMPLETE, TAG, Unreadable
from snapvol.engine.sample import Sample
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
        notes: what somebody may want to know, such as why everything was read.
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
    base: BaseBackup | None = None,
    changes: Iterable[Change] | None = None,
) -> BackupResult:
    """Store a tree as a backup of a volume. Takes the repository's lock and loads its index.

    Args:
        repository: opened.
        tree: what is read.
        meta: what else is needed to make the volume again.
        parent: the full id of an earlier backup of the same volume (see `latest_parent`), or None. Everything is looked
            at then, and files that are as they were are taken from it.
        progress: is told.
        host: the name under which backups are grouped; this machine's by default.
        base: the backup (see `base_backup`) of the snapshot that ``changes`` compares with, which then takes the place
            of ``parent``. One that does not fit, or is not whole any more, costs time, not the backup.
        changes: what may differ from ``base``: all else is taken from it without a look, but for a random sample. None
            where that is not known.

    Raises:
        BaseMismatch: a sample of what ``changes`` says is unchanged differs from ``base``. The caller does it again
            with neither ``base`` nor ``parent``, and says so: also the backups since may be wrong.
        SnapvolError: the repository failed, or the tree's root cannot be read. There is no backup then; what was
            uploaded is used by the next run.
        Cancelled: nobody wants it any more.
    """
    begun = now()
    mark = marked(changes) if base is not None and changes is not None else None
    from_base = base.id if base is not None and mark is not None else parent
    with repository.lock() as lock:
        before = _parent(repository, from_base)
        repository.load_index()
        run = _Run(repository, tree, meta, from_base or "", progress)
        notes = []
        try:
            volume = run.whole(before) if mark is None or base is None else run.changed(before, base, mark)
        except Unusable as error:
            notes = [no_base(from_base or "", str(error))]
            volume = run.whole(before)
        account = run.account
        meta = _meta(meta, from_base if before else None, account.problems)
        document = record.document(
            meta,
            record.top_tree(repository, meta, volume),
            host=host,
            begun=begun,
            tags=[INCOMPLETE] if account.problems else [],
            summary=account.summary() | {"data_added": run.bytes_added} | sourced(BackupKind.FILES, tree.identity),
        )
        identity = repository.commit_snapshot(document, lock)
    return _result(identity, run, meta, notes)


class _Run:
    """The reading of a tree, which may have to be begun again.

    Attributes:
        account: of the last time.
        bytes_added: to the repository.
    """

    def __init__(self, repository: Repository, tree: Tree, meta: VolumeMeta, parent: str, progress: Progress) -> None:
        self._repository = repository
        self._tree = tree
        self._meta = meta
        self._parent = parent
        self._progress = progress
        self.account = Account(progress)
        self.bytes_added = 0

    def whole(self, before: SnapshotDocument | None) -> Node:
        """Look at everything, and return the volume's node."""
        self.account = Account(self._progress)
        announce(self._progress, self._tree.root, before)
        return self._walk(Base(self._repository, before, self._parent), None)

    def changed(self, before: SnapshotDocument | None, base: BaseBackup, mark: Mark) -> Node:
        """Look at what has changed, and return the volume's node.

        Raises:
            BaseMismatch: see `back_up`.
            Unusable: ``before`` is no base.
        """
        if before is None:
            raise Unusable("it is gone or damaged")
        parent = Base(self._repository, before, self._parent)
        if parent.source != base.source:
            raise Unusable("it is of another snapshot, or cannot be read")
        if INCOMPLETE in (before.tags or ()):
            raise Unusable("it is incomplete")
        if not self._tree.stable_inodes or not self.account.begin_with(before.summary or {}):
            raise Unusable("it is of an earlier version")
        self._progress.total(0, 0)
        return self._walk(parent, mark)

    def _walk(self, base: Base, mark: Mark | None) -> Node:
        sample = Sample(self._repository, self.account, self._meta, self._parent)
        with Pipeline(self._repository) as pipeline:
            try:
                volume = Walk(self._repository, self._tree, pipeline, base, self.account, sample, mark).run()
                pipeline.settle()
            finally:
                self.bytes_added += pipeline.bytes_added
        return volume


def _result(identity: str, run: _Run, meta: VolumeMeta, notes: list[str]) -> BackupResult:
    account = run.account
    return BackupResult(
        id=identity,
        files=account.files,
        dirs=account.dirs,
        bytes_total=account.bytes_total,
        bytes_read=account.bytes_read,
        bytes_added=run.bytes_added,
        new=account.new,
        changed=account.changed,
        unmodified=account.unmodified,
        problems=account.problems,
        incomplete=bool(account.problems),
        base=meta.base,
        bytes_checked=account.bytes_checked,
        notes=notes,
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
