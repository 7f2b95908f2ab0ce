"""What is protected, what would be lost now, what needs attention, and whether the machine has what snapvol needs."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

import msgspec

from snapvol.api import Finding, JobInfo, JobState, Level, RepositoryInfo, Status, VolumeStatus
from snapvol.errors import NotFound, SnapvolError
from snapvol.model import State, now
from snapvol.service import checks, points, views
from snapvol.service.backups import Backups
from snapvol.service.catalog import Entry
from snapvol.service.context import Context
from snapvol.service.protection import BACKUP, SNAPSHOT, Protection
from snapvol.service.repositories import check_password_file
from snapvol.service.scratch import Scratch
from snapvol.service.wards import Ward, missing

LATE = timedelta(minutes=15)
ENDED_BADLY = (JobState.FAILED, JobState.INTERRUPTED)


class Reports:
    """The state of everything, from memory; `doctor` looks for itself."""

    def __init__(self, context: Context, backups: Backups, protection: Protection) -> None:
        self._context = context
        self._backups = backups
        self._protection = protection

    def status(self, volume: str | None = None) -> Status:
        """Say how well volumes are protected and what needs attention; of one volume, where it is named.

        Raises:
            NotFound: there is no such volume.
        """
        context, catalog = self._context, self._context.catalog
        entries = sorted(catalog.entries(), key=lambda it: it.volume.name) if volume is None else [catalog.get(volume)]
        jobs = self._backups.jobs.list()
        names = {entry.volume.name for entry in entries}
        present = now()
        wards = {ward.entry.volume.id: ward for ward in self._protection.wards()}
        findings = [
            *(finding for entry in entries for finding in self._of_volume(entry)),
            *(it for entry in entries for it in self._of_policy(entry, wards.get(entry.volume.id), present)),
            *_of_jobs(jobs, None if volume is None else names),
            *([] if volume is not None else self._of_pools()),
            *self._of_repositories(entries if volume is not None else None),
        ]
        default = context.settings.default_pool
        shown = [it for it in jobs if (not it.state.ended or it.state in ENDED_BADLY) and _about(it, names, volume)]
        return Status(
            ok=all(finding.level is Level.OK for finding in findings),
            volumes=[self._planned(entry, wards.get(entry.volume.id), present) for entry in entries],
            pools=[views.pool(pool, default=pool.name == default) for pool in catalog.pools.values()],
            repositories=[self._repository(name) for name in self._backups.library.names],
            jobs=shown[-20:],
            findings=findings,
        )

    def doctor(self) -> list[Finding]:
        """Check everything that snapvol needs, by trying it. Takes some seconds."""
        settings = self._context.settings
        return [
            *checks.tools(settings),
            *checks.kernel(settings),
            *checks.propagation(self._context.catalog.pools.values(), settings.daemon.root),
            *checks.sockets(settings),
            *checks.docker(settings, self._backups.docker),
            *checks.pools(self._context.catalog.pools.values()),
            *checks.repositories(settings, self._backups.library),
            *self._leftovers(),
        ]

    def _leftovers(self) -> list[Finding]:
        settings = self._context.settings
        running = {job.id for job in self._backups.jobs.list() if not job.state.ended}
        scratch = Scratch(settings.daemon.root)
        return checks.leftovers(self._context.catalog.entries(), scratch, running, settings.repositories)

    def metrics(self) -> dict[str, float]:
        """Return figures that change: counts, and the ages of what protects each volume, in seconds."""
        found: dict[str, float] = {}
        present = now()
        for entry in self._context.catalog.entries():
            volume = self._volume(entry, present)
            for name, age in (("would_lose", volume.would_lose), ("would_lose_off_host", volume.would_lose_off_host)):
                if age is not None:
                    found[f'{name}_seconds{{volume="{volume.name}"}}'] = age
        for (kind, state), count in self._backups.counts().items():
            found[f'jobs{{kind="{kind}",state="{state}"}}'] = count
        return found

    # -- one by one ---------------------------------------------------------------------------------------------

    def _volume(self, entry: Entry, present: datetime) -> VolumeStatus:
        volume = entry.volume
        kept = [it.created for it in entry.snapshots if it.made_by != points.BACKUP]
        last = kept[-1] if kept else None
        backup = self._context.state.last_backup(volume.id)
        times = [time for time in (last, backup.time if backup else None) if time is not None]
        return VolumeStatus(
            name=volume.name,
            state=volume.state,
            last_snapshot=last,
            last_backup=backup,
            would_lose=max(0.0, (present - max(times)).total_seconds()) if times else None,
            would_lose_off_host=max(0.0, (present - backup.time).total_seconds()) if backup else None,
        )

    def _planned(self, entry: Entry, ward: Ward | None, present: datetime) -> VolumeStatus:
        status = self._volume(entry, present)
        if ward is None:
            return status
        return msgspec.structs.replace(
            status,
            policy=ward.policy.name,
            next_snapshot=self._protection.next_snapshot(ward, present),
            next_backup=self._protection.next_backup(ward, present),
        )

    def _of_policy(self, entry: Entry, ward: Ward | None, present: datetime) -> Iterator[Finding]:
        subject = f"volume '{entry.volume.name}'"
        gone = missing(entry, self._protection.policies.all())
        if gone is not None:
            message = f"its policy '{gone}' does not exist: nothing protects it"
            command = f"snapvol set {entry.volume.name} policy=NAME"
            yield Finding(level=Level.ERROR, subject=subject, message=message, command=command)
        if ward is None:
            return
        for what, due in (
            (SNAPSHOT, self._protection.next_snapshot(ward, present)),
            (BACKUP, self._protection.next_backup(ward, present)),
        ):
            if due is None or present - due < LATE or (what == BACKUP and self._backups.jobs.active(entry.volume.id)):
                continue
            failure = self._protection.failure(ward, what)
            why = f": {failure.why}" if failure else ""
            message = f"its {what} by policy '{ward.policy.name}' is late since {due:%Y-%m-%d %H:%M %Z}{why}"
            command = f"snapvol log {entry.volume.name}"
            yield Finding(level=Level.ERROR, subject=subject, message=message, command=command)

    def _of_volume(self, entry: Entry) -> Iterator[Finding]:
        volume = entry.volume
        subject = f"volume '{volume.name}'"
        if entry.shadowed:
            yield Finding(level=Level.ERROR, subject=subject, message=entry.shadowed)
        elif volume.state is State.FAILED:
            again = f"snapvol job retry {volume.job}" if volume.job else f"snapvol rm {volume.name}"
            why = volume.error or "no reason is known"
            yield Finding(level=Level.ERROR, subject=subject, message=f"could not be restored: {why}", command=again)
        elif self._unprotected(entry):
            yield Finding(
                level=Level.WARNING,
                subject=subject,
                message="has never been backed up",
                command=f"snapvol backup {volume.name}",
            )
        for damage in entry.damaged_snapshots:
            name = f"snapshot '{volume.name}@{damage.name}'"
            yield Finding(level=Level.ERROR, subject=name, message=f"is damaged: {damage.reason}")

    def _unprotected(self, entry: Entry) -> bool:
        volume = entry.volume
        if volume.state is not State.READY or volume.options.get("policy") == "none":
            return False
        return self._context.state.last_backup(volume.id) is None

    def _of_pools(self) -> Iterator[Finding]:
        catalog = self._context.catalog
        for pool in catalog.pools.values():
            problem = pool.problem or (None if pool.health.ok else pool.health.problem or "it is not well")
            if problem is not None:
                yield Finding(
                    level=Level.ERROR, subject=f"pool '{pool.name}'", message=problem, command="snapvol doctor"
                )
            elif pool.health.problem is not None:  # it works, but should be looked at
                yield Finding(level=Level.WARNING, subject=f"pool '{pool.name}'", message=pool.health.problem)
        for damage in catalog.damages():
            yield Finding(level=Level.ERROR, subject=f"volume '{damage.name}'", message=f"is damaged: {damage.reason}")
        for damage in catalog.damaged_trash():
            name = f"'{damage.name}' in the trash"
            yield Finding(level=Level.WARNING, subject=name, message=f"is damaged: {damage.reason}")

    def _repository(self, name: str) -> RepositoryInfo:
        url = self._context.settings.repository(name).url
        asked, error = self._backups.library.problem(name)
        unusable = error or self._unusable(name)
        if unusable is not None:
            return RepositoryInfo(
                name=name, url=url, ok=False, problem=unusable.message.removeprefix(f"repository '{name}': ")
            )
        return RepositoryInfo(name=name, url=url, ok=True if asked else None)

    def _unusable(self, name: str) -> SnapvolError | None:
        try:
            check_password_file(name, self._context.settings.repository(name))
        except SnapvolError as error:
            return error
        return None

    def _of_repositories(self, entries: list[Entry] | None) -> Iterator[Finding]:
        settings = self._context.settings
        names = self._backups.library.names
        if entries is not None:
            used = {entry.volume.options.get("repository", settings.default_repository) for entry in entries}
            names = [name for name in names if name in used]
        for name in names:
            subject = f"repository '{name}'"
            error = self._unusable(name) or self._backups.library.problem(name)[1]
            message = error.message.removeprefix(f"{subject}: ") if error is not None else ""
            if isinstance(error, NotFound):
                command = f"snapvol repo init{settings.flag(name)}"
                yield Finding(level=Level.WARNING, subject=subject, message=message, command=command)
            elif error is not None:
                yield Finding(level=Level.ERROR, subject=subject, message=message, command=error.hint)
            yield from checks.recovery_key(settings, name)


def _of_jobs(jobs: list[JobInfo], volumes: set[str] | None) -> Iterator[Finding]:
    """Say which kinds of jobs ended badly, for each object where none has succeeded since."""
    last: dict[tuple[str, str], JobInfo] = {}
    for job in jobs:
        if job.state.ended and job.state is not JobState.CANCELLED:
            last[job.kind, job.object.partition("@")[0]] = job
    for (kind, name), job in last.items():
        if volumes is not None and name not in volumes:
            continue
        subject = f"{kind} of '{name}'"
        if job.state in ENDED_BADLY:
            message = f"job {job.id} {job.state}: {job.error}"
            yield Finding(level=Level.ERROR, subject=subject, message=message, command=f"snapvol job retry {job.id}")
        elif job.result.get("incomplete"):
            message = f"job {job.id} made an incomplete backup"
            yield Finding(level=Level.WARNING, subject=subject, message=message, command=f"snapvol job show {job.id}")


def _about(job: JobInfo, volumes: set[str], volume: str | None) -> bool:
    return volume is None or job.object.partition("@")[0] in volumes
