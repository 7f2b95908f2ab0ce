"""Where blobs lie: the index in memory, and its form in the repository."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from struct import Struct as Layout
from typing import NamedTuple

from msgspec import Struct

from snapvol.errors import Damaged, NotFound
from snapvol.repository import unpacked
from snapvol.repository.ids import BlobKind, parse_id
from snapvol.repository.packs import MOST_BLOBS, SMALLEST, PackedBlob, entry_size, is_sensible
from snapvol.repository.parallel import mapped
from snapvol.repository.sealing import OVERHEAD, MasterKey
from snapvol.stores.base import Entry, Store

MOST_IN_FILE = MOST_BLOBS + 8192  # blobs per index file: at 165 bytes of JSON each, below the format's 8 MiB
_AHEAD = 4  # index files that are fetched and decompressed while one is entered

RECORD = Layout("<32sIIII")  # id, number of the pack, offset, stored length, plain length (0: uncompressed)
Record = tuple[bytes, int, int, int, int]  # the same, unpacked
Buckets = dict[bytes, bytearray]  # first two bytes of blobs' ids → records


class Location(NamedTuple):
    """Where a blob lies.

    Attributes:
        pack: the pack's id.
        offset: first byte in the pack.
        length: stored bytes.
        plain_length: bytes of the blob itself.
        compressed: whether what is stored is a zstd frame.
    """

    pack: bytes
    offset: int
    length: int
    plain_length: int
    compressed: bool


class _IndexedBlob(Struct, omit_defaults=True, gc=False):
    id: str
    type: BlobKind
    offset: int
    length: int
    uncompressed_length: int = 0


class IndexedPack(Struct, gc=False):
    """A pack as an index lists it: its id in hexadecimal, and its blobs."""

    id: str
    blobs: list[_IndexedBlob]


class IndexFile(Struct, omit_defaults=True):
    """An index as the repository holds it.

    Attributes:
        packs: packs and all their blobs.
        supersedes: ids of indexes that this one replaces.
    """

    packs: list[IndexedPack] | None
    supersedes: list[str] | None = None


def index_file(packs: Iterable[tuple[bytes, Sequence[PackedBlob]]]) -> IndexFile:
    """Return the index that lists ``packs``."""
    return IndexFile(
        [
            IndexedPack(pack.hex(), [_IndexedBlob(b.id.hex(), b.kind, b.offset, b.length, b.plain) for b in blobs])
            for pack, blobs in packs
        ]
    )


def packs_of(file: IndexFile, what: str) -> Iterator[tuple[bytes, list[PackedBlob]]]:
    """Yield the packs that an index lists, each number checked to be sensible.

    Raises:
        Damaged: one is not.
    """
    for pack in file.packs or ():
        blobs = []
        for blob in pack.blobs:
            packed = PackedBlob(parse_id(blob.id, what), blob.type, blob.offset, blob.length, blob.uncompressed_length)
            if not is_sensible(packed):
                raise Damaged(f"{what} gives blob {blob.id[:12]} a size or place that no blob has")
            blobs.append(packed)
        yield parse_id(pack.id, what), blobs


def index_files(
    store: Store, key: MasterKey, entries: Sequence[Entry]
) -> Iterator[tuple[str, list[tuple[bytes, list[PackedBlob]]] | Damaged]]:
    """Yield the name of each index with its packs, or with what is wrong with it.

    One that was deleted since it was listed yields nothing. One that another supersedes counts all the same, as with
    stock clients: a blob that is named twice is read from whichever copy is there.
    """

    def text(entry: Entry) -> bytes | Damaged | None:
        try:
            return unpacked.read_text(store, key, entry.name, entry.size)
        except Damaged as error:
            return error
        except NotFound:
            return None

    for entry, found in zip(entries, mapped(text, entries, _AHEAD), strict=True):
        name = entry.name
        if isinstance(found, Damaged):
            yield name, found
        elif found is not None:
            what = f"{name} in {store.location}"
            try:
                file = unpacked.decode(found, IndexFile, what)
                yield name, list(packs_of(file, what))
            except Damaged as error:
                yield name, error


class BlobIndex:
    """The index in memory: 48 bytes a blob, about 60 MB for a million.

    Records lie in buckets by the first two bytes of the blob's id, so that a search is one lookup and one scan of a few
    hundred bytes in C. Nothing is ever removed. Readers need no lock beside one writer.
    """

    def __init__(self) -> None:
        self._packs: list[bytes] = []
        self._numbers: dict[bytes, int] = {}
        self._buckets: dict[BlobKind, Buckets] = {kind: {} for kind in BlobKind}
        self._count = 0
        self._missing: set[int] = set()

    def __len__(self) -> int:
        return self._count

    def add(self, pack: bytes, blobs: Iterable[PackedBlob]) -> None:
        """Enter the blobs of ``pack``; what is there already stays first, a second copy elsewhere is kept behind it."""
        number = self._numbers.get(pack)
        if number is None:
            number = self._numbers[pack] = len(self._packs)
            self._packs.append(pack)
        for blob in blobs:
            buckets = self._buckets[blob.kind]
            record = RECORD.pack(blob.id, number, blob.offset, blob.length, blob.plain)
            prefix = blob.id[:2]
            bucket = buckets.get(prefix)
            if bucket is None:
                buckets[prefix] = bytearray(record)
            elif _find(bucket, record, 0) < 0:
                bucket += record
            else:
                continue
            self._count += 1

    def buckets(self, kind: BlobKind) -> Buckets:
        """Return the records of all blobs of a kind, to be looked at only: `restore` takes them back."""
        return self._buckets[kind]

    def restore(self, packs: list[bytes], buckets: dict[BlobKind, Buckets]) -> None:
        """Take over what `packs` and `buckets` of another index returned; nothing may have been entered yet."""
        assert not self._packs
        self._packs = packs
        self._numbers = {pack: number for number, pack in enumerate(packs)}
        self._buckets = buckets
        self._count = sum(len(bucket) for kind in BlobKind for bucket in buckets[kind].values()) // RECORD.size

    def miss(self, present: Container[bytes]) -> int:
        """Learn which packs are there; what only others hold is to be uploaded again. Return how many are missing."""
        self._missing = {number for number, pack in enumerate(self._packs) if pack not in present}
        return len(self._missing)

    def present(self) -> set[int]:
        """Return the numbers of the packs that are not known to be missing."""
        return set(range(len(self._packs))) - self._missing

    def pack_number(self, kind: BlobKind, blob: bytes) -> int:
        """Return the number of a pack that holds ``blob`` and is not known to be missing, or -1."""
        bucket = self._buckets[kind].get(blob[:2])
        if bucket is None:
            return -1
        at = _find(bucket, blob, 0)
        while at >= 0:
            number = int.from_bytes(bucket[at + 32 : at + 36], "little")
            if number not in self._missing:
                return number
            at = _find(bucket, blob, at + RECORD.size)
        return -1

    def number(self, pack: bytes) -> int:
        """Return the number of a pack that is listed."""
        return self._numbers[pack]

    def pack_id(self, number: int) -> bytes:
        """Return the id of a pack by its number."""
        return self._packs[number]

    def knows_pack(self, pack: bytes) -> bool:
        """Say whether ``pack`` is listed."""
        return pack in self._numbers

    def find(self, kind: BlobKind, blob: bytes) -> Iterator[Location]:
        """Yield every place where ``blob`` lies."""
        bucket = self._buckets[kind].get(blob[:2])
        at = -1 if bucket is None else _find(bucket, blob, 0)
        while bucket is not None and at >= 0:
            _, number, offset, length, plain = RECORD.unpack_from(bucket, at)
            yield Location(self._packs[number], offset, length, plain or length - OVERHEAD, plain > 0)
            at = _find(bucket, blob, at + RECORD.size)

    def packs(self) -> list[bytes]:
        """Return the ids of all packs."""
        return list(self._packs)

    def blobs(self) -> Iterator[tuple[bytes, PackedBlob]]:
        """Yield every blob with the id of its pack, each copy by itself, in no order."""
        for kind, buckets in self._buckets.items():
            for bucket in list(buckets.values()):
                for blob, number, offset, length, plain in RECORD.iter_unpack(bytes(bucket)):
                    yield self._packs[number], PackedBlob(blob, kind, offset, length, plain)

    def blobs_of(self, pack: bytes) -> list[PackedBlob]:
        """Return the blobs of one pack; this looks at all of them."""
        return [blob for other, blob in self.blobs() if other == pack]

    def expected(self) -> list[tuple[bytes, int, int]]:
        """Return every pack's id with the bytes that its blobs and header take, and the number of its blobs."""
        sizes = [SMALLEST] * len(self._packs)
        counts = [0] * len(self._packs)
        for buckets in self._buckets.values():
            for bucket in list(buckets.values()):
                for _, number, _, length, plain in RECORD.iter_unpack(bytes(bucket)):
                    sizes[number] += length + entry_size(plain)
                    counts[number] += 1
        return list(zip(self._packs, sizes, counts, strict=True))

    def slot(self, kind: BlobKind, blob: bytes) -> int:
        """Return which record of its bucket is the first of ``blob``, or -1; see `slots`."""
        bucket = self._buckets[kind].get(blob[:2])
        at = -1 if bucket is None else _find(bucket, blob, 0)
        return at // RECORD.size if at >= 0 else -1

    def slots(self, kind: BlobKind) -> Iterator[tuple[bytes, list[Record]]]:
        """Yield the buckets: the first two bytes of the ids in it, and its records. A record never leaves its place."""
        for prefix in list(self._buckets[kind]):
            yield prefix, self.bucket(kind, prefix)

    def bucket(self, kind: BlobKind, prefix: bytes) -> list[Record]:
        """Return one of the buckets that `slots` yields."""
        return list(RECORD.iter_unpack(bytes(self._buckets[kind][prefix])))


def _find(bucket: bytearray, start: bytes, at: int) -> int:
    """Return where the record that begins with ``start`` begins, from ``at`` on, or -1."""
    found = bucket.find(start, at)
    while found >= 0 and found % RECORD.size:
        found = bucket.find(start, found + 1)
    return found
