"""Looking for damage: what indexes name is there and whole, and what backups need is indexed."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256

from snapvol.errors import Damaged, NotFound
from snapvol.repository import unpacked
from snapvol.repository.findings import UNINDEXED, CheckProgress, CheckReport, Findings, NoProgress
from snapvol.repository.ids import BlobKind, pack_name, parse_id
from snapvol.repository.index import BlobIndex, Location, index_files
from snapvol.repository.packs import PackedBlob, header_length, parse_header
from snapvol.repository.parallel import mapped
from snapvol.repository.portions import Pack, Portion
from snapvol.repository.reader import Reader
from snapvol.repository.sealing import MasterKey
from snapvol.repository.snapshots import SnapshotDocument
from snapvol.repository.trees import Trees
from snapvol.stores.base import Entry, Store

LARGEST_PACK = 512 << 20  # bytes; stock clients make at most 128 MiB
_PACKS_AHEAD = 2
_SNAPSHOTS_AHEAD = 8


def check(store: Store, key: MasterKey, portion: Portion | None, progress: CheckProgress | None) -> CheckReport:
    """Look at everything and return what is wrong; see `Repository.check`."""
    progress = progress or NoProgress()
    checker = _Checker(store, key, progress)
    roots = checker.snapshots()  # before the indexes: what they need is indexed by then
    checker.load_indexes()
    whole, unused = checker.compare_packs()
    if portion is not None:
        checker.read_packs(portion, whole)
    trees = Trees(checker.reader, checker.findings, checker.loss, progress)
    trees.walk(roots)
    return CheckReport(
        problems=checker.findings.problems(),
        snapshots=len(roots),
        packs=len(checker.index.packs()),
        blobs=len(checker.index),
        bytes_read=checker.bytes_read,
        packs_read=checker.packs_read,
        unused_packs=unused,
    )


class _Checker:
    def __init__(self, store: Store, key: MasterKey, progress: CheckProgress) -> None:
        self.index = BlobIndex()
        self.reader = Reader(store, key, self.index)
        self.findings = Findings()
        self.bytes_read = self.packs_read = 0
        self._store = store
        self._key = key
        self._progress = progress
        self._bad_packs: set[bytes] = set()
        self._bad_blobs: set[tuple[bytes, int]] = set()  # pack, offset

    def snapshots(self) -> dict[str, bytes]:
        """Return the root tree of each snapshot."""
        roots = {}
        entries = list(self._store.list("snapshots/"))
        for entry, root in zip(entries, mapped(self._root, entries, _SNAPSHOTS_AHEAD), strict=True):
            short = entry.name.removeprefix("snapshots/")
            if isinstance(root, Damaged):
                self.findings.hit(self.findings.add(entry.name, root.message), short)
            elif root is not None:
                roots[short] = root
        return roots

    def load_indexes(self) -> None:
        """Read the indexes as they lie in the store, whatever a `Repository` has in memory."""
        for name, found in index_files(self._store, self._key, list(self._store.list("index/"))):
            if isinstance(found, Damaged):
                self.findings.add(name, found.message)
                continue
            for pack, blobs in found:
                self.index.add(pack, blobs)

    def compare_packs(self) -> tuple[list[Pack], int]:
        """Compare indexes and packs; return those that can be read, and how many no index names."""
        present = {bytes.fromhex(entry.name[-64:]): entry.size for entry in self._store.list("data/")}
        there: list[Pack] = []
        for pack, expected, blobs in self.index.expected():
            size = present.pop(pack, None)
            if size is None:
                size = self._asked(pack)
            if size is None:
                self._spoilt(pack, "is missing")
            elif size != expected:
                self._spoilt(pack, f"has {size} bytes, but the indexes tell of {expected}")
            else:
                there.append(Pack(pack, size, blobs))
        return there, len(present)

    def read_packs(self, portion: Portion, packs: list[Pack]) -> None:
        """Read packs whole and check their names, their headers, and every blob that an index places in them."""
        chosen = portion.choose(packs)
        self._progress.total(len(chosen), sum(pack.size for pack in chosen))
        for pack, size in zip(chosen, mapped(self._read_pack, chosen, _PACKS_AHEAD), strict=True):
            self.bytes_read += size
            self.packs_read += 1
            portion.noted(pack.id, not self.findings.knows(pack_name(pack.id)))
            self._progress.advance(size, 1)
            self._progress.cancelled()

    def loss(self, kind: BlobKind, blob: bytes) -> str | None:
        """Return the name of the object whose damage loses a blob, or None where a copy of it is whole."""
        cause = None
        for place in self.index.find(kind, blob):
            if place.pack not in self._bad_packs and (place.pack, place.offset) not in self._bad_blobs:
                return None
            cause = pack_name(place.pack)
        return cause or self.findings.add(f"{kind} blob {blob.hex()}", UNINDEXED)

    def _root(self, entry: Entry) -> bytes | Damaged | None:
        try:
            document = unpacked.read(self._store, self._key, entry.name, SnapshotDocument, entry.size)
            return parse_id(document.tree, entry.name)
        except NotFound:
            return None  # forgotten since it was listed
        except Damaged as error:
            return error

    def _asked(self, pack: bytes) -> int | None:
        """A listing may be older than the pack: the pack itself has the last word."""
        try:
            return self._store.size(pack_name(pack))
        except NotFound:
            return None

    def _spoilt(self, pack: bytes, what: str) -> None:
        self._bad_packs.add(pack)
        self.findings.add(pack_name(pack), what)

    def _read_pack(self, pack: Pack) -> int:
        identity, size, count = pack
        name = pack_name(identity)
        if size > LARGEST_PACK:
            self._spoilt(identity, f"has {size} bytes, too many for a pack")
            return 0
        try:
            data = memoryview(self._store.get(name))
        except (NotFound, Damaged) as error:
            self._spoilt(identity, error.message)
            return size
        if sha256(data).digest() != identity:
            self.findings.add(name, "is altered: its contents are not those it is named after")
        try:
            length = header_length(data, len(data), name)
            body = len(data) - 4 - length
            blobs = parse_header(self._key.open(data[body:-4], name), body, name)
        except Damaged as error:
            # Stock clients find blobs by the index: only the blobs themselves say which of them are lost.
            self.findings.add(name, error.message)
            blobs = self.index.blobs_of(identity)
        if self._read_blobs(identity, data, blobs) != count:
            self._spoilt(identity, f"does not hold the {count} blobs that the indexes place in it")
        return size

    def _read_blobs(self, pack: bytes, data: memoryview, blobs: Iterable[PackedBlob]) -> int:
        """Check the blobs that an index places here; return how many those are."""
        known = 0
        for blob in blobs:
            place = Location(pack, blob.offset, blob.length, blob.plain_length, blob.plain > 0)
            if place not in self.index.find(blob.kind, blob.id):
                continue
            known += 1
            try:
                self.reader.open(blob.kind, blob.id, place, data[blob.offset : blob.offset + blob.length])
            except Damaged as error:
                self._bad_blobs.add((pack, blob.offset))
                self.findings.add(pack_name(pack), error.message)
        return known
