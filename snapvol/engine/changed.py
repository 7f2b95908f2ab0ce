"""What the storage says has changed, as a tree: so that a walk goes where something has, and nowhere else."""

from __future__ import annotations

from collections.abc import Iterable

from snapvol.backend import Change, ChangeKind, Range


class Mark:
    """Something that has changed, or is on the way to it.

    Attributes:
        kind: how it changed; None where it is only on the way.
        ranges: see `Change`.
        below: the same of what is in it, by name. What has no mark is as it was.
    """

    __slots__ = ("below", "kind", "ranges")

    def __init__(self) -> None:
        self.kind: ChangeKind | None = None
        self.ranges: tuple[Range, ...] | None = None
        self.below: dict[bytes, Mark] = {}

    @property
    def same(self) -> bool:
        """Whether it is the same file or directory as before, though not necessarily unchanged."""
        return self.kind in (None, ChangeKind.MODIFIED)


def marked(changes: Iterable[Change]) -> Mark:
    """Return the mark of the root."""
    root = Mark()
    for change in changes:
        mark = root
        for name in change.path.split(b"/") if change.path else ():
            mark = mark.below.setdefault(name, Mark())
        mark.kind, mark.ranges = change.kind, change.ranges
    return root
