"""The indexes of a repository into memory: each file once, and from this machine what was read here before."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from snapvol.errors import Damaged
from snapvol.repository import index_image
from snapvol.repository.index import BlobIndex, index_files
from snapvol.repository.sealing import MasterKey
from snapvol.stores.base import Entry, Store
from snapvol.stores.cache import Cache

log = logging.getLogger(__name__)

FEWEST = 4096  # blobs that are worth an image: so many are decoded in 10 ms
MOST_FILES = 64  # index files that are read one by one beside an image


class IndexLoader:
    """Enters index files into an index.

    Files are named by their contents, so what was read once need not be read again. The image stands for many of
    them, and is used only where all of them are still listed: a prune elsewhere makes it void.

    Args:
        store: answers from the cache what is in it.
        key: of the repository.
        index: takes what they say.
        cache: of the repository.

    Attributes:
        listed: the ids of the index files that the last `load` found, those that cannot be read included.
    """

    def __init__(self, store: Store, key: MasterKey, index: BlobIndex, cache: Cache) -> None:
        self.listed: frozenset[bytes] = frozenset()
        self._store = store
        self._key = key
        self._index = index
        self._cache = cache
        self._entered: dict[bytes, int] = {}  # ids and sizes

    def load(self, entries: Sequence[Entry]) -> list[tuple[str, Damaged]]:
        """Enter what is listed and was not entered yet; return the names of those that cannot be read, and why."""
        listed = {_id(entry): entry.size for entry in entries}
        pristine = not self._index.packs()
        if pristine and (image := index_image.load(self._cache, self._key)):
            if image.names.items() <= listed.items():
                self._index.restore(image.packs, image.buckets)
                self._entered = image.names
            else:
                self._cache.remove([index_image.FILE])
        imaged, files = len(self._index), len(self._entered)
        damaged = []
        fresh = [entry for entry in entries if self._entered.get(_id(entry)) != entry.size]
        for name, found in index_files(self._store, self._key, fresh):
            if isinstance(found, Damaged):
                log.warning("an index is left out: %s", found)
                damaged.append((name, found))
                continue
            for pack, blobs in found:
                self._index.add(pack, blobs)
            identity = bytes.fromhex(name[-64:])
            self._entered[identity] = listed[identity]
        # One that is listed and not there is not among them: what it said may have been replaced by less.
        unreadable = {bytes.fromhex(name[-64:]) for name, _ in damaged}
        self.listed = frozenset((self._entered.keys() & listed.keys()) | unreadable)
        if pristine and self._is_worth_it(imaged, len(self._entered) - files):
            self._save()
        return damaged

    def _is_worth_it(self, imaged: int, files: int) -> bool:
        """Say whether what was read beside an image of so many blobs, from so many files, calls for a new one."""
        blobs = len(self._index)
        return blobs >= FEWEST and (blobs - imaged > max(FEWEST, blobs // 10) or files > MOST_FILES)

    def _save(self) -> None:
        index_image.save(self._cache, self._key, self._index, self._entered)
        self._cache.remove(f"index/{name.hex()}" for name in self._entered)


def _id(entry: Entry) -> bytes:
    return bytes.fromhex(entry.name[-64:])
