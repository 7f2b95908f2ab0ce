"""A repository: everything that the engine and the command line do with one."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from datetime import datetime
from types import TracebackType

from snapvol.errors import AlreadyExists, Damaged, NotFound, RepositoryUnreachable, UsageError
from snapvol.model import now
from snapvol.repository import config, keys, locks, unpacked
from snapvol.repository.admission import admitted
from snapvol.repository.check import check
from snapvol.repository.findings import CheckProgress, CheckReport, NoProgress
from snapvol.repository.founding import clear_the_way, is_ours
from snapvol.repository.ids import BlobKind
from snapvol.repository.index import BlobIndex, Location
from snapvol.repository.index_repair import IndexRepair, IndexSurvey, repair_index
from snapvol.repository.inventory import Inventory
from snapvol.repository.loading import IndexLoader
from snapvol.repository.locks import Lock, NoLock
from snapvol.repository.parallel import mapped
from snapvol.repository.piece_cache import PieceCache
from snapvol.repository.plan import Limits
from snapvol.repository.portions import Everything, Portion
from snapvol.repository.prune import Outcome, Pruner
from snapvol.repository.reader import IN_FLIGHT, Loss, Reader
from snapvol.repository.sealing import MasterKey
from snapvol.repository.snapshots import SnapshotDocument
from snapvol.repository.standing import Standing
from snapvol.repository.stats import Measure
from snapvol.repository.strays import taken_in
from snapvol.repository.writer import Tuning, Writer
from snapvol.stores.base import CONFIG, Entry, Store, is_name
from snapvol.stores.cache import CachePlace, NoCache
from snapvol.stores.caching import CachingStore

log = logging.getLogger(__name__)


class Repository:
    """An opened repository. Use it in a ``with``, or `close` it: that ends its threads.

    Attributes:
        store: where it lies.
        id: its identity, in hexadecimal.
        key_id: the key file by which it was opened.
        chunker_polynomial: by which stock clients cut files, in hexadecimal.
        damaged_indexes: after `load_index`: the names of those that cannot be read, and why.
        damaged_snapshots: after `snapshots`: the ids of those that cannot be read, and why.
        missing_packs: after `load_index`: how many packs that indexes name are known not to be there.
    """

    def __init__(
        self,
        store: Store,
        key: MasterKey,
        key_id: str,
        settings: config.Config,
        tuning: Tuning,
        place: CachePlace | None = None,
    ) -> None:
        self.store = store
        self.id = settings.id
        self.key_id = key_id
        self.chunker_polynomial = settings.chunker_polynomial
        self.damaged_indexes: list[tuple[str, Damaged]] = []
        self.damaged_snapshots: list[tuple[str, Damaged]] = []
        self.missing_packs = 0
        self._key = key
        self._index = BlobIndex()
        self._cache = NoCache() if place is None else place.of(settings.id)
        self._cached = CachingStore(store, self._cache)
        self._loader = IndexLoader(self._cached, key, self._index, self._cache)
        self._pieces = PieceCache(self._cache)
        self._reader = Reader(store, key, self._index, self._pieces)
        self._writer = Writer(self._cached, key, self._index, tuning, self._pieces)
        self._inventory = Inventory(self._cache, key)
        self._standing = Standing(self._cache, key)
        self._inventoried: datetime | None = None  # when all packs were seen to be there
        self._lock: Lock | None = None
        self._locking = True
        self._documents: dict[str, SnapshotDocument] = {}

    @staticmethod
    def create(
        store: Store, password: str, *, tuning: Tuning | None = None, cost: keys.Cost | None = None
    ) -> tuple[Repository, str]:
        """Make a repository; return it and its recovery key: a second password, to be stored away from this machine.

        Raises:
            AlreadyExists: there is one.
            UsageError: the password is empty.
        """
        store.prepare()
        clear_the_way(store)
        key = MasterKey.generate()
        settings = config.generate()
        recovery = keys.recovery_password()
        made = [keys.add(store, key, password, cost=cost)]
        made.append(keys.add(store, key, recovery, username=keys.RECOVERY, cost=cost))
        with suppress(AlreadyExists):  # also when the answer to a first attempt was lost: reading it tells
            config.write(store, key, settings)  # the last step: before it there is no repository
        if not is_ours(store, key, settings):
            store.delete([f"keys/{name}" for name in made])
            raise AlreadyExists(f"somebody else made a repository at {store.location} just now", "open it")
        return Repository(store, key, made[0], settings, tuning or Tuning()), recovery

    @staticmethod
    def open(
        store: Store, password: str, *, tuning: Tuning | None = None, cache: CachePlace | None = None
    ) -> Repository:
        """Open a repository.

        Args:
            store: where it lies.
            password: of any of its keys.
            tuning: how it is written to.
            cache: where copies are kept that spare requests; None for none, so that all that is read is what is there.

        Raises:
            NotFound: there is none.
            WrongPassword: none of its keys opens with the password.
            Damaged: its configuration is damaged, or the key belongs to another repository.
        """
        key_id, key, settings = admitted(store, password, cache)
        return Repository(store, key, key_id, settings, tuning or Tuning(), cache)

    def __repr__(self) -> str:
        return f"Repository({self.store.location!r}, {self.id[:8]})"

    def __enter__(self) -> Repository:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the threads; blobs that were not flushed are lost."""
        self._writer.close()
        self._cache.trim()

    def load_index(self) -> None:
        """Read all indexes, so that blobs can be found; list snapshots before, so that all theirs are.

        An index that cannot be read is left out and stands in `damaged_indexes`: the rest can be restored. Under a
        lock, blobs in packs that are gone are no longer `has`, so that they are uploaded again; and where nobody shares
        the lock, packs that no index names are taken in: a killed run left them. Both take a listing of all packs,
        which is left out where the last run on this machine ended well and saw them all within a day: see `Inventory`.
        """
        present = self._present_packs()
        self.damaged_indexes = self._loader.load(self._listed("index/"))
        self._pieces.keep_only(self._index.knows_pack)
        if present is not None:
            self._compare(*present)
        self._writer.check_all = self._writer.check_all or len(self._index) > 0

    def stands(self, backup: str) -> bool:
        """Return whether a backup, by its full id, that was whole when this machine made it still is.

        So it is as far as indexes and the listing of packs tell: none of them is missing or damaged, and no index was
        replaced since. Where that is not known, and where a repair has been at work, the answer is no. That all packs
        are still there is then made sure of by `recheck`.
        """
        if self.missing_packs or self.damaged_indexes or not self._standing.holds(backup, self._loader.listed):
            return False
        self._writer.rely_on_all()
        return True

    def has(self, kind: BlobKind, blob: bytes) -> bool:
        """Say whether a blob is there, or on its way; `recheck` then looks for its pack."""
        return self._writer.has(kind, blob)

    def add(self, kind: BlobKind, data: bytes) -> tuple[bytes, bool]:
        """Add a blob unless it is there; return its id and whether it was new. Threads may call it at once.

        Raises:
            UsageError: it is larger than a blob may be.
            SnapvolError: an earlier upload failed.
        """
        return self._writer.add(kind, data)

    def read(self, kind: BlobKind, blob: bytes) -> bytes:
        """Return a blob, its MAC and SHA-256 checked.

        Raises:
            NotFound: no index names it.
            Damaged: it is lost or altered.
        """
        return self._reader.read(kind, blob)

    def read_many(
        self, kind: BlobKind, blobs: Iterable[bytes], lost: Loss | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        """Yield blobs with their contents, pack by pack, each once, in large reads of which several are in flight.

        Args:
            kind: of all of them.
            blobs: their ids.
            lost: called for each that cannot be read; without it the first such blob raises.

        Raises:
            NotFound: no index names a blob.
            Damaged: one is lost or altered.
        """
        return self._reader.read_many(kind, blobs, lost)

    def locate(self, kind: BlobKind, blob: bytes) -> Location:
        """Return where a blob lies.

        Raises:
            NotFound: no index names it.
        """
        return self._reader.locate(kind, blob)

    def flush(self) -> None:
        """Upload all blobs that were added, then the indexes that name them.

        Raises:
            SnapvolError: an upload failed.
        """
        self._writer.flush()

    def recheck(self) -> None:
        """Make sure that every pack written or relied on is still there.

        Raises:
            PackLost: one is not.
        """
        self._writer.recheck()

    def commit_snapshot(self, document: SnapshotDocument, lock: Lock) -> str:
        """Make a backup real: flush, recheck, make sure that the lock still holds, and write the snapshot.

        Raises:
            PackLost: a pack is missing; the same work, begun anew, uploads again what was in it.
            RepositoryLocked: the lock is late or gone.
        """
        self.flush()
        self.recheck()
        lock.check()
        identity = unpacked.write(self._cached, self._key, "snapshots", document)
        self._standing.put(identity, self._loader.listed | self._writer.indexes, document.parent)
        return identity

    def snapshots(self) -> list[tuple[str, SnapshotDocument]]:
        """Return all snapshots with their ids, oldest first; those that cannot be read are in `damaged_snapshots`.

        Raises:
            RepositoryUnreachable: the listing, or a snapshot in it, could not be read whole.
        """
        self.damaged_snapshots = []
        entries = self._listed("snapshots/")
        documents = []
        read = list(mapped(lambda entry: self._snapshot(entry.name, entry.size), entries, IN_FLIGHT))
        absent = {entry.name for entry, document in zip(entries, read, strict=True) if document is None}
        if absent and (listed := absent & {entry.name for entry in self._listed("snapshots/")}):
            # Not forgotten meanwhile: the server contradicts itself, and "there is none" would be a guess (T27).
            said = f"{min(listed)} is listed in {self.store.location}, but cannot be read there"
            raise RepositoryUnreachable(said, "try again in a minute")
        for entry, document in zip(entries, read, strict=True):
            name = entry.name.removeprefix("snapshots/")
            if isinstance(document, Damaged):
                self.damaged_snapshots.append((name, document))
            elif document is not None:
                documents.append((name, document))
        self._documents = dict(documents)
        return sorted(documents, key=lambda item: (item[1].time, item[0]))

    def find_snapshot(self, text: str) -> tuple[str, SnapshotDocument]:
        """Return the snapshot whose id begins with ``text``.

        A full id that `snapshots` has listed is not looked for again: should somebody forget it meanwhile, its blobs
        say so when they are read.

        Raises:
            NotFound: there is none.
            UsageError: there are several.
            Damaged: it cannot be read.
        """
        if len(text) == 64 and is_name(f"snapshots/{text}"):
            whole = self._documents.get(text) or self._snapshot(f"snapshots/{text}")
            if isinstance(whole, Damaged):
                raise whole
            if whole is None:
                raise NotFound(f"no backup {text[:12]} in {self.store.location}", "list them: snapvol backups")
            return text, whole
        found = [item for item in self.snapshots() if text and item[0].startswith(text)]
        damaged = [error for name, error in self.damaged_snapshots if text and name.startswith(text)]
        if len(found) + len(damaged) > 1:
            raise UsageError(f"{len(found) + len(damaged)} backups begin with {text!r}", "write more of it")
        if damaged:
            raise damaged[0]
        if not found:
            raise NotFound(f"no backup {text!r} in {self.store.location}", "list them: snapvol backups")
        return found[0]

    def forget(self, ids: Sequence[str]) -> None:
        """Delete snapshots by their full ids; their blobs stay until a prune."""
        self._cached.delete([f"snapshots/{name}" for name in ids])
        for name in ids:
            self._documents.pop(name, None)

    def forgo_locks(self) -> None:
        """Read without taking locks, as read-only storage demands; a prune elsewhere may then take what is read."""
        self._locking = False

    def lock(self, exclusive: bool = False, *, wait: float = 0.0) -> AbstractContextManager[Lock]:
        """Hold a lock: a shared one to read or write, an exclusive one to delete.

        Args:
            exclusive: which.
            wait: seconds to wait for others.

        Raises:
            RepositoryLocked: somebody else holds a lock that excludes this one.

        After `forgo_locks` the lock is one whose `check` always refuses.
        """
        return self._held(exclusive, wait) if self._locking else nullcontext(NoLock(self.store.location))

    @contextmanager
    def _held(self, exclusive: bool, wait: float) -> Iterator[Lock]:
        with locks.held(self.store, self._key, exclusive=exclusive, wait=wait) as lock:
            self._lock, self._inventoried = lock, None
            try:
                yield lock
                if self._inventoried is not None:
                    self._inventory.put(self._inventoried)
            finally:
                self._lock = None

    def unlock(self, remove_all: bool = False) -> int:
        """Remove stale locks, or all of them; return how many."""
        return locks.remove(self.store, self._key, everything=remove_all)

    def check(self, read_data: bool | Portion = False, progress: CheckProgress | None = None) -> CheckReport:
        """Find everything that is wrong, and which backups and files it hits; nothing is changed.

        Args:
            read_data: whether to read every pack, or which, not only the indexes, snapshots and trees.
            progress: told what is done.

        Raises:
            RepositoryUnreachable: the repository could not be read to its end.
            RepositoryLocked: somebody deletes from it.
        """
        portion = (Everything() if read_data else None) if isinstance(read_data, bool) else read_data
        with nullcontext() if self._lock else self.lock():
            return check(self.store, self._key, portion, progress)

    def repair_index(
        self, *, read_data: bool = False, dry_run: bool = False, progress: CheckProgress | None = None
    ) -> IndexRepair:
        """See `index_repair.repair_index`. What this repository has in memory is not true any more: open it anew.

        Raises:
            RepositoryUnreachable: something could not be read; nothing was changed.
            RepositoryLocked: somebody else uses the repository.
        """
        own = self._lock if self._lock is not None and self._lock.exclusive else None
        with nullcontext(own) if own is not None else self.lock(exclusive=True) as lock:
            survey = IndexSurvey(self.store, self._key, self._listed, progress or NoProgress())
            return repair_index(survey, lock, self._writer.tuning, read_data=read_data, dry_run=dry_run)

    def prune(
        self, limits: Limits, *, dry_run: bool, wait: float = 0.0, progress: CheckProgress | None = None
    ) -> Outcome:
        """See `Pruner.run`. What this object knows of indexes is old afterwards."""
        pruner = Pruner(self, self._key, self._writer.tuning, progress or NoProgress())
        return pruner.run(limits, dry_run=dry_run, wait=wait)

    def measure(self, progress: CheckProgress | None = None) -> Measure:
        """Return what counts this repository's bytes; to be used under a lock, after `snapshots`."""
        return Measure(self.store, self._key, progress or NoProgress())

    def add_key(self, password: str, *, cost: keys.Cost | None = None) -> str:
        """Let another password open the repository; return its key's id.

        Raises:
            UsageError: the password is empty.
        """
        return keys.add(self.store, self._key, password, cost=cost)

    def list_keys(self) -> list[keys.KeyInfo]:
        """Return all keys, oldest first."""
        return keys.listed(self.store, self.key_id)

    def remove_key(self, key: str, *, even_in_use: bool = False) -> None:
        """Delete the key whose id begins with ``key``.

        Raises:
            NotFound: there is none.
            Refused: it is the last one, or the one in use and ``even_in_use`` does not say so.
        """
        keys.remove(self.store, key, self.key_id, even_in_use=even_in_use)

    def _listed(self, prefix: str) -> list[Entry]:
        """An empty listing is only believed where the repository is still there: a disk that went away has none."""
        found = list(self._cached.list(prefix))
        if not found:
            try:
                self.store.size(CONFIG)
            except NotFound:
                raise RepositoryUnreachable(
                    f"the repository at {self.store.location} is gone", "is its disk mounted?"
                ) from None
        return found

    def _present_packs(self) -> tuple[datetime, dict[bytes, int], bool] | None:
        """Return, under a lock, when the packs were listed, their sizes, and whether none can be another writer's.

        None without a lock, or where that was seen not long ago.

        The order makes it right: packs, locks, and only then the caller lists indexes. A writer whose pack is listed
        either still has its lock, or has written its index.
        """
        if self._lock is None:
            return None
        self._inventoried = self._inventory.take()
        if self._inventoried is not None and not self._lock.exclusive:
            return None
        at = now()
        packs = {bytes.fromhex(entry.name[-64:]): entry.size for entry in self.store.list("data/")}
        return at, packs, not locks.shared(self.store, self._key, self._lock.id)

    def _compare(self, at: datetime, packs: Mapping[bytes, int], alone: bool) -> None:
        unknown = [(pack, size) for pack, size in packs.items() if not self._index.knows_pack(pack)]
        if alone:
            self._writer.take_in(taken_in(self.store, self._key, unknown))
        self.missing_packs = self._index.miss(packs)
        if self.missing_packs:
            log.warning("%d packs that indexes name are not in %s", self.missing_packs, self.store.location)
        # Strays are only known by then, in no index yet: the next run is to find them, too.
        self._inventoried = at if alone and not self.missing_packs and not unknown else None

    def _snapshot(self, name: str, size: int | None = None) -> SnapshotDocument | Damaged | None:
        known = self._documents.get(name.removeprefix("snapshots/"))
        if known is not None and size is not None:
            return known  # listed, so not forgotten; and what a name stands for never changes
        try:
            return unpacked.read(self._cached, self._key, name, SnapshotDocument, size)
        except NotFound:
            return None  # forgotten since it was listed
        except Damaged as error:
            return error
