"""Arithmetic with parts of a block device. A span is (start, end); lists of spans ascend and do not touch."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence

from snapvol.backend import Range

Span = tuple[int, int]


def joined(ascending: Iterable[Span]) -> list[Span]:
    """Return spans that ascend by their starts, put together where they touch or overlap."""
    joined: list[Span] = []
    for start, end in ascending:
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], end))
        else:
            joined.append((start, end))
    return joined


def spans(ranges: Iterable[Range], size: int) -> list[Span]:
    """Return what ranges (offset, length) cover of the first ``size`` bytes."""
    return joined(
        (max(offset, 0), min(offset + length, size))
        for offset, length in sorted(ranges)
        if length > 0 and offset < size and offset + length > 0
    )


def touched(covered: Iterable[Span], chunk: int) -> list[Span]:
    """Return the numbers of the chunks of ``chunk`` bytes that spans of bytes have a part in."""
    return joined((start // chunk, -(-end // chunk)) for start, end in covered)


def common(one: Sequence[Span], other: Sequence[Span]) -> list[Span]:
    """Return what is in both."""
    found = []
    i = j = 0
    while i < len(one) and j < len(other):
        start, end = max(one[i][0], other[j][0]), min(one[i][1], other[j][1])
        if start < end:
            found.append((start, end))
        if one[i][1] < other[j][1]:
            i += 1
        else:
            j += 1
    return found


def gaps(covered: Iterable[Span], start: int, end: int) -> list[Span]:
    """Return what spans leave free between ``start`` and ``end``."""
    free = []
    for first, last in covered:
        if start < min(first, end):
            free.append((start, min(first, end)))
        start = max(start, last)
        if start >= end:
            break
    if start < end:
        free.append((start, end))
    return free


def within(covered: Sequence[Span], start: int, end: int) -> list[Span]:
    """Return the part of spans between ``start`` and ``end``, without looking at all of them."""
    found = []
    for at in range(bisect_right(covered, start, key=lambda span: span[1]), len(covered)):
        first, last = covered[at]
        if max(first, start) >= end:
            break
        found.append((max(first, start), min(last, end)))
    return found


def total(covered: Iterable[Span]) -> int:
    """Return how much spans cover."""
    return sum(end - start for start, end in covered)
