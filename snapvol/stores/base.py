"""What holds a repository's objects: the contract that `tests/contract/test_stores.py` holds each store to.

Objects are written once and never changed. All but ``config`` are named by the SHA-256 of what they hold, so that
writing a name again writes the same bytes. Every method may be called from several threads at once, and every method
may raise `RepositoryUnreachable` (the storage does not answer or refuses us) and, as its subclass, `Transient`.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

from msgspec import Struct

from snapvol.errors import RepositoryUnreachable, UsageError

CONFIG = "config"
Buffer = bytes | bytearray | memoryview

_NAME = re.compile(r"config|(?:keys|locks|snapshots|index)/[0-9a-f]{64}|data/([0-9a-f]{2})/\1[0-9a-f]{62}")
_PREFIXES = frozenset({"keys/", "locks/", "snapshots/", "index/", "data/"})


class Transient(RepositoryUnreachable):
    """The storage failed in a way that may be gone in a moment: worth a retry."""


class Entry(Struct, frozen=True, gc=False):
    """An object in a listing.

    Attributes:
        name: as `Store.get` takes it.
        size: bytes.
    """

    name: str
    size: int


class Store(ABC):
    """Objects by name: ``config``, ``keys/ID``, ``locks/ID``, ``snapshots/ID``, ``index/ID``, ``data/xx/ID``.

    Attributes:
        location: where it is, for messages; never holds a secret.
    """

    location: str

    def prepare(self) -> None:  # noqa: B027
        """Make what the first `put` of a new repository needs, such as directories; existing ones are kept."""

    @abstractmethod
    def put(self, name: str, data: Buffer) -> None:
        """Store ``data`` whole under ``name``, or leave nothing there: when this returns it is durable.

        The size of what was stored has been checked. An object of that name and size that is there already may be
        left as it is; one of another size is damaged and is replaced. Only ``config`` is never replaced.

        Raises:
            AlreadyExists: there is a ``config``.
            NoSpace: the storage is full.
            Damaged: what was stored is not what was sent.
        """

    @abstractmethod
    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """Return the ``length`` bytes from ``offset`` on, or all that follow: never fewer than were asked for.

        Raises:
            NotFound: the object is definitely absent.
            Damaged: the object ends before the range does, or is no plain object.
        """

    @abstractmethod
    def size(self, name: str) -> int:
        """Return the object's bytes.

        Raises:
            NotFound: the object is definitely absent.
        """

    @abstractmethod
    def list(self, prefix: str) -> Iterator[Entry]:
        """Yield every object below ``prefix`` (which ends with ``/``), in any order; names of others are skipped.

        A listing is complete or raises: it never ends early.
        """

    @abstractmethod
    def delete(self, names: Sequence[str]) -> None:
        """Remove the objects; absent ones are fine. When one cannot be removed the others still are, then it raises."""


def checked_name(name: str) -> str:
    """Return ``name`` if it can name an object: no other reaches a path or a URL.

    Raises:
        UsageError: it cannot.
    """
    if not is_name(name):
        raise UsageError(f"{name!r} does not name an object of a repository")
    return name


def is_name(name: str) -> bool:
    """Say whether ``name`` is one of the six forms of names."""
    return _NAME.fullmatch(name) is not None


def checked_prefix(prefix: str) -> str:
    """Return ``prefix`` if objects are listed by it.

    Raises:
        UsageError: they are not.
    """
    if prefix not in _PREFIXES:
        raise UsageError(f"{prefix!r} is not a prefix of a repository's objects")
    return prefix
