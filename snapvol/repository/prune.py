"""Freeing the space of blobs that no backup needs, while others back up.

The long part runs under a shared lock, beside writers: it finds out what is needed, copies it out of packs that are
mostly dead, and uploads indexes that name the copies, which are harmless duplicates. The short part runs under an
exclusive lock, with nobody else at work: it looks at what is new since, makes sure that every needed blob has a copy in
a pack that stays, writes the new indexes, deletes the old ones, and then the packs that no index names any more.

Killed anywhere, each object that an index names is there, and each blob that a backup needs is named.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import msgspec
from msgspec import Struct

from snapvol.errors import Damaged, NotFound, RepositoryLocked
from snapvol.repository import plan as planning
from snapvol.repository.findings import CheckProgress
from snapvol.repository.ids import pack_name, parse_id
from snapvol.repository.index import BlobIndex
from snapvol.repository.indexes import Indexes
from snapvol.repository.locks import Lock
from snapvol.repository.packs import SMALLEST
from snapvol.repository.plan import Choice, Figures, Limits, PackFacts
from snapvol.repository.reach import mark
from snapvol.repository.reader import Reader
from snapvol.repository.repack import Repacker, rounds
from snapvol.repository.sealing import MasterKey
from snapvol.repository.snapshots import SnapshotDocument
from snapvol.repository.usage import MIXED, Usage, Weights
from snapvol.repository.watch import Watch
from snapvol.repository.writer import Tuning, Writer
from snapvol.stores.base import Entry, Store

PAUSE = 5.0  # seconds between two looks for others
_CHECK = "nothing was deleted; find out what is hit: snapvol repo check"


class Host(Protocol):
    """What of a `Repository` a prune uses."""

    store: Store
    damaged_snapshots: list[tuple[str, Damaged]]

    def lock(self, exclusive: bool = False, *, wait: float = 0.0) -> AbstractContextManager[Lock]:
        """See `Repository.lock`."""

    def snapshots(self) -> list[tuple[str, SnapshotDocument]]:
        """See `Repository.snapshots`."""


class Outcome(Struct, frozen=True, kw_only=True):
    """What a prune did, or would do.

    Attributes:
        plan: what was decided.
        done: whether it was carried out.
        packs_deleted: of those that indexes named, and of those that none did.
        bytes_freed: by which the repository became smaller.
        packs_spared: that were to go, and that a backup made use of meanwhile: they stay until the next prune.
    """

    plan: Figures
    done: bool
    packs_deleted: int = 0
    bytes_freed: int = 0
    packs_spared: int = 0


class Pruner:
    """One prune of a repository.

    Args:
        host: the repository.
        key: its key.
        tuning: of the packs that are written.
        progress: told what is done, and asked whether to go on.
    """

    def __init__(self, host: Host, key: MasterKey, tuning: Tuning, progress: CheckProgress) -> None:
        self._host = host
        self._store = host.store
        self._key = key
        self._tuning = tuning
        self._progress = progress
        self._indexes = Indexes(self._store, key)
        self._blobs = self._indexes.blobs
        self._usage = Usage(self._blobs)
        self._reader = Reader(self._store, key, self._blobs)
        self._watch = Watch(self._store, key)
        self._sizes: dict[bytes, int] = {}  # of the packs that are there
        self._strays: list[bytes] = []  # packs that no index named when the long part began
        self._facts: list[PackFacts] = []
        self._choice = Choice((), ())
        self._trees = 0
        self._copied = 0

    def run(self, limits: Limits, *, dry_run: bool, wait: float) -> Outcome:
        """Free the space of what no backup needs; the repository must not be locked by us yet.

        Args:
            limits: what to achieve, and what it may cost.
            dry_run: whether only to say what would be done.
            wait: seconds to wait for others, once all that can be done beside them is done.

        Raises:
            Damaged: what backups need is not known, or lost; nothing was deleted.
            RepositoryLocked: others are at work, or replaced the indexes meanwhile, or the lock is late.
            RepositoryUnreachable: the repository could not be read or written to its end.
        """
        with self._host.lock() as lock:
            self._watch.look()  # the earlier a lock is seen, the earlier it is known to be a dead one's
            figures = self._survey(limits)
            if dry_run:
                return Outcome(plan=figures, done=False)
            lock.check()
            if not (self._choice.delete or self._choice.repack or self._strays or figures.indexes_replaced):
                return Outcome(plan=figures, done=True)
            self._copy(figures, lock)
        with self._alone(wait) as lock:
            return self._finish(lock, figures)

    # -- beside others -----------------------------------------------------------------------------------------------

    def _survey(self, limits: Limits) -> Figures:
        """Find out what is there and what is needed, and decide."""
        roots = self._roots()
        self._list_packs()
        self._indexes.load(self._listed("index/"))
        self._trees = self._mark(roots)
        self._facts = self._weighed(self._usage.weigh(self._absent()))
        self._choice = planning.choose(self._facts, limits, self._tuning.pack_size)
        self._strays = [pack for pack in self._sizes if not self._blobs.knows_pack(pack)]
        replaced = self._indexes.to_replace({*self._choice.delete, *self._choice.repack})
        return planning.figures(
            self._facts,
            self._choice,
            snapshots=len(roots),
            unreferenced=[self._sizes[pack] for pack in self._strays],
            indexes=self._indexes.counts(replaced),
            target=self._tuning.pack_size,
            objects=len(self._sizes) + self._indexes.count + len(roots),
        )

    def _roots(self) -> list[bytes]:
        """Return the root trees of all backups; to be asked before the indexes are listed.

        Raises:
            Damaged: a backup cannot be read.
        """
        documents = self._host.snapshots()
        if damaged := self._host.damaged_snapshots:
            raise Damaged(f"what a backup needs is not known: {damaged[0][1].message}", _CHECK)
        return [parse_id(document.tree, f"snapshots/{name}") for name, document in documents]

    def _listed(self, prefix: str) -> list[Entry]:
        return list(self._store.list(prefix))

    def _list_packs(self) -> None:
        self._sizes = {bytes.fromhex(entry.name[-64:]): entry.size for entry in self._store.list("data/")}

    def _mark(self, roots: Sequence[bytes]) -> int:
        try:
            return mark(self._reader, self._usage, roots, self._progress)
        except (Damaged, NotFound) as error:
            raise Damaged(f"what backups need is not known: {error.message}", _CHECK) from error

    def _absent(self) -> set[int]:
        """Return the numbers of packs that indexes name and that are definitely not there."""
        absent = set()
        for number, pack in enumerate(self._blobs.packs()):
            if pack not in self._sizes:
                try:
                    self._sizes[pack] = self._store.size(pack_name(pack))  # a listing may be older than the pack
                except NotFound:
                    absent.add(number)
        return absent

    def _weighed(self, weights: Weights) -> list[PackFacts]:
        """Return the facts of each pack.

        Raises:
            Damaged: a pack with something needed is not as long as the indexes say.
        """
        facts = []
        for number, pack in enumerate(self._blobs.packs()):
            needed, unneeded = weights.needed[number], weights.unneeded[number]
            size = self._sizes.get(pack, 0)
            if needed and size != needed + unneeded + SMALLEST:
                said = f"{pack_name(pack)} has {size} bytes, but the indexes tell of {needed + unneeded + SMALLEST}"
                raise Damaged(said, _CHECK)
            fact = PackFacts(
                number=number,
                size=size,
                needed=needed,
                unneeded=unneeded,
                needed_blobs=weights.needed_blobs[number],
                unneeded_blobs=weights.unneeded_blobs[number],
                duplicates=weights.duplicates[number],
                tidy=weights.kinds[number] != MIXED and not weights.plain_trees[number],
                trees=weights.kinds[number] != 1,
            )
            facts.append(fact)
        return facts

    def _copy(self, figures: Figures, lock: Lock) -> None:
        """Copy what is needed out of the packs that go, and have indexes name the copies.

        Raises:
            Damaged: something needed is not whole, and would not be elsewhere.
        """
        self._progress.total(self._trees + len(self._choice.repack), figures.bytes_copied)
        tuning = msgspec.structs.replace(self._tuning, uploads=min(2, self._tuning.uploads))  # beside the reads' memory
        writer = Writer(self._store, self._key, BlobIndex(), tuning)
        writer.check_all = True  # what is compressed anew takes the place of what it was made from
        repacker = Repacker(self._store, self._blobs, self._reader, writer, self._progress)
        needed = {fact.number: fact.needed_blobs for fact in self._facts}
        try:
            if figures.duplicate_blobs:
                doomed = {*self._choice.delete, *self._choice.repack}
                for group in rounds(list(self._usage.contested(doomed).items())):
                    repacker.prove(self._usage, group, doomed)
            for group in rounds([(number, needed[number]) for number in self._choice.repack]):
                repacker.copy(self._usage, group)
            lock.check()  # without one, another's prune may have taken the new packs, which no index names yet
            writer.flush()
            writer.recheck()
        finally:
            writer.close()
        self._copied = figures.bytes_copied

    # -- alone -------------------------------------------------------------------------------------------------------

    @contextmanager
    def _alone(self, wait: float) -> Iterator[Lock]:
        """Hold an exclusive lock, with nobody else at work by any clock.

        Raises:
            RepositoryLocked: somebody is, after ``wait`` seconds.
        """
        deadline = time.monotonic() + wait
        while True:
            # Looked at before the lock is taken, which for a moment keeps all others from beginning.
            while self._watch.others() and time.monotonic() < deadline:
                self._progress.cancelled()
                time.sleep(min(PAUSE, max(0.0, deadline - time.monotonic())))
            with self._host.lock(exclusive=True, wait=max(0.0, deadline - time.monotonic())) as lock:
                if not self._watch.others(lock):
                    yield lock
                    return
                if time.monotonic() >= deadline:
                    self._watch.refuse_others(lock)

    def _finish(self, lock: Lock, figures: Figures) -> Outcome:
        """Look at what is new, then let go of what nobody needs: out of the indexes first, then the packs."""
        roots = self._roots()
        self._list_packs()
        self._indexes.load(self._listed("index/"))
        self._mark(roots)
        chosen = {*self._choice.delete, *self._choice.repack}
        spared = self._usage.indispensable(chosen, self._absent())
        doomed = chosen - spared
        ids = {self._blobs.pack_id(number) for number in doomed}
        replaced = self._indexes.to_replace(doomed)
        self._indexes.rewrite(replaced, ids)
        self._progress.cancelled()
        self._watch.refuse_others(lock)
        self._store.delete(replaced)
        strays = [pack for pack in self._strays if pack in self._sizes and not self._blobs.knows_pack(pack)]
        gone = [*(pack for pack in ids if pack in self._sizes), *strays]
        self._delete(lock, gone)
        return Outcome(
            plan=figures,
            done=True,
            packs_deleted=len(gone),
            bytes_freed=sum(self._sizes[pack] for pack in gone) - self._copied,
            packs_spared=len(spared),
        )

    def _delete(self, lock: Lock, packs: Sequence[bytes]) -> None:
        """Delete packs that no index names.

        Raises:
            RepositoryLocked: the lock is late or gone, or somebody came in all the same: packs may be left.
        """
        for at in range(0, len(packs), planning.PAGE):
            for name, other in self._watch.others(lock):
                # By its clock our lock is stale. It may have read the old indexes, and rely on what they named.
                if other is None or not other.exclusive:
                    self._indexes.say_again(packs[at:])
                raise RepositoryLocked(*self._watch.explained(name, other))
            self._store.delete([pack_name(pack) for pack in packs[at : at + planning.PAGE]])
