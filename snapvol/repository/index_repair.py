"""Indexes that say again what the packs hold, and packs that are damaged put out of use.

What is whole in a damaged pack is copied into new packs. Only when the new indexes are there do the old ones go, and
only after them the damaged packs: a kill leaves, at any moment, a repository in which all can be read that could be
read before, and the next run finishes. A blob that is lost is in no index afterwards: so the next backup that still has
it uploads it, which makes every backup whole again that shares it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from msgspec import Struct

from snapvol.errors import Damaged, NotFound
from snapvol.repository import unpacked
from snapvol.repository.examination import Examined, Examiner, State
from snapvol.repository.findings import CheckProgress
from snapvol.repository.ids import BlobKind, pack_name
from snapvol.repository.index import BlobIndex, index_file, index_files
from snapvol.repository.locks import Lock
from snapvol.repository.packs import PackedBlob
from snapvol.repository.parallel import mapped
from snapvol.repository.sealing import MasterKey
from snapvol.repository.writer import Tuning, Writer
from snapvol.stores.base import Entry, Store

_AHEAD = 2

Listing = Callable[[str], Sequence[Entry]]


class PackRepair(Struct, frozen=True, kw_only=True):
    """A pack, and what is done about it.

    Attributes:
        name: of the object.
        problem: what is wrong with it.
        blobs: how many it should have.
        kept: how many of them can still be read.
    """

    name: str
    problem: str
    blobs: int = 0
    kept: int = 0


class IndexRepair(Struct, frozen=True, kw_only=True):
    """What a repair of the indexes did, or would do.

    Attributes:
        replaced_indexes: index → why: it cannot be read, or says what is not true. Their true part is written anew.
        entered_packs: whole packs of which no index said what they hold; now one does.
        missing_packs: packs that indexes named and that are gone; no index names them any more.
        damaged_packs: what is whole in them is copied into new packs, and they are removed.
        left_packs: packs that are left as they are: those without an index whose header cannot be read, so that nobody
            can tell what they hold, and what is too large for a pack or no plain object.
        lost_blobs: pieces of which no whole copy is left; the next backup that still has one uploads it.
        packs_read: how many packs were read whole.
        bytes_read: of them.
    """

    replaced_indexes: dict[str, str]
    entered_packs: list[PackRepair]
    missing_packs: list[PackRepair]
    damaged_packs: list[PackRepair]
    left_packs: list[PackRepair]
    lost_blobs: int
    packs_read: int
    bytes_read: int

    @property
    def needed(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.replaced_indexes or self.entered_packs or self.missing_packs or self.damaged_packs)


class IndexSurvey:
    """What is wrong with the indexes and packs, and mending it. A lock must keep others from changing anything.

    Args:
        store: where the repository lies.
        key: its key.
        listed: lists objects; an empty listing has been made sure of.
        progress: told what is read.
    """

    def __init__(self, store: Store, key: MasterKey, listed: Listing, progress: CheckProgress) -> None:
        self.index = BlobIndex()
        self.examiner = Examiner(store, key, self.index)
        self.bad: dict[bytes, Examined] = {}  # what the indexes must not say any more, or not so
        self.left: list[Examined] = []
        self._store = store
        self._key = key
        self._listed = listed
        self._progress = progress
        self._files: dict[str, dict[bytes, int]] = {}  # index → packs → how many blobs it places there
        self._damaged_files: dict[str, str] = {}
        self._counts: dict[bytes, int] = {}
        self._read = (0, 0)

    def run(self, read_data: bool) -> None:
        """Look at everything; nothing is changed.

        Args:
            read_data: read all packs; otherwise only those whose size is wrong, and those that no index names.

        Raises:
            RepositoryUnreachable: something could not be read. That is never taken for damage.
        """
        present = {bytes.fromhex(entry.name[-64:]): entry.size for entry in self._listed("data/")}
        self._load()
        doubtful: list[tuple[bytes, int, int | None]] = []
        for pack, expected, count in self.index.expected():
            self._counts[pack] = count
            size = present.pop(pack, None)
            size = self._asked(pack) if size is None else size
            if size is None:
                problem = Examined(pack=pack, state=State.MISSING, problem="is missing", blobs=count)
                self.bad[pack] = problem
            elif read_data or size != expected:
                doubtful.append((pack, size, count))
        doubtful += [(pack, size, None) for pack, size in present.items()]
        self._examine(doubtful)
        self.index.miss(self._usable())

    def replaced(self) -> dict[str, str]:
        """Return the indexes that cannot stay, and why."""
        why = dict(self._damaged_files)
        for name, packs in self._files.items():
            wrong = [self.bad[pack] for pack in packs if pack in self.bad]
            if wrong:
                why[name] = f"names {wrong[0].name}, which {wrong[0].problem}"
        return why

    def entries(self) -> list[tuple[bytes, Sequence[PackedBlob]]]:
        """Return what new indexes must list: whole packs that no index which stays lists in full."""
        found: dict[bytes, Sequence[PackedBlob]] = {
            pack: examined.whole for pack, examined in self.bad.items() if examined.state is State.UNLISTED
        }
        leaving = self.replaced()
        stay = {
            pack
            for name, packs in self._files.items()
            if name not in leaving
            for pack, count in packs.items()
            if count == self._counts[pack]
        }
        gathered: dict[bytes, list[PackedBlob]] = {
            pack: []
            for name, packs in self._files.items()
            if name in leaving
            for pack in packs
            if pack not in stay and pack not in self.bad
        }
        if gathered:
            for pack, blob in self.index.blobs():
                if pack in gathered:
                    gathered[pack].append(blob)
        found.update((pack, sorted(blobs, key=lambda blob: blob.offset)) for pack, blobs in gathered.items())
        return list(found.items())

    def mend(self, lock: Lock, tuning: Tuning) -> None:
        """Do what was found to be necessary; see `repair_index`."""
        entries, replaced = self.entries(), sorted(self.replaced())
        damaged = self.in_state(State.DAMAGED)
        # With an index of its own: copies of the same in packs that nobody has read here may not be whole.
        writer = Writer(self._store, self._key, BlobIndex(), tuning)
        writer.check_all = True
        # Names the damaged packs as long as they are there, but nothing in them: a backup straight after a kill would
        # take in packs that no index names, and rely on what is damaged.
        ban = index_file((found.pack, ()) for found in damaged)
        try:
            for found in damaged:
                self._rescue(writer, found)
            writer.take_in(entries)
            writer.flush()
            writer.recheck()
        finally:
            writer.close()
        lock.check()
        banned = [unpacked.write(self._store, self._key, "index", ban)] if damaged else []
        self._store.delete(replaced)
        lock.check()
        self._store.delete([found.name for found in damaged])
        self._store.delete([f"index/{name}" for name in banned])

    def _rescue(self, writer: Writer, found: Examined) -> None:
        if found.whole:
            data = self._store.get(found.name)
            for blob in found.whole:
                writer.add(blob.kind, self.examiner.contents(found.pack, data, blob))

    def in_state(self, state: State) -> list[Examined]:
        """Return the packs that are in this state, by name."""
        return sorted((found for found in self.bad.values() if found.state is state), key=lambda found: found.pack)

    def report(self) -> IndexRepair:
        """Return what is to be done."""

        def packs(state: State) -> list[PackRepair]:
            return [_described(found) for found in self.in_state(state)]

        count, size = self._read
        return IndexRepair(
            replaced_indexes=self.replaced(),
            entered_packs=packs(State.UNLISTED),
            missing_packs=packs(State.MISSING),
            damaged_packs=packs(State.DAMAGED),
            left_packs=[_described(found) for found in self.left],
            lost_blobs=self._lost(),
            packs_read=count,
            bytes_read=size,
        )

    def _load(self) -> None:
        for name, found in index_files(self._store, self._key, self._listed("index/")):
            if isinstance(found, Damaged):
                self._reload(name, found)
            else:
                self._enter(name, found)

    def _reload(self, name: str, problem: Damaged) -> None:
        """Read an index once more: what is damaged on the way is not damaged there."""
        try:
            entry = Entry(name, self._store.size(name))
        except NotFound:
            return
        for _, found in index_files(self._store, self._key, [entry]):
            if isinstance(found, Damaged):
                self._damaged_files[name] = problem.message
            else:
                self._enter(name, found)

    def _enter(self, name: str, packs: Iterable[tuple[bytes, Sequence[PackedBlob]]]) -> None:
        counts = self._files.setdefault(name, {})
        for pack, blobs in packs:
            self.index.add(pack, blobs)
            counts[pack] = len({(blob.kind, blob.id, blob.offset) for blob in blobs})

    def _asked(self, pack: bytes) -> int | None:
        """A listing may be older than the pack: the pack itself has the last word."""
        try:
            return self._store.size(pack_name(pack))
        except NotFound:
            return None

    def _examine(self, packs: Sequence[tuple[bytes, int, int | None]]) -> None:
        self._progress.total(len(packs), sum(size for _, size, _ in packs))
        for found in mapped(lambda pack: self.examiner.examine(*pack), packs, _AHEAD):
            if found.state is State.UNKNOWN:
                self.left.append(found)
            elif found.state is not State.SOUND:
                self.bad[found.pack] = found
            self._read = self._read[0] + 1, self._read[1] + found.size
            self._progress.advance(found.size, 1)
            self._progress.cancelled()

    def _usable(self) -> set[bytes]:
        return set(self.index.packs()) - self.bad.keys() - {found.pack for found in self.left}

    def _lost(self) -> int:
        """Count the different blobs of which there is no whole copy."""
        if not any(found.state in (State.MISSING, State.DAMAGED) for found in self.bad.values()):
            return 0
        rescued = {(blob.kind, blob.id) for found in self.bad.values() for blob in found.whole}
        lost: set[tuple[BlobKind, bytes]] = set()
        for pack, blob in self.index.blobs():
            found = self.bad.get(pack)
            if found is None or found.state not in (State.MISSING, State.DAMAGED):
                continue
            if (blob.kind, blob.id) not in rescued and self.index.pack_number(blob.kind, blob.id) < 0:
                lost.add((blob.kind, blob.id))
        return len(lost)


def _described(found: Examined) -> PackRepair:
    return PackRepair(name=found.name, problem=found.problem, blobs=found.blobs, kept=len(found.whole))


def repair_index(survey: IndexSurvey, lock: Lock, tuning: Tuning, *, read_data: bool, dry_run: bool) -> IndexRepair:
    """Make the indexes say what the packs hold, and put damaged packs out of use.

    Args:
        survey: not yet run.
        lock: exclusive.
        tuning: of new packs.
        read_data: read all packs, not only those whose size is wrong and those that no index names.
        dry_run: change nothing.

    Raises:
        RepositoryUnreachable: something could not be read. Nothing was changed.
        RepositoryLocked: the lock is late or gone. Nothing that was there was removed.
        Damaged: a pack reads otherwise than when it was surveyed. Nothing that was there was removed.
    """
    if not dry_run:
        lock.check()
    survey.run(read_data)
    report = survey.report()
    if report.needed and not dry_run:
        survey.mend(lock, tuning)
    return report
