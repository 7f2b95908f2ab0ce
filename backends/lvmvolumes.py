"""Volumes as LVM thin volumes, each with a file system: their life, their mounts and their trash."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from snapvol import units
from snapvol.backend import Option
from snapvol.backends import devicemapper, lvmfilesystem
from snapvol.backends.failures import explained
from snapvol.backends.lvmfilesystem import EXT4, KINDS, MOUNT
from snapvol.backends.lvminventory import Item, name_for
from snapvol.backends.lvmpool import LvmPool
from snapvol.backends.lvmreport import LogicalVolume
from snapvol.backends.lvmtags import FRESH, GONE, Record, Role
from snapvol.backends.ownership import Ownership
from snapvol.errors import AlreadyExists, InUse, Refused, SnapvolError, StorageFailed, Unsupported, UsageError
from snapvol.model import Damage, Snapshot, Usage, Volume
from snapvol.names import volume_name

log = logging.getLogger(__name__)
SIZE = 10 << 30  # bytes, where nobody says otherwise: thin, so that it takes what is written
MKFS = Option(key="lvm.mkfs", help="words for mkfs.ext4 or mkfs.xfs, such as '-i 4096'")
_BLANKS = 2
_PATIENCE, _PAUSE = 1.0, 0.05  # seconds
STAGED = ".staged"  # below the pool's mountpoints


class Wanted(Struct, frozen=True, kw_only=True):
    """What a new file system is to be."""

    filesystem: str
    words: list[str]
    owner: Ownership


class LvmVolumes(LvmPool):
    """Volumes. Which logical volume is a volume's contents, and all that is known of it, say the tags alone."""

    options = (MKFS,)

    def volumes(self) -> Sequence[Volume | Damage]:
        """See `Backend.volumes`."""
        return self._current().volumes(self.pool, trash=False)

    def trashed(self) -> Sequence[Volume | Damage]:
        """See `Backend.trashed`."""
        return self._current().volumes(self.pool, trash=True)

    # -- making -------------------------------------------------------------------------------------------------

    def create(self, volume: Volume, *, size: int | None = None, source: Snapshot | None = None) -> None:
        """See `Backend.create`."""
        what = f"volume '{volume.name}' cannot be created"
        volume_name(volume.id)
        self._require_free(volume.name)
        if source is not None:
            self._clone(volume, size, self._find_snapshot(source), what)
            return
        wanted = self._wanted(volume, None)
        self._require_room(what)
        extents = self._rounded(SIZE if size is None else size)
        lvmfilesystem.smallest(volume.name, wanted.filesystem, SIZE if size is None else size)
        with explained(what):
            lv = self._new(volume, Role.VOLUME, wanted, extents)
            self._retag(lv, add=[], remove=[FRESH])

    def _wanted(self, volume: Volume, origin: str | None) -> Wanted:
        kind = volume.options.get("fs", origin or KINDS[0])
        if kind not in KINDS:
            raise UsageError(f"volume '{volume.name}': fs = '{kind}' is not valid", f"valid: {', '.join(KINDS)}")
        text = volume.options.get(MKFS.key, "")
        words = lvmfilesystem.check_words(volume.name, kind, text)
        return Wanted(filesystem=kind, words=words, owner=Ownership.of(volume))

    def _new(self, volume: Volume, role: Role, wanted: Wanted, size: int) -> LogicalVolume:
        """Make an uncommitted logical volume with an empty file system."""
        record = Record(role=role, filesystem=wanted.filesystem, volume=replace(volume, pool=""))
        lv = self._blank(volume.name, record, size)
        try:
            lvmfilesystem.make(lv.path, wanted.filesystem, wanted.words, lvmfilesystem.uuid_for(volume.id))
            with lvmfilesystem.mounted(lv.path, wanted.filesystem) as root:
                lvmfilesystem.empty(root, wanted.owner)
        except BaseException:
            self._discard(lv)
            raise
        return lv

    def _blank(self, name: str, record: Record, size: int) -> LogicalVolume:
        """Make an uncommitted logical volume that is all zeros."""
        words = ["--virtualsize", f"{size}b", "--thinpool", self._called, "--wipesignatures", "n"]
        chunk = self._usable(self._inventory()).chunk_size or 0
        for _ in range(_BLANKS):
            lv = self._made_active(
                self._create(name_for(self._group, name), size, *words, tags=self._tags(record, FRESH))
            )
            if (devicemapper.thin_used(lv.device) or 0) <= chunk:  # LVM writes zeros where it begins
                return lv
            # The pool had a volume of that number, which LVM takes over as it is; with ours it goes.
            self._discard(lv)
        raise StorageFailed(f"a new logical volume of {self._called} is not empty", "look at: snapvol doctor")

    def _clone(self, volume: Volume, size: int | None, origin: Item, what: str) -> None:
        assert origin.record is not None
        kind = origin.record.filesystem
        wanted = self._wanted(volume, kind)
        if wanted.filesystem != kind:
            raise UsageError(f"{what}: a clone has its origin's file system, {kind}", f"leave out fs, or set fs={kind}")
        extents = origin.lv.lv_size if size is None else self._rounded(size)
        if extents < origin.lv.lv_size:
            raise Refused(
                f"{what}: its origin has {units.spelled(origin.lv.lv_size)}, more than {units.spelled(extents)}",
                "give a larger size",
            )
        self._require_room(what)
        record = Record(role=Role.VOLUME, filesystem=kind, volume=replace(volume, pool=""))
        # An ext4 that is its origin's in all but the UUID, which `mount` sees to as well, is whole with its tags.
        grown = extents > origin.lv.lv_size
        altered = grown or wanted.owner.any
        marks = (FRESH,) if altered or kind != EXT4 else ()
        name = name_for(self._group, volume.name)
        with self._working(origin, what, volume.name), self._unseen(name):
            lv = self._copy(origin, name, record, *marks)
            try:
                if altered:
                    lv = self._extended(lv, extents)
                    self._prepare(lv, kind, wanted.owner, grown=grown)
                lvmfilesystem.own(lv.path, lvmfilesystem.uuid_for(volume.id))
            except BaseException:
                self._discard(lv)
                raise
            if marks:
                self._retag(lv, add=[], remove=[FRESH])

    def _copy(self, origin: Item, name: str, record: Record, *marks: str) -> LogicalVolume:
        """Make a writable thin snapshot, a logical volume of that name."""
        words = ["--snapshot", "--setactivationskip", "n", "--permission", "rw", f"{self._group}/{origin.lv.name}"]
        return self._made_active(self._create(name, origin.lv.lv_size, *words, tags=self._tags(record, *marks)))

    def _made_active(self, lv: LogicalVolume) -> LogicalVolume:
        try:
            self._active(lv)
        except SnapvolError:
            self._discard(lv)
            raise
        return lv

    @staticmethod
    def _prepare(lv: LogicalVolume, kind: str, owner: Ownership, *, grown: bool) -> None:
        """Make a copy ready to be changed by tools: replay its journal, grow it, give it to its owner."""
        facts = lvmfilesystem.probe(lv.path)
        if facts is None or facts.unclean or grown or owner.any:
            with lvmfilesystem.mounted(lv.path, kind) as root:
                if grown:
                    lvmfilesystem.grow(root, kind, lv.lv_size)
                lvmfilesystem.give(root, owner)

    def _extended(self, lv: LogicalVolume, size: int) -> LogicalVolume:
        if size <= lv.lv_size:
            return lv
        self._tools.change("lvextend", "--size", f"{size}b", f"{self._group}/{lv.name}")
        lv = replace(lv, lv_size=size)
        self._put(lv)
        return lv

    def _rounded(self, size: int) -> int:
        """Return the size of a logical volume that holds ``size`` bytes."""
        extent = self._usable(self._inventory()).vg_extent_size
        return -(-max(size, 1) // extent) * extent

    def _require_free(self, name: str) -> None:
        volume_name(name)
        for item in self._inventory().contents().values():
            if item.volume.name == name and item.volume.deleted is None:
                raise AlreadyExists(
                    f"'{name}' exists in pool '{self.pool}' already ({item.lv.name})", "choose another name"
                )

    # -- metadata -----------------------------------------------------------------------------------------------

    def record(self, volume: Volume) -> None:
        """See `Backend.record`."""
        item = self._find(volume)
        with self._working(item, f"the metadata of volume '{volume.name}' cannot be written", volume.name):
            self._describe(item, volume)

    def _describe(self, item: Item, volume: Volume) -> None:
        assert item.record is not None
        self._rewrite(item, replace(item.record, volume=replace(volume, pool="")))

    def rename(self, volume: Volume, name: str) -> Volume:
        """See `Backend.rename`."""
        return self._renamed(volume, name, f"volume '{volume.name}' cannot be renamed")

    def trash(self, volume: Volume, when: datetime) -> None:
        """See `Backend.trash`."""
        item = self._find(volume)
        what = f"volume '{volume.name}' cannot be moved to the trash"
        with self._working(item, what, volume.name):
            self._take_away(volume)
            self._describe(item, replace(item.volume, deleted=when))

    def undelete(self, volume: Volume, name: str) -> Volume:
        """See `Backend.undelete`."""
        return self._renamed(volume, name, f"volume '{volume.name}' cannot be brought back")

    def _renamed(self, volume: Volume, name: str, what: str) -> Volume:
        item = self._find(volume)
        self._require_free(name)
        renamed = replace(item.volume, name=name, deleted=None)
        with self._working(item, what, volume.name):
            self._take_away(volume)
            self._describe(item, renamed)
        with suppress(SnapvolError):  # for people who look at `lvs`: the tags have said it
            self._relabel(volume, renamed)
        return replace(renamed, pool=self.pool)

    def _relabel(self, volume: Volume, renamed: Volume) -> None:
        item = self._find(renamed)
        if volume.name != renamed.name:
            name = name_for(self._group, renamed.name)
            self._tools.change("lvrename", f"{self._group}/{item.lv.name}", f"{self._group}/{name}")
            self._put(replace(item.lv, name=name))

    # -- size ---------------------------------------------------------------------------------------------------

    def resize(self, volume: Volume, size: int) -> None:
        """See `Backend.resize`."""
        what = f"volume '{volume.name}' cannot be resized"
        item = self._find(volume)
        assert item.record is not None
        wanted = self._rounded(size)
        if wanted < item.lv.lv_size:
            less = units.spelled(size)
            raise Unsupported(
                f"{what}: it has {units.spelled(item.lv.lv_size)}, and LVM volumes cannot shrink to {less}",
                f"create a smaller one, snapvol create NEW -o size={less}, and copy the contents",
            )
        with self._working(item, what, volume.name):
            lv = self._extended(item.lv, wanted)
            self._active(lv)
            facts = lvmfilesystem.probe(lv.path)
            # Also where an earlier try came only as far as the device.
            if facts is None or lv.lv_size - facts.size >= lv.vg_extent_size:
                with lvmfilesystem.mounted(lv.path, item.record.filesystem) as root:
                    lvmfilesystem.grow(root, item.record.filesystem, lv.lv_size)

    def usage(self, volume: Volume) -> Usage:
        """See `Backend.usage`: what the thin pool has mapped, which counts lag behind what files have given up."""
        item = self._find(volume)
        with self._working(item, f"volume '{volume.name}' cannot be measured", volume.name):
            self._active(item.lv)
            used = devicemapper.thin_used(item.lv.device)
        return Usage(used=used or 0, limit=item.lv.lv_size)

    # -- removing -----------------------------------------------------------------------------------------------

    def destroy(self, volume: Volume) -> None:
        """See `Backend.destroy`."""
        what = f"volume '{volume.name}' cannot be removed"
        item = self._find(volume)
        inventory = self._inventory()
        snapshots = inventory.snapshots(volume.id)
        for snapshot in (it.snapshot(volume.name) for it in snapshots):
            if snapshot.holds:
                raise Refused(
                    f"{what}: {snapshot.full_name} is held ({', '.join(snapshot.holds)})",
                    f"snapvol release {snapshot.full_name}",
                )
        staged = inventory.staged(volume.id)
        lvs = [it.lv for it in (item, *snapshots, *([staged] if staged else []))]
        with self._working(item, what, volume.name), self._unmounted(item, what):
            self._points.unmount(self._points.directory / STAGED / volume.id)
            self._require_idle(lvs, what)
            _, *others = lvs
            if others:
                # From here on it is gone, whatever is killed: `open` goes on. What says so is removed last.
                self._retag(item.lv, add=[GONE], remove=[])
                self._remove(*others)
            self._remove(item.lv)

    @staticmethod
    def _require_idle(lvs: Sequence[LogicalVolume], what: str) -> None:
        end = time.monotonic() + _PATIENCE
        for lv in lvs:
            while lv.number is not None and devicemapper.openers(lv.device):
                if time.monotonic() > end:
                    raise InUse(f"{what}: {lv.path} is in use", f"look at: findmnt -S {lv.path}; fuser -v {lv.path}")
                time.sleep(_PAUSE)  # udev looks into devices for a moment

    # -- mounting -----------------------------------------------------------------------------------------------

    def mountpoint(self, volume: Volume) -> Path:
        """See `Backend.mountpoint`."""
        return self._points.of(volume.name)

    def mount(self, volume: Volume) -> Path:
        """See `Backend.mount`."""
        item = self._find(volume)
        with self._working(item, f"volume '{volume.name}' cannot be mounted", volume.name):
            return self._mount(item)

    def _mount(self, item: Item) -> Path:
        assert item.record is not None
        kind, point = item.record.filesystem, self.mountpoint(item.volume)
        number = self._active(item.lv)
        lvmfilesystem.fill(item.lv.path, item.lv.lv_size, item.lv.vg_extent_size)
        if kind == EXT4:
            self._own(item)
        self._points.mount(point, str(item.lv.path), kind, MOUNT[kind], device=number)
        return point

    def _own(self, item: Item) -> None:
        """Give a clone its own UUID where a kill came before that; where that fails it can be mounted all the same."""
        try:
            with explained(f"volume '{item.volume.name}' may have the UUID of what it is a copy of"):
                lvmfilesystem.own(item.lv.path, lvmfilesystem.uuid_for(item.of))
        except SnapvolError as error:
            log.warning("pool '%s': %s", self.pool, error)

    @contextmanager
    def _unmounted(self, item: Item, what: str) -> Iterator[bool]:
        """Take our own mount away while the context lasts; where it fails, everything is as before.

        Yields:
            Whether it was mounted.

        Raises:
            InUse: somebody else has it mounted.
        """
        mounted = self._take_away(item.volume)
        try:
            self._require_idle([item.lv], what)
            yield mounted
        except BaseException:
            if mounted:
                with suppress(SnapvolError):
                    self._mount(self._find(item.volume))  # its contents may have been replaced all the same
            raise

    def _take_away(self, volume: Volume) -> bool:
        """Unmount a volume; return whether it was mounted. Where a trashed one was, another of its name may be now."""
        if volume.deleted is not None:
            return False
        point = self.mountpoint(volume)
        mounted = self._points.found(point) is not None
        self._points.unmount(point)
        return mounted

    def unmount(self, volume: Volume) -> None:
        """See `Backend.unmount`."""
        self._points.unmount(self.mountpoint(volume))

    def sources(self, volume: Volume) -> tuple[str, ...]:
        """See `Backend.sources`."""
        item = self._inventory().contents().get(volume.id)
        number = item.lv.number if item is not None else None
        return () if number is None else (number,)
