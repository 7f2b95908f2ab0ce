"""Replacing the contents of a ZFS volume: going back to a snapshot, and taking over what was staged."""

from __future__ import annotations

from pathlib import Path

from msgspec.structs import replace

from snapvol.backends import zfsfamily, zfsnames, zfsoptions, zfsrecords
from snapvol.backends.failures import explained
from snapvol.backends.ownership import Ownership
from snapvol.backends.removal import refuse_mounted
from snapvol.backends.zfsfamily import Dataset, Family, Point
from snapvol.backends.zfsrecords import Record, Role
from snapvol.backends.zfsstate import same
from snapvol.backends.zfstool import pairs
from snapvol.backends.zfsvolumes import ZfsVolumes
from snapvol.errors import NotFound, SnapvolError, UsageError
from snapvol.model import Snapshot, Volume


class ZfsContents(ZfsVolumes):
    """Volumes whose contents can be replaced; their snapshots stay."""

    def rollback(self, volume: Volume, snapshot: Snapshot) -> None:
        """See `Backend.rollback`.

        `zfs rollback` destroys whatever is newer than the snapshot, somebody else's snapshots too. So it is used for
        the newest one only; else a clone of the snapshot takes the volume's place.
        """
        what = f"volume '{volume.name}' cannot be rolled back to '{snapshot.name}'"
        if snapshot.volume_id != volume.id:
            raise UsageError(f"{what}: '{snapshot.full_name}' is another volume's snapshot")
        family, dataset, point = self._find_point(snapshot)
        if not same(family.volume, volume):
            raise NotFound(f"{what}: there is no such volume any more", "snapvol ls")
        self._unlock(family.head, what)
        mounted = self._take_away(family, what)
        head = family.head.name
        if dataset is family.head and point is dataset.points[-1]:
            self._tool.change(what, "rollback", point.name)
        else:
            head = self._clone_over(family, dataset, point, what)
        self._bring_back(volume, head, mounted=mounted)

    def _clone_over(self, family: Family, dataset: Dataset, point: Point, what: str) -> str:
        """Put a clone of the snapshot in the place of the present contents; return its name.

        The clone counts from the moment when it has its name: `open` undoes what came before and finishes what follows.
        """
        old, record = family.head, family.record
        carried = zfsoptions.carried(self._properties(old.name, what))
        if old.limit:
            # ZFS lets contents grow a little beyond their limit, but accepts no limit below what there is.
            carried |= zfsoptions.quota(max(old.limit, point.referenced))
        fresh = replace(record, generation=record.generation + 1)
        aside, name = self._aside(family), self._parent.below(zfsfamily.place(fresh))
        self._tool.change(what, "rename", old.name, aside)
        source = f"{aside}@{point.leaf}" if dataset is old else point.name
        clone = self._parent.below(zfsnames.going_back(family.volume.id))
        properties = pairs(carried | zfsrecords.properties(fresh))
        try:
            self._tool.change(what, "clone", *properties, source, clone)
            with self._swept_on_failure(clone):
                self._tool.change(what, "rename", clone, name)
        except SnapvolError:
            self._attempt(lambda: self._tool.change(what, "rename", aside, old.name))
            raise
        self._remember(family, family.volume, name, aside)
        self._promote(dataset, name)
        left = {aside: old, dataset.name: dataset} if dataset is not old else {aside: old}
        self._clear_history(family, [it for it, was in left.items() if not _keeps(was, dataset, point)])
        return name

    def _promote(self, dataset: Dataset, name: str) -> None:
        """Let the older snapshots follow, so that other programs find them, and the base of their transfers, too.

        With encryption that would unload the key, and a name helps nobody who has no key.
        """
        if dataset.key == "-":
            self._attempt(lambda: self._tool.change(f"{name} cannot be promoted", "promote", name))

    def _clear_history(self, family: Family, names: list[str]) -> None:
        """Remove earlier contents of which no snapshot is left."""
        if names:
            left = self._sweep(*names, spare=True)
            known = self._known[family.volume.id]
            self._known[family.volume.id] = replace(
                known, datasets=tuple(name for name in known.datasets if name in left or name not in names)
            )

    # -- staging ------------------------------------------------------------------------------------------------

    def stage(self, volume: Volume) -> Path:
        """See `Backend.stage`."""
        family = self._find(volume)
        self._drop_stage(volume)
        what = f"new contents of volume '{volume.name}' cannot be prepared"
        self._unlock(family.head, what)
        owner = Ownership.of(family.volume)
        asked = zfsoptions.check(family.volume, self._parent.properties)
        carried = zfsoptions.carried(self._properties(family.head.name, what))
        properties = carried | zfsoptions.for_new(asked, self._parent.properties, family.head.limit or None)
        record = Record(volume=family.volume, role=Role.STAGE)
        name = self._parent.below(zfsnames.staged(volume.id))
        try:
            self._tool.change(what, "create", *pairs(properties | zfsrecords.properties(record)), name)
        except SnapvolError as error:
            raise zfsoptions.explained(family.volume, error) from error
        self._staged[volume.id] = name
        point = self._private_point(volume)
        self._mountpoints.mount(point, name, "zfs")
        with explained(what):
            owner.give(point, fresh=True)
        return point

    def adopt_stage(self, volume: Volume) -> None:
        """See `Backend.adopt_stage`."""
        family = self._find(volume)
        what = f"the new contents of volume '{volume.name}' cannot take their place"
        staged = self._staged.get(volume.id)
        if staged is None:
            raise NotFound(f"{what}: nothing was staged")
        mounted = self._take_away(family, what)
        refuse_mounted(self._private_point(volume), what)
        self._mountpoints.unmount(self._private_point(volume))
        fresh = replace(family.record, generation=family.record.generation + 1)
        aside, name = self._aside(family), self._parent.below(zfsfamily.place(fresh))
        self._tool.change(what, "rename", family.head.name, aside)
        try:
            self._tool.change(what, "rename", staged, name)
            self._staged[volume.id] = name
            self._record(name, fresh, what)
        except SnapvolError:
            self._put_back(volume, staged, family.head.name, aside, what)
            raise
        del self._staged[volume.id]
        self._remember(family, family.volume, name, aside)
        self._clear_history(family, [] if family.head.needed else [aside])
        self._bring_back(volume, name, mounted=mounted)

    def _put_back(self, volume: Volume, staged: str, head: str, aside: str, what: str) -> None:
        steps = [lambda: self._tool.change(what, "rename", aside, head)]
        name = self._staged[volume.id]
        if name != staged:
            steps.insert(0, lambda: self._tool.change(what, "rename", name, staged))
            self._staged[volume.id] = staged
        self._attempt(*steps)

    def discard_stage(self, volume: Volume) -> None:
        """See `Backend.discard_stage`."""
        self._find(volume)
        self._drop_stage(volume)


def _keeps(was: Dataset, dataset: Dataset, point: Point) -> bool:
    """Return whether a dataset still has snapshots that somebody wants once the older ones have followed a clone."""
    if was is not dataset or was.key != "-":
        return was.needed
    return any(it.alive and it.txg > point.txg for it in was.points)
