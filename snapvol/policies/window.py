"""The hours in which something may run: ``22:00-06:00``."""

from __future__ import annotations

import re
from datetime import UTC, datetime, time, timedelta, tzinfo

from msgspec import Struct

from snapvol.errors import UsageError

_SPAN = re.compile(r"([01]?[0-9]|2[0-3]):([0-5][0-9])\s*-\s*([01]?[0-9]|2[0-3]):([0-5][0-9])\Z")


class Window(Struct, frozen=True):
    """A part of each day, by the clock of a zone; one that ends before it begins goes over midnight."""

    begin: time
    end: time
    zone: tzinfo

    def __str__(self) -> str:
        """Return it in its one spelling."""
        return f"{self.begin:%H:%M}-{self.end:%H:%M}"

    def opens(self, moment: datetime) -> datetime:
        """Return ``moment`` where it lies in the window, else when the window opens next, in UTC."""
        local = moment.astimezone(self.zone)
        inside = (self.begin <= local.time()) + (local.time() < self.end) + (self.end < self.begin) == 2
        if inside:
            return moment
        for days in (0, 1):
            begin = datetime.combine(local.date() + timedelta(days=days), self.begin, self.zone).astimezone(UTC)
            if begin >= moment:
                break
        return begin


def parse(text: str, zone: tzinfo) -> Window:
    """Read a window.

    Raises:
        UsageError: it is none, or empty.
    """
    match = _SPAN.match(text.strip())
    if match is None:
        raise UsageError(f"{text!r} is not a window", "write as in: 22:00-06:00")
    begin, end = time(int(match[1]), int(match[2])), time(int(match[3]), int(match[4]))
    if begin == end:
        raise UsageError(f"{text!r} is empty: it ends when it begins", "leave it out, or write as in: 22:00-06:00")
    return Window(begin, end, zone)
