"""What can be done to whole volumes of a ZFS pool."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from msgspec.structs import replace

from snapvol.backends import zfsfamily, zfsgarbage, zfsholds, zfskeys, zfsnames, zfsoptions, zfsrecords
from snapvol.backends.failures import explained
from snapvol.backends.ownership import Ownership
from snapvol.backends.zfsfamily import Dataset, Family, Point
from snapvol.backends.zfsrecords import Record, Role
from snapvol.backends.zfsstate import Known, ZfsPool
from snapvol.backends.zfstool import Value, pairs
from snapvol.backends.zfstool import explained as translated
from snapvol.errors import AlreadyExists, InUse, Refused, SnapvolError, ToolFailed
from snapvol.model import Snapshot, Usage, Volume
from snapvol.mountinfo import Mounts


class ZfsVolumes(ZfsPool):
    """Volumes, their trash and their mounts; what counts are their properties, which one command changes at once."""

    # -- making -------------------------------------------------------------------------------------------------

    def create(self, volume: Volume, *, size: int | None = None, source: Snapshot | None = None) -> None:
        """See `Backend.create`.

        It exists from the moment when its dataset has its name, which comes last.
        """
        what = f"volume '{volume.name}' cannot be created"
        self._parent.check()
        owner = Ownership.of(volume)
        name = self._parent.below(zfsnames.volume(volume.name))
        making = self._parent.below(zfsnames.staged(volume.id))
        asked = zfsoptions.check(volume, self._parent.properties)
        self._refuse_taken(volume.name)
        origin = None if source is None else self._origin(source, size, what)
        self._parent.require_room(what)
        if origin is None:
            verb, properties = "create", zfsoptions.for_new(asked, self._parent.properties, size)
        else:
            if any(name in asked for name in zfsoptions.FIXED):
                zfsoptions.refuse_unlike(asked, self._properties(origin.dataset, what), what)
            verb, properties = "clone", zfsoptions.for_clone(asked, self._parent.properties, size)
        words = pairs(properties | zfsrecords.properties(Record(volume=volume)))
        try:
            self._tool.change(what, verb, *words, *([origin.name] if origin else []), making)
        except SnapvolError as error:
            raise zfsoptions.explained(volume, error) from error
        with self._swept_on_failure(making):
            if owner != _NOBODY:
                with self._mountpoints.borrowed(making, "zfs") as root, explained(what):
                    owner.give(root, fresh=origin is None)
            self._rename(making, name, volume, what)
        self._known[volume.id] = Known(name=volume.name, datasets=(name,))

    def _origin(self, source: Snapshot, size: int | None, what: str) -> Point:
        _, dataset, point = self._find_point(source)
        if size is not None and point.referenced > size:
            raise Refused(
                f"{what}: {point.referenced} bytes are in use in {source.full_name}, more than the size of {size}",
                "give it a larger size",
            )
        self._unlock(dataset, what)
        return point

    def _properties(self, dataset: str, what: str) -> Mapping[str, Value]:
        try:
            return self._tool.get(["all"], [dataset])[dataset]
        except ToolFailed as error:
            raise translated(what, error) from error

    def _record(self, dataset: str, record: Record, what: str) -> None:
        words = [f"{name}={value}" for name, value in zfsrecords.properties(record).items()]
        self._tool.change(what, "set", *words, dataset)

    # -- changing -----------------------------------------------------------------------------------------------

    def record(self, volume: Volume) -> None:
        """See `Backend.record`."""
        family = self._find(volume)
        what = f"the metadata of volume '{volume.name}' cannot be written"
        self._record(family.head.name, replace(family.record, volume=volume), what)

    def rename(self, volume: Volume, name: str) -> Volume:
        """See `Backend.rename`."""
        zfsnames.volume(name)
        family = self._find(volume)
        return self._move(family, replace(family.volume, name=name), f"volume '{volume.name}' cannot be renamed")

    def trash(self, volume: Volume, when: datetime) -> None:
        """See `Backend.trash`."""
        family = self._find(volume)
        what = f"volume '{volume.name}' cannot be moved to the trash"
        self._move(family, replace(family.volume, deleted=when), what)

    def undelete(self, volume: Volume, name: str) -> Volume:
        """See `Backend.undelete`."""
        zfsnames.volume(name)
        family = self._find(volume)
        what = f"volume '{volume.name}' cannot be brought back"
        return self._move(family, replace(family.volume, name=name, deleted=None), what)

    def _move(self, family: Family, moved: Volume, what: str) -> Volume:
        """Rename the dataset, which nobody minds, then write who it is: that counts.

        A kill between the two leaves a dataset whose name does not fit; `open` renames it back.
        """
        if moved.deleted is None:
            self._refuse_taken(moved.name)
        self._take_away(family, what)
        record = replace(family.record, volume=moved)
        old, new = family.head.name, self._parent.below(zfsfamily.place(record))
        if new != old:
            self._rename(old, new, moved, what)
        try:
            self._record(new, record, what)
        except SnapvolError:
            self._attempt(lambda: self._tool.change(what, "rename", new, old))
            raise
        self._remember(family, moved, new)
        return moved

    def _rename(self, old: str, new: str, volume: Volume, what: str) -> None:
        try:
            self._tool.change(what, "rename", old, new)
        except AlreadyExists as error:
            raise self._taken(volume.name) from error

    def resize(self, volume: Volume, size: int) -> None:
        """See `Backend.resize`."""
        what = f"volume '{volume.name}' cannot be resized"
        self._parent.check()
        self._tool.sync(self._parent.zpool, what)  # counts lag behind until then
        head = self._find(volume).head
        if head.referenced > size:
            raise Refused(
                f"{what}: {head.referenced} bytes are in use, more than the size of {size}", "give it a larger size"
            )
        self._tool.change(what, "set", f"refquota={size}", head.name)

    def usage(self, volume: Volume) -> Usage:
        """See `Backend.usage`."""
        head = self._find(volume).head
        return Usage(used=head.referenced, exclusive=head.written, limit=head.limit or None)

    def _drop_stage(self, volume: Volume) -> None:
        staged = self._staged.pop(volume.id, None)
        if staged is not None:
            self._mountpoints.unmount(self._private_point(volume))
            self._sweep(staged)

    # -- destroying ---------------------------------------------------------------------------------------------

    def destroy(self, volume: Volume) -> None:
        """See `Backend.destroy`.

        Clones of its snapshots go on: the storage that they share with it is theirs afterwards.
        """
        what = f"volume '{volume.name}' cannot be removed"
        family = self._find(volume)
        if family.record.generation:
            # Earlier contents that were left behind would be the volume's from then on.
            self._survey(points=False)
            family = self._find(volume)
        for dataset in family.datasets:
            zfsgarbage.refuse_foreign(dataset, what)
        self._refuse_held(family, family.points, Refused, what)
        self._refuse_foreign_clones(family, family.points, Refused, what)
        self._refuse_used(family, what)
        self._drop_stage(volume)
        self._take_away(family, what)
        names = [dataset.name for dataset in family.datasets]
        if len(names) == 1 and not family.head.points:
            self._tool.change(what, "destroy", names[0])
        else:
            # The present contents first: from then on the volume is gone, and `open` would remove the rest.
            gone = zfsrecords.properties(replace(family.record, role=Role.GONE))
            self._tool.change(what, "set", *(f"{name}={value}" for name, value in gone.items()), *names)
            aside = self._aside(family)
            if self._sweep(*names, known=family.datasets) and names[0] != aside:
                # Something still has it open. Its name at least is free.
                self._attempt(lambda: self._tool.change(what, "rename", names[0], aside))
        self._known.pop(volume.id, None)

    def _refuse_used(self, family: Family, what: str) -> None:
        """Check that nobody but us has the volume mounted, in any mount namespace (T9): what is marked as gone goes.

        Raises:
            InUse: somebody has.
        """
        live = family.volume.deleted is None
        # Where a trashed volume was mounted, another one of its name may be.
        point = self.mountpoint(family.volume) if live else self._private_point(family.volume)
        for user in Mounts.read().users(point, (family.head.name,)):
            if user.here:
                raise InUse(f"{what}: something is mounted at {user.mountpoint}", f"umount {user.mountpoint}")
            raise InUse(f"{what}: process {user.pid} {user.command} has it mounted at {user.mountpoint}", "end it")

    def _refuse_held(self, family: Family, points: list[Point], kind: type[Refused], what: str) -> None:
        for name, holds in zfsholds.read(self._tool, [point for point in points if point.held]).items():
            found = holds.in_the_way(name)
            if found is not None:
                words, release = found
                shown = next(_shown(family, point) for point in points if point.name == name)
                raise kind(f"{what}: {shown} is held ({words})", release or f"snapvol release {shown}")

    def _refuse_foreign_clones(self, family: Family, points: list[Point], kind: type[Refused], what: str) -> None:
        for point in points:
            for clone in point.clones:
                if not self._is_ours(clone):
                    raise kind(
                        f"{what}: {clone} is a clone of {_shown(family, point)} ({point.name})",
                        f"zfs destroy {clone}; or, to keep it: zfs promote {clone}",
                    )

    def _is_ours(self, dataset: str) -> bool:
        ours = {name for known in list(self._known.values()) for name in known.datasets} | set(self._staged.values())
        if dataset in ours:
            return True
        survey = self._survey(points=False)
        found = [it.name for it in survey.unfinished]
        found += [it.name for family in survey.families.values() for it in family.datasets]
        return dataset in found

    # -- mounting -----------------------------------------------------------------------------------------------

    def mount(self, volume: Volume) -> Path:
        """See `Backend.mount`.

        Raises:
            NotReady: it is encrypted and its key is not loaded; says how to load it.
        """
        point = self.mountpoint(volume)
        self._parent.check()
        known = self._known.get(volume.id)
        if known is not None and known.name == volume.name:
            found = self._mountpoints.found(point)
            if found is not None and found.source == known.datasets[0]:
                return point
        head = self._find(volume).head
        self._unlock(head, f"volume '{volume.name}' cannot be mounted")
        self._mountpoints.mount(point, head.name, "zfs")
        return point

    def unmount(self, volume: Volume) -> None:
        """See `Backend.unmount`."""
        self._mountpoints.unmount(self.mountpoint(volume))

    def sources(self, volume: Volume) -> tuple[str, ...]:
        """See `Backend.sources`."""
        known = self._known.get(volume.id)
        return known.datasets[:1] if known is not None else (self._parent.below(zfsnames.volume(volume.name)),)

    def _unlock(self, dataset: Dataset, what: str) -> None:
        """Load the key of an encrypted dataset where it lies in a file that can be read.

        Raises:
            NotReady: it does not, or does not fit.
        """
        if dataset.keyless:
            zfskeys.load(self._tool, dataset.name, dataset.key, dataset.keylocation, what)


def _shown(family: Family, point: Point) -> str:
    record = point.record
    leaf = record.name if isinstance(record, zfsrecords.SnapshotRecord) else point.leaf
    return f"{family.volume.name}@{leaf}"


_NOBODY = Ownership(uid=None, gid=None, mode=None)
