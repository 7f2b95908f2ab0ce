"""Volumes that are directory trees side by side in one pool directory: what `directory` and `btrfs` share.

A subclass says how a root is made, copied and removed; `place` knows the layout, `volumedir` one volume's directory.
Every change is one rename. Reading methods work without `open`, for worker processes beside the daemon.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from msgspec.structs import replace

from snapvol.backend import Change, Tree
from snapvol.backends import durable, removal
from snapvol.backends.failures import explained
from snapvol.backends.group import Group
from snapvol.backends.treevolumes import TreeVolumes
from snapvol.backends.volumedir import DATA, SNAPSHOT
from snapvol.errors import AlreadyExists, Protected, UsageError
from snapvol.model import Damage, Snapshot, Volume, now


class Trees(TreeVolumes):
    """A pool of directory trees with snapshots."""

    def snapshots(self, volume: Volume) -> Sequence[Snapshot | Damage]:
        """See `Backend.snapshots`."""
        return self._snapshots(self._directory(volume), volume)

    def snapshot(
        self, volumes: Sequence[Volume], name: str, *, message: str = "", made_by: str = "user"
    ) -> Sequence[Snapshot]:
        """See `Backend.snapshot`."""
        what = f"snapshot {', '.join(f'{volume.name}@{name}' for volume in volumes)} cannot be made"
        self._require_snapshots(what)
        if len({volume.id for volume in volumes}) < len(volumes):
            raise UsageError(f"{what}: a volume is named twice")
        directories = [self._directory(volume) for volume in volumes]
        for volume, directory in zip(volumes, directories, strict=True):
            if durable.exists(self._place.snapshot(directory, name)):
                raise AlreadyExists(f"'{volume.name}@{name}' exists already", "choose another name")
        self._place.require_room(what)
        with self._working(what) as work:
            made = [work / volume.id for volume in volumes]
            for path in made:
                os.mkdir(path, 0o700)
            created = now()
            self._copy_roots(
                [(directory / DATA, path / DATA) for directory, path in zip(directories, made, strict=True)],
                read_only=True,
            )
            snapshots = [
                Snapshot(
                    volume=volume.name,
                    volume_id=volume.id,
                    name=name,
                    id=self._identity(path / DATA),
                    created=created,
                    message=message,
                    made_by=made_by,
                )
                for volume, path in zip(volumes, made, strict=True)
            ]
            for snapshot, path in zip(snapshots, made, strict=True):
                durable.write(path / SNAPSHOT, snapshot)
            Group(work, name, [volume.id for volume in volumes]).publish(directories)
        return snapshots

    def destroy_snapshot(self, snapshot: Snapshot) -> None:
        """See `Backend.destroy_snapshot`."""
        what = f"snapshot '{snapshot.full_name}' cannot be removed"
        path = self._snapshot_directory(snapshot)
        with explained(what):
            holds = durable.read(path / SNAPSHOT, Snapshot).holds
            if holds:
                raise Protected(f"{what}: it is held ({', '.join(holds)})", f"snapvol release {snapshot.full_name}")
            removal.refuse_mounted(path, what)
            self._discard(path)

    def hold(self, snapshot: Snapshot, tag: str) -> None:
        """See `Backend.hold`."""
        self._set_hold(snapshot, tag, held=True)

    def release(self, snapshot: Snapshot, tag: str) -> None:
        """See `Backend.release`."""
        self._set_hold(snapshot, tag, held=False)

    def _set_hold(self, snapshot: Snapshot, tag: str, *, held: bool) -> None:
        path = self._snapshot_directory(snapshot) / SNAPSHOT
        with explained(f"the holds of '{snapshot.full_name}' cannot be changed"):
            stored = durable.read(path, Snapshot)
            if (tag in stored.holds) == held:
                return
            holds = (*stored.holds, tag) if held else tuple(other for other in stored.holds if other != tag)
            durable.write(path, replace(stored, holds=holds))

    def rollback(self, volume: Volume, snapshot: Snapshot) -> None:
        """See `Backend.rollback`."""
        what = f"volume '{volume.name}' cannot be rolled back to '{snapshot.name}'"
        self._require_snapshots(what)
        if snapshot.volume_id != volume.id:
            raise UsageError(f"{what}: '{snapshot.full_name}' is another volume's snapshot")
        directory = self._directory(volume)
        source = self._snapshot_directory(snapshot)
        self.refuse_left_out(volume, what)
        with self._working(what) as work:
            self._copy_roots([(source / DATA, work / DATA)], read_only=False)
            self._inherit_limit(directory / DATA, work / DATA)
            self._swap(directory, work / DATA, what)

    @contextmanager
    def open_snapshot(self, snapshot: Snapshot) -> Iterator[Tree]:
        """See `Backend.open_snapshot`."""
        root = self._snapshot_directory(snapshot) / DATA
        yield Tree(root=root, identity=snapshot.id, stable_inodes=self._stable_inodes)

    _stable_inodes = False

    def changes(self, base: Snapshot, snapshot: Snapshot) -> Iterable[Change] | None:
        """See `Backend.changes`."""
        return None
