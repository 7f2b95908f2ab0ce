"""The way of blobs out of a repository: few large reads, several at once, every blob checked."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from hashlib import sha256

from snapvol.errors import Damaged, NotFound, SnapvolError
from snapvol.repository.compression import decompress
from snapvol.repository.ids import BlobKind, pack_name
from snapvol.repository.index import BlobIndex, Location
from snapvol.repository.parallel import mapped
from snapvol.repository.piece_cache import PieceCache
from snapvol.repository.sealing import MasterKey
from snapvol.stores.base import Buffer, Store
from snapvol.stores.cache import NoCache

IN_FLIGHT = 8
GAP = 256 << 10  # unwanted bytes that cost less to fetch than another request
WINDOW = 512 << 10  # bytes before a tree that are fetched with it
WINDOWS = 16  # kept
SMALL = 128 << 10  # bytes of a blob below which a thread of its own costs more than it saves
LARGEST_RUN = 8 << 20  # bytes of a read, and of the blobs in it: 8 in flight take 128 MiB at most

Loss = Callable[[bytes, SnapvolError], None]
Run = list[tuple[bytes, Location]]


class Reader:
    """Reads blobs by the index; any number of threads may."""

    def __init__(self, store: Store, key: MasterKey, index: BlobIndex, pieces: PieceCache | None = None) -> None:
        self._store = store
        self._key = key
        self._index = index
        self._trees = _Windows(store, pieces or PieceCache(NoCache()))

    def locate(self, kind: BlobKind, blob: bytes) -> Location:
        """Return the first place where ``blob`` lies.

        Raises:
            NotFound: no index names it.
        """
        for location in self._index.find(kind, blob):
            return location
        raise NotFound(
            f"{kind} blob {blob.hex()[:12]} is in no index of {self._store.location}",
            "find out what is hit: snapvol repo check",
        )

    def read(self, kind: BlobKind, blob: bytes) -> bytes:
        """Return a blob, from another copy where the first is damaged.

        Raises:
            NotFound: no index names it.
            Damaged: no copy of it is whole.
        """
        self.locate(kind, blob)
        failure: Damaged | None = None
        for place in self._index.find(kind, blob):
            try:
                return self._read(kind, blob, place)
            except NotFound:
                failure = failure or Damaged(
                    f"{kind} blob {blob.hex()[:12]} is lost: {pack_name(place.pack)} is not in {self._store.location}",
                    "find out what is hit: snapvol repo check",
                )
            except Damaged as error:
                failure = failure or error
        assert failure is not None
        raise failure

    def open(self, kind: BlobKind, blob: bytes, place: Location, stored: Buffer) -> bytes:
        """Return the blob from its stored bytes.

        Raises:
            Damaged: they are altered, or another blob's.
        """
        what = f"{kind} blob {blob.hex()[:12]} in pack {place.pack.hex()[:12]}"
        plain = self._key.open(stored, what)
        if place.compressed:
            plain = decompress(plain, place.plain_length, what)
        if sha256(plain).digest() != blob:
            raise Damaged(f"{what} is altered: its contents are not those it is named after")
        return plain

    def read_many(self, kind: BlobKind, blobs: Iterable[bytes], lost: Loss | None) -> Iterator[tuple[bytes, bytes]]:
        """Yield blobs with their contents, pack by pack, each once.

        Args:
            kind: of all of them.
            blobs: which.
            lost: told of each blob that cannot be read, and why; without it the first such blob ends the reading.
        """
        for results in mapped(lambda run: self._read_run(kind, run), self._runs(kind, blobs, lost), IN_FLIGHT):
            for blob, content in results:
                if isinstance(content, bytes):
                    yield blob, content
                elif lost is None:
                    raise content
                else:
                    lost(blob, content)

    def _read(self, kind: BlobKind, blob: bytes, place: Location) -> bytes:
        if kind is BlobKind.TREE:
            try:
                return self.open(kind, blob, place, self._trees.get(place))
            except Damaged:
                self._trees.forget(place)  # it may have been damaged on its way or here: the store has the last word
        return self.open(kind, blob, place, self._get(place))

    def _get(self, place: Location) -> bytes:
        return self._store.get(pack_name(place.pack), place.offset, place.length)

    def _runs(self, kind: BlobKind, blobs: Iterable[bytes], lost: Loss | None) -> Iterator[Run]:
        packs: dict[bytes, dict[bytes, Location]] = {}
        for blob in blobs:
            try:
                place = self.locate(kind, blob)
            except NotFound as error:
                if lost is None:
                    raise
                lost(blob, error)
                continue
            packs.setdefault(place.pack, {})[blob] = place
        for pack in sorted(packs):
            yield from runs_of(sorted(packs.pop(pack).items(), key=lambda item: item[1].offset))

    def _read_run(self, kind: BlobKind, run: Run) -> Iterable[tuple[bytes, bytes | SnapvolError]]:
        start = run[0][1].offset
        end = max(place.offset + place.length for _, place in run)
        try:
            stored = memoryview(self._store.get(pack_name(run[0][1].pack), start, end - start))
        except (NotFound, Damaged):
            return [(blob, self._again(kind, blob)) for blob, _ in run]
        opened = self._opened(kind, run, stored)
        # Many small blobs are opened by whoever takes them: threads would only fight for the interpreter.
        return opened if end - start < SMALL * len(run) else list(opened)

    def _opened(self, kind: BlobKind, run: Run, stored: memoryview) -> Iterator[tuple[bytes, bytes | SnapvolError]]:
        for blob, place in run:
            at = place.offset - run[0][1].offset
            try:
                yield blob, self.open(kind, blob, place, stored[at : at + place.length])
            except Damaged:
                yield blob, self._again(kind, blob)

    def _again(self, kind: BlobKind, blob: bytes) -> bytes | SnapvolError:
        """Read one blob by itself: what was damaged on the way is whole now, or another copy is."""
        try:
            return self.read(kind, blob)
        except (NotFound, Damaged) as error:
            return error


def runs_of(items: Run) -> Iterator[Run]:
    """Yield the reads that fetch blobs of one pack, which come in the order of their offsets."""
    run: Run = []
    start = end = plain = 0
    for blob, place in items:
        far = place.offset > end + GAP or place.offset + place.length - start > LARGEST_RUN
        if run and (far or plain + place.plain_length > LARGEST_RUN):
            yield run
            run, plain = [], 0
        if not run:
            start = end = place.offset
        run.append((blob, place))
        end = max(end, place.offset + place.length)
        plain += place.plain_length
    if run:
        yield run


class _Windows:
    """Pieces of tree packs, kept for the next reads: directories are written after those in them, and read before."""

    def __init__(self, store: Store, cache: PieceCache) -> None:
        self._store = store
        self._cache = cache
        self._mutex = threading.Lock()
        self._kept: OrderedDict[tuple[bytes, int], bytes] = OrderedDict()  # (pack, first byte) → bytes

    def get(self, place: Location) -> Buffer:
        with self._mutex:
            for (pack, start), window in reversed(self._kept.items()):
                at = place.offset - start
                if pack == place.pack and at >= 0 and at + place.length <= len(window):
                    self._kept.move_to_end((pack, start))
                    return memoryview(window)[at : at + place.length]
        cached = self._cache.get(place, WINDOW)
        start, window = cached or self._fetched(place)
        with self._mutex:
            self._kept[place.pack, start] = window
            while len(self._kept) > WINDOWS or sum(map(len, self._kept.values())) > 2 * WINDOWS * WINDOW:
                self._kept.popitem(last=False)
        return memoryview(window)[place.offset - start :]

    def _fetched(self, place: Location) -> tuple[int, bytes]:
        start = max(0, place.offset - WINDOW)
        window = self._store.get(pack_name(place.pack), start, place.offset + place.length - start)
        self._cache.keep(place.pack, start, window)
        return start, window

    def forget(self, place: Location) -> None:
        """Drop what is kept of a pack, so that the next read fetches it anew."""
        with self._mutex:
            for key in [key for key in self._kept if key[0] == place.pack]:
                del self._kept[key]
        self._cache.forget(place.pack)
