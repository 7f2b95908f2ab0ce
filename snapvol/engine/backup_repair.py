"""Backups that have lost something, made anew without it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import msgspec
from msgspec import Struct

from snapvol import __version__
from snapvol.engine import reading, record
from snapvol.engine.backups import Backup, describe
from snapvol.engine.base import unsourced
from snapvol.engine.image_layout import LOST, StoredImage, lost_parts
from snapvol.engine.image_repair import ImageRepair
from snapvol.engine.manifest import BackupKind, VolumeMeta
from snapvol.engine.progress import Problem, Progress
from snapvol.engine.reading import IMAGE, INCOMPLETE, TAG, Root, Unreadable
from snapvol.engine.tree_repair import TreeRepair
from snapvol.errors import Damaged, Refused
from snapvol.repository import BlobKind, Lock, Repository, SnapshotDocument

MOST_LISTED = 1000  # problems of a backup
_KEPT_PROBLEMS = 100  # in its manifest
_TREE = "tree blob "  # how a check names a directory that it cannot read


class RepairedBackup(Struct, frozen=True, kw_only=True):
    """A backup that has lost something.

    Attributes:
        backup: as it is.
        lost: what it has lost; at most a thousand.
        new: the full id of the backup that was made of the rest; None where none was, or only would be.
        hopeless: why none can be made of the rest; None where one can.
        nothing_left: that is because nothing of it can be read.
        forgotten: it is not in the repository any more, or would not be.
    """

    backup: Backup
    lost: list[Problem]
    new: str | None = None
    hopeless: str | None = None
    nothing_left: bool = False
    forgotten: bool = False


class BackupRepair(Struct, frozen=True, kw_only=True):
    """What a repair of backups did, or would do.

    Attributes:
        backups: those that have lost something.
        unreadable: names of records that cannot be read: nothing tells what they were backups of.
        forgotten: those records are not in the repository any more, or would not be.
    """

    backups: list[RepairedBackup]
    unreadable: list[str]
    forgotten: bool


def repair_backups(
    repository: Repository, *, chosen: Sequence[str] = (), forget: bool, dry_run: bool, progress: Progress
) -> BackupRepair:
    """Make backups that have lost something anew without it. Takes the exclusive lock and loads the index.

    Each new one has the tag ``incomplete`` and names in ``original`` the one that it is made from, which stays unless
    ``forget`` says otherwise: its lost pieces may come back, with the next backup of the volume or from a copy.

    Args:
        repository: opened.
        chosen: only these backups, by full ids; others that have lost something stay as they are.
        forget: remove the old ones, those of which nothing is left, and records that cannot be read.
        dry_run: change nothing.
        progress: asked whether to go on.

    Raises:
        Refused: the indexes have to be repaired first: before, nobody knows what is lost.
        RepositoryLocked: somebody else uses the repository.
        RepositoryUnreachable: something could not be read. That is never taken for loss.
    """
    with repository.lock(exclusive=True) as lock:
        if not dry_run:
            lock.check()
        if repository.repair_index(dry_run=True, progress=progress).needed:
            raise Refused(
                f"what the indexes of {repository.store.location} say is not what is there: nobody knows what is lost",
                "first: snapvol repo repair index --read-data; then back the volumes up again",
            )
        work = _Work(repository, lock, forget, dry_run, progress)
        return work.run(set(chosen))


class _Work:
    def __init__(self, repository: Repository, lock: Lock, forget: bool, dry_run: bool, progress: Progress) -> None:
        self._repository = repository
        self._lock = lock
        self._forget = forget
        self._dry_run = dry_run
        self._trees = TreeRepair(repository, not dry_run, progress.cancelled)
        self._progress = progress

    def run(self, chosen: set[str]) -> BackupRepair:
        self._known = self._repository.snapshots()
        unreadable = [] if chosen else [name for name, _ in self._repository.damaged_snapshots if self._still(name)]
        self._repository.load_index()
        report = self._repository.check()
        self._refuse_damaged_trees([problem.object for problem in report.problems])
        hit = {backup for problem in report.problems for backup in problem.snapshots_hit}
        repaired = []
        for identity, document in self._known:
            if identity in hit and (not chosen or identity in chosen):
                repaired.append(self._repair(identity, document))
                self._progress.cancelled()
        if self._forget and not self._dry_run:
            self._lock.check()
            self._repository.forget(unreadable)
        return BackupRepair(
            backups=repaired, unreadable=[f"snapshots/{name}" for name in unreadable], forgotten=self._forget
        )

    def _refuse_damaged_trees(self, objects: Sequence[str]) -> None:
        """Refuse where the indexes still promise a directory whose bytes are damaged: no backup would store it again.

        Raises:
            Refused: one does.
        """
        for name in objects:
            tree = bytes.fromhex(name.removeprefix(_TREE)) if name.startswith(_TREE) else b""
            if tree and self._repository.has(BlobKind.TREE, tree):
                try:
                    self._repository.read(BlobKind.TREE, tree)  # it may be whole and make no sense: then it is lost
                except Unreadable as error:
                    raise Refused(
                        f"a pack is damaged, and not all that is in it may be lost: {error.message}",
                        "first: snapvol repo repair index --read-data; then back the volumes up again",
                    ) from None

    def _still(self, identity: str) -> bool:
        """Read a damaged record once more: what is damaged on the way is not damaged there."""
        try:
            self._repository.find_snapshot(identity)
        except Damaged:
            return True
        except Unreadable:
            return False
        return False

    def _repair(self, identity: str, document: SnapshotDocument) -> RepairedBackup:
        backup = describe(identity, document)
        try:
            start = reading.root(self._repository, document)
            new, lost = self._anew(document, start)
        except Unreadable as error:
            return self._hopeless(RepairedBackup(backup=backup, lost=[], hopeless=error.message), identity, document)
        made = None if self._dry_run or new is None else self._commit(identity, document, new)
        if self._forget and made is not None:
            self._lock.check()
            self._repository.forget([identity])
        return RepairedBackup(backup=backup, lost=lost, new=made, forgotten=self._forget)

    def _hopeless(self, found: RepairedBackup, identity: str, document: SnapshotDocument) -> RepairedBackup:
        """Take away the record of a backup of which nothing is left; an image out of shape still has its pieces."""
        if IMAGE in (document.tags or ()) and self._has_image_parts(document):
            return found
        if self._forget and not self._dry_run:
            self._lock.check()
            self._repository.forget([identity])
        return msgspec.structs.replace(found, nothing_left=True, forgotten=self._forget)

    def _has_image_parts(self, document: SnapshotDocument) -> bool:
        try:
            reading.load_tree(self._repository, reading.root(self._repository, document).subtree)
        except Unreadable:
            return False
        return True

    def _anew(self, document: SnapshotDocument, start: Root) -> tuple[SnapshotDocument | None, list[Problem]]:
        """Return the document of what is left, or None in a dry run, and what is lost."""
        if TAG not in (document.tags or ()):
            tree = self._rewritten(start.subtree)
            lost = list(islice(self._trees.problems(start.subtree), MOST_LISTED))
            return msgspec.structs.replace(document, tree=tree), lost
        lost = [Problem("snapvol.json", f"options and labels are lost: {start.lost}")] if start.lost else []
        meta = start.meta or _meta(document, start.kind)
        if start.kind is BackupKind.IMAGE:
            image = ImageRepair(
                self._repository, StoredImage(self._repository, start.subtree, start.meta), meta, not self._dry_run
            )
            lost += lost_parts([(first, end, LOST) for first, end in image.lost])
            # No source: what is zero here for want of the truth must not be taken for the truth by a later backup.
            meta = msgspec.structs.replace(meta, lost=image.lost, source=None)
            volume = image.volume
        else:
            subtree = self._rewritten(start.subtree)
            lost += islice(self._trees.problems(start.subtree), MOST_LISTED)
            assert start.node is not None
            volume = msgspec.structs.replace(start.node, subtree=subtree)
        if self._dry_run or volume is None:
            return None, lost
        told = [*meta.problems, *map(str, lost)][:_KEPT_PROBLEMS]
        top = record.top_tree(self._repository, msgspec.structs.replace(meta, problems=told), volume)
        return msgspec.structs.replace(document, tree=top), lost

    def _rewritten(self, tree: str) -> str:
        made = self._trees.rewrite(tree)
        if made is None:
            raise Damaged("the list of what is in its topmost directory is lost")
        return made

    def _commit(self, identity: str, before: SnapshotDocument, document: SnapshotDocument) -> str:
        """Store the new backup, unless a run that was killed has; return its id."""
        for known, other in self._known:
            if other.tree == document.tree and other.original in (identity, before.original or identity):
                return known
        summary = unsourced(before.summary or {})
        tags = [tag for tag in before.tags or () if tag != INCOMPLETE]
        new = msgspec.structs.replace(
            document,
            original=before.original or identity,
            tags=[*tags, INCOMPLETE],
            summary=summary or None,
            program_version=f"snapvol {__version__}",
        )
        return self._repository.commit_snapshot(new, self._lock)


def _meta(document: SnapshotDocument, kind: BackupKind) -> VolumeMeta:
    """Return what the record itself says of the volume, where the manifest is lost."""
    described = describe("", document)
    return VolumeMeta(
        id=described.volume_id or "",
        name=described.volume or "",
        created=document.time,
        taken=document.time,
        kind=kind,
    )
