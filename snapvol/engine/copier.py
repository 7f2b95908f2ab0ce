"""Backups from one repository into another, which gets only what it does not have yet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from hashlib import sha256

import msgspec
from msgspec import Struct, field

from snapvol.engine.backups import Backup, describe
from snapvol.engine.progress import Progress
from snapvol.engine.reading import INCOMPLETE, Unreadable
from snapvol.errors import Damaged, UsageError
from snapvol.repository import BlobKind, Lock, Repository, SnapshotDocument
from snapvol.repository.ids import parse_id
from snapvol.repository.parallel import mapping

_AHEAD = 4  # pieces that are compressed and sealed at once
_MOST_WANTED = 100_000  # pieces that are asked for at once: their ids take memory
_LARGEST_BATCH = 64 << 20  # bytes of trees that are held meanwhile


class CopiedBackup(Struct, frozen=True, kw_only=True):
    """A backup that the other repository did not have.

    Attributes:
        backup: as it is in the source.
        new: the full id of its copy; None where there is none, or only would be.
        pieces: that the target did not have.
        bytes: of them, before compression.
        failed: why it could not be copied whole, and so was not at all.
    """

    backup: Backup
    new: str | None = None
    pieces: int = 0
    bytes: int = 0
    failed: str | None = None


class CopyResult(Struct, frozen=True, kw_only=True):
    """What a copy did, or would do.

    Attributes:
        backups: that the target did not have, oldest first.
        present: how many others it had already.
        unreadable: names of records in the source that cannot be read, so that they cannot be copied.
        notes: what somebody may want to know.
    """

    backups: list[CopiedBackup]
    present: int
    unreadable: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class _Node(Struct):
    content: list[str] | None = None
    subtree: str | None = None


class _Tree(Struct):
    nodes: list[_Node] | None = None


_tree = msgspec.json.Decoder(_Tree)


def copy(
    source: Repository, target: Repository, *, chosen: Sequence[str] | None = None, dry_run: bool, progress: Progress
) -> CopyResult:
    """Copy backups. Takes shared locks on both repositories and loads both indexes.

    A copy has the time, tags and contents of its backup, and names it in ``original``, by which the next run knows it.
    What was uploaded before a kill is used by the next run. A backup of which something is lost is not copied; the
    others are.

    Args:
        source: opened.
        target: opened; another repository.
        chosen: full ids; None for all.
        dry_run: change nothing.
        progress: told of the bytes that are copied.

    Raises:
        UsageError: the two are the same repository.
        RepositoryLocked: somebody deletes from one of them.
        SnapvolError: one of them failed. Copies that were completed stay.
        Cancelled: nobody wants it any more.
    """
    if source.id == target.id:
        raise UsageError(
            f"{source.store.location} and {target.store.location} are the same repository, or one is a copy of the "
            "other's objects",
            "name another one: --to NAME",
        )
    with source.lock(), target.lock() as lock:
        known = source.snapshots()
        damaged = [name for name, _ in source.damaged_snapshots if chosen is None or name in chosen]
        wanted = [item for item in known if chosen is None or item[0] in chosen]
        there = target.snapshots()
        missing = [
            item for item in wanted if not any(_is_same(item, other) or _is_left(item, other) for other in there)
        ]
        source.load_index()
        target.load_index()
        work = _Copy(source, target, dry_run, progress)
        copied = [work.run(identity, document, lock) for identity, document in missing]
    return CopyResult(
        backups=copied,
        present=len(wanted) - len(missing),
        unreadable=[f"snapshots/{name}" for name in damaged],
        notes=_notes(source, target, copied),
    )


def _is_same(one: tuple[str, SnapshotDocument], other: tuple[str, SnapshotDocument]) -> bool:
    """Say whether one backup is a copy of the other, or both are of a third."""
    origins, others = ({identity, document.original or identity} for identity, document in (one, other))
    alike = one[1].tree == other[1].tree and one[1].time == other[1].time  # not one that was made anew without a part
    return alike and not origins.isdisjoint(others)


def _is_left(one: tuple[str, SnapshotDocument], other: tuple[str, SnapshotDocument]) -> bool:
    """Say whether one backup is what a repair has left of the other, which is whole."""
    remains = INCOMPLETE in (one[1].tags or ()) and INCOMPLETE not in (other[1].tags or ())
    return remains and one[1].original in (other[0], other[1].original or other[0])


def _notes(source: Repository, target: Repository, copied: Sequence[CopiedBackup]) -> list[str]:
    if source.chunker_polynomial == target.chunker_polynomial or not any(item.backup.foreign for item in copied):
        return []
    return [
        "stock restic cuts files differently in the two repositories: what it backs up into the one shares no pieces "
        "with what is copied there from the other; backups by snapvol do"
    ]


class _Copy:
    """Copies one backup after the other, and each tree once."""

    def __init__(self, source: Repository, target: Repository, dry_run: bool, progress: Progress) -> None:
        self._source = source
        self._target = target
        self._dry_run = dry_run
        self._progress = progress
        self._done: set[bytes] = set()  # trees that the target has with all that is below them
        self._planned: dict[BlobKind, set[bytes]] = {kind: set() for kind in BlobKind}  # of a dry run
        self._pieces = self._bytes = 0

    def run(self, identity: str, document: SnapshotDocument, lock: Lock) -> CopiedBackup:
        backup = describe(identity, document)
        self._pieces = self._bytes = 0
        walked: set[bytes] = set()
        try:
            self._walk(parse_id(document.tree, f"backup {identity[:8]}"), walked)
        except Unreadable as error:
            # What was walked is not complete: below it there may be what this backup alone would have led to.
            return CopiedBackup(backup=backup, failed=error.message)
        new = None
        if not self._dry_run:
            copied = msgspec.structs.replace(document, original=document.original or identity, parent=None)
            new = self._target.commit_snapshot(copied, lock)
        self._done |= walked
        return CopiedBackup(backup=backup, new=new, pieces=self._pieces, bytes=self._bytes)

    def _walk(self, root: bytes, walked: set[bytes]) -> None:
        level = {root} - self._done
        while level:
            walked |= level
            below: set[bytes] = set()
            for trees in self._batches(level):
                wanted = {blob for _, blobs, _ in trees for blob in blobs}
                self._data(wanted)
                for text, _, subtrees in trees:
                    self._add(BlobKind.TREE, text)
                    below |= subtrees
            level = below - walked - self._done

    def _batches(self, level: set[bytes]) -> Iterator[list[tuple[bytes, set[bytes], set[bytes]]]]:
        """Yield trees: their text, the pieces in them that the target does not have, and the trees below."""
        batch: list[tuple[bytes, set[bytes], set[bytes]]] = []
        wanted = held = 0
        for tree, text in self._source.read_many(BlobKind.TREE, level):
            blobs, below = _parsed(tree, text)
            blobs = {blob for blob in blobs if not self._has(BlobKind.DATA, blob)}
            batch.append((text, blobs, below))
            wanted, held = wanted + len(blobs), held + len(text)
            if wanted >= _MOST_WANTED or held >= _LARGEST_BATCH:
                yield batch
                batch, wanted, held = [], 0, 0
            self._progress.cancelled()
        yield batch

    def _data(self, wanted: set[bytes]) -> None:
        if self._dry_run:
            for blob in wanted:
                self._plan(BlobKind.DATA, blob, self._source.locate(BlobKind.DATA, blob).plain_length)
            return
        read = self._source.read_many(BlobKind.DATA, wanted)
        add = partial(self._target.add, BlobKind.DATA)
        with mapping(lambda item: (len(item[1]), add(item[1])), read, _AHEAD) as added:
            for size, (_, new) in added:
                self._count(size, new)

    def _add(self, kind: BlobKind, text: bytes) -> None:
        if not self._dry_run:
            self._count(len(text), self._target.add(kind, text)[1])
            return
        self._plan(kind, sha256(text).digest(), len(text))

    def _has(self, kind: BlobKind, blob: bytes) -> bool:
        return blob in self._planned[kind] or self._target.has(kind, blob)

    def _plan(self, kind: BlobKind, blob: bytes, size: int) -> None:
        if not self._has(kind, blob):
            self._planned[kind].add(blob)
            self._count(size, True)

    def _count(self, size: int, new: bool) -> None:
        if new:
            self._pieces += 1
            self._bytes += size
        self._progress.advance(size, 0)
        self._progress.cancelled()


def _parsed(tree: bytes, text: bytes) -> tuple[set[bytes], set[bytes]]:
    """Return the pieces and the trees that a tree names.

    Raises:
        Damaged: it is not a tree.
    """
    what = f"tree blob {tree.hex()}"
    try:
        nodes = _tree.decode(text).nodes or ()
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Damaged(f"{what} cannot be read: {error}") from None
    blobs = {parse_id(blob, what) for node in nodes for blob in node.content or ()}
    return blobs, {parse_id(node.subtree, what) for node in nodes if node.subtree is not None}
