"""When something happens that happens every day or every week, at a time of the machine's own clock."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, tzinfo

from msgspec import Struct

from snapvol.errors import UsageError, nearest

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_TIME = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])\Z")
_HINT = "write: daily 08:00, or: weekly mon 08:00"


class Timetable(Struct, frozen=True, kw_only=True):
    """A time of day, of every day or of one day of the week.

    Attributes:
        weekday: 0 is Monday; None for every day.
        hour: from 0 to 23.
        minute: from 0 to 59.
    """

    weekday: int | None
    hour: int
    minute: int

    def latest(self, now: datetime, zone: tzinfo) -> datetime:
        """Return the last moment at or before ``now`` that is in this timetable."""
        day = now.astimezone(zone).replace(hour=self.hour, minute=self.minute, second=0, microsecond=0, fold=0)
        while day.astimezone(UTC) > now or self.weekday not in (None, day.weekday()):
            day -= timedelta(days=1)  # by the calendar: such a day may have 23 or 25 hours
        return day.astimezone(UTC)


def timetable(text: str) -> Timetable:
    """Return what ``daily 08:00`` or ``weekly mon 08:00`` means.

    Raises:
        UsageError: it is neither.
    """
    words = text.lower().split()
    if words[:1] not in (["daily"], ["weekly"]):
        hint = nearest(words[0], ("daily", "weekly")) if words else _HINT
        raise UsageError(f"{text!r} is no timetable", hint if hint.startswith("did") else _HINT)
    weekday = None
    if words[0] == "weekly":
        if len(words) < 2 or words[1] not in DAYS:
            raise UsageError(f"{text!r} names no day of the week", f"one of: {', '.join(DAYS)}")
        weekday = DAYS.index(words.pop(1))
    time = _TIME.match(words[1]) if len(words) == 2 else None
    if time is None:
        raise UsageError(f"{text!r} has no time of day", _HINT)
    return Timetable(weekday=weekday, hour=int(time[1]), minute=int(time[2]))
