"""What can be done to whole volumes of a tree pool."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from msgspec.structs import replace

from snapvol.backends import durable, removal, volumedir
from snapvol.backends.failures import explained
from snapvol.backends.ownership import Ownership
from snapvol.backends.treepool import TreePool, log
from snapvol.backends.volumedir import DATA, STAGED
from snapvol.errors import NotFound, Refused, SnapvolError
from snapvol.model import Damage, Snapshot, Usage, Volume


class TreeVolumes(TreePool):
    """Volumes, their trash and their contents; every change is one rename."""

    # -- volumes ------------------------------------------------------------------------------------------------

    def volumes(self) -> Sequence[Volume | Damage]:
        """See `Backend.volumes`."""
        return self._list(self._place.volumes, trash=False)

    def create(self, volume: Volume, *, size: int | None = None, source: Snapshot | None = None) -> None:
        """See `Backend.create`."""
        what = f"volume '{volume.name}' cannot be created"
        self._place.check()
        owner = Ownership.of(volume)
        self._check_options(volume)
        if size is not None:
            self._require_quota(what)
        origin = None if source is None else self._source(source, what)
        target = self._free_name(volume.name)
        self._place.require_room(what)
        with self._working(what) as work:
            made = work / "volume"
            os.mkdir(made, 0o700)
            os.mkdir(made / "snapshots", 0o700)
            if origin is None:
                self._make_root(made / DATA)
            else:
                self._copy_roots([(origin / DATA, made / DATA)], read_only=False)
            self._apply_options(made / DATA, volume)
            owner.give(made / DATA, fresh=origin is None)
            if size is not None:
                self._limit_to(made / DATA, size, what)
            durable.sync_directory(made / DATA)
            volumedir.write_volume(made, volume)
            durable.move(made, target)

    def _source(self, snapshot: Snapshot, what: str) -> Path:
        self._require_snapshots(what)
        return self._snapshot_directory(snapshot)

    def record(self, volume: Volume) -> None:
        """See `Backend.record`."""
        directory = self._directory(volume)
        with explained(f"the metadata of volume '{volume.name}' cannot be written"):
            volumedir.write_volume(directory, volume)

    def rename(self, volume: Volume, name: str) -> Volume:
        """See `Backend.rename`."""
        return self._move(volume, f"volume '{volume.name}' cannot be renamed", name=name)

    def _move(self, volume: Volume, what: str, *, name: str, deleted: datetime | None = None) -> Volume:
        directory, stored = self._find(volume)
        moved = replace(stored, name=name, deleted=deleted)
        target = self._free_name(moved.name) if moved.deleted is None else self._place.trashed(moved.id)
        with explained(what):
            volumedir.move(directory, target, moved)
        return moved

    def resize(self, volume: Volume, size: int) -> None:
        """See `Backend.resize`."""
        what = f"volume '{volume.name}' cannot be resized"
        self._require_quota(what)
        root = self._directory(volume) / DATA
        with explained(what):
            self._sync(root)  # counts lag behind until then
            self._limit_to(root, size, what)

    def _limit_to(self, root: Path, size: int, what: str) -> None:
        used = self._usage(root).used
        if used > size:
            raise Refused(f"{what}: {used} bytes are in use, more than the size of {size}", "give it a larger size")
        self._set_limit(root, size)

    def usage(self, volume: Volume) -> Usage:
        """See `Backend.usage`."""
        root = self._directory(volume) / DATA
        with explained(f"volume '{volume.name}' cannot be measured"):
            return self._usage(root)

    def destroy(self, volume: Volume) -> None:
        """See `Backend.destroy`."""
        what = f"volume '{volume.name}' cannot be removed"
        directory = self._directory(volume)
        for snapshot in self._snapshots(directory, volume):
            if isinstance(snapshot, Snapshot) and snapshot.holds:
                raise Refused(
                    f"{what}: {snapshot.full_name} is held ({', '.join(snapshot.holds)})",
                    f"snapvol release {snapshot.full_name}",
                )
        with explained(what):
            _refuse_foreign(directory, volume, what)
            removal.refuse_mounted(directory, what)
            self._discard(directory)

    # -- trash --------------------------------------------------------------------------------------------------

    def trash(self, volume: Volume, when: datetime) -> None:
        """See `Backend.trash`."""
        what = f"volume '{volume.name}' cannot be moved to the trash"
        self._move(volume, what, name=volume.name, deleted=when)

    def trashed(self) -> Sequence[Volume | Damage]:
        """See `Backend.trashed`."""
        return self._list(self._place.trash, trash=True)

    def undelete(self, volume: Volume, name: str) -> Volume:
        """See `Backend.undelete`."""
        what = f"volume '{volume.name}' cannot be brought back"
        return self._move(volume, what, name=name)

    # -- mounting -----------------------------------------------------------------------------------------------

    def mountpoint(self, volume: Volume) -> Path:
        """See `Backend.mountpoint`: the contents are where they are, no mount is made."""
        return self._place.volume(volume.name) / DATA

    def mount(self, volume: Volume) -> Path:
        """See `Backend.mount`."""
        return self._directory(volume) / DATA

    def unmount(self, volume: Volume) -> None:
        """See `Backend.unmount`."""

    def left_out(self, volume: Volume) -> Sequence[str]:
        """See `Backend.left_out`."""
        root = self._directory(volume) / DATA
        with explained(f"volume '{volume.name}' cannot be looked through"):
            return [_in_a_line(path) for path in self._left_out(root)]

    # -- replacing contents -------------------------------------------------------------------------------------

    def stage(self, volume: Volume) -> Path:
        """See `Backend.stage`."""
        self.discard_stage(volume)
        directory = self._directory(volume)
        what = f"new contents of volume '{volume.name}' cannot be prepared"
        with self._working(what) as work:
            self._make_root(work / DATA)
            self._apply_options(work / DATA, volume)
            Ownership.of(volume).give(work / DATA, fresh=True)
            self._inherit_limit(directory / DATA, work / DATA)
            durable.move(work / DATA, directory / STAGED)
        return directory / STAGED

    def adopt_stage(self, volume: Volume) -> None:
        """See `Backend.adopt_stage`."""
        directory = self._directory(volume)
        what = f"the new contents of volume '{volume.name}' cannot take their place"
        with explained(what):
            if not volumedir.is_directory(directory / STAGED):
                raise NotFound(f"{what}: nothing was staged")
            self.refuse_left_out(volume, what)
            self._sync(directory / STAGED)
            self._swap(directory, directory / STAGED, what)

    def discard_stage(self, volume: Volume) -> None:
        """See `Backend.discard_stage`."""
        staged = self._directory(volume) / STAGED
        with explained(f"the staged contents of volume '{volume.name}' cannot be removed"):
            if volumedir.is_directory(staged):
                self._discard(staged)

    def _swap(self, directory: Path, fresh: Path, what: str) -> None:
        removal.refuse_mounted(directory, what)
        if volumedir.is_directory(directory / volumedir.OLD):
            self._discard(directory / volumedir.OLD)
        old = volumedir.swap(directory, fresh)
        try:
            self._discard(old)
        except SnapvolError as error:
            # The new contents are in place; the next swap or `open` tries again.
            log.warning("pool '%s': %s", self.pool, error)

    def _inherit_limit(self, root: Path, fresh: Path) -> None:
        limit = self._limit(root)
        if limit is not None:
            self._set_limit(fresh, limit)


def _in_a_line(path: str) -> str:
    return "".join(it if it.isprintable() else it.encode("unicode_escape").decode() for it in path)


def _refuse_foreign(directory: Path, volume: Volume, what: str) -> None:
    """Refuse to remove a volume into which somebody has put things of their own (T6)."""
    foreign = [entry for entry in volumedir.entries(directory) if entry.name not in _PARTS]
    foreign += [
        entry for entry in volumedir.entries(directory / "snapshots") if volumedir.read_snapshot(entry, volume) is None
    ]
    if foreign:
        raise Refused(f"{what}: {foreign[0]} is not snapvol's", f"move {foreign[0]} away")


_PARTS = {
    "snapshots",
    volumedir.SIDECAR,
    volumedir.NEXT,
    DATA,
    volumedir.OLD,
    STAGED,
    volumedir.SIDECAR + durable.FRESH,
    volumedir.NEXT + durable.FRESH,
}
