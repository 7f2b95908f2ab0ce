"""What a policy will have kept in some time, if all goes well."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from msgspec import Struct

from snapvol.policies.policy import Plan, Policy
from snapvol.policies.retention import Point, decide
from snapvol.policies.schedule import Schedule, parse

HORIZONS = {"1 day": timedelta(days=1), "30 days": timedelta(days=30), "1 year": timedelta(days=365)}
_EXACT = timedelta(days=40)  # before the end of what is simulated, points further apart than an hour are enough


class Outlook(Struct, frozen=True, kw_only=True):
    """What there is at a moment.

    Attributes:
        after: from now, in words.
        at: the moment.
        points: how many.
        oldest: the time of the oldest; None where there is none.
    """

    after: str
    at: datetime
    points: int
    oldest: datetime | None = None


def outlook(policy: Policy, plan: Plan, points: Sequence[Point], now: datetime) -> list[Outlook]:
    """Return what there will be at each of `HORIZONS`.

    That points are taken away step by step or all at the end makes no difference: the newest point of an hour, a day
    or a year stays that for ever.

    Args:
        policy: in whose time zone.
        plan: of its points.
        points: those that there are.
        now: the present.
    """
    found = []
    for words, span in HORIZONS.items():
        end = now + span
        made = [Point(id=moment.isoformat(), time=moment) for moment in _times(policy, plan.schedule, now, end)]
        # What keeps a point today will be over: a backup is made, a base is left behind.
        there = [Point(id=it.id, time=it.time, good=it.good, held=it.held) for it in points] + made
        kept = (
            [it.point.time for it in decide(there, plan.keep, policy.zone, end) if it.kept]
            if plan.keep
            else [it.time for it in there]
        )
        found.append(Outlook(after=words, at=end, points=len(kept), oldest=min(kept, default=None)))
    return found


def _times(policy: Policy, schedule: Schedule, start: datetime, end: datetime) -> Iterator[datetime]:
    hourly = parse("hourly", policy.zone)
    moment = schedule.after(start)
    while moment <= end:
        yield moment
        after = schedule.after(moment)
        frequent = after - moment < timedelta(hours=1) and end - moment > _EXACT
        moment = hourly.after(moment) if frequent else after
