"""All volumes, snapshots and trash of all pools, in memory: what Docker asks is never asked of the storage.

The storage is the truth. It is read when a pool opens, and every change is made there first and then here. Names are
unique over all pools: where two pools brought the same one, the volume that was there first has it, and the other is
known by its id and shown as damaged until it is renamed.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Sequence

import msgspec
from msgspec import Struct

from snapvol.backend import Backend
from snapvol.errors import AlreadyExists, NotFound, NotReady, PoolUnavailable, SnapvolError
from snapvol.model import Damage, Snapshot, Volume
from snapvol.service.pool import Pool, Seen

log = logging.getLogger(__name__)


class Entry(Struct, frozen=True, kw_only=True):
    """A live volume. Never changed: a change puts another entry in its place.

    Attributes:
        snapshots: oldest first.
        damaged_snapshots: those whose metadata cannot be read.
        shadowed: why its name means another volume; None where its name is its own.
        hidden: it is still being made: known by its id only, and listed nowhere.
    """

    volume: Volume
    pool: Pool
    snapshots: tuple[Snapshot, ...] = ()
    damaged_snapshots: tuple[Damage, ...] = ()
    shadowed: str | None = None
    hidden: bool = False

    @property
    def key(self) -> str:
        """What it is claimed by (`Locks`): its name, or its id where the name is not its own."""
        return self.volume.id if self.shadowed or self.hidden else self.volume.name

    @property
    def backend(self) -> Backend:
        """The backend it lies in."""
        return self.pool.backend

    def snapshot(self, name: str) -> Snapshot:
        """Return the snapshot called ``name``.

        Raises:
            NotFound: there is none.
            NotReady: it is damaged.
        """
        for snapshot in self.snapshots:
            if snapshot.name == name:
                return snapshot
        for damage in self.damaged_snapshots:
            if damage.name == name:
                raise NotReady(f"snapshot '{self.volume.name}@{name}' is damaged: {damage.reason}")
        raise NotFound(
            f"snapshot '{self.volume.name}@{name}' does not exist", f"see: snapvol snapshots {self.volume.name}"
        )


class Trashed(Struct, frozen=True, kw_only=True):
    """A volume in the trash."""

    volume: Volume
    pool: Pool


_Found = tuple[Volume | Damage, Sequence[Snapshot | Damage]]


class Catalog:
    """The volumes of all pools. Reading is free of locks and of storage; changes come from whoever holds the volume.

    Args:
        pools: all of them, the default one first.
    """

    def __init__(self, pools: Sequence[Pool]) -> None:
        self.pools = {pool.name: pool for pool in pools}
        self._lock = threading.RLock()
        self._records: dict[str, threading.Lock] = {}
        self._entries: dict[str, Entry] = {}  # by name, or by id where shadowed
        self._ids: dict[str, str] = {}  # id → key in _entries
        self._trash: dict[str, Trashed] = {}
        self._damages: dict[str, list[Damage]] = {}  # by pool
        self._damaged_trash: dict[str, list[Damage]] = {}

    # -- reading ------------------------------------------------------------------------------------------------

    def get(self, name: str) -> Entry:
        """Return the volume called ``name``, or whose id it is.

        Raises:
            NotFound: there is none.
            NotReady: its metadata is damaged.
            PoolUnavailable: it was last seen in a pool that is not open.
        """
        entry = self._entries.get(name) or self._entries.get(self._ids.get(name, ""))
        if entry is not None and not entry.hidden:
            return entry
        for damage in self.damages():
            if damage.name == name:
                raise NotReady(f"volume '{name}' is damaged: {damage.reason}")
        for pool, seen in self.missing():
            if name in (seen.name, seen.id):
                raise PoolUnavailable(
                    f"volume '{name}' is in pool '{pool.name}', which is not available: {pool.problem}"
                )
        raise NotFound(f"volume '{name}' does not exist", "see: snapvol ls")

    def by_id(self, volume_id: str) -> Entry | None:
        """Return the live volume with this identity, a hidden one too."""
        return self._entries.get(self._ids.get(volume_id, ""))

    def entries(self) -> list[Entry]:
        """List the live volumes."""
        return [entry for entry in list(self._entries.values()) if not entry.hidden]

    def damages(self) -> list[Damage]:
        """List the volumes whose metadata cannot be read."""
        return [damage for damages in list(self._damages.values()) for damage in damages]

    def missing(self) -> list[tuple[Pool, Seen]]:
        """List the volumes last seen in pools that are not open now."""
        return [(pool, seen) for pool in self.pools.values() if pool.problem is not None for seen in pool.seen]

    def refuse_taken(self, name: str) -> None:
        """Check that a name is free in all pools, as far as anybody can know.

        Raises:
            AlreadyExists: it is not; says why.
        """
        try:
            entry = self.get(name)
        except NotFound:
            return
        except (NotReady, PoolUnavailable) as error:
            raise AlreadyExists(f"the name '{name}' is taken: {error.message}", "choose another name") from error
        raise AlreadyExists(f"volume '{entry.volume.name}' exists already in pool '{entry.pool.name}'")

    def trash(self) -> list[Trashed]:
        """List the trash, what was removed last first."""
        return sorted(
            self._trash.values(),
            key=lambda trashed: trashed.volume.deleted or trashed.volume.created,
            reverse=True,
        )

    def damaged_trash(self) -> list[Damage]:
        """List what lies in the trash and cannot be read."""
        return [damage for damages in list(self._damaged_trash.values()) for damage in damages]

    def find_trash(self, ref: str) -> Trashed:
        """Return what is in the trash with this id, or was removed last under this name.

        Raises:
            NotFound: nothing.
        """
        for trashed in self.trash():
            if ref in (trashed.volume.id, trashed.volume.name):
                return trashed
        raise NotFound(f"there is no '{ref}' in the trash", "see: snapvol trash")

    # -- changes: the storage first -----------------------------------------------------------------------------

    def update(self, volume: Volume) -> Volume:
        """Record a live volume's changed metadata; its name and id must be unchanged.

        For a change of single fields of a volume that others may change too, see `change`.

        Raises:
            NotFound: there is no such live volume.
        """
        with self._recording(volume.id):
            self._live(volume.id).backend.record(volume)
            self._replace(volume)
        return volume

    def change(self, volume_id: str, **fields: object) -> Volume:
        """Record new values of some fields of a live volume, such as ``state`` and ``job``; return it.

        Raises:
            NotFound: there is no such live volume.
        """
        with self._recording(volume_id):
            entry = self._live(volume_id)
            volume = msgspec.structs.replace(entry.volume, **fields)
            entry.backend.record(volume)
            self._replace(volume)
        return volume

    # -- changes that the storage has made already ---------------------------------------------------------------

    def add(
        self, volume: Volume, pool: Pool, snapshots: Iterable[Snapshot | Damage] = (), *, hidden: bool = False
    ) -> Entry:
        """Take in a volume that the storage has now."""
        with self._lock:
            entry = self._put(msgspec.structs.replace(_entry(volume, pool, list(snapshots)), hidden=hidden))
        self._remember(pool)
        return entry

    def show(self, volume_id: str) -> Entry:
        """Let everybody see a volume that was hidden."""
        with self._lock:
            entry = self._live(volume_id)
            del self._entries[entry.key]
            entry = self._put(msgspec.structs.replace(entry, hidden=False))
        self._remember(entry.pool)
        return entry

    def remove(self, volume: Volume) -> None:
        """Forget a live volume that the storage no longer has."""
        with self._lock:
            self._records.pop(volume.id, None)
            key = self._ids.pop(volume.id, None)
            entry = self._entries.pop(key, None) if key is not None else None
        if entry is not None:
            self._remember(entry.pool)

    def renamed(self, volume: Volume) -> Entry:
        """Take in a live volume's new name; its snapshots follow."""
        with self._lock:
            entry = self._live(volume.id)
            snapshots = tuple(msgspec.structs.replace(snapshot, volume=volume.name) for snapshot in entry.snapshots)
            del self._entries[self._ids.pop(volume.id)]
            entry = self._put(msgspec.structs.replace(entry, volume=volume, snapshots=snapshots, shadowed=None))
        self._remember(entry.pool)
        return entry

    def set_snapshots(self, volume_id: str, change: Callable[[tuple[Snapshot, ...]], Iterable[Snapshot]]) -> None:
        """Take in a change of a live volume's snapshots: ``change`` gets those known and returns those there are."""
        with self._lock:
            entry = self._live(volume_id)
            found = sorted(change(entry.snapshots), key=lambda snapshot: (snapshot.created, snapshot.name))
            self._put(msgspec.structs.replace(entry, snapshots=tuple(found)))

    def add_snapshots(self, snapshots: Iterable[Snapshot]) -> None:
        """Take in snapshots that the storage has now."""
        for snapshot in snapshots:
            self.set_snapshots(snapshot.volume_id, lambda known, new=snapshot: (*known, new))  # type: ignore[misc]

    def trashed(self, volume: Volume, pool: Pool) -> None:
        """Take in that a volume is in the trash now; ``deleted`` is set."""
        with self._lock:
            self._trash[volume.id] = Trashed(volume=volume, pool=pool)
        self.remove(volume)

    def untrashed(self, volume: Volume) -> None:
        """Forget what is no longer in the trash."""
        with self._lock:
            self._trash.pop(volume.id, None)

    def load(self, pool: Pool) -> Callable[[], None]:
        """Read all that an open pool has; return what takes it in.

        Raises:
            SnapvolError: a listing failed. Nothing of the pool is known then: half a list is not taken for all.
        """
        backend = pool.backend
        live = [(found, _snapshots(backend, found)) for found in backend.volumes()]
        trashed = list(backend.trashed())
        return lambda: self._take_in(pool, live, trashed)

    def _take_in(self, pool: Pool, live: Sequence[_Found], trashed: Sequence[Volume | Damage]) -> None:
        damages = [found for found, _ in live if isinstance(found, Damage)]
        with self._lock:
            for found, snapshots in live:
                if isinstance(found, Volume):
                    twin = self.by_id(found.id)
                    if twin is not None and (twin.pool is not pool or twin.volume.name != found.name):
                        damages.append(_twin(found, pool, twin))
                    else:
                        self._put(_entry(found, pool, snapshots))
            for old in trashed:
                if isinstance(old, Volume):
                    self._trash[old.id] = Trashed(volume=old, pool=pool)
            self._damages[pool.name] = damages
            self._damaged_trash[pool.name] = [found for found in trashed if isinstance(found, Damage)]
        self._remember(pool)

    def recheck_damages(self, pool: Pool) -> None:
        """Look again at a pool with damaged volumes, and take in those that somebody has mended.

        Raises:
            SnapvolError: the listing failed.
        """
        if not self._damages.get(pool.name):
            return
        found = pool.backend.volumes()
        names = {damage.name for damage in self._damages[pool.name]}
        for volume in found:
            if isinstance(volume, Volume) and volume.name in names and volume.id not in self._ids:
                self.add(volume, pool, _snapshots(pool.backend, volume))
        self._damages[pool.name] = [damage for damage in found if isinstance(damage, Damage)]

    # -- inside -------------------------------------------------------------------------------------------------

    def _recording(self, volume_id: str) -> threading.Lock:
        # One for each volume: storage that hangs must not keep the other pools' volumes from changing.
        return self._records.setdefault(volume_id, threading.Lock())

    def _replace(self, volume: Volume) -> None:
        with self._lock:
            self._put(msgspec.structs.replace(self._live(volume.id), volume=volume))

    def _live(self, volume_id: str) -> Entry:
        entry = self.by_id(volume_id)
        if entry is None:
            raise NotFound(f"the volume with id {volume_id} does not exist", "see: snapvol ls")
        return entry

    def _put(self, entry: Entry) -> Entry:
        with self._lock:
            volume = entry.volume
            holder = self._entries.get(volume.name)
            if holder is not None and holder.volume.id != volume.id and not entry.hidden:
                entry = msgspec.structs.replace(
                    entry,
                    shadowed=f"pool '{holder.pool.name}' has a volume of this name too; "
                    f"rename this one: snapvol rename {volume.id} NEW-NAME",
                )
            self._entries[entry.key] = entry
            self._ids[volume.id] = entry.key
            return entry

    def _remember(self, pool: Pool) -> None:
        pool.remember([entry.volume for entry in self.entries() if entry.pool is pool])


def _entry(volume: Volume, pool: Pool, snapshots: Sequence[Snapshot | Damage]) -> Entry:
    return Entry(
        volume=volume,
        pool=pool,
        snapshots=tuple(snapshot for snapshot in snapshots if isinstance(snapshot, Snapshot)),
        damaged_snapshots=tuple(
            msgspec.structs.replace(damage, name=damage.name.rpartition("@")[2])
            for damage in snapshots
            if isinstance(damage, Damage)
        ),
    )


def _twin(volume: Volume, pool: Pool, twin: Entry) -> Damage:
    if twin.pool is pool:
        reason = f"it has the id of volume '{twin.volume.name}' ({volume.id}): one is a copy of the other"
    else:
        reason = f"pool '{twin.pool.name}' has the same volume (id {volume.id}): one pool is a copy of the other"
    return Damage(name=volume.name, pool=pool.name, reason=reason)


def _snapshots(backend: Backend, volume: Volume | Damage) -> Sequence[Snapshot | Damage]:
    if isinstance(volume, Damage):
        return ()
    try:
        return backend.snapshots(volume)
    except SnapvolError as error:
        # The volume itself is fine: it stays usable, and its snapshots are unknown rather than none.
        log.warning("volume '%s': its snapshots cannot be listed: %s", volume.name, error)
        return [Damage(name="?", reason=f"the snapshots cannot be listed: {error}", pool=volume.pool)]
