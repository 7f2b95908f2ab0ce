"""Policies as people see, change and try them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime

from snapvol.api import Forecast, JobInfo, PolicyInfo, Protected
from snapvol.errors import NotFound, Refused
from snapvol.model import now
from snapvol.policies import policy as parsing
from snapvol.policies.retention import Point
from snapvol.policies.simulation import Outlook, outlook
from snapvol.service import thinning
from snapvol.service.backups import Backups
from snapvol.service.context import Context
from snapvol.service.policies import Policies
from snapvol.service.protection import Protection, last_snapshot
from snapvol.service.wards import Ward


class PolicyDesk:
    """What the admin API offers of policies.

    Args:
        context: the service's shared parts.
        policies: the policies.
        protection: carries them out.
        backups: tells what is in the repositories.
        changed: told after a change.
    """

    def __init__(
        self,
        context: Context,
        policies: Policies,
        protection: Protection,
        backups: Backups,
        changed: Callable[[], None],
    ) -> None:
        self._context = context
        self._policies = policies
        self._protection = protection
        self._backups = backups
        self._changed = changed

    def all(self) -> list[PolicyInfo]:
        """List the policies, by name."""
        return [self.show(name) for name in sorted(self._policies.all())]

    def show(self, name: str) -> PolicyInfo:
        """Return a policy with the volumes that it protects.

        Raises:
            NotFound: there is none of that name.
        """
        policy, present = self._policies.get(name), now()
        volumes = [self._protected(ward, present) for ward in self._wards(name)]
        return PolicyInfo(name=name, origin=self._policies.origin(name), fields=policy.shown(), volumes=volumes)

    def set(self, name: str, changes: Mapping[str, str | None]) -> PolicyInfo:
        """Make a policy, or change one; it is in force at once.

        Raises:
            UsageError: it would be wrong.
            Refused: it is one of the settings file.
        """
        self._policies.set(name, changes)
        self._changed()
        return self.show(name)

    def remove(self, name: str) -> None:
        """Remove a policy. What it made stays.

        Raises:
            NotFound: there is none.
            Refused: it is one of the settings file, or something names it.
        """
        self._policies.get(name)
        entries = self._context.catalog.entries()
        named = sorted(entry.volume.name for entry in entries if entry.volume.options.get("policy") == name)
        if named:
            more = f" and {len(named) - 3} more" if len(named) > 3 else ""
            raise Refused(
                f"policy '{name}' protects {', '.join(named[:3])}{more}",
                f"give them another first: snapvol set {named[0]} policy=NAME, or policy=none",
            )
        pools = [pool.name for pool in self._context.catalog.pools.values() if pool.defaults.get("policy") == name]
        if pools:
            raise Refused(f"policy '{name}' is the default of pool '{pools[0]}'", f"change [pools.{pools[0]}.defaults]")
        self._policies.remove(name)
        self._changed()

    def run(self, name: str) -> list[JobInfo]:
        """Do now what a policy does: snapshot its volumes, and begin to back them up.

        Raises:
            NotFound: there is no such policy, or it protects no volume.
            SnapvolError: a snapshot could not be taken, or a backup not begun; those before it were.
        """
        self._policies.get(name)
        chosen = self._wards(name)
        if not chosen:
            raise NotFound(f"policy '{name}' protects no volume", f"give it one: snapvol set VOLUME policy={name}")
        return self._protection.run(chosen)

    def simulate(self, name: str) -> list[Forecast]:
        """Say what will be kept of each volume, and of one that is new where the policy protects none.

        Raises:
            NotFound: there is no such policy.
            SnapvolError: a repository could not be listed.
        """
        policy, present = self._policies.get(name), now()
        found = [it for ward in self._wards(name) for it in self._forecasts(ward, present)]
        if found:
            return found
        plans = {kind: getattr(policy, kind) for kind in parsing.FIELDS}
        return [
            _forecast(f"{kind}s", "a new volume", it, None)
            for kind, plan in plans.items()
            if plan is not None
            for it in outlook(policy, plan, [], present)
        ]

    def _forecasts(self, ward: Ward, present: datetime) -> list[Forecast]:
        volume, found = ward.entry.volume, []
        if ward.policy.snapshot is not None:
            taken = [it for it in ward.entry.snapshots if it.made_by == thinning.MADE_BY]
            points = [Point(id=it.id, time=it.created) for it in taken]
            ahead = outlook(ward.policy, ward.policy.snapshot, points, present)
            found += [_forecast("snapshots", volume.name, it, None) for it in ahead]
        if ward.policy.backup is not None:
            listed = self._backups.library.list(self._protection.repository(ward))
            own = [it for it in listed if it.volume_id == volume.id]
            points = [Point(id=it.id, time=it.time, good=not it.incomplete) for it in own if it.policy is not None]
            added = [it.added for it in own if it.added is not None]
            for ahead_of in outlook(ward.policy, ward.policy.backup, points, present):
                found.append(_forecast("backups", volume.name, ahead_of, _bytes(added, ahead_of.points)))
        return found

    def _wards(self, name: str) -> list[Ward]:
        return [ward for ward in self._protection.wards() if ward.policy.name == name]

    def _protected(self, ward: Ward, present: datetime) -> Protected:
        return Protected(
            volume=ward.entry.volume.name,
            last_snapshot=last_snapshot(ward),
            next_snapshot=self._protection.next_snapshot(ward, present),
            last_backup=self._protection.last_backup(ward),
            next_backup=self._protection.next_backup(ward, present),
        )


def _forecast(what: str, volume: str, ahead: Outlook, size: int | None) -> Forecast:
    return Forecast(volume=volume, what=what, after=ahead.after, points=ahead.points, oldest=ahead.oldest, bytes=size)


def _bytes(added: list[int], points: int) -> int | None:
    """Return about what so many backups take: the first was whole, each later one adds what the others have added."""
    if not added:
        return None
    later = added[1:]
    return added[0] + (sum(later) // len(later) if later else 0) * max(0, points - 1)
