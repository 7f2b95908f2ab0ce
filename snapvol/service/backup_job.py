"""The job that backs a volume up."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from snapvol import units
from snapvol.api import BackupRef
from snapvol.docker import Docker
from snapvol.engine.manifest import BackupKind, VolumeMeta
from snapvol.errors import InUse, NoSpace, NotFound, SnapvolError, StorageFailed
from snapvol.model import Snapshot
from snapvol.service import bases, points, work
from snapvol.service.catalog import Entry
from snapvol.service.contents import pinned
from snapvol.service.context import Context
from snapvol.service.job import Kind, Run
from snapvol.service.library import Library

log = logging.getLogger(__name__)

_Difference = TypeVar("_Difference")


class BackupSpec(Struct, frozen=True, kw_only=True):
    """What to back up: a volume as it is when the job begins, or a snapshot of it, and where to.

    Attributes:
        policy: that wants it; None where somebody does.
    """

    volume_id: str
    volume: str
    repository: str
    snapshot: str | None = None
    policy: str | None = None


class _Point:
    """The snapshot that is backed up.

    Attributes:
        done: the result, once there is one.
        base: the next backup can be based on it; None where backups of this kind have no base.
    """

    def __init__(self, entry: Entry, snapshot: Snapshot) -> None:
        self.entry = entry
        self.snapshot = snapshot
        self.done: dict[str, Any] | None = None
        self.base: bool | None = None


class BackupJob(Kind):
    """Snapshots the volume, has a worker back the snapshot up, and takes the snapshot away again."""

    name = "backup"

    def __init__(self, context: Context, library: Library, docker: Docker) -> None:
        self._context = context
        self._library = library
        self._docker = docker

    def conduct(self, run: Run) -> dict[str, Any]:
        """See `Kind`."""
        spec = msgspec.convert(run.spec, BackupSpec)
        place = self._library.place(spec.repository)
        entry = self._entry(spec)
        self._remember_labels(entry)
        with self._point(run, spec) as point:
            run.check()
            self._warn_of_left_out(run, point.entry)
            kind = _kind(point.entry)
            tracked = kind in point.entry.backend.features.tracked
            base = bases.of(point.entry, place.name) if tracked else None
            back_up = self._image if kind is BackupKind.IMAGE else self._files
            point.done = result = back_up(run, place, point, base)
            if tracked:
                # A base that lies behind a newer one is none: going back and forth would read more, not less.
                older = base is not None and base.created > point.snapshot.created
                point.base = not older or bool(result.get("mismatch"))
        self._remember(run, point.entry, point.snapshot, spec, result)
        return {"repository": spec.repository, "snapshot": point.snapshot.name, **result}

    def _files(self, run: Run, place: work.Place, point: _Point, base: Snapshot | None) -> dict[str, Any]:
        entry, snapshot = point.entry, point.snapshot
        with entry.backend.open_snapshot(snapshot) as tree, pinned(tree.root):
            changes = None
            if base is not None:
                changes = _known(run, base, "looked at", lambda: entry.backend.changes(base, snapshot))
            if base is not None and changes is not None:
                run.log(f"since {base.full_name} at most {len(changes)} paths have changed")
            return run.perform(
                work.BackUp(
                    repository=place,
                    source=tree.root,
                    identity=tree.identity,
                    stable_inodes=tree.stable_inodes,
                    meta=self._meta(entry, snapshot, run),
                    host=self._context.settings.host,
                    base=base.id if base is not None and changes is not None else None,
                    changes=changes,
                )
            )

    def _image(self, run: Run, place: work.Place, point: _Point, base: Snapshot | None) -> dict[str, Any]:
        entry, snapshot = point.entry, point.snapshot
        with entry.backend.open_image(snapshot) as image:
            changed = None
            if base is not None:
                changed = _known(run, base, "read", lambda: entry.backend.image_changes(base, snapshot))
            if base is not None and changed is not None:
                run.log(f"since {base.full_name} at most {sum(length for _, length in changed) >> 10} KiB have changed")
            meta = self._meta(entry, snapshot, run)
            chunk = entry.volume.options.get("backup.chunk")
            return run.perform(
                work.BackUpImage(
                    repository=place,
                    image=image,
                    meta=msgspec.structs.replace(meta, used=sum(length for _, length in image.mapped)),
                    host=self._context.settings.host,
                    chunk=units.size(chunk) if chunk is not None else None,
                    base=base.id if base is not None and changed is not None else None,
                    changed=changed,
                )
            )

    def _entry(self, spec: BackupSpec) -> Entry:
        entry = self._context.catalog.by_id(spec.volume_id)
        if entry is None:
            raise NotFound(f"volume '{spec.volume}' does not exist any more", "see: snapvol ls; snapvol trash")
        self._context.require_ready(entry)
        return entry

    @contextmanager
    def _point(self, run: Run, spec: BackupSpec) -> Iterator[_Point]:
        """Take or find the snapshot, and hold it; see at the end which snapshot is the base of the next backup."""
        catalog = self._context.catalog
        key = self._entry(spec).key
        doing = f"backup job {run.id}"
        with self._context.locks.volumes(key, doing=doing, wait=60, mountable=True):
            points.clean(catalog, self._entry(spec), run.id)
            bases.clean(catalog, self._entry(spec))
            entry = self._entry(spec)
            if spec.snapshot is not None:
                snapshot = entry.snapshot(spec.snapshot)
            else:
                run.phase("taking a snapshot")
                points.require_snapshots(entry)
                snapshot = self._take(run, entry)
                entry = self._entry(spec)
            tag = points.hold(catalog, entry, snapshot, run.id)
        point = _Point(entry, snapshot)
        try:
            yield point
        finally:
            try:
                with self._context.locks.volumes(key, doing=f"the end of {doing}", wait=300, mountable=True):
                    self._settle(point, spec.repository)
                    points.let_go(catalog, entry.volume.id, snapshot.name, tag)
            except InUse as error:
                log.warning("snapshot '%s' stays until the next backup: %s", snapshot.full_name, error)

    def _take(self, run: Run, entry: Entry) -> Snapshot:
        """Snapshot the volume. Where there is no room for that, a backup that reads everything is better than none."""
        catalog, message = self._context.catalog, f"for backup job {run.id}"
        try:
            return points.take(catalog, entry, "backup", message, points.BACKUP)
        except NoSpace as error:
            if not bases.drop_all(catalog, entry.volume.id):
                raise
            run.warn(f"{error.message}: the base of this backup is given up to make room, so everything is read")
        return points.take(catalog, catalog.by_id(entry.volume.id) or entry, "backup", message, points.BACKUP)

    def _settle(self, point: _Point, repository: str) -> None:
        """Have the next backup based on this one. One that failed, or is of an older snapshot, changes nothing."""
        catalog, volume_id = self._context.catalog, point.entry.volume.id
        if point.done is None:
            return
        if point.base:
            bases.move(catalog, volume_id, point.snapshot.name, repository)
        elif point.base is None:
            bases.drop(catalog, volume_id, repository)

    @staticmethod
    def _warn_of_left_out(run: Run, entry: Entry) -> None:
        paths = entry.backend.left_out(entry.volume)
        for path in paths[:10]:
            run.warn(f"{path} is not in the backup: volume '{entry.volume.name}' holds it, but no snapshot of it does")
        if len(paths) > 10:
            run.warn(f"and {len(paths) - 10} more are not")

    def _remember_labels(self, entry: Entry) -> None:
        """Record the labels that only Docker has, so that they come back with a restore (T37)."""
        labels = self._docker.labels(entry.volume.name)
        if labels is None or labels == entry.volume.labels:
            return
        try:
            self._context.catalog.change(entry.volume.id, labels=entry.volume.labels | labels)
        except SnapvolError as error:
            log.warning("volume '%s': its Docker labels were not recorded: %s", entry.volume.name, error)

    def _meta(self, entry: Entry, snapshot: Snapshot, run: Run) -> VolumeMeta:
        volume = entry.volume
        used = self._context.state.usage(volume.id)
        return VolumeMeta(
            id=volume.id,
            name=volume.name,
            created=volume.created,
            options=volume.options,
            labels=volume.labels,
            pool=entry.pool.name,
            backend=entry.pool.kind,
            snapshot=snapshot.name,
            source=snapshot.id,
            taken=snapshot.created,
            size=units.size(volume.options["size"]) if "size" in volume.options else None,
            used=used.used if used else None,
            parent=volume.parent,
            policy=run.spec.get("policy"),
        )

    def _remember(self, run: Run, entry: Entry, snapshot: Snapshot, spec: BackupSpec, result: dict[str, Any]) -> None:
        volume, state = entry.volume, self._context.state
        self._library.changed(spec.repository)
        last = state.last_backup(volume.id)
        if last is None or last.time <= snapshot.created:
            ref = BackupRef(id=result["id"], time=snapshot.created, repository=spec.repository)
            state.set_last_backup(volume.id, ref)
        said = f"backup {result['id'][:8]} in repository '{spec.repository}'"
        if result.get("incomplete"):
            said += ": incomplete"
            run.warn(f"the backup is incomplete: {len(result['problems'])} problems, see: snapvol job show {run.id}")
        self._context.note("backup", volume, said)


def _known(
    run: Run, base: Snapshot, otherwise: str, find: Callable[[], Iterable[_Difference] | None]
) -> tuple[_Difference, ...] | None:
    """Ask the storage what has changed since ``base``. Whatever comes of that, the backup goes on.

    Returns:
        What may differ; None where it is not known, and everything is read or looked at, as ``otherwise`` says.
    """
    try:
        found = find()
    except (NotFound, StorageFailed) as error:
        run.warn(f"{error.message}: everything is {otherwise}")
        return None
    if found is None:
        run.log(f"what changed since {base.full_name} is not known: everything is {otherwise}")
        return None
    return tuple(found)


def _kind(entry: Entry) -> BackupKind:
    return BackupKind(entry.volume.options.get("backup.kind") or entry.backend.features.backup_kinds[0])
