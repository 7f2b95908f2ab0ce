from __future__ import annotations

from hashlib import sha256

import pytest

from snapvol.errors import Damaged, NotFound, SnapvolError
from snapvol.repository import BlobKind, Tuning, reader
from snapvol.stores.base import Transient
from snapvol.stores.memory import MemoryStore
from support.faults import Faulty, nth
from support.repositories import backed_up, opened, sample

BLOBS = sample(60)
IDS = [sha256(data).digest() for data in BLOBS]


@pytest.fixture
def filled(memory: MemoryStore) -> MemoryStore:
    backed_up(memory, BLOBS)
    return memory


def pack_of(store: MemoryStore, blob: bytes) -> tuple[str, int, int]:
    with opened(store) as repository:
        repository.load_index()
        place = repository.locate(BlobKind.DATA, blob)
        return f"data/{place.pack.hex()[:2]}/{place.pack.hex()}", place.offset, place.length


def flip(store: MemoryStore, name: str, at: int) -> None:
    data = bytearray(store.objects[name])
    data[at] ^= 1
    store.objects[name] = bytes(data)


def test_whole_packs_are_read_at_once(filled: MemoryStore) -> None:
    """Rule 13: restores do not die of small GETs."""
    packs = sum(name.startswith("data/") for name in filled.objects)
    store = Faulty(filled)
    with opened(store) as repository:
        repository.load_index()
        assert dict(repository.read_many(BlobKind.DATA, IDS * 3)) == dict(zip(IDS, BLOBS, strict=True))
    assert store.count("get", "data/") <= packs


def test_distant_blobs_are_not_read_with_all_between(filled: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "GAP", 100)
    store = Faulty(filled)
    with opened(store) as repository:
        repository.load_index()
        places = {blob: repository.locate(BlobKind.DATA, blob) for blob in IDS}
        first = min(places.values())
        same = sorted((place.offset, blob) for blob, place in places.items() if place.pack == first.pack)
        wanted = [same[0][1], same[1][1], same[5][1]]
        assert [blob for blob, _ in repository.read_many(BlobKind.DATA, wanted)] == wanted
    assert store.count("get", "data/") == 2


def test_no_read_is_larger_than_allowed(filled: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither in stored nor in plain bytes: a pack of zeros is a decompression bomb."""
    monkeypatch.setattr(reader, "LARGEST_RUN", 12_000)
    store = Faulty(filled)
    with opened(store) as repository:
        repository.load_index()
        assert len(list(repository.read_many(BlobKind.DATA, IDS))) == 60
    assert store.count("get", "data/") >= 30  # two blobs of 5,000 bytes each


def test_an_unknown_blob_is_said(filled: MemoryStore) -> None:
    with opened(filled) as repository:
        repository.load_index()
        for read in (repository.read, repository.locate):
            with pytest.raises(NotFound, match="tree blob 010101010101 is in no index of memory"):
                read(BlobKind.TREE, b"\1" * 32)
        with pytest.raises(NotFound):
            list(repository.read_many(BlobKind.DATA, [*IDS, b"\1" * 32]))


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "missing"])
def test_damage_hits_only_what_it_hits(filled: MemoryStore, damage: str) -> None:
    """T30."""
    name, offset, length = pack_of(filled, IDS[7])
    whole = filled.objects.pop(name)
    if damage == "flip":
        filled.objects[name] = whole
        flip(filled, name, offset + length // 2)
    elif damage != "missing":
        filled.objects[name] = whole[: offset + length // 2] if damage == "cut" else b""
    lost: dict[bytes, SnapvolError] = {}
    with opened(filled) as repository:
        repository.load_index()
        found = dict(repository.read_many(BlobKind.DATA, IDS, lost.__setitem__))
        with pytest.raises(Damaged, match=IDS[7].hex()[:12] if damage in ("flip", "missing") else name):
            repository.read(BlobKind.DATA, IDS[7])
        with pytest.raises(Damaged):
            list(repository.read_many(BlobKind.DATA, IDS))
    assert IDS[7] in lost
    assert found.keys() | lost.keys() == set(IDS)
    assert all(sha256(data).digest() == blob for blob, data in found.items())
    if damage == "flip":
        assert list(lost) == [IDS[7]]


def test_a_bit_that_flips_on_the_way_is_read_again(filled: MemoryStore) -> None:
    """T27: another attempt gets it whole."""
    store = Faulty(filled)
    with opened(store) as repository:
        repository.load_index()
        store.short = [1]
        assert len(list(repository.read_many(BlobKind.DATA, IDS))) == 60


def test_another_copy_is_read(filled: MemoryStore) -> None:
    """Rule 12: a blob in two packs survives damage to one."""
    name, offset, _ = pack_of(filled, IDS[0])
    kept = dict(filled.objects)
    backed_up(filled, [b"other"])
    extra = {key: value for key, value in filled.objects.items() if key not in kept and not key.startswith("locks/")}
    store = MemoryStore()
    store.objects = {key: value for key, value in kept.items() if not key.startswith(("data/", "index/", "snapshots/"))}
    backed_up(store, BLOBS)
    store.objects |= kept | extra
    flip(store, name, offset + 20)
    with opened(store) as repository:
        repository.load_index()
        assert len(list(repository.read_many(BlobKind.DATA, IDS))) == 60
        assert repository.read(BlobKind.DATA, IDS[0]) == BLOBS[0]


def test_a_blob_in_anothers_place_is_found_out(filled: MemoryStore) -> None:
    """Rule 4: the MAC alone does not bind a blob to its place."""
    with opened(filled) as repository:
        repository.load_index()
        places = {blob: repository.locate(BlobKind.DATA, blob) for blob in IDS}
        by_pack: dict[bytes, list[bytes]] = {}
        for blob, place in places.items():
            by_pack.setdefault(place.pack, []).append(blob)
        one, other = next(
            (a, b) for blobs in by_pack.values() for a in blobs for b in blobs
            if a != b and places[a].length == places[b].length
        )  # fmt: skip
        a, b = places[one], places[other]
        name = f"data/{a.pack.hex()[:2]}/{a.pack.hex()}"
        data = bytearray(filled.objects[name])
        data[a.offset : a.offset + a.length] = data[b.offset : b.offset + b.length]
        filled.objects[name] = bytes(data)
        with pytest.raises(Damaged, match=f"{one.hex()[:12]} in pack .* is not those|not those it is named after"):
            repository.read(BlobKind.DATA, one)
        assert sha256(repository.read(BlobKind.DATA, other)).digest() == other


def test_an_unreachable_store_is_not_damage(filled: MemoryStore) -> None:
    """T27: what cannot be read now is not reported as lost."""
    store = Faulty(filled, nth("get", range(1, 100), Transient("503"), "data/"))
    lost: dict[bytes, SnapvolError] = {}
    with opened(store) as repository:
        repository.load_index()
        with pytest.raises(Transient):
            list(repository.read_many(BlobKind.DATA, IDS, lost.__setitem__))
        with pytest.raises(Transient):
            repository.read(BlobKind.DATA, IDS[0])
    assert lost == {}


def test_reading_can_be_left_early(filled: MemoryStore) -> None:
    with opened(filled, Tuning()) as repository:
        repository.load_index()
        reading = repository.read_many(BlobKind.DATA, IDS)
        next(reading)
        reading.close()  # type: ignore[attr-defined]


def test_trees_are_fetched_together(memory: MemoryStore) -> None:
    """Rule 13: walking directories does not cost a request each."""
    trees = [b'{"nodes":[],"n":%d}' % number + bytes(300) for number in range(300)]
    with opened(memory, Tuning()) as repository:
        ids = [repository.add(BlobKind.TREE, data)[0] for data in trees]
        repository.flush()
    store = Faulty(memory)
    with opened(store) as repository:
        repository.load_index()
        for blob, data in zip(reversed(ids), reversed(trees), strict=True):
            assert repository.read(BlobKind.TREE, blob) == data
    assert store.count("get", "data/") == 1


def test_a_damaged_tree_is_not_kept(memory: MemoryStore) -> None:
    """T30: once its pack is whole again, it is read."""
    with opened(memory) as repository:
        blob = repository.add(BlobKind.TREE, b"tree" * 100)[0]
        repository.flush()
        (name,) = (name for name in memory.objects if name.startswith("data/"))
        flip(memory, name, 20)
        with pytest.raises(Damaged):
            repository.read(BlobKind.TREE, blob)
        flip(memory, name, 20)
        assert repository.read(BlobKind.TREE, blob) == b"tree" * 100
