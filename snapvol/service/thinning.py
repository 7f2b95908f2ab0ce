"""Points that a policy made and that need not be kept any longer: which those are, and their end.

Only what policies made is ever taken away by one: a snapshot or backup that somebody asked for stays until somebody
removes it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime

from snapvol.api import Action, BackupInfo
from snapvol.errors import SnapvolError
from snapvol.model import Snapshot
from snapvol.policies.retention import Decision, Point, decide
from snapvol.service import bases
from snapvol.service.snapshots import Snapshots
from snapvol.service.wards import Ward

log = logging.getLogger(__name__)

MADE_BY = "policy"  # of snapshots


def snapshots(ward: Ward, backed_up: datetime | None, now: datetime) -> list[tuple[Snapshot, Decision]]:
    """Return what becomes of each snapshot that policies took of a volume, newest first.

    Args:
        ward: the volume.
        backed_up: the time of its newest backup; None for none.
        now: the present.
    """
    plan = ward.policy.snapshot
    if plan is None or plan.keep is None:
        return []
    wanted = ward.policy.backup is not None
    ours = {it.id: it for it in ward.entry.snapshots if it.made_by == MADE_BY}
    points = [
        Point(
            id=it.id,
            time=it.created,
            held=", ".join(bases.others(it)) or None,
            base=any(bases.repository_of(hold) is not None for hold in it.holds),
            only_copy=wanted and (backed_up is None or it.created > backed_up),
        )
        for it in ours.values()
    ]
    return [(ours[it.point.id], it) for it in decide(points, plan.keep, ward.policy.zone, now)]


def backups(ward: Ward, listed: Sequence[BackupInfo], now: datetime) -> list[tuple[BackupInfo, Decision]]:
    """Return what becomes of each backup of a volume that policies asked for, newest first.

    Args:
        ward: the volume.
        listed: all backups in the repository that its backups go to.
        now: the present.
    """
    plan = ward.policy.backup
    if plan is None or plan.keep is None:
        return []
    ours = {it.id: it for it in listed if it.volume_id == ward.entry.volume.id and it.policy is not None}
    points = [Point(id=it.id, time=it.time, good=not it.incomplete) for it in ours.values()]
    return [(ours[it.point.id], it) for it in decide(points, plan.keep, ward.policy.zone, now)]


def destroy(taker: Snapshots, ward: Ward, decided: Sequence[tuple[Snapshot, Decision]]) -> list[Action]:
    """Destroy the snapshots that need not be kept. One that cannot be destroyed stays, and is tried again next time."""
    done = []
    for snapshot, decision in decided:
        if decision.kept:
            continue
        try:
            taker.expire(ward.entry, snapshot)
        except SnapvolError as error:  # a clone needs it, for example
            log.info("snapshot '%s' stays: %s", snapshot.full_name, error)
        else:
            done.append(destruction(snapshot))
    return done


def destruction(snapshot: Snapshot) -> Action:
    """Return the end of a snapshot, in words."""
    return Action(verb="destroy", object=f"snapshot {snapshot.full_name}")
