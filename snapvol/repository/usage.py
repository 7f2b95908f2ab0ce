"""Which blobs backups need, and which copies of them stay: a byte beside every record of the index."""

from __future__ import annotations

from array import array
from collections.abc import Collection, Container, Iterator

from snapvol.errors import Damaged, NotFound
from snapvol.repository.ids import BlobKind, pack_name
from snapvol.repository.index import BlobIndex, Location, Record
from snapvol.repository.packs import entry_size
from snapvol.repository.reader import Run
from snapvol.repository.sealing import OVERHEAD

_NEEDED = 1  # at the first record of a blob: a backup needs it
_KEPT = 2  # at that copy of a needed blob which stays

_KIND_BITS = {BlobKind.DATA: 1, BlobKind.TREE: 2}
MIXED = 3  # both kinds in one pack


class Weights:
    """What the blobs of each pack weigh, by the packs' numbers. Bytes are stored ones, with the header's entries.

    Attributes:
        needed: bytes of blobs whose copy in this pack stays.
        unneeded: bytes of all others.
        needed_blobs: how many of them.
        unneeded_blobs: likewise.
        duplicates: those of the unneeded ones that are needed, and stay elsewhere.
        kinds: 1: data, 2: trees, `MIXED`.
        plain_trees: where needed trees are stored without compression.
    """

    def __init__(self, packs: int) -> None:
        self.needed = array("Q", bytes(8 * packs))
        self.unneeded = array("Q", bytes(8 * packs))
        self.needed_blobs = array("L", bytes(8 * packs))
        self.unneeded_blobs = array("L", bytes(8 * packs))
        self.duplicates = array("L", bytes(8 * packs))
        self.kinds = bytearray(packs)
        self.plain_trees = bytearray(packs)

    def stays(self, kind: BlobKind, record: Record) -> None:
        """Add a record of which the blob stays."""
        _, number, _, length, plain = record
        self.needed[number] += length + entry_size(plain)
        self.needed_blobs[number] += 1
        self.kinds[number] |= _KIND_BITS[kind]
        self.plain_trees[number] |= kind is BlobKind.TREE and not plain

    def goes(self, kind: BlobKind, record: Record, *, duplicate: bool = False) -> None:
        """Add a record of which the blob is not needed here."""
        _, number, _, length, plain = record
        self.unneeded[number] += length + entry_size(plain)
        self.unneeded_blobs[number] += 1
        self.duplicates[number] += duplicate
        self.kinds[number] |= _KIND_BITS[kind]


class Usage:
    """Which blobs of an index are needed. The index may grow meanwhile.

    Args:
        index: one byte of memory for each of its blobs is taken, beside its own 48.
    """

    def __init__(self, index: BlobIndex) -> None:
        self._index = index
        self._flags: dict[BlobKind, dict[bytes, bytearray]] = {kind: {} for kind in BlobKind}

    def need(self, kind: BlobKind, blob: bytes) -> bool:
        """Note that a backup needs ``blob``; return whether that is news.

        Raises:
            NotFound: no index names it.
        """
        slot = self._index.slot(kind, blob)
        if slot < 0:
            raise NotFound(f"{kind} blob {blob.hex()[:12]} is in no index")
        flags = self._flags[kind].get(blob[:2])
        if flags is None:
            flags = self._flags[kind][blob[:2]] = bytearray()
        if slot >= len(flags):
            flags.extend(bytes(slot + 1 - len(flags)))
        elif flags[slot] & _NEEDED:
            return False
        flags[slot] |= _NEEDED
        return True

    def weigh(self, absent: Container[int]) -> Weights:
        """Decide which copy of every needed blob stays, and return what that makes of the packs.

        Args:
            absent: numbers of packs that are not there.

        Raises:
            Damaged: all copies of a needed blob lie in such packs.
        """
        weights = Weights(len(self._index.packs()))
        several: list[tuple[BlobKind, bytes]] = []
        for kind, prefix, records, flags in self._buckets():
            copies = _copied(records)
            if copies:
                several.append((kind, prefix))
            marked = bytearray(flags)
            for slot, (record, flag) in enumerate(zip(records, flags, strict=True)):
                if not flag & _NEEDED:
                    if record[0] not in copies:
                        weights.goes(kind, record)
                elif record[0] not in copies:
                    if record[1] in absent:
                        raise self._lost(kind, record)
                    weights.stays(kind, record)
                    marked[slot] |= _KEPT
            self._flags[kind][prefix] = marked
        # The others come last: each stays where most needed blobs are, so that whole packs can go.
        for kind, prefix in several:
            self._weigh_copies(kind, prefix, weights, absent)
        return weights

    def contested(self, doomed: Collection[int]) -> dict[int, int]:
        """Return the packs that stay and hold the remaining copies of blobs of ``doomed`` ones, and how many those are.

        Of a pack that stays nothing was read: it has to be, before the other copies go.
        """
        found: dict[int, int] = {}
        for _, _, records, flags in self._buckets():
            rivals = _rivals(records, doomed)
            for record, flag in zip(records, flags, strict=True):
                if flag & _KEPT and record[0] in rivals and record[1] not in doomed:
                    found[record[1]] = found.get(record[1], 0) + 1
        return found

    def live(self, packs: Collection[int], beside: Collection[int] | None = None) -> dict[int, tuple[Run, Run]]:
        """Return what stays of some packs: by their numbers the data and the trees, in the order of their offsets.

        Args:
            packs: which.
            beside: only blobs that have copies in these packs; without it all.
        """
        found: dict[int, tuple[Run, Run]] = {number: ([], []) for number in packs}
        for kind, _, records, flags in self._buckets():
            rivals = None if beside is None else _rivals(records, beside)
            for (blob, number, offset, length, plain), flag in zip(records, flags, strict=True):
                if flag & _KEPT and number in found and (rivals is None or blob in rivals):
                    place = Location(self._index.pack_id(number), offset, length, plain or length - OVERHEAD, plain > 0)
                    found[number][kind is BlobKind.TREE].append((blob, place))
        for runs in found.values():
            for run in runs:
                run.sort(key=lambda item: item[1].offset)
        return found

    def indispensable(self, doomed: Collection[int], absent: Container[int]) -> set[int]:
        """Return which of the ``doomed`` packs must stay for needed blobs to have a copy; looks at every blob.

        Raises:
            Damaged: all copies of a needed blob lie in ``absent`` packs.
        """
        going = set(doomed)
        staying: set[int] = set()
        for kind, _, records, flags in self._buckets():
            if going.isdisjoint(record[1] for record in records):
                continue
            safe = {record[0] for record in records if record[1] not in absent and record[1] not in going}
            for record, flag in zip(records, flags, strict=True):
                if flag & _NEEDED and record[0] not in safe:
                    places = [other[1] for other in records if other[0] == record[0] and other[1] not in absent]
                    if not places:
                        raise self._lost(kind, record)
                    staying.add(places[0])
                    going.discard(places[0])
        return staying

    def _weigh_copies(self, kind: BlobKind, prefix: bytes, weights: Weights, absent: Container[int]) -> None:
        records, flags = self._bucket(kind, prefix)
        for slots in _copied(records).values():
            if not any(flags[slot] & _NEEDED for slot in slots):
                for slot in slots:
                    weights.goes(kind, records[slot])
                continue
            there = [slot for slot in slots if records[slot][1] not in absent]
            if not there:
                raise self._lost(kind, records[slots[0]])
            best = max(there, key=lambda slot: _worth_keeping(weights, records[slot][1], slot))
            for slot in slots:
                if slot == best:
                    weights.stays(kind, records[slot])
                    self._flags[kind][prefix][slot] |= _KEPT
                else:
                    weights.goes(kind, records[slot], duplicate=True)

    def _buckets(self) -> Iterator[tuple[BlobKind, bytes, list[Record], bytes]]:
        for kind in BlobKind:
            for prefix, records in self._index.slots(kind):
                yield kind, prefix, records, self._padded(kind, prefix, len(records))

    def _bucket(self, kind: BlobKind, prefix: bytes) -> tuple[list[Record], bytes]:
        records = self._index.bucket(kind, prefix)
        return records, self._padded(kind, prefix, len(records))

    def _padded(self, kind: BlobKind, prefix: bytes, count: int) -> bytes:
        return bytes(self._flags[kind].get(prefix, b"")).ljust(count, b"\0")

    def _lost(self, kind: BlobKind, record: Record) -> Damaged:
        name = pack_name(self._index.pack_id(record[1]))
        return Damaged(
            f"{kind} blob {record[0].hex()[:12]}, which backups need, is lost: {name} is missing",
            "find out what is hit: snapvol repo check",
        )


def _worth_keeping(weights: Weights, pack: int, slot: int) -> tuple[int, bool, int]:
    """Order the copies of a blob: a pack that stays anyway, then a new one that a killed prune made, then the first."""
    return weights.needed[pack], not weights.unneeded[pack], -slot


def _rivals(records: list[Record], packs: Collection[int]) -> set[bytes]:
    """Return the blobs that have several records, one of them in ``packs``."""
    copies = _copied(records)
    return {blob for blob, slots in copies.items() if any(records[slot][1] in packs for slot in slots)}


def _copied(records: list[Record]) -> dict[bytes, list[int]]:
    """Return the blobs that have several records, with the numbers of those."""
    if len({record[0] for record in records}) == len(records):
        return {}
    slots: dict[bytes, list[int]] = {}
    for slot, record in enumerate(records):
        slots.setdefault(record[0], []).append(slot)
    return {blob: found for blob, found in slots.items() if len(found) > 1}
