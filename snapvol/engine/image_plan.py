"""What of a block device is read, what is taken from an earlier backup, and what is nothing but zeros."""

from __future__ import annotations

import random
from collections.abc import Sequence
from enum import Enum, auto

from msgspec import Struct

from snapvol.backend import Image, Range
from snapvol.engine.ranges import Span, common, gaps, spans, total, touched, within

_SAMPLE_LEAST = 16  # chunks
_SAMPLE_ONE_IN = 1000
_SAMPLE_MOST = 64 << 20  # bytes


class Action(Enum):
    """Where chunks come from."""

    READ = auto()  # the device
    KEEP = auto()  # the earlier backup
    ZERO = auto()  # nothing is mapped there
    STAY_ZERO = auto()  # likewise, and nothing was: the earlier backup must say the same


class Plan(Struct, frozen=True, kw_only=True):
    """What is done with each chunk of an image. All lists are of chunk numbers.

    Attributes:
        size: of the image, in bytes.
        chunk: bytes of a chunk.
        mapped: the spans of bytes that may hold something.
        read: to be read.
        keep: to be taken from the earlier backup.
        stay: nothing before, and nothing now.
        sample: of ``keep``, to be read nevertheless and compared.
    """

    size: int
    chunk: int
    mapped: list[Span]
    read: list[Span]
    keep: list[Span]
    stay: list[Span]
    sample: frozenset[int]

    def runs(self, start: int, end: int) -> list[tuple[int, int, Action]]:
        """Return (first, end, action) for the chunks from ``start`` to ``end``, in order and without gaps."""
        listed = [(self.read, Action.READ), (self.keep, Action.KEEP), (self.stay, Action.STAY_ZERO)]
        runs = sorted((*span, action) for where, action in listed for span in within(where, start, end))
        runs += ((*span, Action.ZERO) for span in gaps([(first, last) for first, last, _ in runs], start, end))
        return sorted(runs, key=lambda run: run[0])

    def parts(self, start: int, end: int) -> list[Span]:
        """Return the mapped spans of bytes of the chunks from ``start`` to ``end``."""
        return within(self.mapped, start * self.chunk, end * self.chunk)

    def bytes_to_read(self) -> int:
        """Return how many bytes are read, the sample included."""
        first_and_next = [(number, number + 1) for number in sorted(self.sample)]
        return sum(total(self.parts(start, end)) for where in (self.read, first_and_next) for start, end in where)


def plan(image: Image, chunk: int, changed: Sequence[Range] | None) -> Plan:
    """Decide what to do.

    Args:
        image: the device.
        chunk: bytes of a chunk.
        changed: what may differ from an earlier backup; None for all, because there is none.
    """
    mapped = spans(image.mapped, image.size)
    holding = touched(mapped, chunk)
    if changed is None:
        return Plan(size=image.size, chunk=chunk, mapped=mapped, read=holding, keep=[], stay=[], sample=frozenset())
    count = -(-image.size // chunk)
    dirty = touched(spans(changed, image.size), chunk)
    same = gaps(dirty, 0, count)
    keep = common(same, holding)
    return Plan(
        size=image.size,
        chunk=chunk,
        mapped=mapped,
        read=common(dirty, holding),
        keep=keep,
        stay=common(same, gaps(holding, 0, count)),
        sample=_sample(keep, chunk),
    )


def _sample(keep: list[Span], chunk: int) -> frozenset[int]:
    """Choose chunks to prove that what is said to be unchanged is."""
    available = total(keep)
    wanted = max(_SAMPLE_LEAST, min(available // _SAMPLE_ONE_IN, _SAMPLE_MOST // chunk))
    # Not a secret, but no pattern either: the next run looks elsewhere.
    chosen = sorted(random.sample(range(available), min(wanted, available)))
    found, passed = [], 0
    remaining = iter(keep)
    start, end = next(remaining, (0, 0))
    for number in chosen:
        while number - passed >= end - start:
            passed += end - start
            start, end = next(remaining)
        found.append(start + number - passed)
    return frozenset(found)
