"""The job that backs a volume up."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
from msgspec import Struct

from snapvol import units
from snapvol.api import BackupRef
from snapvol.docker import Docker
from snapvol.engine.manifest import VolumeMeta
from snapvol.errors import InUse, NotFound, SnapvolError
from snapvol.model import Snapshot
from snapvol.service import points, work
from snapvol.service.catalog import Entry
from snapvol.service.context import Context
from snapvol.service.job import Kind, Run
from snapvol.service.library import Library

log = logging.getLogger(__name__)


class BackupSpec(Struct, frozen=True, kw_only=True):
    """What to back up: a volume as it is when the job begins, or a snapshot of it, and where to."""

    volume_id: str
    volume: str
    repository: str
    snapshot: str | None = None


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
        points.clean(self._context.catalog, entry, run.id)
        self._remember_labels(entry)
        with self._point(run, spec) as (entry, snapshot), entry.backend.open_snapshot(snapshot) as tree:
            run.check()
            self._warn_of_left_out(run, entry)
            result = run.perform(
                work.BackUp(
                    repository=place,
                    source=tree.root,
                    identity=tree.identity,
                    stable_inodes=tree.stable_inodes,
                    meta=self._meta(entry, snapshot),
                    host=self._context.settings.host,
                )
            )
        self._remember(run, entry, snapshot, spec, result)
        return {"repository": spec.repository, "snapshot": snapshot.name, **result}

    def _entry(self, spec: BackupSpec) -> Entry:
        entry = self._context.catalog.by_id(spec.volume_id)
        if entry is None:
            raise NotFound(f"volume '{spec.volume}' does not exist any more", "see: snapvol ls; snapvol trash")
        self._context.require_ready(entry)
        return entry

    @contextmanager
    def _point(self, run: Run, spec: BackupSpec) -> Iterator[tuple[Entry, Snapshot]]:
        """Take or find the snapshot, and hold it."""
        catalog = self._context.catalog
        key = self._entry(spec).key
        doing = f"backup job {run.id}"
        with self._context.locks.volumes(key, doing=doing, wait=60, mountable=True):
            entry = self._entry(spec)
            if spec.snapshot is not None:
                snapshot = entry.snapshot(spec.snapshot)
            else:
                run.phase("taking a snapshot")
                points.require_snapshots(entry)
                snapshot = points.take(catalog, entry, "backup", f"for backup job {run.id}", points.BACKUP)
            tag = points.hold(catalog, entry, snapshot, run.id)
        try:
            yield entry, snapshot
        finally:
            try:
                with self._context.locks.volumes(key, doing=f"the end of {doing}", wait=300, mountable=True):
                    points.let_go(catalog, entry.volume.id, snapshot.name, tag)
            except InUse as error:
                log.warning("snapshot '%s' stays until the next backup: %s", snapshot.full_name, error)

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

    def _meta(self, entry: Entry, snapshot: Snapshot) -> VolumeMeta:
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
