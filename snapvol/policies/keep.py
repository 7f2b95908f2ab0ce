"""What to keep: ``24h 7d 4w 12m 3y``, ``last 5``, ``within 48h``, together as many as are wanted."""

from __future__ import annotations

import re
from datetime import timedelta

from msgspec import Struct

from snapvol.errors import UsageError

HINT = "write as in: 24h 7d 4w 12m, or last 5, or within 48h"
MOST = 10_000
UNITS = {"h": "hours", "d": "days", "w": "weeks", "m": "months", "y": "years"}

_COUNT = re.compile(r"([0-9]{1,6})([a-z]*)\Z")
_HOURS = {"h": 1, "d": 24, "w": 168}


class Keep(Struct, frozen=True, kw_only=True):
    """Rules that each keep some points; a point that any rule keeps stays.

    Attributes:
        hours: the newest point of each of so many hours in which there are any; likewise days, weeks (from Monday),
            months and years, all by the calendar.
        last: the newest points, so many.
        within: all points that are not older than this.
    """

    hours: int = 0
    days: int = 0
    weeks: int = 0
    months: int = 0
    years: int = 0
    last: int = 0
    within: timedelta = timedelta()

    def __str__(self) -> str:
        """Return it in its one spelling."""
        words = [f"{getattr(self, name)}{unit}" for unit, name in UNITS.items() if getattr(self, name)]
        words += [f"last {self.last}"] if self.last else []
        words += [f"within {self.within // timedelta(hours=1)}h"] if self.within else []
        return " ".join(words)


def parse(text: str) -> Keep:
    """Read what to keep.

    Raises:
        UsageError: it is no such text, keeps nothing, or says one thing twice.
    """
    words = text.split()
    counts: dict[str, int] = {}
    within: list[timedelta] = []
    while words:
        word = words.pop(0).lower()
        if word == "within":
            within.append(_span(_after(words, word), text))
            continue
        name, number = ("last", _after(words, word)) if word == "last" else _bins(word, text)
        if name in counts:
            raise UsageError(f"{text!r} says twice how many {name} to keep", "say it once")
        counts[name] = _number(number, text)
    if len(within) > 1:
        raise UsageError(f"{text!r} says 'within' twice", "say it once")
    keep = Keep(**counts, within=within[0] if within else timedelta())
    if keep == Keep():
        raise UsageError(f"{text!r} keeps nothing", HINT)
    return keep


def _bins(word: str, text: str) -> tuple[str, str]:
    match = _COUNT.match(word)
    if match is None or match[2] not in UNITS:
        raise UsageError(f"{text!r}: {word!r} is not a rule", HINT)
    return UNITS[match[2]], match[1]


def _after(words: list[str], word: str) -> str:
    return words.pop(0) if words else f"nothing after {word}"


def _number(word: str, text: str) -> int:
    if not (word.isascii() and word.isdigit()):
        raise UsageError(f"{text!r}: {word!r} is not a number", HINT)
    if int(word) > MOST:
        raise UsageError(f"{text!r}: {word} is more than {MOST:,}", "leave the rule out, or write less")
    return int(word)


def _span(word: str, text: str) -> timedelta:
    match = _COUNT.match(word.lower())
    if match is None or match[2] not in _HOURS:
        raise UsageError(f"{text!r}: {word!r} is not a span of hours, days or weeks", "write as in: within 48h")
    return timedelta(hours=_number(match[1], text) * _HOURS[match[2]])
