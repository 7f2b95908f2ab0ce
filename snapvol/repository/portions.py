"""Which packs a check reads whole: all, none, some at random, or those that were read longest ago."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from datetime import datetime
from math import ceil
from typing import NamedTuple, Protocol

from msgspec import Struct, field

from snapvol import units
from snapvol.errors import UsageError

_PERCENT = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,6})?)%\Z")
_BUCKET = re.compile(r"([1-9][0-9]{0,2})/([1-9][0-9]{0,2})\Z")
_MOST_BUCKETS = 256  # as with stock restic: a pack's bucket is told by the first byte of its id


class Pack(NamedTuple):
    """A pack that is there and as long as the indexes say.

    Attributes:
        id: 32 bytes.
        size: bytes.
        blobs: how many the indexes place in it.
    """

    id: bytes
    size: int
    blobs: int


class Portion(Protocol):
    """Chooses packs, and hears what became of them."""

    def choose(self, packs: Sequence[Pack]) -> Sequence[Pack]:
        """Return those to be read, in that order."""

    def noted(self, pack: bytes, whole: bool) -> None:
        """Hear that a pack was read, and whether it is as it should be."""


class Everything:
    """All packs."""

    def choose(self, packs: Sequence[Pack]) -> Sequence[Pack]:
        """See `Portion.choose`."""
        return packs

    def noted(self, pack: bytes, whole: bool) -> None:
        """See `Portion.noted`."""


class Amount(Struct, frozen=True):
    """How much of a repository: ``5%`` of its packs, or packs of ``10G`` together. At least one pack.

    Attributes:
        percent: of the packs; None where ``bytes`` says how much.
        bytes: of packs.
    """

    percent: float | None = None
    bytes: int = 0

    def first(self, packs: Sequence[Pack]) -> Sequence[Pack]:
        """Return so many of ``packs``, from the first on."""
        if self.percent is not None:
            return packs[: ceil(len(packs) * self.percent / 100)]
        total = 0
        for count, pack in enumerate(packs):
            total += pack.size
            if total > self.bytes:
                return packs[: max(count, 1)]
        return packs


class Sample(Everything):
    """An amount, chosen anew at random each time."""

    def __init__(self, amount: Amount) -> None:
        self._amount = amount

    def choose(self, packs: Sequence[Pack]) -> Sequence[Pack]:
        """See `Portion.choose`."""
        return self._amount.first(random.sample(packs, len(packs)))


class Bucket(Everything):
    """The ``number``-th of ``count`` parts, each always the same: those who read all the parts have read everything."""

    def __init__(self, number: int, count: int) -> None:
        self._number = number
        self._count = count

    def choose(self, packs: Sequence[Pack]) -> Sequence[Pack]:
        """See `Portion.choose`."""
        return [pack for pack in packs if pack.id[0] % self._count == self._number - 1]


class ScrubRecord(Struct, kw_only=True):
    """What scrubs of one repository remember. To lose it means only that reading begins anew.

    Attributes:
        repository: its id.
        read: seconds since 1970 at which each pack was last read and found whole, by the pack's hexadecimal id.
        damaged: the packs that were not whole when they were last read.
    """

    repository: str
    read: dict[str, int] = field(default_factory=dict)
    damaged: set[str] = field(default_factory=set)


class Scrub:
    """An amount of what was read longest ago. Damaged packs come first, then those that were never read.

    Args:
        amount: of packs in one run.
        record: what earlier runs remember; it is kept up to date.
        now: the time of this run.
    """

    def __init__(self, amount: Amount, record: ScrubRecord, now: datetime) -> None:
        self.record = record
        self._amount = amount
        self._now = int(now.timestamp())

    def choose(self, packs: Sequence[Pack]) -> Sequence[Pack]:
        """See `Portion.choose`. What is not there any more is forgotten."""
        names = {pack.id.hex() for pack in packs}
        # A time in the future was noted by a wrong clock, and would keep the pack from ever being read again.
        known = {name: at for name, at in self.record.read.items() if name in names and at <= self._now}
        self.record.read = known
        self.record.damaged &= names
        return self._amount.first(sorted(packs, key=self._turn))

    def noted(self, pack: bytes, whole: bool) -> None:
        """See `Portion.noted`."""
        name = pack.hex()
        if whole:
            self.record.read[name] = self._now
            self.record.damaged.discard(name)
        else:
            self.record.read.pop(name, None)
            self.record.damaged.add(name)

    def _turn(self, pack: Pack) -> tuple[bool, int, bytes]:
        name = pack.id.hex()
        return name not in self.record.damaged, self.record.read.get(name, -1), pack.id

    @property
    def oldest(self) -> int | None:
        """When the pack was read that was read longest ago, in seconds since 1970; None where nothing was read."""
        return min(self.record.read.values(), default=None)


def amount(text: str) -> Amount:
    """Return the amount that ``5%`` or ``10G`` says.

    Raises:
        UsageError: it is neither, or nothing.
    """
    if match := _PERCENT.match(text):
        percent = float(match[1])
        if not 0 < percent <= 100:
            raise UsageError(f"{text!r} is not a part", "write more than 0% and at most 100%")
        return Amount(percent=percent)
    try:
        if text.isdigit():
            raise UsageError("a bare number")
        return Amount(bytes=units.size(text))
    except UsageError:
        raise UsageError(f"{text!r} says no amount", "write a percentage or a size: 5%, 10G") from None


def subset(text: str) -> Portion:
    """Return what ``5%``, ``10G`` or ``1/10`` means: an amount at random, or the first of ten parts.

    Raises:
        UsageError: it is none of these.
    """
    if "/" not in text:
        return Sample(amount(text))
    match = _BUCKET.match(text)
    number, count = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= number <= count <= _MOST_BUCKETS:
        raise UsageError(f"{text!r} is not a part", f"write 1/10, 2/10, …, at most {_MOST_BUCKETS} parts")
    return Bucket(number, count)
