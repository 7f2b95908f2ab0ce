"""Snapshots: taking, listing, holding, destroying, going back to them."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Sequence
from datetime import datetime

import msgspec

from snapvol.api import Action, ChangeInfo, Plan, SnapshotInfo
from snapvol.errors import AlreadyExists, Protected, SnapvolError, Unsupported, UsageError
from snapvol.model import Snapshot, now
from snapvol.names import LONGEST, snapshot_name, split_snapshot
from snapvol.service import bases, differences, points, views
from snapvol.service.catalog import Entry
from snapvol.service.context import Context
from snapvol.service.pool import Pool

log = logging.getLogger(__name__)


class Snapshots:
    """The snapshots of all volumes."""

    def __init__(self, context: Context) -> None:
        self._context = context

    # -- taking -------------------------------------------------------------------------------------------------

    def snapshot(self, volumes: Sequence[str], name: str | None, message: str) -> list[SnapshotInfo]:
        """Snapshot volumes under one name: a free one made from the time where none is given.

        Volumes of one pool are snapshotted together, at one instant where the storage can. Where the second pool
        fails, the snapshots in the first are destroyed again.

        Raises:
            AlreadyExists: one of them has a snapshot of that name.
            Unsupported: one of the pools has no snapshots.
        """
        wanted = list(volumes)
        if not wanted:
            raise UsageError("no volume to snapshot was named")
        if name is not None:
            snapshot_name(name)
        _check_message(message)
        with self._context.locks.volumes(*self._keys(wanted), doing="a snapshot", mountable=True):
            entries = self._ready(wanted)
            made = self.take(entries, name or free_name(entries, now()), message, "user")
        return [views.snapshot(snapshot) for snapshot in made]

    def _ready(self, volumes: Sequence[str]) -> list[Entry]:
        entries = {entry.volume.id: entry for entry in map(self._context.catalog.get, volumes)}
        for entry in entries.values():
            self._context.require_ready(entry)
        return list(entries.values())

    def _keys(self, volumes: Sequence[str]) -> list[str]:
        return [entry.key for entry in self._ready(volumes)]

    def take(self, entries: Sequence[Entry], name: str, message: str, made_by: str) -> list[Snapshot]:
        """Snapshot volumes that the caller has claimed; all or none. In the order of ``entries``.

        Raises:
            AlreadyExists: one of them has a snapshot of that name.
            Unsupported: one of the pools has no snapshots.
        """
        for entry in entries:
            self._check(entry, name)
        by_pool: dict[Pool, list[Entry]] = {}
        for entry in entries:
            by_pool.setdefault(entry.pool, []).append(entry)
        made: list[Snapshot] = []
        try:
            for pool, together in by_pool.items():
                volumes = [entry.volume for entry in together]
                made += pool.backend.snapshot(volumes, name, message=message, made_by=made_by)
        except BaseException:
            self.discard(made)
            raise
        self._context.catalog.add_snapshots(made)
        for snapshot, entry in zip(made, (entry for group in by_pool.values() for entry in group), strict=True):
            self._context.note("snapshot", entry.volume, f"snapshot {snapshot.full_name} by {made_by}")
        order = {entry.volume.id: at for at, entry in enumerate(entries)}
        return sorted(made, key=lambda snapshot: order[snapshot.volume_id])

    def discard(self, snapshots: Sequence[Snapshot]) -> None:
        """Destroy snapshots that were taken for something that then failed; never raises for it."""
        for snapshot in snapshots:
            entry = self._context.catalog.by_id(snapshot.volume_id)
            if entry is None:
                continue
            try:
                self._destroy(entry, snapshot)
            except SnapvolError as error:
                log.warning("snapshot '%s' was taken in vain and cannot be destroyed: %s", snapshot.full_name, error)

    def _check(self, entry: Entry, name: str) -> None:
        features = entry.pool.require().features
        if not features.snapshots:
            raise Unsupported(f"pool '{entry.pool.name}' ({entry.pool.kind}) has no snapshots", features.reason)
        if name in _names(entry):
            raise AlreadyExists(
                f"snapshot '{entry.volume.name}@{name}' exists already",
                f"choose another name, or see: snapvol snapshots {entry.volume.name}",
            )

    # -- listing ------------------------------------------------------------------------------------------------

    def list(self, volume: str | None) -> Sequence[SnapshotInfo]:
        """Return the snapshots of a volume, or of all, oldest first, the damaged ones last."""
        catalog = self._context.catalog
        entries = (
            sorted(catalog.entries(), key=lambda entry: entry.volume.name) if volume is None else [catalog.get(volume)]
        )
        return [info for entry in entries for info in views.snapshots(entry)]

    def diff(self, a: str, b: str) -> Sequence[ChangeInfo]:
        """Return what differs from ``VOLUME@A`` to ``VOLUME@B``, or to ``VOLUME``: as it is while it is read."""
        (volume, old_name), (other, new_name) = split_snapshot(a), split_snapshot(b)
        if old_name is None:
            raise UsageError(f"'{a}' is not a snapshot", f"write {a}@SNAPSHOT; the second may be a volume")
        keys = self._keys([volume, other])
        with self._context.locks.volumes(*keys, doing=f"a comparison of {a} and {b}", mountable=True):
            entry, later = self._ready([volume])[0], self._ready([other])[0]
            base = entry.snapshot(old_name)
            if new_name is None:
                with entry.backend.open_snapshot(base) as tree, self._context.contents.read(later) as live:
                    return [differences.shown(change) for change in differences.compare(tree.root, live)]
            snapshot = later.snapshot(new_name)
            # Not `Backend.changes`: that names what may differ, such as a file that was only read.
            with entry.backend.open_snapshot(base) as old, later.backend.open_snapshot(snapshot) as new:
                return [differences.shown(change) for change in differences.compare(old.root, new.root)]

    # -- destroying and keeping ---------------------------------------------------------------------------------

    def destroy(self, volume: str, name: str, *, dry_run: bool) -> Plan:
        """Destroy a snapshot.

        Raises:
            Protected: it is held, or a clone needs it.
        """
        with self._context.claim(volume, f"destruction of snapshot '{name}'", mountable=True) as entry:
            snapshot = entry.snapshot(snapshot_name(name))
            _refuse_base(snapshot)
            refuse_held([snapshot])
            if not dry_run:
                self._destroy(entry, snapshot)
                self._context.note("destroy-snapshot", entry.volume, f"snapshot {snapshot.full_name} destroyed")
        return Plan(actions=[Action(verb="destroy", object=f"snapshot {snapshot.full_name}")], done=not dry_run)

    def expire(self, entry: Entry, snapshot: Snapshot) -> None:
        """Destroy a snapshot of a volume that the caller has claimed.

        Raises:
            Protected: it is held, or a clone needs it.
        """
        _refuse_base(snapshot)
        refuse_held([snapshot])
        self._destroy(entry, snapshot)
        self._context.note("destroy-snapshot", entry.volume, f"snapshot {snapshot.full_name} expired")

    def _destroy(self, entry: Entry, snapshot: Snapshot) -> None:
        entry.backend.destroy_snapshot(snapshot)
        self._context.catalog.set_snapshots(
            entry.volume.id, lambda known: [other for other in known if other.id != snapshot.id]
        )

    def hold(self, volume: str, name: str, tag: str) -> SnapshotInfo:
        """Keep a snapshot from being destroyed until `release`.

        Raises:
            UsageError: it is no tag, or one of those that snapvol gives and takes away itself.
        """
        if bases.repository_of(tag) is not None or points.job_of(tag) is not None:
            raise UsageError(f"holds called '{tag}' are made and released by backups", "choose another tag")
        return self._tag(volume, name, tag, held=True)

    def release(self, volume: str, name: str, tag: str) -> SnapshotInfo:
        """Undo `hold`; not held with this tag: nothing happens."""
        return self._tag(volume, name, tag, held=False)

    def _tag(self, volume: str, name: str, tag: str, *, held: bool) -> SnapshotInfo:
        if not tag or len(tag) > LONGEST or not tag.isprintable():
            raise UsageError(f"{tag[:60]!r} is not a tag", "use up to 255 printable characters")
        with self._context.claim(volume, f"a hold on snapshot '{name}'", mountable=True) as entry:
            snapshot = entry.snapshot(snapshot_name(name))
            (entry.backend.hold if held else entry.backend.release)(snapshot, tag)
            tags = [other for other in snapshot.holds if other != tag]
            changed = msgspec.structs.replace(snapshot, holds=tuple(sorted([*tags, tag] if held else tags)))
            self._context.catalog.set_snapshots(
                entry.volume.id, lambda known: [changed if other.id == changed.id else other for other in known]
            )
        return views.snapshot(changed)

    # -- going back ---------------------------------------------------------------------------------------------

    def rollback(self, volume: str, name: str, *, dry_run: bool) -> Plan:
        """Make a volume's contents those of a snapshot, after a snapshot of what they are now.

        Raises:
            InUse: somebody has it mounted.
        """
        with self._context.claim(volume, f"rollback to '{name}'") as entry:
            snapshot = entry.snapshot(snapshot_name(name))
            self._context.refuse_used(entry, "roll it back")
            entry.backend.refuse_left_out(entry.volume, f"volume '{entry.volume.name}' cannot be rolled back")
            saved = free_name([entry], now(), "before-rollback-")
            plan = _rollback_plan(entry, snapshot, saved, done=not dry_run)
            if not dry_run:
                self.take([entry], saved, f"before the rollback to {snapshot.name}", "rollback")
                entry.backend.unmount(entry.volume)
                try:
                    entry.backend.rollback(entry.volume, snapshot)
                finally:
                    self._context.contents.settle(entry)
                self._context.note("rollback", entry.volume, f"rolled back to {snapshot.full_name}; undo: {saved}")
        return plan


def _rollback_plan(entry: Entry, snapshot: Snapshot, saved: str, *, done: bool) -> Plan:
    volume = entry.volume.name
    newer = [other for other in entry.snapshots if other.created > snapshot.created]
    actions = [
        Action(
            verb="snapshot", object=f"volume {volume}", detail=f"as {volume}@{saved}: going back to that undoes this"
        ),
        Action(verb="replace", object=f"the contents of {volume}", detail=f"by those of {snapshot.full_name}"),
    ]
    if newer:
        names = ", ".join(other.name for other in newer)
        actions.append(Action(verb="keep", object="newer snapshots", detail=names))
    return Plan(actions=actions, done=done)


def _refuse_base(snapshot: Snapshot) -> None:
    """Check that no backup needs the snapshot to read only what has changed since.

    Raises:
        Protected: the next backup to a repository does.
    """
    for hold in snapshot.holds:
        repository = bases.repository_of(hold)
        if repository is not None:
            raise Protected(
                f"snapshot '{snapshot.full_name}' is what the next backup to repository '{repository}' is based on",
                f"to have that backup read everything instead: snapvol release {snapshot.full_name} --tag {hold}",
            )


def refuse_held(snapshots: Sequence[Snapshot]) -> None:
    """Check that none of the snapshots is held (T18). What only a later backup is based on is not.

    Raises:
        Protected: one is; names it, its tags and the command that ends the hold.
    """
    for snapshot in snapshots:
        holds = bases.others(snapshot)
        if holds:
            tags = ", ".join(f"'{tag}'" for tag in holds)
            by = "" if "user" in holds else f" --tag {shlex.quote(holds[0])}"
            raise Protected(
                f"snapshot '{snapshot.full_name}' is held by {tags}",
                f"let go of it: snapvol release {snapshot.full_name}{by}",
            )


def free_name(entries: Sequence[Entry], time: datetime, prefix: str = "") -> str:
    """Return a snapshot name made from the time, such as ``2026-11-23T03-12-05Z``, that none of the volumes has."""
    taken = {name for entry in entries for name in _names(entry)}
    base = name = f"{prefix}{time:%Y-%m-%dT%H-%M-%SZ}"
    number = 1
    while name in taken:
        number += 1
        name = f"{base}-{number}"
    return name


def _names(entry: Entry) -> set[str]:
    return {it.name for it in entry.snapshots} | {it.name for it in entry.damaged_snapshots}


def _check_message(message: str) -> None:
    if len(message) > 1000 or any(not (character.isprintable() or character == "\n") for character in message):
        raise UsageError("the message has characters that cannot be shown, or more than 1,000")
