"""The job that restores a backup: into a volume that was made for it, or in place of a volume's contents."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Any

import msgspec
from msgspec import Struct, field

from snapvol.api import JobInfo, JobState
from snapvol.docker import Docker
from snapvol.errors import InUse, NotFound, NotReady, SnapvolError
from snapvol.model import Snapshot, State
from snapvol.service import points, work
from snapvol.service.catalog import Entry
from snapvol.service.context import Context
from snapvol.service.description import Description
from snapvol.service.job import Kind, Run, Spec
from snapvol.service.library import Found, Library
from snapvol.service.transfer import Transfer

log = logging.getLogger(__name__)

ELSEWHERE = "restore into a new volume: snapvol restore BACKUP NEW"


class RestoreSpec(Struct, frozen=True, kw_only=True):
    """What to restore, and where to.

    Attributes:
        backup: an id, ``VOLUME`` or ``VOLUME@TIME``.
        in_place: the volume existed before; else it was made for this.
        path: only this, relative to the volume's root.
        asked: the options that were asked for with the volume.
        described: the volume has its options from the backup already.
    """

    volume_id: str
    volume: str
    backup: str
    repository: str
    in_place: bool = False
    path: str | None = None
    asked: dict[str, str] = field(default_factory=dict)
    described: bool = False


class RestoreJob(Kind):
    """Fills a volume. Until it has ended nobody may mount that volume."""

    name = "restore"
    urgent = True

    def __init__(self, context: Context, library: Library, docker: Docker) -> None:
        self._context = context
        self._library = library
        self._description = Description(context, docker)

    def accept(self, job: str, spec: Spec) -> None:
        """See `Kind`. A volume made for the restore shows from now on which job fills it."""
        wanted = msgspec.convert(spec, RestoreSpec)
        entry = self._entry(wanted)
        if wanted.in_place:
            if entry.volume.state is not State.READY:
                raise NotReady(f"volume '{entry.volume.name}' is {entry.volume.state}", ELSEWHERE)
            self.refuse_used(entry)
            points.require_undo(entry, ELSEWHERE)
        elif entry.volume.state is State.READY:
            raise NotReady(f"volume '{entry.volume.name}' is complete already", "see: snapvol ls")
        else:
            self._context.catalog.change(wanted.volume_id, state=State.RESTORING, job=job, error=None)

    def conduct(self, run: Run) -> dict[str, Any]:
        """See `Kind`."""
        spec = msgspec.convert(run.spec, RestoreSpec)
        entry = self._entry(spec)
        doing = f"restore job {run.id}"
        # While its creation goes on a volume is known by its id only; the name is what that has claimed.
        key = entry.volume.name if entry.hidden else entry.key
        with self._context.locks.volumes(key, doing=doing, wait=120):
            found = self._found(run, spec)
            result = self._replace(run, spec, found) if spec.in_place else self._fill(run, spec, found)
        what = f"'{spec.path}' of " if spec.path is not None else ""
        said = f"restored {what}backup {found.backup.id[:8]} from repository '{spec.repository}'"
        self._context.note("restore", self._entry(spec).volume, said)
        return {"repository": spec.repository, "backup": found.backup.id, "volume": entry.volume.name, **result}

    def give_up(self, job: JobInfo, spec: Spec) -> None:
        """See `Kind`. The volume made for the restore has failed; one that existed is as it was before."""
        wanted = msgspec.convert(spec, RestoreSpec)
        entry = self._context.catalog.by_id(wanted.volume_id)
        if entry is None:
            for pool, seen in self._context.catalog.missing():
                if seen.id == wanted.volume_id:
                    pool.require()
            return
        if wanted.in_place:
            self._undo(entry, job, wanted.path)
            return
        if entry.volume.state is not State.RESTORING or entry.volume.job not in (None, job.id):
            return
        why = job.error or str(job.state)
        if job.state is JobState.INTERRUPTED:
            why += f"; retry with: snapvol job retry {job.id}, or remove it: snapvol rm {entry.volume.name}"
        self._context.catalog.change(wanted.volume_id, state=State.FAILED, error=why, job=job.id)
        self._context.note("restore", entry.volume, f"restore job {job.id} {job.state}: {why}")

    def refuse_used(self, entry: Entry) -> None:
        """Check that nobody uses the volume, by the kernel's account.

        Raises:
            InUse: somebody does.
        """
        users = self._context.kernel_users(entry)
        if users:
            raise InUse(
                f"volume '{entry.volume.name}' is in use by {', '.join(users[:3])}",
                f"stop what uses it, or {ELSEWHERE}",
            )

    # -- inside -------------------------------------------------------------------------------------------------

    def _entry(self, spec: RestoreSpec) -> Entry:
        entry = self._context.catalog.by_id(spec.volume_id)
        if entry is None:
            raise NotFound(
                f"volume '{spec.volume}' does not exist any more",
                f"restore into a new one: snapvol restore {spec.backup} NEW",
            )
        entry.pool.require()
        return entry

    def _found(self, run: Run, spec: RestoreSpec) -> Found:
        run.phase("looking for the backup")
        place = self._library.place(spec.repository)
        return msgspec.convert(run.perform(work.Describe(repository=place, backup=spec.backup)), Found)

    def _transfer(self, run: Run, spec: RestoreSpec, found: Found) -> Transfer:
        root = self._context.settings.daemon.root
        return Transfer(run, self._library.place(spec.repository), found, spec.path, root)

    # -- a new volume -------------------------------------------------------------------------------------------

    def _fill(self, run: Run, spec: RestoreSpec, found: Found) -> dict[str, Any]:
        transfer = self._transfer(run, spec, found)
        entry = self._description.apply(run, self._entry(spec), spec.asked, found, transfer)
        if transfer.image is not None:
            result = self._by_stage(run, entry, transfer)
        else:
            with self._context.contents.claimed(entry) as target:
                # Exact, because an earlier try may have left a part.
                result = transfer.to_directory(target, exact=True)
        self._context.catalog.change(spec.volume_id, state=State.READY, error=None)
        return result

    # -- in place -----------------------------------------------------------------------------------------------

    def _replace(self, run: Run, spec: RestoreSpec, found: Found) -> dict[str, Any]:
        transfer = self._transfer(run, spec, found)
        entry = self._entry(spec)
        self.refuse_used(entry)
        points.require_undo(entry, ELSEWHERE)
        run.phase("taking a snapshot")
        before = points.take(self._context.catalog, entry, "before-restore", _message(run.id), points.RESTORE)
        # As long as the storage says so, and no longer, `_undo` goes back to that: see there.
        self._context.catalog.change(spec.volume_id, job=run.id)
        entry = self._entry(spec)
        if spec.path is None:
            result = self._by_stage(run, entry, transfer)
        else:
            # Into the live volume, which nobody can mount meanwhile.
            with self._context.contents.claimed(entry) as target:
                result = transfer.to_directory(target, exact=True)
        self._mark_done(run, spec)
        if spec.path is None:
            self._description.note_filesystem(self._entry(spec), transfer)
        return {"before": before.name, **result}

    def _mark_done(self, run: Run, spec: RestoreSpec) -> None:
        try:
            self._context.catalog.change(spec.volume_id, job=None)
        except SnapvolError as error:
            run.warn(f"everything is restored, but the storage could not note that: {error.message}")

    def _by_stage(self, run: Run, entry: Entry, transfer: Transfer) -> dict[str, Any]:
        """Make new contents beside the volume's own, and replace those in one step."""
        backend, volume = entry.backend, entry.volume
        try:
            if transfer.as_image(backend):
                assert transfer.image is not None
                result = transfer.to_device(backend.stage_image(volume, transfer.image.size))
            else:
                result = transfer.to_directory(backend.stage(volume), exact=False)
            run.phase("replacing the contents")
            self.refuse_used(entry)
            backend.unmount(volume)
            backend.adopt_stage(volume)
        except BaseException:
            with suppress(SnapvolError):  # the next stage, or the pool's next opening, removes it
                backend.discard_stage(volume)
            raise
        finally:
            self._context.contents.settle(entry)
        return result

    def _undo(self, entry: Entry, job: JobInfo, path: str | None) -> None:
        """Make the volume what it was before the job."""
        catalog, volume = self._context.catalog, entry.volume
        before = next((it for it in entry.snapshots if _is_before(it, job.id)), None)
        if before is None:
            return  # it did not get as far as that
        begun = volume.job == job.id
        if job.state is JobState.INTERRUPTED and not begun:
            # It may have ended long ago, and what was written since must stay: that a job has ended is history, which
            # a power cut may lose. What the storage says is not.
            self._context.note("restore", volume, f"the state before restore job {job.id} is {before.full_name}")
            return
        # What failed under our eyes while the new contents were apart has changed nothing.
        if begun and (path is not None or job.state is JobState.INTERRUPTED):
            try:
                self.refuse_used(entry)
                entry.pool.require().unmount(volume)
                entry.backend.rollback(volume, before)
                catalog.change(volume.id, job=None)
            except SnapvolError as error:
                self._context.note("restore", volume, f"the state before restore job {job.id} is {before.full_name}")
                log.error("volume '%s' may hold half of a restore; snapvol rollback %s: %s",
                          volume.name, before.full_name, error)  # fmt: skip
                return
        points.destroy(catalog, entry, before)
        self._context.note("restore", volume, f"restore job {job.id} did not succeed; the contents are as before")


def _message(job: str) -> str:
    return f"what restore job {job} replaced"


def _is_before(snapshot: Snapshot, job: str) -> bool:
    return snapshot.made_by == points.RESTORE and snapshot.message == _message(job)
