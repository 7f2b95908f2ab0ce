"""A process that dies between two of its storage's operations, without dying: quick enough to die after each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from snapvol.stores.base import Buffer, Entry, Store
from snapvol.stores.memory import MemoryStore


class Killed(BaseException):
    """Nothing catches it, and whatever runs on its way out finds no storage any more."""


class Mortal(Store):
    """Does so many operations, then nothing any more. Objects are deleted one by one.

    Args:
        store: the storage.
        lives: operations that are still done.
    """

    def __init__(self, store: Store, lives: int) -> None:
        self.location = store.location
        self._store = store
        self._left = lives

    def _live(self) -> None:
        if self._left <= 0:
            raise Killed
        self._left -= 1

    def put(self, name: str, data: Buffer) -> None:
        self._live()
        self._store.put(name, data)

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        self._live()
        return self._store.get(name, offset, length)

    def size(self, name: str) -> int:
        self._live()
        return self._store.size(name)

    def list(self, prefix: str) -> Iterator[Entry]:
        self._live()
        return self._store.list(prefix)

    def delete(self, names: Sequence[str]) -> None:
        for name in names:
            self._live()
            self._store.delete([name])


def deaths(template: MemoryStore, work: Callable[[Store], object]) -> Iterator[MemoryStore]:
    """Yield what is left in a storage when ``work`` on a copy of ``template`` dies after 1, 2, 3 … operations.

    The locks of the dead are gone: nobody holds them for long. The last one yielded is that of a work that came to its
    end.
    """
    lives = 0
    done = False
    while not done:
        lives += 1
        left = MemoryStore()
        left.objects = dict(template.objects)
        try:
            work(Mortal(left, lives))
            done = True
        except Killed:
            pass
        left.delete([entry.name for entry in left.list("locks/")])
        yield left
