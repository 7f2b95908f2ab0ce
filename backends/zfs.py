"""Volumes as ZFS datasets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from snapvol.backend import Change, Tree
from snapvol.backends import zfsgarbage, zfsholds, zfsnames, zfsrecords
from snapvol.backends.mountpoints import SNAPSHOTS
from snapvol.backends.zfscontents import ZfsContents
from snapvol.backends.zfsfamily import Family
from snapvol.backends.zfsrecords import SnapshotRecord
from snapvol.backends.zfstool import explained, pairs
from snapvol.errors import AlreadyExists, NoSpace, NotFound, Protected, StorageFailed, ToolFailed, UsageError
from snapvol.model import Snapshot, Volume, now


class Zfs(ZfsContents):
    """A dataset for each volume; snapshots are the storage's own, known by their guid."""

    def snapshot(
        self, volumes: Sequence[Volume], name: str, *, message: str = "", made_by: str = "user"
    ) -> Sequence[Snapshot]:
        """See `Backend.snapshot`: one command, one instant for all."""
        what = f"snapshot {', '.join(f'{volume.name}@{name}' for volume in volumes)} cannot be made"
        leaf = zfsnames.snapshot(name)
        if len({volume.id for volume in volumes}) < len(volumes):
            raise UsageError(f"{what}: a volume is named twice")
        self._parent.check()
        self._parent.require_room(what)
        record = SnapshotRecord(name=name, created=now(), message=message, made_by=made_by)
        guids = self._snapshot_at_once(volumes, leaf, record, what)
        if guids is None:
            families = self._find_all(volumes)
            for family in families:
                _refuse_taken(family, name, leaf)
            guids = self._snapshot_datasets([family.head.name for family in families], volumes, leaf, record, what)
        return [
            Snapshot(
                volume=volume.name,
                volume_id=volume.id,
                name=name,
                id=guid,
                created=record.created,
                message=message,
                made_by=made_by,
            )
            for volume, guid in zip(volumes, guids, strict=True)
        ]

    def _snapshot_at_once(
        self, volumes: Sequence[Volume], leaf: str, record: SnapshotRecord, what: str
    ) -> list[str] | None:
        """Snapshot volumes without looking at them first, where there is nothing that ZFS itself would not refuse.

        Returns:
            The snapshots' guids; None where it takes a closer look, and nothing was made.
        """
        known = [self._known.get(volume.id) for volume in volumes]
        names = [
            one.datasets[0]
            for one, volume in zip(known, volumes, strict=True)
            if one is not None
            and one.name == volume.name
            and volume.deleted is None
            and one.datasets == (self._parent.below(zfsnames.volume(volume.name)),)
        ]
        if len(names) < len(volumes):
            return None
        try:
            return self._snapshot_datasets(names, volumes, leaf, record, what)
        except NoSpace:
            raise
        except (AlreadyExists, NotFound, StorageFailed):
            return None

    def _snapshot_datasets(
        self, datasets: Sequence[str], volumes: Sequence[Volume], leaf: str, record: SnapshotRecord, what: str
    ) -> list[str]:
        made = [f"{dataset}@{leaf}" for dataset in datasets]
        self._tool.change(what, "snapshot", *pairs(zfsrecords.snapshot_properties(record)), *made)
        try:
            rows = self._tool.get(("guid", zfsrecords.VOLUME), made)
        except ToolFailed as error:
            raise explained(f"{what}, or not be seen", error) from error
        for point, volume in zip(made, volumes, strict=True):
            # It has inherited its dataset's: that of a volume which somebody has put in the place of ours?
            if zfsrecords.id_of(rows[point][zfsrecords.VOLUME].text) != volume.id:
                for name in made:
                    self._tool.change(what, "destroy", name)
                raise NotFound(f"no volume '{volume.name}' with id {volume.id} in pool '{self.pool}'", "snapvol ls")
        return [rows[point]["guid"].text for point in made]

    def destroy_snapshot(self, snapshot: Snapshot) -> None:
        """See `Backend.destroy_snapshot`.

        Where clones that snapvol made need it, nobody sees it any more, and the storage removes it with the last one.
        """
        what = f"snapshot '{snapshot.full_name}' cannot be removed"
        family, dataset, point = self._find_point(snapshot)
        if point.held:
            self._refuse_held(family, [point], Protected, what)
        self._refuse_foreign_clones(family, [point], Protected, what)
        if point.clones:
            zfsgarbage.doom(self._tool, point, what)
        else:
            self._tool.change(what, "destroy", point.name)
        others = [other for other in dataset.points if other is not point and other.alive]
        if dataset is not family.head and not others:
            self._clear_history(family, [dataset.name])

    def hold(self, snapshot: Snapshot, tag: str) -> None:
        """See `Backend.hold`."""
        _, _, point = self._find_point(snapshot)
        holds = zfsholds.read(self._tool, [point])[point.name] if point.held else zfsholds.Holds()
        if holds.word(tag) is None:
            self._tool.change(
                f"snapshot '{snapshot.full_name}' cannot be held", "hold", holds.next_word(tag), point.name
            )

    def release(self, snapshot: Snapshot, tag: str) -> None:
        """See `Backend.release`."""
        _, _, point = self._find_point(snapshot)
        holds = zfsholds.read(self._tool, [point])[point.name] if point.held else zfsholds.Holds()
        word = holds.word(tag)
        if word is not None:
            self._tool.change(f"snapshot '{snapshot.full_name}' cannot be released", "release", word, point.name)

    @contextmanager
    def open_snapshot(self, snapshot: Snapshot) -> Iterator[Tree]:
        """See `Backend.open_snapshot`: a mount of its own, because `.zfs` would show it to nobody but the volume."""
        _, dataset, point = self._find_point(snapshot)
        self._unlock(dataset, f"snapshot '{snapshot.full_name}' cannot be read")
        with self._mountpoints.borrowed(point.name, "zfs", ["ro"], kind=SNAPSHOTS) as root:
            yield Tree(root=root, identity=snapshot.id, stable_inodes=True)

    def changes(self, base: Snapshot, snapshot: Snapshot) -> Iterable[Change] | None:
        """See `Backend.changes`."""
        return None


def _refuse_taken(family: Family, name: str, leaf: str) -> None:
    shown = f"{family.volume.name}@{name}"
    for point in family.points:
        if isinstance(point.record, SnapshotRecord) and point.record.name == name:
            raise AlreadyExists(f"'{shown}' exists already", "choose another name")
    for point in family.head.points:
        if point.leaf == leaf:
            raise AlreadyExists(f"'{shown}' exists already: {point.name}", "choose another name")
