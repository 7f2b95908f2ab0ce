"""What long work tells whoever waits for it."""

from __future__ import annotations

from typing import Protocol

from msgspec import Struct

from snapvol.engine import gotext


class Problem(Struct, frozen=True):
    """Something that did not go as asked, but did not stop the work.

    Attributes:
        path: of the file, relative to the volume's root; bytes that are not text are escaped.
        what: what happened, in a line.
    """

    path: str
    what: str

    def __str__(self) -> str:
        return f"{self.path}: {self.what}"


class Progress(Protocol):
    """Whoever waits. Called often, from one thread."""

    def total(self, files: int, bytes: int) -> None:
        """Say how much there is to do, as far as that is known; may be said again."""

    def advance(self, bytes: int, files: int) -> None:
        """Say what has been done since the last call."""

    def note(self, path: str, problem: str) -> None:
        """Pass a problem on as soon as it is met."""

    def cancelled(self) -> None:
        """Raise `Cancelled` if the work is no longer wanted."""


class Silent:
    """Nobody waits."""

    def total(self, files: int, bytes: int) -> None:
        """Do nothing."""

    def advance(self, bytes: int, files: int) -> None:
        """Do nothing."""

    def note(self, path: str, problem: str) -> None:
        """Do nothing."""

    def cancelled(self) -> None:
        """Do nothing."""


def shown(path: bytes) -> str:
    """Return a path as people may safely see it on a terminal: control characters and lone bytes are escaped."""
    return gotext.quote(path)
