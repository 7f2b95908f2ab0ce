from __future__ import annotations

import json
import tracemalloc
from hashlib import sha256

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapvol.errors import Damaged
from snapvol.repository import unpacked
from snapvol.repository.ids import BlobKind
from snapvol.repository.index import MOST_IN_FILE, BlobIndex, IndexFile, Location, index_file, packs_of
from snapvol.repository.packs import MOST_BLOBS, PackedBlob
from snapvol.repository.sealing import OVERHEAD

ids = st.binary(min_size=32, max_size=32)
blobs = st.builds(
    PackedBlob,
    id=ids,
    kind=st.sampled_from(BlobKind),
    offset=st.integers(0, 2**32 - 1),
    length=st.integers(OVERHEAD, 1 << 20),
    plain=st.integers(0, 1 << 20),
)
packs = st.dictionaries(ids, st.lists(blobs, max_size=8), max_size=5)


def digest(number: int) -> bytes:
    return sha256(b"%d" % number).digest()


@given(packs)
def test_an_index_file_comes_back(content: dict[bytes, list[PackedBlob]]) -> None:
    text = msgspec.json.encode(index_file(content.items()))
    assert dict(packs_of(unpacked.decode(text, IndexFile, "it"), "it")) == content


def test_it_is_written_as_restic_writes_it() -> None:
    packed = [PackedBlob(digest(1), BlobKind.DATA, 0, 50, 0), PackedBlob(digest(2), BlobKind.TREE, 50, 60, 99)]
    assert json.loads(msgspec.json.encode(index_file([(digest(3), packed)]))) == {
        "packs": [
            {
                "id": digest(3).hex(),
                "blobs": [
                    {"id": digest(1).hex(), "type": "data", "offset": 0, "length": 50},
                    {"id": digest(2).hex(), "type": "tree", "offset": 50, "length": 60, "uncompressed_length": 99},
                ],
            }
        ]
    }


def test_a_full_index_file_is_below_8_mib() -> None:
    """Also with the longest numbers, and one more pack of the most blobs that may join a nearly full file."""
    assert MOST_IN_FILE >= MOST_BLOBS
    longest = PackedBlob(digest(1), BlobKind.DATA, 2**32 - 1, 2**25, 2**25)
    assert len(msgspec.json.encode(index_file([(digest(2), [longest] * MOST_IN_FILE)]))) < 8 << 20


@given(packs)
def test_what_is_added_is_found(content: dict[bytes, list[PackedBlob]]) -> None:
    index = BlobIndex()
    for pack, packed in content.items():
        index.add(pack, packed)
        index.add(pack, packed)  # an index written twice adds nothing
    distinct = {(pack, blob) for pack, packed in content.items() for blob in map(msgspec.structs.astuple, packed)}
    assert len(index) == len(distinct)
    for pack, packed in content.items():
        for blob in packed:
            place = Location(pack, blob.offset, blob.length, blob.plain_length, blob.plain > 0)
            assert place in index.find(blob.kind, blob.id)
            assert index.pack_number(blob.kind, blob.id) >= 0


def test_kinds_are_apart() -> None:
    """A file may hold exactly a tree's bytes."""
    index = BlobIndex()
    index.add(digest(0), [PackedBlob(digest(1), BlobKind.DATA, 0, 50, 0)])
    assert index.pack_number(BlobKind.TREE, digest(1)) == -1
    assert list(index.find(BlobKind.TREE, digest(1))) == []


def test_all_copies_are_kept() -> None:
    """Rule 12: duplicates within and across packs."""
    index = BlobIndex()
    index.add(
        digest(0), [PackedBlob(digest(1), BlobKind.DATA, 0, 50, 0), PackedBlob(digest(1), BlobKind.DATA, 50, 50, 0)]
    )
    index.add(digest(5), [PackedBlob(digest(1), BlobKind.DATA, 0, 50, 0)])
    found = [(place.pack, place.offset) for place in index.find(BlobKind.DATA, digest(1))]
    assert found == [(digest(0), 0), (digest(0), 50), (digest(5), 0)]
    assert index.expected() == [(digest(0), 36 + 2 * (50 + 37), 2), (digest(5), 36 + 50 + 37, 1)]


def test_records_are_only_found_at_their_beginning() -> None:
    """An id that a neighbour's other bytes happen to spell is not there."""
    index = BlobIndex()
    prefix = b"\xab\xcd"
    hidden = prefix + b"\x01" * 30
    # The pack's number, offset and lengths of the first record, with the second's id, read like an id at 32 + 4.
    index.add(digest(0), [PackedBlob(prefix + bytes(30), BlobKind.DATA, 0x0101CDAB, 0x01010101, 0x01010101)])
    index.add(digest(0), [PackedBlob(prefix + b"\x01" * 18 + bytes(12), BlobKind.DATA, 0, 50, 0)])
    assert index.pack_number(BlobKind.DATA, hidden) == -1


def test_missing_packs_are_passed_over_where_there_is_another() -> None:
    """T30: what lies in a pack that is gone is uploaded again."""
    index = BlobIndex()
    both, one = PackedBlob(digest(1), BlobKind.DATA, 0, 50, 0), PackedBlob(digest(2), BlobKind.DATA, 50, 50, 0)
    index.add(digest(0), [both, one])
    index.add(digest(5), [both])
    assert index.miss({digest(5)}) == 1
    assert index.pack_id(index.pack_number(BlobKind.DATA, digest(1))) == digest(5)
    assert index.pack_number(BlobKind.DATA, digest(2)) == -1


def test_a_million_blobs_fit() -> None:
    """Measured on a tenth of it."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        index = BlobIndex()
        for pack in range(100):
            index.add(
                digest(-pack), (PackedBlob(digest(pack * 1000 + n), BlobKind.DATA, n, 50, 99) for n in range(1000))
            )
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert len(index) == 100_000
    assert taken < 20_000_000


GOOD: dict[str, object] = {"id": "a" * 64, "type": "data", "offset": 0, "length": 50, "uncompressed_length": 10}

WRONG: list[dict[str, object]] = [
    {"id": "A" * 64}, {"id": 5}, {"type": "file"}, {"offset": -1}, {"offset": 2**32}, {"offset": "0"},
    {"length": 31}, {"length": -5}, {"length": 2**40}, {"length": 1e300}, {"uncompressed_length": 2**31},
    {"uncompressed_length": -1}, {"length": None},
]  # fmt: skip


@pytest.mark.parametrize(
    "document",
    [
        [],
        {"packs": {}},
        {"packs": [[]]},
        {"packs": [{"id": "x", "blobs": []}]},
        {"packs": [{"id": "../" + "a" * 61, "blobs": []}]},
        {"packs": [{"id": "a" * 64, "blobs": [{}]}]},
        *({"packs": [{"id": "a" * 64, "blobs": [{**GOOD, **wrong}]}]} for wrong in WRONG),
    ],
)  # fmt: skip
def test_hostile_indexes_are_damaged(document: object) -> None:
    """T44: wrong types and absurd numbers are named, never believed."""
    with pytest.raises(Damaged, match="index/it"):
        list(packs_of(unpacked.decode(json.dumps(document).encode(), IndexFile, "index/it"), "index/it"))


def test_an_index_without_packs_is_empty() -> None:
    """Go writes an empty list as null."""
    assert list(packs_of(unpacked.decode(b'{"packs":null}', IndexFile, "it"), "it")) == []
