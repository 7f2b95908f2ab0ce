"""Volumes as LVM thin volumes, each with a file system of its own."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from msgspec.structs import replace

from snapvol.backend import Change, Image, Range, Tree
from snapvol.backends import devicemapper, freeze, lvmfilesystem
from snapvol.backends.failures import explained
from snapvol.backends.lvmfilesystem import READ
from snapvol.backends.lvminventory import Item, identity, name_for
from snapvol.backends.lvmreport import LogicalVolume
from snapvol.backends.lvmstage import LvmStage
from snapvol.backends.lvmtags import FRESH, Record, Role
from snapvol.backends.mountpoints import SNAPSHOTS
from snapvol.errors import AlreadyExists, InUse, Protected, SnapvolError, StorageFailed, UsageError
from snapvol.model import Damage, Snapshot, Volume, new_id, now
from snapvol.names import snapshot_name

log = logging.getLogger(__name__)
_TRIES, _PAUSE = 5, 0.1  # seconds


class Lvm(LvmStage):
    """Thin volumes and their thin snapshots, which LVM leaves inactive and snapvol activates while it reads them."""

    kind = "lvm"

    # -- snapshots ----------------------------------------------------------------------------------------------

    def snapshots(self, volume: Volume) -> Sequence[Snapshot | Damage]:
        """See `Backend.snapshots`."""
        item = self._find(volume)
        return [it.snapshot(item.volume.name) for it in self._current().snapshots(volume.id)]

    def snapshot(
        self, volumes: Sequence[Volume], name: str, *, message: str = "", made_by: str = "user"
    ) -> Sequence[Snapshot]:
        """See `Backend.snapshot`."""
        snapshot_name(name)
        what = f"snapshot {', '.join(f'{volume.name}@{name}' for volume in volumes)} cannot be made"
        if len({volume.id for volume in volumes}) < len(volumes):
            raise UsageError(f"{what}: a volume is named twice")
        items = [self._find(volume) for volume in volumes]
        for item in items:
            if any(it.snapshot("").name == name for it in self._inventory().snapshots(item.of)):
                raise AlreadyExists(f"'{item.volume.name}@{name}' exists already", "choose another name")
        self._require_room(what)
        created = now()
        wanted = [
            Snapshot(
                volume=item.volume.name,
                volume_id=item.of,
                name=name,
                id="",
                created=created,
                message=message,
                made_by=made_by,
            )
            for item in items
        ]
        with explained(what):
            for item in items:
                self._require_going(item, what)
                self._clean(item)
            made = [self._take(items[0], wanted[0])] if len(items) == 1 else self._take_together(items, wanted)
        return [replace(snapshot, id=identity(lv)) for snapshot, lv in zip(wanted, made, strict=True)]

    @staticmethod
    def _require_going(item: Item, what: str) -> None:
        """Refuse to snapshot what somebody has halted: LVM would do it, and break the thin pool (Linux 6.1).

        Raises:
            InUse: somebody has.
        """
        for _ in range(_TRIES):
            if not devicemapper.suspended(item.lv.device):
                return
            time.sleep(_PAUSE)
        raise InUse(f"{what}: somebody has halted {item.lv.path}", f"dmsetup resume {item.lv.device}")

    def _clean(self, item: Item) -> None:
        """Replay the journal of what nobody has mounted: nothing can be replayed into a snapshot."""
        assert item.record is not None
        self._active(item.lv)
        if not lvmfilesystem.in_use(item.lv.path):
            facts = lvmfilesystem.probe(item.lv.path)
            if facts is None or facts.unclean:
                with lvmfilesystem.mounted(item.lv.path, item.record.filesystem):
                    pass

    def _take(self, item: Item, snapshot: Snapshot, *marks: str, group: str = "") -> LogicalVolume:
        assert item.record is not None
        record = Record(role=Role.SNAPSHOT, filesystem=item.record.filesystem, snapshot=snapshot, group=group)
        with self._working(item, f"{item.lv.name} cannot be snapshotted", snapshot.volume):
            try:
                return self._create(
                    name_for(self._group, snapshot.volume, snapshot.name),
                    item.lv.lv_size,
                    *("--snapshot", "--setactivationskip", "y", "--permission", "r", f"{self._group}/{item.lv.name}"),
                    tags=self._tags(record, *marks),
                )
            except SnapvolError:
                # An LVM that was killed has left the origin halted, and whoever writes to it waiting.
                if devicemapper.suspended(item.lv.device):
                    devicemapper.resume(item.lv.device)
                raise

    def _take_together(self, items: Sequence[Item], wanted: Sequence[Snapshot]) -> list[LogicalVolume]:
        """Snapshot several volumes at one instant; one that nobody has mounted does not change meanwhile."""
        made: list[LogicalVolume] = []
        group = new_id()
        try:
            for item, snapshot in zip(items, wanted, strict=True):
                made.append(self._take(item, snapshot, FRESH, group=group))
            pairs = [
                freeze.Pair(device=item.lv.device, origin=item.lv.thin_id or 0, snapshot=lv.thin_id or 0)
                for item, lv in zip(items, made, strict=True)
                if lvmfilesystem.in_use(item.lv.path)
            ]
            if len(pairs) > 1:
                freeze.retake(self._thin, pairs)
            self._tools.retag([lv.name for lv in made], remove=[FRESH])
        except BaseException:
            for lv in made:
                with suppress(SnapvolError):
                    freeze.remake(self._thin, lv.thin_id or 0)
                self._discard(lv)
            raise
        committed = [replace(lv, lv_tags=",".join(tag for tag in lv.tags if tag != FRESH)) for lv in made]
        for lv in committed:
            self._put(lv)
        return committed

    def destroy_snapshot(self, snapshot: Snapshot) -> None:
        """See `Backend.destroy_snapshot`."""
        what = f"snapshot '{snapshot.full_name}' cannot be removed"
        item = self._find_snapshot(snapshot)
        holds = item.snapshot("").holds
        if holds:
            raise Protected(f"{what}: it is held ({', '.join(holds)})", f"snapvol release {snapshot.full_name}")
        with self._working(item, what, snapshot.full_name):
            self._require_idle([item.lv], what)
            self._remove(item.lv)

    def hold(self, snapshot: Snapshot, tag: str) -> None:
        """See `Backend.hold`."""
        self._set_hold(snapshot, tag, held=True)

    def release(self, snapshot: Snapshot, tag: str) -> None:
        """See `Backend.release`."""
        self._set_hold(snapshot, tag, held=False)

    def _set_hold(self, snapshot: Snapshot, tag: str, *, held: bool) -> None:
        item = self._find_snapshot(snapshot)
        assert item.record is not None
        assert item.record.snapshot is not None
        stored = item.record.snapshot
        if (tag in stored.holds) == held:
            return
        holds = (*stored.holds, tag) if held else tuple(other for other in stored.holds if other != tag)
        with self._working(item, f"the holds of '{snapshot.full_name}' cannot be changed", snapshot.full_name):
            self._rewrite(item, replace(item.record, snapshot=replace(stored, holds=holds)))

    # -- reading ------------------------------------------------------------------------------------------------

    @contextmanager
    def open_snapshot(self, snapshot: Snapshot) -> Iterator[Tree]:
        """See `Backend.open_snapshot`."""
        item = self._find_snapshot(snapshot)
        assert item.record is not None
        kind = item.record.filesystem
        with (
            self._borrowed(item, snapshot) as device,
            self._points.borrowed(str(device), kind, READ[kind], kind=SNAPSHOTS) as root,
        ):
            yield Tree(root=root, identity=snapshot.id, stable_inodes=True)

    @contextmanager
    def _borrowed(self, item: Item, snapshot: Snapshot) -> Iterator[Path]:
        """Activate a snapshot while the context lasts; others may do so at the same time."""
        with self._working(item, f"snapshot '{snapshot.full_name}' cannot be opened", snapshot.full_name):
            descriptor = self._held_open(item.lv)
        try:
            yield item.lv.path
        finally:
            os.close(descriptor)
            if devicemapper.openers(item.lv.device) == 0:
                with suppress(SnapvolError):  # somebody else has just opened it, or `open` does it
                    self._tools.deactivate([item.lv.name])

    def _held_open(self, lv: LogicalVolume) -> int:
        """Return a descriptor of the device: as long as it is open nobody takes the device away."""
        for left in reversed(range(_TRIES)):
            try:
                number = self._active(lv)
                descriptor = os.open(lv.path, os.O_RDONLY | os.O_CLOEXEC)
            except (OSError, SnapvolError):
                if not left:
                    raise
            else:
                if lv.number == number:
                    return descriptor
                os.close(descriptor)
            time.sleep(_PAUSE)
        raise StorageFailed(f"{lv.path} comes and goes", "look at `dmesg`")

    def changes(self, base: Snapshot, snapshot: Snapshot) -> Iterable[Change] | None:
        """See `Backend.changes`."""
        return None

    # -- images -------------------------------------------------------------------------------------------------

    @contextmanager
    def open_image(self, snapshot: Snapshot) -> Iterator[Image]:
        """See `Backend.open_image`."""
        item = self._find_snapshot(snapshot)
        assert item.record is not None
        with self._borrowed(item, snapshot) as device:
            yield Image(
                device=device,
                size=item.lv.lv_size,
                identity=snapshot.id,
                filesystem=item.record.filesystem,
                mapped=self._mapped(item.lv),
            )

    def _mapped(self, lv: LogicalVolume) -> tuple[Range, ...]:
        pool = self._usable(self._inventory())
        try:
            return self._map().mapped(lv.thin_id or 0, pool.chunk_size or 0, lv.lv_size)
        except StorageFailed as error:
            log.warning("pool '%s': all of %s is read: %s", self.pool, lv.name, error)
            return ((0, lv.lv_size),)

    def image_changes(self, base: Snapshot, snapshot: Snapshot) -> Sequence[Range] | None:
        """See `Backend.image_changes`."""
        old, new = self._find_snapshot(base).lv, self._find_snapshot(snapshot).lv
        if base.volume_id != snapshot.volume_id or old.lv_size != new.lv_size:
            return None
        if old.uuid == new.uuid:
            return []
        pool = self._usable(self._inventory())
        try:
            return self._map().differing(old.thin_id or 0, new.thin_id or 0, pool.chunk_size or 0, new.lv_size)
        except StorageFailed as error:
            log.warning("pool '%s': what changed since %s is not known: %s", self.pool, base.full_name, error)
            return None
