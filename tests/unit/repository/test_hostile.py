"""T44: a repository that somebody else made, properly sealed, can neither crash us nor exhaust memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from snapvol.errors import Damaged, RepositoryLocked
from snapvol.repository import BlobKind, compression, keys, unpacked
from snapvol.repository.ids import pack_name
from snapvol.repository.index import index_file
from snapvol.repository.packs import Packer
from snapvol.repository.sealing import MasterKey
from snapvol.stores.memory import MemoryStore
from support.repositories import PASSWORD, opened

GIB = 1 << 30


def key_of(store: MemoryStore) -> MasterKey:
    return next(keys.opened(store, PASSWORD))[1]


def sealed(store: MemoryStore, directory: str, contents: bytes) -> str:
    """Store ``contents`` as if by somebody who has the key."""
    data = key_of(store).seal(contents)
    name = f"{directory}/{sha256(data).hexdigest()}"
    store.objects[name] = data
    return name


def bomb(size: int, stated: bool = True) -> bytes:
    """Return a zstd frame of a few kilobytes that holds ``size`` zeros."""
    writer = zstandard.ZstdCompressor(level=1).compressobj(size=size if stated else -1)
    zeros = bytes(1 << 20)
    return b"".join([*(writer.compress(zeros) for _ in range(size >> 20)), writer.flush()])


@contextmanager
def little_memory(limit: int) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < limit
    finally:
        tracemalloc.stop()


def add_blob(store: MemoryStore, contents: bytes, plain: int, identity: bytes) -> None:
    """Store a pack and an index with one blob that claims to have ``plain`` bytes."""
    key = key_of(store)
    packer = Packer(BlobKind.DATA)
    packer.add(identity, key.seal(contents), plain)
    pack, data = packer.finish(key)
    store.put(pack_name(pack), data)
    unpacked.write(store, key, "index", index_file([(pack, packer.blobs)]))


@pytest.mark.parametrize("stated", [True, False])
@pytest.mark.parametrize("plain", [1000, 8 << 20])
def test_a_bomb_in_a_blob(memory: MemoryStore, stated: bool, plain: int) -> None:
    """It is opened no further than to what the index says it has."""
    add_blob(memory, bomb(GIB, stated), plain, b"\1" * 32)
    with little_memory(64 << 20), opened(memory) as repository:
        repository.load_index()
        with pytest.raises(Damaged, match="data blob 010101010101 in pack"):
            repository.read(BlobKind.DATA, b"\1" * 32)
        report = repository.check(True)
    assert len(report.problems) == 1


def test_a_blob_that_is_larger_than_blobs_are(memory: MemoryStore) -> None:
    """An honest giant is refused by its index."""
    add_blob(memory, bomb(GIB), GIB, b"\1" * 32)
    with little_memory(64 << 20), opened(memory) as repository:
        repository.load_index()
        assert len(repository.damaged_indexes) == 1
        assert not repository.has(BlobKind.DATA, b"\1" * 32)


@pytest.mark.parametrize("stated", [True, False])
@pytest.mark.parametrize("directory", ["index", "snapshots", "locks"])
def test_a_bomb_in_an_unpacked_object(memory: MemoryStore, directory: str, stated: bool) -> None:
    name = sealed(memory, directory, b"\2" + bomb(GIB, stated))
    with little_memory(unpacked.LARGEST * 3), pytest.raises(Damaged, match=f"{name} .* decompresses to more than"):
        unpacked.read(memory, key_of(memory), name, dict)


def test_an_object_of_gigabytes_is_not_fetched(memory: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "size", lambda name: GIB)
    with pytest.raises(Damaged, match="is too large"):
        unpacked.read(memory, key_of(memory), "snapshots/" + "a" * 64, dict)


JUNK = [
    b"", b"\1{}", b"\2", b"\2junk", b"{", b"[", b"{}", b"[]", b"[" * 100_000, b"null",
    b"\2" + compression.compress(b"{", 1),
    b'{"time":"never"}', b'{"time":"2020-01-01T00:00:00Z","tree":5,"paths":[]}', b'{"packs":[[]]}', b'{"packs":5}',
    b'{"time":"2020-01-01T00:00:00Z","hostname":{},"pid":"x"}', b"\xff\xfe{}", b'{"time":"\xff"}',
    b'{"time":"2020-01-01T00:00:00Z","hostname":"h","pid":1e99}',
]  # fmt: skip


@pytest.mark.parametrize("contents", JUNK)
def test_junk_is_damaged_wherever_it_is(memory: MemoryStore, contents: bytes) -> None:
    """Named, in one line, and nothing else is hidden by it."""
    snapshot = sealed(memory, "snapshots", contents)
    index = sealed(memory, "index", contents)
    with opened(memory) as repository:
        assert repository.snapshots() == []
        assert [f"snapshots/{name}" for name, _ in repository.damaged_snapshots] == [snapshot]
        with pytest.raises(Damaged, match=snapshot) as caught:
            repository.find_snapshot(snapshot[-64:])
        assert "\n" not in str(caught.value)
        repository.load_index()
        assert [name for name, _ in repository.damaged_indexes] in ([index], [])  # an object without packs is an index
        assert {problem.object for problem in repository.check().problems} in ({snapshot, index}, {snapshot})
        sealed(memory, "locks", contents)
        with pytest.raises(RepositoryLocked):
            repository.lock(exclusive=True).__enter__()
        assert repository.unlock(remove_all=True) == 1


@given(st.binary(max_size=300))
def test_any_frame_is_damaged_or_right(frame: bytes) -> None:
    with suppress(Damaged):
        assert len(compression.decompress(frame, 100, "it")) == 100
    with suppress(Damaged):
        assert len(compression.decompress_up_to(frame, 100, "it")) <= 100


@given(st.binary(max_size=3000))
def test_compression_round_trip(data: bytes) -> None:
    frame = compression.compress(data, 1)
    assert compression.decompress(frame, len(data), "it") == data
    assert compression.decompress_up_to(frame, len(data), "it") == data
    compression.check_round_trip(frame, data)
    for wrong in {len(data) + 1, max(0, len(data) - 1)} - {len(data)}:
        with pytest.raises(Damaged):
            compression.decompress(frame, wrong, "it")


def test_a_frame_that_is_cut_short_is_damaged() -> None:
    frame = compression.compress(bytes(range(256)) * 100, 1)
    cut = frame[: len(frame) // 2]
    with pytest.raises(Damaged):
        compression.decompress(cut, 25_600, "it")
    with pytest.raises(Damaged):
        compression.decompress_up_to(cut, 25_600, "it")
