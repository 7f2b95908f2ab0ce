"""Holds: what keeps a snapshot from being destroyed, by us and by everybody else.

ZFS keeps tags in no order, so that ours are numbered: ``snapvol:1:backup``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from msgspec import Struct

from snapvol.backends.zfsfamily import Point
from snapvol.backends.zfstool import Tool, explained
from snapvol.errors import ToolFailed, UsageError

_OURS = re.compile(r"snapvol:(\d+):(.*)\Z", re.DOTALL)
_LONGEST = 255  # bytes, of a whole tag


class Holds(Struct, frozen=True, kw_only=True):
    """What holds a snapshot.

    Attributes:
        numbered: our tags in the order in which they came, each with its number.
        foreign: somebody else's.
    """

    numbered: tuple[tuple[int, str], ...] = ()
    foreign: tuple[str, ...] = ()

    @property
    def ours(self) -> tuple[str, ...]:
        """Our tags."""
        return tuple(tag for _, tag in self.numbered)

    def word(self, tag: str) -> str | None:
        """Return what ZFS calls our tag; None where it does not hold."""
        return next((_word(number, ours) for number, ours in self.numbered if ours == tag), None)

    def next_word(self, tag: str) -> str:
        """Return what ZFS is to call a new tag of ours.

        Raises:
            UsageError: it is too long.
        """
        word = _word(max((number for number, _ in self.numbered), default=0) + 1, tag)
        if len(word.encode()) > _LONGEST:
            raise UsageError(f"the tag {tag[:40]!r}… has {len(tag)} characters", "ZFS takes up to 240 bytes")
        return word

    def in_the_way(self, snapshot: str) -> tuple[str, str] | None:
        """Return in words what holds the snapshot, and the command that helps for the first; None for nothing.

        Args:
            snapshot: the whole name that ZFS has for it.
        """
        held = [*self.ours, *(f"{tag}, by another program" for tag in self.foreign)]
        if not held:
            return None
        release = f"zfs release {self.foreign[0]!r} {snapshot}" if self.foreign and not self.ours else ""
        return ", ".join(held), release


def _word(number: int, tag: str) -> str:
    return f"snapvol:{number}:{tag}"


def read(tool: Tool, points: Sequence[Point]) -> dict[str, Holds]:
    """Return the holds of snapshots, by the snapshots' whole names.

    Raises:
        SnapvolError: they cannot be read.
    """
    try:
        found = tool.holds([point.name for point in points])
    except ToolFailed as error:
        raise explained("holds cannot be read", error) from error
    return {name: _sorted(tags) for name, tags in found.items()}


def _sorted(tags: Sequence[str]) -> Holds:
    matches = [(match, tag) for tag in tags for match in [_OURS.match(tag)]]
    return Holds(
        numbered=tuple(sorted((int(match[1]), match[2]) for match, _ in matches if match)),
        foreign=tuple(tag for match, tag in matches if not match),
    )
