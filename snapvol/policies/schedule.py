"""When something is due: cron expressions and their short words, in a time zone, as pure functions of what is told.

Fields of cron and the arithmetic of local times are apscheduler's; what it does at a change of the clocks is tested
here: a time that does not exist comes when it would have been without the change. One that comes twice counts once, as
in Debian's cron(8), except in schedules of every hour.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, tzinfo
from functools import cached_property
from hashlib import sha256
from typing import TYPE_CHECKING

from msgspec import Struct

from snapvol.errors import UsageError

if TYPE_CHECKING:
    from apscheduler.triggers.cron import CronTrigger

HINT = "write hourly, daily, weekly, monthly, 03:00, or five fields of cron: '0 3 * * *'"
WORDS = {"hourly": "0 * * * *", "daily": "0 0 * * *", "weekly": "0 0 * * 0", "monthly": "0 0 1 * *"}
DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat", "sun")

_TIME = re.compile(r"([01]?[0-9]|2[0-3]):([0-5][0-9])\Z")
_FIELD = re.compile(r"[0-9a-z*,/-]+\Z")
_TICK = timedelta(microseconds=1)


class Schedule(Struct, frozen=True, dict=True):
    """A cron expression.

    Attributes:
        text: as it was written.
        cron: its five fields.
        zone: whose clock it follows.
    """

    text: str
    cron: str
    zone: tzinfo

    def __str__(self) -> str:
        """Return it as it was written."""
        return self.text

    @property
    def _by_the_clock(self) -> bool:
        return self.cron.split()[1] != "*"

    @cached_property
    def _trigger(self) -> CronTrigger:
        return _trigger(self.cron, self.zone)

    def after(self, moment: datetime) -> datetime:
        """Return the first time after ``moment``, in UTC.

        Raises:
            UsageError: there is none: a 30th of February.
        """
        found: datetime | None = moment
        while found is not None:
            found = self._trigger.get_next_fire_time(None, (found.astimezone(UTC) + _TICK).astimezone(self.zone))
            if found is not None and not (found.fold and self._by_the_clock):
                return found.astimezone(UTC)
        raise UsageError(f"{self.text!r} is never due", "check day and month")

    def due(self, last: datetime | None, now: datetime, jitter: timedelta = timedelta()) -> datetime | None:
        """Return since when it is due; None where it is not. However often it was missed, it is due once.

        Args:
            last: when it was done last; None for never, which is due at once.
            now: the present. A ``last`` that lies after it was dated by a wrong clock, and counts as now.
            jitter: what is added to the times.
        """
        if last is None:
            return now
        moment = self.next(last, now, jitter)
        return moment if moment <= now else None

    def next(self, last: datetime | None, now: datetime, jitter: timedelta = timedelta()) -> datetime:
        """Return when it is due next; in the past where it was missed."""
        if last is None:
            return now
        return self.after(min(last, now) - jitter) + jitter


def parse(text: str, zone: tzinfo) -> Schedule:
    """Read a schedule.

    Raises:
        UsageError: it is none, or one that is never due.
    """
    said = " ".join(text.lower().split())
    time = _TIME.match(said)
    cron = WORDS.get(said) or (f"{int(time[2])} {int(time[1])} * * *" if time else said)
    fields = cron.split()
    if len(fields) != 5 or not all(map(_FIELD.match, fields)):
        raise UsageError(f"{text!r} is not a schedule", HINT)
    if fields[2] != "*" and fields[4] != "*":
        raise UsageError(
            f"{text!r} names days of the month and of the week", "crons differ in what that means: name one of them"
        )
    fields[4] = ",".join(_weekdays(part, text) for part in fields[4].split(","))
    schedule = Schedule(text=said, cron=" ".join(fields), zone=zone)
    try:
        _ = schedule._trigger
    except (ValueError, TypeError) as error:
        raise UsageError(f"{text!r} is not a schedule: {error}", HINT) from None
    schedule.after(datetime(2026, 1, 1, tzinfo=UTC))
    return schedule


def jitter(most: timedelta, *parts: str) -> timedelta:
    """Return a delay below ``most`` that is always the same for the same parts, in whole seconds."""
    seconds = int(most.total_seconds())
    number = int.from_bytes(sha256("\0".join(parts).encode()).digest()[:8], "big")
    return timedelta(seconds=number % seconds if seconds else 0)


def _trigger(cron: str, zone: tzinfo) -> CronTrigger:
    from apscheduler.triggers.cron import CronTrigger  # a tenth of a second, which most commands can do without

    minute, hour, day, month, weekday = cron.split()
    return CronTrigger(minute=minute, hour=hour, day=day, month=month, day_of_week=weekday, second=0, timezone=zone)


def _weekdays(part: str, text: str) -> str:
    """Return days of the week as apscheduler counts them, from Monday; cron's 0 and 7 are Sunday."""
    span, slash, step = part.partition("/")
    if span == "*":
        return part
    days = [_day(day, text) for day in span.split("-")]
    if len(days) == 1 and not slash:
        return DAYS[days[0]]
    first, last = days[0], days[-1] if len(days) > 1 else 6
    if len(days) > 2 or last < first or (slash and not (step.isdigit() and int(step))):
        raise UsageError(f"{text!r}: {part!r} is not a range of days of the week", "write as in: 1-5, or mon-fri")
    return ",".join(dict.fromkeys(DAYS[day] for day in range(first, last + 1, int(step) if slash else 1)))


def _day(word: str, text: str) -> int:
    if word.isdigit() and int(word) <= 7:
        return int(word)
    if word in DAYS:
        return DAYS.index(word)
    raise UsageError(f"{text!r}: {word!r} is not a day of the week", "write 0 to 7 (0 and 7 are Sunday), or mon to sun")
