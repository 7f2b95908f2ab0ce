"""A pool of LVM thin volumes: opening it, what it says of itself, and looking things up in it."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from msgspec.structs import replace

from snapvol.backend import Backend, Features
from snapvol.backends import devicemapper, lvmheader, lvmtags
from snapvol.backends.claim import LOCKS, Claim
from snapvol.backends.devicemapper import ThinPool
from snapvol.backends.failures import explained
from snapvol.backends.lvmcondition import Condition, LvmSettings
from snapvol.backends.lvmfilesystem import KINDS
from snapvol.backends.lvminventory import Inventory, Item, identity
from snapvol.backends.lvmmessages import settle, strays
from snapvol.backends.lvmrecovery import Recovery
from snapvol.backends.lvmreport import LogicalVolume
from snapvol.backends.lvmtags import Record
from snapvol.backends.lvmtools import Tools
from snapvol.backends.mountpoints import Mountpoints
from snapvol.backends.place import read_settings
from snapvol.backends.thinmap import ThinMap
from snapvol.errors import NotFound, PoolUnavailable, SettingsError, SnapvolError, StorageFailed
from snapvol.model import Health, Snapshot, Volume, new_id
from snapvol.settings import ROOT

log = logging.getLogger(__name__)

_NAME = re.compile(r"[A-Za-z0-9_+.][A-Za-z0-9_+.-]*\Z")


class LvmPool(Backend):
    """The life of a pool. What LVM reports is remembered while the pool is open, for it is ours alone."""

    def __init__(self, pool: str, settings: Mapping[str, object], *, root: Path = ROOT) -> None:
        self.pool = pool
        self._settings = read_settings(pool, settings, LvmSettings)
        for key in ("volume_group", "thin_pool"):
            name = getattr(self._settings, key)
            if not _NAME.match(name):
                raise SettingsError(f"[pools.{pool}] {key} = {name!r} cannot be a name", "see: lvs")
        self._group = self._settings.volume_group
        self._tools = Tools(pool, self._group)
        self._points = Mountpoints(pool, root)
        self._called = f"{self._group}/{self._settings.thin_pool}"
        self._condition = Condition(pool, self._settings)
        self._claim: Claim | None = None
        self._lock = threading.RLock()
        self._known: Inventory | None = None
        self._header: bytes | None = None
        self._disks: list[str] = []
        self._strays: set[int] = set()
        self._making: set[str] = set()

    # -- opening ------------------------------------------------------------------------------------------------

    def open(self, *, expected: str | None = None) -> str:
        """See `Backend.open`."""
        try:
            with explained(f"pool '{self.pool}' cannot be opened"), self._lock:
                return self._open(expected)
        except SnapvolError:
            self.close()
            raise

    def _open(self, expected: str | None) -> str:
        self._known = None
        inventory = Inventory(self._tools.report(), self._settings.thin_pool)
        pool = self._usable(inventory)
        self._check_identity(inventory, expected)
        if self._claim is None:
            self._claim = Claim(self.pool, f"lvm-{pool.uuid}")
        self._claim.take()
        self._state()
        if inventory.id is None:
            self._tools.retag([pool.name], add=[f"{lvmtags.POOL}{new_id()}"])
        self._disks = self._tools.disks()
        self._points.recover()
        # Once more: a program that a killed daemon had started may have gone on; LVM reports when it has ended.
        inventory = self._refreshed()
        self._map().recover()
        Recovery(self.pool, self._tools, self._thin, inventory, self._settle_messages).run()
        self._strays = self._unowned()
        if inventory.id is None:
            raise StorageFailed(f"pool '{self.pool}': the thin pool {self._called} does not keep its tag")
        return inventory.id

    def _usable(self, inventory: Inventory) -> LogicalVolume:
        pool = inventory.thin_pool
        if pool is None:
            raise PoolUnavailable(
                f"pool '{self.pool}': there is no thin pool {self._called}",
                f"look at: lvs {self._group}; or make one: lvcreate --type thin-pool -l 90%FREE"
                f" -n {self._settings.thin_pool} {self._group}",
            )
        if pool.segtype != "thin-pool":
            raise SettingsError(
                f"[pools.{self.pool}] thin_pool: {self._called} is a {pool.segtype} volume, not a thin pool",
                f"see: lvs -o lv_name,segtype {self._group}",
            )
        if pool.zero != "zero":
            raise PoolUnavailable(
                f"pool '{self.pool}': the thin pool {self._called} hands out blocks with what others left in them",
                f"lvchange --zero y {self._called}",
            )
        return pool

    def _check_identity(self, inventory: Inventory, expected: str | None) -> None:
        if inventory.id is None and inventory.strays:
            tag = next(tag for tag in inventory.strays[0].tags if tag.startswith(lvmtags.POOL))
            raise PoolUnavailable(
                f"pool '{self.pool}': the thin pool {self._called} has volumes of ours, but has lost its tag",
                f"lvchange --addtag {tag} {self._called}",
            )
        if expected is not None and inventory.id != expected:
            found = f"is another pool ({inventory.id})" if inventory.id else "has no tag of ours"
            raise PoolUnavailable(
                f"pool '{self.pool}': {self._called} {found}, but pool {expected} was in use before",
                "bring its disks back, or give the other pool its own name in the settings",
            )

    def close(self) -> None:
        """See `Backend.close`."""
        with self._lock:
            self._known = self._header = None
            if self._claim is not None:
                self._claim.release()
                self._claim = None

    @property
    def features(self) -> Features:
        """See `Backend.features`."""
        return Features(
            snapshots=True,
            instant=True,
            quota=True,
            resize=True,
            shared_blocks=True,
            stable_inodes=True,
            filesystems=KINDS,
            backup_kinds=("image", "files"),
            tracked=("image",),
        )

    # -- condition ----------------------------------------------------------------------------------------------

    def health(self) -> Health:
        """See `Backend.health`."""
        try:
            before = devicemapper.thin_pool(self._thin)
            pool = self._usable(Inventory(self._tools.report(), self._settings.thin_pool))
            now, room = devicemapper.thin_pool(self._thin), lvmheader.room(self._disks)
            if self._strays and now is not None:  # somebody may have removed them
                self._strays = self._unowned()
            return self._condition.health(pool, before, now, room, strays(self._thin, self._group, self._strays))
        except SnapvolError as error:
            return Health(ok=False, problem=str(error))

    def _settle_messages(self) -> None:
        settle(self._tools, self._disks, self._usable(self._inventory()), self._inventory().id)

    def _unowned(self) -> set[int]:
        """Return the numbers of thin volumes that no logical volume has; what was known where that cannot be told."""
        try:
            before = self._state().transaction
            # In this order: LVM reports nothing that it is still at.
            found = self._map().volumes() - self._tools.numbers(self._settings.thin_pool)
            return found if self._state().transaction == before else self._strays
        except SnapvolError as error:
            log.warning("pool '%s': it is not known what lies in the thin pool: %s", self.pool, error)
            return self._strays

    def _state(self) -> ThinPool:
        """Return the state of the thin pool, which is activated where it is not.

        Raises:
            PoolUnavailable: it cannot be.
        """
        state = devicemapper.thin_pool(self._thin)
        if state is None:
            try:
                self._tools.activate(self._settings.thin_pool)
            except StorageFailed as error:
                raise PoolUnavailable(
                    f"pool '{self.pool}': the thin pool {self._called} cannot be activated: {error.message}",
                    f"see lvmthin(7); lvconvert --repair {self._called}",
                ) from error
            state = devicemapper.thin_pool(self._thin)
        if state is None:
            raise PoolUnavailable(f"pool '{self.pool}': the thin pool {self._called} is not active", "look at `dmesg`")
        return state

    def _require_room(self, what: str) -> None:
        """Refuse to make something new in a pool that is nearly full (T39).

        Raises:
            NoSpace: a mark is passed, with the numbers.
            PoolUnavailable: nothing can be written.
        """
        self._condition.require_room(what, self._state(), lvmheader.room(self._disks))

    @property
    def _thin(self) -> str:
        """What device-mapper calls the thin pool: LVM puts a layer between as soon as there is a volume in it."""
        layered, bare = (devicemapper.name(self._group, self._settings.thin_pool, layer) for layer in ("tpool", ""))
        return layered if devicemapper.thin_pool(layered) is not None else bare

    # -- looking up ---------------------------------------------------------------------------------------------

    def _refreshed(self) -> Inventory:
        """Ask LVM, and remember the answer.

        Raises:
            PoolUnavailable: the group, or the pool in it, is not there.
        """
        with self._lock:
            # Before, so that what changes meanwhile is noticed the next time.
            header = lvmheader.read(self._disks) if self._disks else None
            inventory = Inventory(self._tools.report(), self._settings.thin_pool, self._making)
            self._usable(inventory)
            self._known, self._header = inventory, header
            return inventory

    def _current(self) -> Inventory:
        """Return what there is now, whoever has changed it."""
        with self._lock:
            if self._known is not None and self._header is not None and lvmheader.read(self._disks) == self._header:
                return self._known
            return self._refreshed()

    def _inventory(self) -> Inventory:
        """Return what there is, as far as we have changed it ourselves since somebody asked."""
        with self._lock:
            return self._known or self._refreshed()

    def _find(self, volume: Volume) -> Item:
        """Return the contents of ``volume``, live or in the trash.

        Raises:
            NotFound: it is gone, or another volume has its name.
        """
        for look in (self._inventory, self._refreshed):
            item = look().contents().get(volume.id)
            if item is not None:
                stored = item.volume
                if stored.name == volume.name and (stored.deleted is None) == (volume.deleted is None):
                    return item
        raise NotFound(f"no volume '{volume.name}' with id {volume.id} in pool '{self.pool}'", "snapvol ls")

    def _find_snapshot(self, snapshot: Snapshot) -> Item:
        """Return the logical volume of ``snapshot``.

        Raises:
            NotFound: it is gone, or a later one has its name.
        """
        for look in (self._inventory, self._refreshed):
            for item in look().snapshots(snapshot.volume_id):
                if identity(item.lv) == snapshot.id and item.snapshot("").name == snapshot.name:
                    return item
        raise NotFound(f"no snapshot '{snapshot.full_name}' with id {snapshot.id} in pool '{self.pool}'")

    @contextmanager
    def _working(self, item: Item, what: str, name: str) -> Iterator[None]:
        """Say what was being done in errors, and tell what is gone from what cannot be changed.

        Raises:
            NotFound: the logical volume is gone.
        """
        try:
            with explained(what):
                yield
        except StorageFailed as error:
            if self._refreshed().find(item.lv.uuid) is None:
                raise NotFound(
                    f"{what}: {item.lv.name}, the logical volume of '{name}', is gone", "snapvol ls"
                ) from error
            raise

    # -- changing -----------------------------------------------------------------------------------------------

    def _put(self, lv: LogicalVolume) -> None:
        with self._lock:
            if self._known is not None:
                self._known.put(lv)

    @contextmanager
    def _unseen(self, name: str) -> Iterator[None]:
        """Keep a logical volume that is being made from being found, mounted or listed while the context lasts."""
        self._making.add(name)
        try:
            yield
        finally:
            self._making.discard(name)

    def _drop(self, *lvs: LogicalVolume) -> None:
        with self._lock:
            if self._known is not None:
                self._known.drop(lvs)

    def _tags(self, record: Record, *marks: str) -> list[str]:
        return [f"{lvmtags.POOL}{self._inventory().id}", *lvmtags.encode(record), *marks]

    def _rewrite(self, item: Item, record: Record) -> None:
        """Replace what the tags of a logical volume say, all at once."""
        self._retag(item.lv, add=lvmtags.encode(record), remove=lvmtags.pieces(item.lv.tags))

    def _retag(self, lv: LogicalVolume, *, add: list[str], remove: list[str]) -> LogicalVolume:
        # A tag that is given and taken in one command is gone afterwards.
        remove, add = [tag for tag in remove if tag not in add], [tag for tag in add if tag not in lv.tags]
        self._tools.retag([lv.name], add=add, remove=remove)
        changed = replace(lv, lv_tags=",".join([*(tag for tag in lv.tags if tag not in remove), *add]))
        self._put(changed)
        return changed

    def _create(self, name: str, size: int, *words: str, tags: list[str]) -> LogicalVolume:
        """Make a thin volume; with its tags it is there.

        Args:
            name: a new one.
            size: that it will have, in bytes.
            words: for lvcreate: what it is made from.
            tags: all that it gets.
        """
        self._tools.create(name, *words, *(word for tag in tags for word in ("--addtag", tag)))
        made, pool = lvmheader.made(self._disks, name), self._usable(self._inventory())
        if made is None:
            (lv,) = self._tools.report(name)
        else:
            lv = LogicalVolume(
                name=name,
                uuid=made.uuid,
                lv_tags=",".join(tags),
                lv_size=size,
                segtype="thin",
                pool_lv=pool.name,
                thin_id=made.thin_id,
                transaction_id=made.transaction_id,
                lv_health_status="",
                lv_metadata_size=None,
                chunk_size=None,
                zero=pool.zero,
                vg_name=pool.vg_name,
                vg_uuid=pool.vg_uuid,
                vg_extent_size=pool.vg_extent_size,
            )
        self._put(lv)
        return lv

    def _remove(self, *lvs: LogicalVolume) -> None:
        self._settle_messages()
        self._tools.remove([lv.name for lv in lvs])
        self._drop(*lvs)

    def _discard(self, *lvs: LogicalVolume) -> None:
        """Remove what nobody sees any more; what cannot be removed now is removed by the next `open`."""
        try:
            self._remove(*lvs)
        except SnapvolError as error:
            log.warning("pool '%s': %s", self.pool, error)
            with suppress(SnapvolError):
                self._refreshed()

    def _active(self, lv: LogicalVolume) -> str:
        """Return ``MAJOR:MINOR`` of a logical volume, activated where it is not."""
        number = lv.number
        if number is None:
            self._tools.activate(lv.name)
            number = lv.number
            if number is None:
                raise StorageFailed(f"{lv.name} is not active after its activation", "look at `dmesg`")
        if not devicemapper.has_node(lv.device, number):
            self._tools.make_nodes()
        return number

    def _map(self) -> ThinMap:
        metadata = devicemapper.path(devicemapper.name(self._group, f"{self._settings.thin_pool}_tmeta"))
        pool = self._usable(self._inventory())
        return ThinMap(self._thin, metadata, LOCKS / f"lvm-{pool.uuid}.metadata")
