"""What somebody is told of findings, and when: decided from what they were told, what is found now, and the time.

Nothing here sends, stores or asks a clock. What was told is believed only after `told`, so that a message which did not
arrive is decided on anew, by what is true then; and it outlives the daemon, so that a restart repeats nothing and tells
of what has ended meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta, tzinfo

from msgspec import Struct, field
from msgspec.structs import replace

from snapvol.api import Finding, Level
from snapvol.timetable import Timetable

REMIND = timedelta(days=1)
FORGET = timedelta(days=1)  # what ended so long ago and comes back is new
CALMEST = timedelta(hours=4)
BURST = 6  # messages in an hour; after these
SPARSE = timedelta(minutes=10)  # is the least time between two
_HOUR = timedelta(hours=1)
_RANK = {Level.OK: 0, Level.WARNING: 1, Level.ERROR: 2}


class Wish(Struct, frozen=True, kw_only=True):
    """What a target wants to hear.

    Attributes:
        level: the least level.
        group: what appears within this time goes into one message, and an end has to last as long to be believed.
        digest: when everything is told in one message; None for never.
        zone: where ``digest``'s clock hangs.
    """

    level: Level
    group: timedelta
    digest: Timetable | None
    zone: tzinfo


class Alarm(Struct, frozen=True, kw_only=True):
    """What is known of one subject.

    Attributes:
        level: as it is; OK where nothing is found any more.
        told: as the target knows it; OK where it knows of nothing wrong.
        since: ``level`` has been what it is.
        message: what was found last.
        command: what mends it.
        told_at: when the target last heard of it.
        returns: how often it came back.
    """

    level: Level
    told: Level
    since: datetime
    message: str
    command: str | None = None
    told_at: datetime | None = None
    returns: int = 0

    @property
    def rises(self) -> bool:
        """It is worse than the target knows."""
        return _RANK[self.level] > _RANK[self.told]

    @property
    def falls(self) -> bool:
        """It is better than the target knows."""
        return _RANK[self.level] < _RANK[self.told]

    def calm(self, group: timedelta) -> timedelta:
        """Return how long it has to be better before that is told: longer each time that it came back."""
        factor: int = 4 ** min(self.returns, 10)
        return min(group * factor, CALMEST)


class Known(Struct, frozen=True, kw_only=True):
    """All that must be remembered for a target.

    Attributes:
        alarms: by subject.
        sent: when messages of the last hour were accepted.
        digest_at: when the last digest was; before the first, when the wish for one was first seen.
    """

    alarms: dict[str, Alarm] = field(default_factory=dict)
    sent: tuple[datetime, ...] = ()
    digest_at: datetime | None = None


class Notice(Struct, frozen=True, kw_only=True):
    """What is to be told now, by subject.

    Attributes:
        raised: new, or worse than before.
        eased: still there, but better than before.
        recovered: over.
        reminded: unchanged since it was told a day ago.
        digest: the regular report is due.
    """

    raised: Mapping[str, Alarm]
    eased: Mapping[str, Alarm]
    recovered: Mapping[str, Alarm]
    reminded: Mapping[str, Alarm]
    digest: bool = False

    @property
    def told(self) -> dict[str, Alarm]:
        """All that it tells of."""
        return {**self.raised, **self.eased, **self.recovered, **self.reminded}


def decide(known: Known, findings: Iterable[Finding], now: datetime, wish: Wish) -> tuple[Known, Notice | None]:
    """Return what is to be remembered in any case, and what is to be told now: None for nothing.

    Args:
        known: what was remembered last.
        findings: all that is found now.
        now: the time; where it went back, nothing waits for it to come again (T22).
        wish: what the target wants to hear.
    """
    seen = _observed(_not_later(known, now), findings, now, wish)
    return seen, _due(seen, now, wish)


def told(known: Known, notice: Notice, now: datetime) -> Known:
    """Return what is to be remembered after ``notice`` was accepted."""
    alarms = dict(known.alarms)
    for subject, said in notice.told.items():
        current = alarms.get(subject) or replace(said, level=Level.OK, since=now)
        alarms[subject] = replace(current, told=said.level, told_at=now)
    if notice.digest:
        alarms = {
            subject: alarm if alarm.told is Level.OK else replace(alarm, told_at=now)
            for subject, alarm in alarms.items()
        }
    return Known(
        alarms=alarms,
        sent=(*(moment for moment in known.sent if now - moment < _HOUR), now),
        digest_at=now if notice.digest else known.digest_at,
    )


def _not_later(known: Known, now: datetime) -> Known:
    return Known(
        alarms={
            subject: replace(
                alarm, since=min(alarm.since, now), told_at=None if alarm.told_at is None else min(alarm.told_at, now)
            )
            for subject, alarm in known.alarms.items()
        },
        sent=tuple(min(moment, now) for moment in known.sent if now - moment < _HOUR),
        digest_at=None if known.digest_at is None else min(known.digest_at, now),
    )


def _observed(known: Known, findings: Iterable[Finding], now: datetime, wish: Wish) -> Known:
    found = _worst(findings, wish.level)
    alarms = {}
    for subject in {**known.alarms, **found}:
        alarm = _seen(known.alarms.get(subject), found.get(subject), now)
        if alarm.level is not Level.OK or alarm.told is not Level.OK or now - alarm.since < FORGET:
            alarms[subject] = alarm
    digest_at = None if wish.digest is None else known.digest_at or now
    return replace(known, alarms=alarms, digest_at=digest_at)


def _worst(findings: Iterable[Finding], least: Level) -> dict[str, Finding]:
    worst: dict[str, Finding] = {}
    for finding in findings:
        if _RANK[finding.level] < max(_RANK[least], 1):
            continue
        if finding.subject not in worst or _RANK[finding.level] > _RANK[worst[finding.subject].level]:
            worst[finding.subject] = finding
    return worst


def _seen(alarm: Alarm | None, finding: Finding | None, now: datetime) -> Alarm:
    if alarm is None:
        assert finding is not None
        return Alarm(level=finding.level, told=Level.OK, since=now, message=finding.message, command=finding.command)
    if finding is None:
        return alarm if alarm.level is Level.OK else replace(alarm, level=Level.OK, since=now)
    worse = _RANK[finding.level] > _RANK[alarm.level]
    return replace(
        alarm,
        level=finding.level,
        since=alarm.since if finding.level is alarm.level else now,
        message=finding.message,
        command=finding.command,
        returns=alarm.returns + worse,
    )


def _due(known: Known, now: datetime, wish: Wish) -> Notice | None:
    if known.sent:
        rest = wish.group if len(known.sent) < BURST else max(SPARSE, wish.group)
        if now - max(known.sent) < rest:
            return None
    rising = {subject: alarm for subject, alarm in known.alarms.items() if alarm.rises}
    urgent = any(alarm.returns or now - alarm.since >= wish.group for alarm in rising.values())
    fallen = {
        subject: alarm
        for subject, alarm in known.alarms.items()
        if alarm.falls and now - alarm.since >= alarm.calm(wish.group)
    }
    same = {
        subject: alarm
        for subject, alarm in known.alarms.items()
        if alarm.level is alarm.told is not Level.OK and alarm.told_at is not None and now - alarm.told_at >= REMIND
    }
    digest = (
        wish.digest is not None and known.digest_at is not None and known.digest_at < wish.digest.latest(now, wish.zone)
    )
    if not (urgent or fallen or same or digest):
        return None
    return Notice(
        raised=rising,
        eased={subject: alarm for subject, alarm in fallen.items() if alarm.level is not Level.OK},
        recovered={subject: alarm for subject, alarm in fallen.items() if alarm.level is Level.OK},
        reminded={} if digest else same,  # a digest has them all
        digest=digest,
    )
