"""A store that fails as it is told to, around any other one."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from threading import Lock

from snapvol.stores.base import Buffer, Entry, Store

Fault = Callable[[str, str, int], None]  # operation, name, its turn among the calls of that operation, from 1


class Faulty(Store):
    """Runs ``before`` ahead of every call and ``after`` behind it; each may raise, or end the process.

    Attributes:
        calls: operations and names, in order.
        short: bytes to cut off the end of the next answers of `get`, one by one.
    """

    def __init__(self, store: Store, before: Fault | None = None, after: Fault | None = None) -> None:
        self.location = store.location
        self.calls: list[tuple[str, str]] = []
        self.short: list[int] = []
        self._store = store
        self._before = before or nothing
        self._after = after or nothing
        self._mutex = Lock()

    def prepare(self) -> None:
        self._store.prepare()

    def put(self, name: str, data: Buffer) -> None:
        turn = self._begin("put", name)
        self._store.put(name, data)
        self._after("put", name, turn)

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        turn = self._begin("get", name)
        data = self._store.get(name, offset, length)
        self._after("get", name, turn)
        return data[: -self.short.pop(0)] if self.short else data

    def size(self, name: str) -> int:
        turn = self._begin("size", name)
        size = self._store.size(name)
        self._after("size", name, turn)
        return size

    def list(self, prefix: str) -> Iterator[Entry]:
        turn = self._begin("list", prefix)
        yield from self._store.list(prefix)
        self._after("list", prefix, turn)  # here a listing breaks off after all its entries but before its end

    def delete(self, names: Sequence[str]) -> None:
        turn = self._begin("delete", ",".join(names))
        self._store.delete(names)
        self._after("delete", ",".join(names), turn)

    def count(self, operation: str, prefix: str = "") -> int:
        """Return how often ``operation`` was called for names that begin with ``prefix``."""
        return sum(called == operation and name.startswith(prefix) for called, name in self.calls)

    def _begin(self, operation: str, name: str) -> int:
        with self._mutex:
            self.calls.append((operation, name))
            turn = sum(called == operation for called, _ in self.calls)
        self._before(operation, name, turn)
        return turn


def nothing(operation: str, name: str, turn: int) -> None:
    """Let the call be."""


def nth(operation: str, turns: Sequence[int], error: BaseException, prefix: str = "") -> Fault:
    """Return a fault that raises ``error`` at those turns of ``operation`` (for names that begin with ``prefix``)."""
    seen = [0]

    def fault(called: str, name: str, turn: int) -> None:
        if called == operation and name.startswith(prefix):
            seen[0] += 1
            if seen[0] in turns:
                raise error

    return fault


def killer(operation: str, wanted: int) -> Fault:
    """Return a fault that kills this process, without any last word, at the given turn of ``operation``."""

    def fault(called: str, name: str, turn: int) -> None:
        if called == operation and turn == wanted:
            os.kill(os.getpid(), signal.SIGKILL)

    return fault
