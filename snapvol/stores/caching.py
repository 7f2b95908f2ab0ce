"""A store whose small objects that never change are read from this machine where they have been read before."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import sha256

from snapvol.stores.base import Buffer, Entry, Store
from snapvol.stores.cache import Cache

_CACHED = ("index/", "snapshots/")


class CachingStore(Store):
    """Answers `get` of indexes and snapshots from a cache; everything else the store itself answers.

    Whether an object is there, only the store says: `list` and `size` are never answered from the cache, and a listing
    drops from it what is no longer listed, or not with that size. Callers read what they have just seen listed; so
    nothing that was deleted comes back to life.

    Args:
        store: the store.
        cache: of the repository in it.
    """

    def __init__(self, store: Store, cache: Cache) -> None:
        self.location = store.location
        self._store = store
        self._cache = cache

    def prepare(self) -> None:
        """See `Store.prepare`."""
        self._store.prepare()

    def put(self, name: str, data: Buffer) -> None:
        """See `Store.put`."""
        self._store.put(name, data)
        if name.startswith(_CACHED):
            self._cache.write(name, [data])

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """See `Store.get`."""
        if not name.startswith(_CACHED) or offset or length is not None:
            return self._store.get(name, offset, length)
        known = self._cache.read(name)
        if known is not None and _is_named(known, name):
            return known
        data = self._store.get(name)
        if _is_named(data, name):
            self._cache.write(name, [data])
        return data

    def size(self, name: str) -> int:
        """See `Store.size`."""
        return self._store.size(name)

    def list(self, prefix: str) -> Iterator[Entry]:
        """See `Store.list`."""
        if prefix not in _CACHED:
            yield from self._store.list(prefix)
            return
        entries = list(self._store.list(prefix))
        listed = {entry.name: entry.size for entry in entries}
        cached = [(f"{prefix}{name}", size) for name, size in self._cache.names(prefix)]
        self._cache.remove(name for name, size in cached if listed.get(name) != size)
        yield from entries

    def delete(self, names: Sequence[str]) -> None:
        """See `Store.delete`."""
        self._cache.remove(name for name in names if name.startswith(_CACHED))
        self._store.delete(names)


def _is_named(data: bytes, name: str) -> bool:
    return sha256(data).hexdigest() == name.rpartition("/")[2]
