"""Index files as they lie in the store: which packs each of them names, and new ones in the place of old ones."""

from __future__ import annotations

from array import array
from collections.abc import Collection, Container, Iterable, Iterator, Sequence
from hashlib import sha256

import msgspec

from snapvol.errors import Damaged, RepositoryLocked, RepositoryUnreachable
from snapvol.repository import unpacked
from snapvol.repository.index import MOST_IN_FILE, BlobIndex, IndexedPack, IndexFile, index_file, index_files
from snapvol.repository.packs import PackedBlob
from snapvol.repository.parallel import mapped
from snapvol.repository.sealing import MasterKey
from snapvol.stores.base import Entry, Store

_AHEAD = 2
SMALL = MOST_IN_FILE // 4  # blobs of an index below which it is worth merging with others
MOST_SMALL = 8  # such indexes that may be


class Indexes:
    """The index files of a repository.

    Attributes:
        blobs: what all of them say.
    """

    def __init__(self, store: Store, key: MasterKey) -> None:
        self.blobs = BlobIndex()
        self._store = store
        self._key = key
        self._packs: dict[str, array[int]] = {}  # name of a file → numbers of the packs that it names
        self._counts: dict[str, int] = {}  # name of a file → blobs in it

    def load(self, entries: Sequence[Entry]) -> None:
        """Read those of ``entries`` that are not known yet. Under a lock: then none may vanish.

        Raises:
            RepositoryLocked: one that was read earlier is gone: another prune was here.
            RepositoryUnreachable: one is listed and cannot be found.
            Damaged: one cannot be read.
        """
        location = self._store.location
        if gone := self._packs.keys() - {entry.name for entry in entries}:
            said = f"somebody else replaced {min(gone)[:14]} and other indexes of {location} meanwhile"
            raise RepositoryLocked(said, "nothing was deleted: run it again")
        wanted = [entry for entry in entries if entry.name not in self._packs]
        for name, found in index_files(self._store, self._key, wanted):
            if isinstance(found, Damaged):
                raise found
            for pack, blobs in found:
                self.blobs.add(pack, blobs)
            self._packs[name] = array("L", {self.blobs.number(pack) for pack, _ in found})
            self._counts[name] = sum(len(blobs) for _, blobs in found)
        if absent := {entry.name for entry in wanted} - self._packs.keys():
            said = f"{min(absent)} is listed in {location}, but cannot be read there"
            raise RepositoryUnreachable(said, "try again in a minute")

    def to_replace(self, packs: Container[int]) -> list[str]:
        """Return the files that name one of ``packs``, and small ones where there are many."""
        naming = {name for name, numbers in self._packs.items() if any(number in packs for number in numbers)}
        small = {name for name, count in self._counts.items() if count < SMALL}
        return sorted(naming | small if len(small) > MOST_SMALL else naming)

    @property
    def count(self) -> int:
        """How many files there are."""
        return len(self._counts)

    def counts(self, names: Iterable[str]) -> list[int]:
        """Return how many blobs each of some files names."""
        return [self._counts[name] for name in names]

    def rewrite(self, names: Sequence[str], without: Collection[bytes]) -> None:
        """Write new files that say what ``names`` say, without some packs.

        Raises:
            NotFound: one of the old files is gone.
            Damaged: one of them cannot be read.
        """
        waiting: list[IndexedPack] = []
        blobs = 0
        said: set[bytes] = set()
        for pack in self._packs_in(names):
            identity = sha256(msgspec.json.encode(pack)).digest()  # not its id alone: two files may tell of parts of it
            if bytes.fromhex(pack.id) in without or identity in said:
                continue
            said.add(identity)
            if waiting and blobs + len(pack.blobs) > MOST_IN_FILE:
                self._write(waiting)
                waiting, blobs = [], 0
            waiting.append(pack)
            blobs += len(pack.blobs)
        if waiting:
            self._write(waiting)

    def say_again(self, packs: Collection[bytes]) -> None:
        """Write files that name packs which `rewrite` left out."""
        waiting: dict[bytes, list[PackedBlob]] = {pack: [] for pack in packs if self.blobs.knows_pack(pack)}
        for pack, blob in self.blobs.blobs():
            if pack in waiting:
                waiting[pack].append(blob)
        for pack, blobs in waiting.items():
            unpacked.write(self._store, self._key, "index", index_file([(pack, blobs)]))

    def _packs_in(self, names: Sequence[str]) -> Iterator[IndexedPack]:
        for file in mapped(lambda name: unpacked.read(self._store, self._key, name, IndexFile), names, _AHEAD):
            yield from file.packs or ()

    def _write(self, packs: list[IndexedPack]) -> None:
        unpacked.write(self._store, self._key, "index", IndexFile(packs))
