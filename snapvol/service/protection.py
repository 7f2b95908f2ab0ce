"""What policies ask for, done: snapshots and backups that are due, and an end to points that need not be kept."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import datetime

from snapvol.api import Action, JobInfo, Plan
from snapvol.errors import SnapvolError
from snapvol.model import now
from snapvol.service import thinning
from snapvol.service.attempts import Attempts, Failure, of_jobs
from snapvol.service.backups import Backups
from snapvol.service.context import Context
from snapvol.service.points import require_snapshots
from snapvol.service.policies import Policies
from snapvol.service.snapshots import Snapshots, free_name
from snapvol.service.wards import Ward, wards

log = logging.getLogger(__name__)

PREFIX = "auto-"  # of the snapshots' names
SNAPSHOT, BACKUP = "snapshot", "backup"


class Protection:
    """Carries out the policies.

    Whether something is due follows from the newest point that there is, never from a timer: what was missed while the
    daemon was away is done once, what is protected worst first.

    Args:
        context: the service's shared parts.
        policies: what there is to carry out.
        snapshots: takes and destroys snapshots.
        backups: begins backups.
    """

    def __init__(self, context: Context, policies: Policies, snapshots: Snapshots, backups: Backups) -> None:
        self._context = context
        self.policies = policies
        self._snapshots = snapshots
        self._backups = backups
        self._attempts = Attempts()
        self._thinned: dict[str, datetime] = {}  # repository → the newest backup when its backups were last thinned out

    def wards(self) -> list[Ward]:
        """Return all volumes that a policy protects, by name."""
        found = wards(self._context.catalog, self.policies.all())
        return sorted(found, key=lambda ward: ward.entry.volume.name)

    # -- by the clock -------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Do all that is due. What fails for one volume keeps no other from its turn. One call at a time."""
        for ward in self._worst_first(last_snapshot):
            if self.due_snapshot(ward, now()) is not None:
                self._try(ward, SNAPSHOT, self._snapshot)
        for ward in self._worst_first(self.last_backup):
            if self.due_backup(ward, now()) is not None and self._backups.jobs.idle():
                self._try(ward, BACKUP, self._back_up)
        for repository in {self.repository(ward) for ward in self.wards() if ward.policy.backup is not None}:
            self._thin_repository(repository)

    def _worst_first(self, last: Callable[[Ward], datetime | None]) -> list[Ward]:
        return sorted(self.wards(), key=lambda ward: ((moment := last(ward)) is not None, moment or now()))

    def _try(self, ward: Ward, what: str, do: Callable[[Ward], object]) -> None:
        volume = ward.entry.volume
        try:
            do(ward)
        except SnapvolError as error:
            if self._attempts.failed(f"{what} of {volume.id}", error.message, now()):
                said = f"{what} by policy '{ward.policy.name}' is put off: {error.message}"
                log.warning("volume '%s': %s", volume.name, said)
                self._context.note("policy", volume, said)
        else:
            self._attempts.succeeded(f"{what} of {volume.id}")

    # -- snapshots ----------------------------------------------------------------------------------------------

    def next_snapshot(self, ward: Ward, present: datetime) -> datetime | None:
        """Return when the next snapshot is due, in the past where it was missed; None for never."""
        plan = ward.policy.snapshot
        return None if plan is None else plan.next(ward.entry.volume.id, last_snapshot(ward), present)

    def due_snapshot(self, ward: Ward, present: datetime) -> datetime | None:
        """Return since when a snapshot is due and may be taken; None where none is."""
        moment, failure = self.next_snapshot(ward, present), self.failure(ward, SNAPSHOT)
        return moment if moment is not None and moment <= present and _may(failure, present) else None

    def _snapshot(self, ward: Ward) -> None:
        name, policy = ward.entry.volume.name, ward.policy.name
        with self._context.claim(name, f"a snapshot by policy '{policy}'", mountable=True) as entry:
            require_snapshots(entry)
            self._snapshots.take([entry], free_name([entry], now(), PREFIX), f"policy {policy}", thinning.MADE_BY)
        self._thin(name)

    def _thin(self, name: str) -> list[Action]:
        with self._context.claim(name, "an end to old snapshots", mountable=True) as entry:
            for ward in self.wards():
                if ward.entry.volume.id == entry.volume.id:
                    decided = thinning.snapshots(ward, self.last_backup(ward), now())
                    return thinning.destroy(self._snapshots, ward, decided)
        return []

    # -- backups ------------------------------------------------------------------------------------------------

    def last_backup(self, ward: Ward) -> datetime | None:
        """Return the time of a volume's newest backup in the repository that its backups go to."""
        last = self._context.state.last_backup(ward.entry.volume.id)
        return last.time if last is not None and last.repository == self.repository(ward) else None

    def next_backup(self, ward: Ward, present: datetime) -> datetime | None:
        """Return when the next backup is due, in the past where it was missed; None for never."""
        plan = ward.policy.backup
        return None if plan is None else plan.next(ward.entry.volume.id, self.last_backup(ward), present)

    def due_backup(self, ward: Ward, present: datetime) -> datetime | None:
        """Return since when a backup is due and may begin; None where none is, or where one is under way."""
        moment, failure = self.next_backup(ward, present), self.failure(ward, BACKUP)
        if moment is None or moment > present or not _may(failure, present):
            return None
        under_way = self._backups.jobs.active(ward.entry.volume.id)
        return None if under_way is not None and under_way.kind == BACKUP else moment

    def _back_up(self, ward: Ward) -> JobInfo:
        return self._backups.back_up_for(ward.entry.volume.name, ward.policy.name)

    def failure(self, ward: Ward, what: str) -> Failure | None:
        """Return why the last attempt at a snapshot or backup of a volume failed; None where it did not."""
        volume = ward.entry.volume
        tried = self._attempts.last(f"{what} of {volume.id}")
        if what == SNAPSHOT:
            return tried
        jobs = [job for job in self._backups.jobs.list() if job.kind == BACKUP and job.object == volume.name]
        return tried or of_jobs([job for job in jobs if job.state.ended])

    def repository(self, ward: Ward) -> str:
        """Return the repository that a volume's backups go to."""
        return ward.entry.volume.options.get("repository") or self._context.settings.default_repository

    def _thin_repository(self, repository: str) -> None:
        """Forget what need not be kept, once after each new backup. A list that is not whole ends nothing."""
        present = now()
        concerned = [ward for ward in self.wards() if self.repository(ward) == repository]
        times = [moment for ward in concerned if (moment := self.last_backup(ward)) is not None]
        newest, failure = max(times, default=None), self._attempts.last(repository)
        if newest is None or self._thinned.get(repository) == newest or not _may(failure, present):
            return
        try:
            self.forget(repository)
        except SnapvolError as error:
            if self._attempts.failed(repository, error.message, present):
                log.warning("repository '%s': old backups stay for now: %s", repository, error)
        else:
            self._attempts.succeeded(repository)
            self._thinned[repository] = newest

    def forget(self, repository: str | None = None, *, dry_run: bool = False) -> Plan:
        """Forget the backups in a repository that policies made and do not keep any longer.

        Raises:
            SnapvolError: the repository could not be listed whole; nothing was removed (T24).
        """
        name = self._backups.library.place(repository).name
        listed = self._backups.library.list(name, fresh=True)
        chosen = [
            backup
            for ward in self.wards()
            if self.repository(ward) == name
            for backup, decision in thinning.backups(ward, listed, now())
            if not decision.kept
        ]
        return self._backups.forget_these(chosen, listed, name, dry_run=dry_run)

    # -- on demand ----------------------------------------------------------------------------------------------

    def run(self, chosen: Sequence[Ward]) -> list[JobInfo]:
        """Do now what is not due yet: snapshot volumes, and begin to back them up.

        Raises:
            SnapvolError: a snapshot could not be taken, or a backup not begun; those before it were.
        """
        for ward in chosen:
            if ward.policy.snapshot is not None:
                self._snapshot(ward)
        return [self._back_up(ward) for ward in chosen if ward.policy.backup is not None]


def last_snapshot(ward: Ward) -> datetime | None:
    """Return the time of the newest snapshot that a policy took of a volume."""
    return max((it.created for it in ward.entry.snapshots if it.made_by == thinning.MADE_BY), default=None)


def _may(failure: Failure | None, present: datetime) -> bool:
    return failure is None or failure.over(present)
