"""A store whose user is killed at a chosen moment, and other histories of one repository in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from threading import Lock

from snapvol.stores.base import Buffer, Entry, Store
from snapvol.stores.memory import MemoryStore


class Killed(BaseException):
    """The process is gone: nothing that catches errors may catch this, and nothing that cleans up still works."""


class Mortal(Store):
    """Lets a number of changes happen, and none after them; of a deletion of many objects each counts.

    Attributes:
        changes: how many there were.
    """

    def __init__(self, store: Store, lives: int | None) -> None:
        self.location = store.location
        self.changes = 0
        self._store = store
        self._lives = lives
        self._mutex = Lock()
        self._dead = False

    def put(self, name: str, data: Buffer) -> None:
        self._change()
        self._store.put(name, data)

    def delete(self, names: Sequence[str]) -> None:
        for name in sorted(names, reverse=True):  # not in the order in which they were given
            self._change()
            self._store.delete([name])

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        self._alive()
        return self._store.get(name, offset, length)

    def size(self, name: str) -> int:
        self._alive()
        return self._store.size(name)

    def list(self, prefix: str) -> Iterator[Entry]:
        self._alive()
        return self._store.list(prefix)

    def _change(self) -> None:
        with self._mutex:
            if self._lives is not None and self.changes >= self._lives:
                self._dead = True
            self._alive()
            self.changes += 1

    def _alive(self) -> None:
        if self._dead:
            raise Killed


def deaths(template: MemoryStore, work: Callable[[Store], object]) -> Iterator[MemoryStore]:
    """Yield what is left in a storage when ``work`` on a copy of ``template`` dies after none, 1, 2, 3 … changes.

    The locks of the dead are gone: nobody holds them for long. The last one yielded is that of a work that came to its
    end.
    """
    lives = 0
    done = False
    while not done:
        left = MemoryStore()
        left.objects = dict(template.objects)
        try:
            work(Mortal(left, lives))
            done = True
        except Killed:
            lives += 1
        left.delete([entry.name for entry in left.list("locks/")])
        yield left
