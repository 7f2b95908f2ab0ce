"""What a check reports."""

from __future__ import annotations

from typing import Protocol

from msgspec import Struct

MOST_FILES = 100  # named per problem


class CheckProgress(Protocol):
    """What is told how far a check is: the engine's progress is one."""

    def total(self, files: int, bytes: int) -> None:
        """Take how many objects and bytes are known to be looked at in all."""

    def advance(self, bytes: int, files: int) -> None:
        """Take how many more were."""

    def cancelled(self) -> None:
        """Raise `Cancelled` to end the check."""


class NoProgress:
    """Tells nobody."""

    def total(self, files: int, bytes: int) -> None:
        """See `CheckProgress.total`."""

    def advance(self, bytes: int, files: int) -> None:
        """See `CheckProgress.advance`."""

    def cancelled(self) -> None:
        """See `CheckProgress.cancelled`."""


UNINDEXED = "is in no index"  # of a blob: lost, and no index says otherwise


class Problem(Struct, frozen=True, kw_only=True):
    """Something wrong.

    Attributes:
        object: the name of the object in the store, or ``KIND blob ID``.
        what: what is wrong with it.
        snapshots_hit: ids of the backups that need it.
        files: paths in those backups that need it, ``SHORT-ID:/PATH``; at most 100.
    """

    object: str
    what: str
    snapshots_hit: tuple[str, ...] = ()
    files: tuple[str, ...] = ()


class CheckReport(Struct, frozen=True, kw_only=True):
    """What a check found.

    Attributes:
        problems: what is wrong; empty for a sound repository.
        snapshots: backups that were looked at.
        packs: that indexes name.
        blobs: that indexes name.
        bytes_read: of packs, where they were read.
        unused_packs: packs that no index names: killed runs left them; harmless, and gone after a prune.
        packs_read: how many packs were read whole.
    """

    problems: list[Problem]
    snapshots: int
    packs: int
    blobs: int
    bytes_read: int
    unused_packs: int
    packs_read: int = 0


class Findings:
    """Problems in the making: one for each object, however often it is met."""

    def __init__(self) -> None:
        self._what: dict[str, str] = {}
        self._snapshots: dict[str, set[str]] = {}
        self._files: dict[str, list[str]] = {}

    def add(self, name: str, what: str) -> str:
        """Note what is wrong with an object, unless something is already; return its name."""
        self._what.setdefault(name, what)
        return name

    def knows(self, name: str) -> bool:
        """Say whether something is wrong with an object."""
        return name in self._what

    def hit(self, name: str, snapshot: str, path: str = "") -> None:
        """Note that a snapshot needs the object, for the file ``path`` in it."""
        self._snapshots.setdefault(name, set()).add(snapshot)
        files = self._files.setdefault(name, [])
        if path and len(files) < MOST_FILES:
            files.append(f"{snapshot[:8]}:{path}")

    def problems(self) -> list[Problem]:
        """Return all, in the order of the objects' names."""
        return [
            Problem(
                object=name,
                what=what,
                snapshots_hit=tuple(sorted(self._snapshots.get(name, ()))),
                files=tuple(self._files.get(name, ())),
            )
            for name, what in sorted(self._what.items())
        ]
