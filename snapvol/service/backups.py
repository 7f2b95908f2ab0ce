"""Backups: making, listing, verifying, forgetting and restoring them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress

import msgspec

from snapvol.api import BackupInfo, JobInfo, JobState, Plan
from snapvol.docker import Docker
from snapvol.errors import InUse, NotFound, Refused, SnapvolError, UsageError
from snapvol.model import State, Volume, now
from snapvol.names import split_snapshot
from snapvol.service import bases, forgetting, points
from snapvol.service.backup_job import BackupJob, BackupSpec
from snapvol.service.context import Context
from snapvol.service.jobs import Jobs
from snapvol.service.library import Library
from snapvol.service.restore_job import RestoreJob
from snapvol.service.restores import Make, Restores
from snapvol.service.scratch import Scratch
from snapvol.service.state import StateDatabase
from snapvol.service.verify_job import VerifyJob, VerifySpec
from snapvol.settings import Settings

PROMPT = 4.0  # seconds that a request waits to hear whether a repository opens; the job sees it else


class Backups:
    """What people and programs ask of backups. Long work becomes a job.

    Args:
        settings: the effective settings.
        state: where history goes.

    Attributes:
        jobs: all jobs.
        library: what is in the repositories.
    """

    def __init__(self, settings: Settings, state: StateDatabase) -> None:
        self._settings = settings
        self.jobs = Jobs(state, settings.daemon.jobs)
        self.library = Library(settings)
        self.docker = Docker(settings.daemon.docker_socket, settings.daemon.plugin_socket.stem)
        self._context: Context
        self._restores: Restores

    def connect(self, context: Context, make: Make) -> None:
        """Take in what is made later than this: the service's shared parts, and the way to make a volume."""
        self._context = context
        restoring = RestoreJob(context, self.library, self.docker)
        for kind in (BackupJob(context, self.library, self.docker), restoring, VerifyJob(self.library)):
            self.jobs.register(kind)
        self._restores = Restores(context, self.jobs, self.library, restoring, make)

    def start(self) -> None:
        """Interrupt the jobs of an earlier life and clean up after them; the pools are open and the catalog is read."""
        Scratch(self._settings.daemon.root).clean()
        self.jobs.start()
        self.clean()

    def close(self) -> None:
        """Stop all jobs, and end all questions to repositories."""
        self.library.close()
        self.jobs.close()

    def clean(self) -> None:
        """Take away what jobs that no longer run left behind. For the start, and for pools that come later."""
        self.jobs.clean()
        for entry in self._context.catalog.entries():
            if entry.pool.problem is None and self.jobs.active(entry.volume.id) is None:
                # Whatever else works on it now, the next backup cleans up, too.
                with suppress(InUse), self._context.locks.volumes(entry.key, doing="cleaning", wait=0, mountable=True):
                    points.clean(self._context.catalog, entry)
                    bases.clean(self._context.catalog, self._context.catalog.by_id(entry.volume.id) or entry)

    # -- what volumes need of jobs ------------------------------------------------------------------------------

    def active(self, volume_id: str) -> JobInfo | None:
        """Return the queued or running job that works on a volume. Reads memory only."""
        return self.jobs.active(volume_id)

    def cancel(self, volume_id: str) -> None:
        """Stop the job that works on a volume, and wait for its end."""
        job = self.jobs.active(volume_id)
        if job is not None:
            with suppress(Refused):  # it ended in this moment
                self.jobs.cancel(job.id)
            self.jobs.wait(job.id)

    def fill(
        self, volume: Volume, backup: str, repository: str | None, asked: Mapping[str, str] | None = None
    ) -> JobInfo:
        """Begin to restore a backup into a volume that was just made for it. Takes at most about 3 s.

        Args:
            volume: in state restoring.
            backup: an id, ``VOLUME`` or ``VOLUME@TIME``.
            repository: where; None for where that volume's backups go.
            asked: the options that were asked for: they win over the backup's. None for all that it has.

        Raises:
            NotFound: there is no such backup. Where the repository takes longer to say so, the job fails with it.
            SnapvolError: the repository cannot be used.
        """
        return self._restores.fill(volume, backup, repository, asked)

    # -- backups ------------------------------------------------------------------------------------------------

    def back_up(self, objects: Sequence[str], *, all: bool = False, repository: str | None = None) -> list[JobInfo]:
        """Begin to back up volumes as they are now (``VOLUME``) or snapshots (``VOLUME@NAME``).

        Args:
            objects: which; none where ``all`` is set.
            all: every volume that is ready. Those that are being backed up already are left to that.
            repository: where to; None for each volume's own, or the default one.

        Raises:
            NotFound: a volume or snapshot does not exist, or a repository was not made yet.
            InUse: a job works on one of them; it is named.
            Unsupported: a volume's storage has no snapshots.
            SnapvolError: a repository cannot be used. No job was begun then.
        """
        if all == bool(objects):
            raise UsageError("name volumes to back up, or say --all, and not both")
        if all:
            return self._back_up_all(repository)
        specs = [self._spec(*split_snapshot(text), repository) for text in dict.fromkeys(objects)]
        for spec in specs:
            self.jobs.refuse_busy(spec.volume_id, spec.volume)
        for name in {spec.repository for spec in specs}:
            self.library.require(name, PROMPT)
        return [self._submit(spec) for spec in specs]

    def back_up_for(self, volume: str, policy: str) -> JobInfo:
        """Begin a backup of a volume that a policy wants, and may forget.

        Raises:
            InUse: a job works on the volume.
            SnapvolError: the volume or the repository cannot be used.
        """
        spec = msgspec.structs.replace(self._spec(volume, None, None), policy=policy)
        self.jobs.refuse_busy(spec.volume_id, spec.volume)
        self.library.require(spec.repository, PROMPT)
        return self._submit(spec)

    def _back_up_all(self, repository: str | None) -> list[JobInfo]:
        catalog = self._context.catalog
        ready = [entry.volume for entry in catalog.entries() if entry.volume.state is State.READY]
        if not ready:
            raise NotFound("there is no volume to back up", "see: snapvol ls")
        specs = [self._spec(volume.name, None, repository) for volume in sorted(ready, key=lambda it: it.name)]
        for name in {spec.repository for spec in specs}:
            self.library.require(name, PROMPT)
        return [self.jobs.active(spec.volume_id) or self._submit(spec) for spec in specs]

    def _spec(self, volume: str, snapshot: str | None, repository: str | None) -> BackupSpec:
        entry = self._context.catalog.get(volume)
        self._context.require_ready(entry)
        if snapshot is not None:
            entry.snapshot(snapshot)
        else:
            points.require_snapshots(entry)
        name = repository or entry.volume.options.get("repository") or self._settings.default_repository
        self._settings.repository(name)
        return BackupSpec(volume_id=entry.volume.id, volume=entry.volume.name, repository=name, snapshot=snapshot)

    def _submit(self, spec: BackupSpec) -> JobInfo:
        what = f"{spec.volume}@{spec.snapshot}" if spec.snapshot else spec.volume
        return self.jobs.submit("backup", what, msgspec.to_builtins(spec), spec.volume_id)

    def list(self, volume: str | None = None, repository: str | None = None) -> Sequence[BackupInfo]:
        """List backups, oldest first: of one volume or all, in one repository or all of the settings.

        A volume's backups are those made under its name, and those that it had under an earlier one.

        Raises:
            SnapvolError: a repository could not be listed whole.
        """
        names = [repository] if repository else self.library.names
        found: Sequence[BackupInfo] = ()
        for name in names:
            try:
                found = (*found, *self.library.list(name))
            except SnapvolError as error:
                if len(names) == 1:
                    raise
                others = ", ".join(other for other in names if other != name)
                hint = f"to list the others: --repository NAME ({others})"
                raise type(error)(error.message, f"{error.hint}; {hint}" if error.hint else hint) from None
        if volume is not None:
            found = self._of(volume, found)
        return sorted(found, key=lambda backup: backup.time)

    def _of(self, volume: str, backups: Iterable[BackupInfo]) -> Sequence[BackupInfo]:
        try:
            live: str | None = self._context.catalog.get(volume).volume.id
        except SnapvolError:
            live = None
        return [it for it in backups if it.volume == volume or (live is not None and it.volume_id == live)]

    def verify(self, backups: Sequence[str], repository: str | None = None) -> Sequence[JobInfo]:
        """Begin to read and check every byte of backups, each named by id, ``VOLUME`` or ``VOLUME@TIME``.

        Raises:
            NotFound: one does not exist.
            SnapvolError: the repository cannot be used. No job was begun then.
        """
        if not backups:
            raise UsageError("name the backups to verify", "see: snapvol backups")
        found = [self._restores.find(text, repository) for text in dict.fromkeys(backups)]
        return [
            self.jobs.submit(
                VerifyJob.name,
                it.backup.id[: forgetting.SHORT],
                msgspec.to_builtins(VerifySpec(backup=it.backup.id, repository=it.backup.repository)),
            )
            for it in found
        ]

    def forget(
        self, backups: Sequence[str], repository: str | None = None, *, dry_run: bool = False, force: bool = False
    ) -> Plan:
        """Remove backups, named by ids. What only they needed becomes free when the repository is pruned.

        Raises:
            NotFound: one does not exist.
            Protected: one is the newest complete backup of its volume, and ``force`` is not set.
            SnapvolError: the repository could not be listed whole; nothing was removed (T24).
        """
        if not backups:
            raise UsageError("name the backups to forget", "see: snapvol backups")
        name = self.library.place(repository).name
        known = self.library.list(name, fresh=True)
        chosen = forgetting.resolve(backups, known, name)
        if not force:
            forgetting.refuse_last(chosen, known, now())
        return self.forget_these(chosen, known, name, dry_run=dry_run)

    def forget_these(
        self, chosen: Sequence[BackupInfo], known: Sequence[BackupInfo], repository: str, *, dry_run: bool
    ) -> Plan:
        """Remove backups that were found fit for that among all that are known in a repository.

        Raises:
            SnapvolError: not all could be removed.
        """
        if chosen and not dry_run:
            self.library.forget(repository, [backup.id for backup in chosen])
            self._forgotten(chosen, known)
        return Plan(actions=forgetting.actions(chosen), done=not dry_run)

    def _forgotten(self, chosen: Sequence[BackupInfo], known: Sequence[BackupInfo]) -> None:
        """Let no volume refer to a backup that is gone."""
        state = self._context.state
        gone = {backup.id for backup in chosen}
        for volume_id, last in state.last_backups().items():
            if last.id not in gone:
                continue
            left = [it for it in known if it.volume_id == volume_id and it.id not in gone]
            if left:
                newest = max(left, key=lambda it: it.time)
                ref = msgspec.structs.replace(last, id=newest.id, time=newest.time, repository=newest.repository)
                state.set_last_backup(volume_id, ref)
            else:
                state.drop_last_backup(volume_id)

    # -- restores -----------------------------------------------------------------------------------------------

    def restore(
        self,
        backup: str,
        *,
        volume: str | None = None,
        in_place: bool = False,
        path: str | None = None,
        repository: str | None = None,
        dry_run: bool = False,
    ) -> JobInfo | Plan:
        """Begin to restore a backup into a new volume, or in place of an existing one's contents.

        Args:
            backup: an id, ``VOLUME`` (its newest) or ``VOLUME@TIME`` (its newest not after that).
            volume: the new volume's name, or the existing one where ``in_place``; None for the one that was backed up.
            in_place: replace the contents of a volume that nobody uses, after a snapshot of what they are.
            path: only this file or directory, relative to the volume's root.
            repository: where the backup is; None for where the volume's backups go, or the default one.
            dry_run: only say what would be done.

        Raises:
            NotFound: there is no such backup, or no such volume.
            AlreadyExists: the new volume's name is taken.
            InUse: the volume is in use.
            SnapvolError: the repository cannot be used.
        """
        return self._restores.restore(
            backup, volume=volume, in_place=in_place, path=path, repository=repository, dry_run=dry_run
        )

    # -- figures ------------------------------------------------------------------------------------------------

    def counts(self) -> Mapping[tuple[str, JobState], int]:
        """Return how many jobs there are of each kind and state, for metrics."""
        found: dict[tuple[str, JobState], int] = {}
        for job in self.jobs.list():
            found[job.kind, job.state] = found.get((job.kind, job.state), 0) + 1
        return found
