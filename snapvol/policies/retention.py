"""Which points of one volume to keep: a pure decision over a complete list of them.

Of each calendar bin the newest point is kept, as restic and borg do: yesterday's last state is what somebody means who
asks for yesterday's. A bin that is not over keeps its newest point so far, which a newer one replaces.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, tzinfo

from msgspec import Struct, field

from snapvol.policies.keep import Keep


class Point(Struct, frozen=True, kw_only=True):
    """A snapshot or a backup.

    Attributes:
        id: what it is known by.
        time: of the data in it; aware.
        good: it is whole.
        held: why nobody may remove it; None where nothing speaks against that.
        base: the next backup reads only what has changed since.
        only_copy: there is no backup yet that is as new as it.
    """

    id: str
    time: datetime
    good: bool = True
    held: str | None = None
    base: bool = False
    only_copy: bool = False


class Decision(Struct, frozen=True, kw_only=True):
    """What becomes of a point, and why: without a reason it need not be kept."""

    point: Point
    reasons: list[str] = field(default_factory=list)

    @property
    def kept(self) -> bool:
        """It stays."""
        return bool(self.reasons)


def decide(points: Iterable[Point], keep: Keep, zone: tzinfo, now: datetime) -> list[Decision]:
    """Return for each point, newest first, whether to keep it, and all the reasons.

    The points have to be all that there are: whoever could not list them whole must not ask.

    Args:
        points: of one volume, in one place.
        keep: the rules.
        zone: whose calendar the rules follow.
        now: the present. Points from the future stay: they say that a clock was wrong, not that others are older.
    """
    ordered = sorted(points, key=lambda point: (point.time, point.id), reverse=True)
    reasons: dict[str, list[str]] = {point.id: _always(point, now) for point in ordered}
    whole = [point for point in ordered if point.good and point.time <= now]
    if whole:
        reasons[whole[0].id].append("newest good one")
    for point in ordered:
        if not point.good and (not whole or point.time > whole[0].time):  # it may be all that there is of that time
            reasons[point.id].append("no good one is newer")
    for name, count, bin_of in _rules(keep, zone):
        for number, point in enumerate(_newest_of_bins(whole, bin_of)[:count], 1):
            reasons[point.id].append(f"{name} {number} of {count}")
    for number, point in enumerate(whole[: keep.last], 1):
        reasons[point.id].append(f"last {number} of {keep.last}")
    for point in whole:
        if keep.within and now - point.time <= keep.within:
            reasons[point.id].append(f"within {keep.within.total_seconds() / 3600:.0f} h")
    return [Decision(point=point, reasons=reasons[point.id]) for point in ordered]


def _always(point: Point, now: datetime) -> list[str]:
    found = [f"held: {point.held}"] if point.held is not None else []
    found += ["base of the next backup"] if point.base else []
    found += ["not backed up yet"] if point.only_copy else []
    found += ["from the future"] if point.time > now else []
    return found


def _rules(keep: Keep, zone: tzinfo) -> Sequence[tuple[str, int, Callable[[Point], object]]]:
    def local(point: Point) -> datetime:
        return point.time.astimezone(zone)

    return (
        # An hour that a clock's change repeats is two hours.
        ("hour", keep.hours, lambda it: (local(it).date(), local(it).hour, local(it).utcoffset())),
        ("day", keep.days, lambda it: local(it).date()),
        ("week", keep.weeks, lambda it: local(it).isocalendar()[:2]),
        ("month", keep.months, lambda it: (local(it).year, local(it).month)),
        ("year", keep.years, lambda it: local(it).year),
    )


def _newest_of_bins(points: Sequence[Point], bin_of: Callable[[Point], object]) -> list[Point]:
    """Return the newest point of each bin that has any; ``points`` are newest first."""
    found: dict[object, Point] = {}
    for point in points:
        found.setdefault(bin_of(point), point)
    return list(found.values())
