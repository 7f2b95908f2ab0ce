"""Replacing a volume's contents: a logical volume is staged beside it, and one change of tags puts it in place."""

from __future__ import annotations

import logging
from pathlib import Path

from msgspec.structs import replace

from snapvol import units
from snapvol.backends import lvmfilesystem
from snapvol.backends.failures import explained
from snapvol.backends.lvmfilesystem import MOUNT
from snapvol.backends.lvminventory import Item, name_for
from snapvol.backends.lvmreport import LogicalVolume
from snapvol.backends.lvmtags import FRESH, Record, Role, encode, pieces
from snapvol.backends.lvmvolumes import STAGED, LvmVolumes
from snapvol.backends.ownership import Ownership
from snapvol.errors import NotFound, Refused, SnapvolError, StorageFailed, UsageError
from snapvol.model import Snapshot, State, Volume

log = logging.getLogger(__name__)
_NO_OWNER = Ownership(uid=None, gid=None, mode=None)


class LvmStage(LvmVolumes):
    """Contents that are made aside: restored trees and images, and what a snapshot held."""

    def stage(self, volume: Volume) -> Path:
        """See `Backend.stage`."""
        what = f"new contents of volume '{volume.name}' cannot be prepared"
        self.discard_stage(volume)
        item = self._find(volume)
        assert item.record is not None
        wanted = self._wanted(volume, item.record.filesystem)
        self._require_room(what)
        size = self._size(volume, item)
        lvmfilesystem.smallest(volume.name, wanted.filesystem, size)
        with explained(what):
            lv = self._new(item.volume, Role.STAGED, wanted, size)
            self._retag(lv, add=[], remove=[FRESH])
            point, kind = self._stage(volume), wanted.filesystem
            self._points.mount(point, str(lv.path), kind, MOUNT[kind], device=self._active(lv))
        return point

    def _stage(self, volume: Volume) -> Path:
        return self._points.directory / STAGED / volume.id

    def _size(self, volume: Volume, item: Item) -> int:
        """Return how large new contents become: as the old ones, which may still be only a volume's beginning."""
        size = volume.options.get("size")
        if volume.state is State.RESTORING and size is not None:
            return self._rounded(units.size(size))
        return item.lv.lv_size

    def stage_image(self, volume: Volume, size: int) -> Path:
        """See `Backend.stage_image`."""
        what = f"an image for volume '{volume.name}' cannot be prepared"
        self.discard_stage(volume)
        item = self._find(volume)
        most = self._size(volume, item)
        if size > most:
            raise Refused(
                f"{what}: it has {units.spelled(size)}, the volume {units.spelled(most)}",
                f"snapvol resize {volume.name} {units.spelled(size)}",
            )
        self._require_room(what)
        with explained(what):
            record = Record(role=Role.STAGED, filesystem="", volume=item.volume)
            lv = self._blank(volume.name, record, self._rounded(size))
            self._retag(lv, add=[], remove=[FRESH])
        return lv.path

    def discard_stage(self, volume: Volume) -> None:
        """See `Backend.discard_stage`."""
        item = self._find(volume)
        what = f"the staged contents of volume '{volume.name}' cannot be removed"
        with self._working(item, what, volume.name):
            self._points.unmount(self._stage(volume))
            staged = self._inventory().staged(volume.id)
            if staged is not None:
                self._require_idle([staged.lv], what)
                self._remove(staged.lv)

    def adopt_stage(self, volume: Volume) -> None:
        """See `Backend.adopt_stage`."""
        what = f"the new contents of volume '{volume.name}' cannot take their place"
        item = self._find(volume)
        staged = self._inventory().staged(volume.id)
        if staged is None:
            raise NotFound(f"{what}: nothing was staged")
        with self._working(item, what, volume.name):
            self._points.unmount(self._stage(volume))
            self._require_idle([staged.lv], what)
            assert staged.record is not None
            lv, kind = staged.lv, staged.record.filesystem
            if not kind:
                lv, kind = self._checked_image(volume, lv, self._size(volume, item), what)
            with self._unmounted(item, what) as mounted:
                self._replace(item, lv, kind)
            if mounted:
                self._mount(self._find(volume))

    def _checked_image(self, volume: Volume, lv: LogicalVolume, size: int, what: str) -> tuple[LogicalVolume, str]:
        """Make a file system that was copied here one of its own, as large as the volume.

        Raises:
            StorageFailed: there is none, or it cannot be mounted.
        """
        facts = lvmfilesystem.probe(lv.path)
        if facts is None:
            raise StorageFailed(f"{what}: neither ext4 nor XFS is in the image", "verify the backup: snapvol verify")
        if facts.size > lv.lv_size:
            raise StorageFailed(f"{what}: its {facts.kind} has {facts.size} bytes, the image {lv.lv_size}")
        with lvmfilesystem.mounted(lv.path, facts.kind):
            pass  # what has to be replayed is, before anything else is changed
        lv = self._extended(lv, size)
        if lv.lv_size > facts.size:
            with lvmfilesystem.mounted(lv.path, facts.kind) as root:
                lvmfilesystem.grow(root, facts.kind, lv.lv_size)
        lvmfilesystem.own(lv.path, lvmfilesystem.uuid_for(volume.id))
        return lv, facts.kind

    def _replace(self, item: Item, lv: LogicalVolume, kind: str) -> None:
        """Make ``lv`` the contents of the volume that ``item`` is, by one change of its tags; then remove the old."""
        assert item.record is not None
        record = replace(item.record, filesystem=kind, generation=item.record.generation + 1)
        remove = [*pieces(lv.tags), *({FRESH} & set(lv.tags))]
        add = encode(record)
        try:
            self._retag(lv, add=add, remove=remove)
        except SnapvolError as error:
            found = self._refreshed().contents().get(item.of)
            if found is None or found.lv.uuid != lv.uuid:
                raise
            log.warning("pool '%s': %s", self.pool, error)  # it is in place all the same
        self._discard(item.lv)

    def rollback(self, volume: Volume, snapshot: Snapshot) -> None:
        """See `Backend.rollback`."""
        what = f"volume '{volume.name}' cannot be rolled back to '{snapshot.name}'"
        if snapshot.volume_id != volume.id:
            raise UsageError(f"{what}: '{snapshot.full_name}' is another volume's snapshot")
        item, source = self._find(volume), self._find_snapshot(snapshot)
        assert item.record is not None
        assert source.record is not None
        kind = source.record.filesystem
        record = replace(item.record, filesystem=kind, generation=item.record.generation + 1)
        name = name_for(self._group, volume.name)
        with self._working(source, what, snapshot.full_name), self._unmounted(item, what) as mounted:
            if source.lv.lv_size >= item.lv.lv_size:
                self._copy(source, name, record)  # with its tags it is the contents
                self._discard(item.lv)
            else:
                lv = self._copy(source, name, record, FRESH)
                try:
                    lv = self._extended(lv, item.lv.lv_size)
                    self._prepare(lv, kind, _NO_OWNER, grown=True)
                    self._replace(item, lv, kind)
                except BaseException:
                    if self._inventory().contents().get(volume.id) == item:
                        self._discard(lv)
                    raise
        if mounted:
            self._mount(self._find(volume))
