from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snapvol.errors import Damaged, NoSpace, RepositoryError, SnapvolError, UsageError
from snapvol.repository import BlobKind, Repository, Tuning, compression, locks, writer
from snapvol.repository.packs import LARGEST_DATA
from snapvol.stores.base import Transient
from snapvol.stores.memory import MemoryStore
from support.faults import Faulty, nth
from support.process import wait_until
from support.repositories import PASSWORD, SMALL, back_up, backed_up, created, document, opened, sample, tree


def packs(store: MemoryStore) -> list[str]:
    return [name for name in store.objects if name.startswith("data/")]


def indexes(store: MemoryStore) -> list[str]:
    return [name for name in store.objects if name.startswith("index/")]


def reread(store: MemoryStore, kind: BlobKind, blobs: list[bytes]) -> dict[bytes, bytes]:
    with opened(store) as repository:
        repository.load_index()
        return dict(repository.read_many(kind, blobs))


@settings(max_examples=25)
@given(st.lists(st.tuples(st.sampled_from(BlobKind), st.binary(max_size=30_000)), max_size=30))
def test_what_is_added_is_read(content: list[tuple[BlobKind, bytes]]) -> None:
    store = MemoryStore()
    repository = created(store)
    with repository:
        added = [repository.add(kind, data) for kind, data in content]
        repository.flush()
        for (kind, data), (blob, _) in zip(content, added, strict=True):
            assert blob == sha256(data).digest()
            assert repository.read(kind, blob) == data
    assert sum(new for _, new in added) == len(set(content))
    for kind in BlobKind:
        wanted = {sha256(data).digest(): data for other, data in content if other is kind}
        assert reread(store, kind, list(wanted)) == wanted


def test_a_blob_is_stored_once() -> None:
    """In this run, on its way, and in the next run."""
    store = MemoryStore()
    with created(store) as repository:
        assert repository.add(BlobKind.DATA, b"abc") == (sha256(b"abc").digest(), True)
        assert repository.add(BlobKind.DATA, b"abc") == (sha256(b"abc").digest(), False)
        assert repository.has(BlobKind.DATA, sha256(b"abc").digest())
        assert not repository.has(BlobKind.TREE, sha256(b"abc").digest())
        repository.flush()
        assert repository.add(BlobKind.DATA, b"abc")[1] is False
    with opened(store) as again:
        again.load_index()
        assert again.add(BlobKind.DATA, b"abc")[1] is False
        again.flush()
    assert len(packs(store)) == 1


def test_threads_store_each_blob_once() -> None:
    store = MemoryStore()
    blobs = sample(200, 3000)
    with created(store) as repository, ThreadPoolExecutor(8) as pool:
        added = list(pool.map(lambda data: repository.add(BlobKind.DATA, data), blobs * 4))
        repository.flush()
    assert sum(new for _, new in added) == 200
    assert sum(map(len, map(store.objects.get, packs(store)))) < 200 * 2200  # type: ignore[arg-type]
    assert len(reread(store, BlobKind.DATA, [blob for blob, _ in added])) == 200


def test_data_and_trees_lie_in_packs_of_their_own() -> None:
    store = MemoryStore()
    with created(store) as repository:
        data = repository.add(BlobKind.DATA, b"x" * 100)[0]
        node = repository.add(BlobKind.TREE, b"x" * 100)[0]
        repository.flush()
        assert data == node
        assert repository.locate(BlobKind.DATA, data).pack != repository.locate(BlobKind.TREE, node).pack


def test_what_does_not_compress_is_stored_as_it_is() -> None:
    with created(MemoryStore()) as repository:
        random = repository.add(BlobKind.DATA, sample(1, 6000)[0][:3000])[0]
        zeros = repository.add(BlobKind.DATA, bytes(3000))[0]
        repository.flush()
        assert repository.locate(BlobKind.DATA, random)[2:] == (3032, 3000, False)
        assert repository.locate(BlobKind.DATA, zeros).length < 100
        assert repository.locate(BlobKind.DATA, zeros)[3:] == (3000, True)


def test_a_blob_that_no_reader_takes_is_refused() -> None:
    with created(MemoryStore()) as repository, pytest.raises(UsageError, match="too many for a data blob"):
        repository.add(BlobKind.DATA, bytes(LARGEST_DATA + 1))


def test_packs_come_before_indexes_and_these_before_the_snapshot(memory: MemoryStore) -> None:
    """T28: the order in which nothing names what is not there yet."""
    store = Faulty(memory)
    backed_up(store, sample(60))
    puts = [name.partition("/")[0] for operation, name in store.calls if operation == "put"]
    assert puts.count("data") > 3
    assert puts[0] == "locks"
    assert puts[1:] == ["data"] * puts.count("data") + ["index", "snapshots"]


@pytest.mark.parametrize("error", [Transient("503"), NoSpace("disk full")])
@pytest.mark.parametrize("turn", [1, 3])
def test_a_failed_upload_is_raised(memory: MemoryStore, error: SnapvolError, turn: int) -> None:
    """T27, T39: on the next call, and no snapshot or index is written after it."""
    store = Faulty(memory, nth("put", [turn], error, "data/"))
    with opened(store) as repository, repository.lock() as lock:
        with pytest.raises(type(error)):
            back_up(repository, lock, sample(100))
        with pytest.raises(type(error)):
            repository.flush()
        with pytest.raises(type(error)):
            repository.add(BlobKind.DATA, b"another")
    assert not any(name.startswith(("snapshots/", "index/")) for name in memory.objects)


def test_a_failed_index_is_raised_and_written_by_the_next_flush(memory: MemoryStore) -> None:
    store = Faulty(memory, nth("put", [1], Transient("503"), "index/"))
    with opened(store) as repository:
        blob = repository.add(BlobKind.DATA, b"abc")[0]
        with pytest.raises(Transient):
            repository.flush()
        repository.flush()
    assert reread(memory, BlobKind.DATA, [blob]) == {blob: b"abc"}


def test_an_index_is_written_every_so_many_packs(memory: MemoryStore) -> None:
    """T28: what an interrupted first backup uploaded is known to the next, even to one of stock restic."""
    tuning = Tuning(pack_size=16 << 10, index_after_packs=4, uploads=1)
    with opened(memory, tuning) as repository:
        for data in sample(100):
            repository.add(BlobKind.DATA, data)
    assert 3 <= len(indexes(memory)) <= len(packs(memory)) // 4


def test_an_index_is_written_every_so_often(memory: MemoryStore) -> None:
    """T28."""
    with opened(memory, Tuning(pack_size=1000, index_after_seconds=0, uploads=1)) as repository:
        for data in sample(5):
            repository.add(BlobKind.DATA, data)
        repository.flush()
    assert len(indexes(memory)) >= 5


def test_a_pack_does_not_wait_for_the_next_one_to_be_indexed(
    memory: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """T28: where data comes slowly, what was uploaded a minute ago is named by an index nevertheless."""

    class Clock:
        shows = 0.0

        def monotonic(self) -> float:
            return self.shows

    monkeypatch.setattr(writer, "time", clock := Clock())
    with opened(memory, Tuning(pack_size=4000, uploads=1)) as repository:
        for data in sample(2):
            repository.add(BlobKind.DATA, data)
        wait_until(lambda: len(packs(memory)) == 1, what="the pack")
        repository.add(BlobKind.DATA, b"soon after")
        assert indexes(memory) == []
        clock.shows = 61
        turns = iter(range(20))  # so few that no pack is full

        def indexed() -> bool:
            repository.add(BlobKind.DATA, b"later %d" % next(turns))
            return bool(indexes(memory))

        wait_until(indexed)
        assert len(packs(memory)) == 1
    with opened(memory) as repository:
        repository.load_index()
        assert repository.has(BlobKind.DATA, sha256(sample(1)[0]).digest())


def test_index_files_are_split(memory: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "MOST_IN_FILE", 20)
    blobs = sample(100)
    with opened(memory) as repository:
        added = [repository.add(BlobKind.DATA, data)[0] for data in blobs]
        repository.flush()
    assert len(indexes(memory)) == len(packs(memory)) == 4
    assert len(reread(memory, BlobKind.DATA, added)) == 100


@pytest.mark.parametrize("relied", ["written", "added again", "asked for"])
def test_a_pack_that_vanishes_stops_the_snapshot(memory: MemoryStore, relied: str) -> None:
    """T29, T30: what stock prune removed from under a writer is noticed before anything names it."""
    backed_up(memory, [b"old"])
    old = sha256(b"old").digest()
    with opened(memory) as repository, repository.lock() as lock:
        repository.load_index()
        if relied == "written":
            old = repository.add(BlobKind.DATA, b"new")[0]
            repository.flush()
        elif relied == "added again":
            assert repository.add(BlobKind.DATA, b"old")[1] is False
        else:
            assert repository.has(BlobKind.DATA, old)
        pack = repository.locate(BlobKind.DATA, old).pack.hex()
        del memory.objects[f"data/{pack[:2]}/{pack}"]
        with pytest.raises(Damaged, match=f"{pack} in memory is gone, and this backup needs it"):
            repository.commit_snapshot(document(old), lock)
    assert len(list(memory.list("snapshots/"))) == 1


def test_recheck_does_not_believe_an_old_listing(memory: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """T27: stale LIST."""
    with opened(memory, Tuning(pack_size=1000)) as repository, repository.lock() as lock:
        repository.load_index()
        for data in sample(20):
            repository.add(BlobKind.DATA, data)
        repository.flush()
        monkeypatch.setattr(memory, "list", lambda prefix: iter(()))
        repository.recheck()
        monkeypatch.undo()
        lock.check()


def test_a_lost_pack_is_uploaded_again(memory: MemoryStore) -> None:
    """T30: the next backup of the same data mends the repository."""
    blobs = sample(40)
    backed_up(memory, blobs)
    del memory.objects[packs(memory)[0]]
    with opened(memory) as repository:
        assert repository.check(True).problems
    backed_up(memory, blobs)
    with opened(memory) as repository:
        problems = repository.check(True).problems
        repository.load_index()
        contents = dict(repository.read_many(BlobKind.DATA, [sha256(data).digest() for data in blobs]))
    assert sorted(contents.values()) == sorted(blobs)
    assert [problem.what for problem in problems] == ["is missing"]
    assert problems[0].snapshots_hit == ()


@pytest.mark.parametrize("shared", [False, True])
def test_what_a_killed_run_left_is_taken_in(memory: MemoryStore, shared: bool) -> None:
    """T28: but not from under another that is at work, whose packs these may be."""
    with opened(memory) as repository:
        for data in sample(40):
            repository.add(BlobKind.DATA, data)
    left = len(packs(memory))
    assert left >= 1
    assert indexes(memory) == []
    if shared:
        with opened(memory) as other, other.lock():
            backed_up(memory, sample(40))
        assert len(packs(memory)) > left + 1
    else:
        backed_up(memory, sample(40))
        with opened(memory) as repository:
            report = repository.check(True)
        assert report.problems == []
        assert report.unused_packs == 0


def test_strays_beside_a_lock_that_looks_old_are_not_taken_in(
    memory: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """T29: the clock of whoever wrote it may be a day off; a prune may be deleting these packs."""
    with opened(memory) as repository:
        for data in sample(40):
            repository.add(BlobKind.DATA, data)
    left = len(packs(memory))
    with opened(memory) as other, other.lock():
        monkeypatch.setattr(locks, "STALE", timedelta(seconds=-1))
        backed_up(memory, sample(40))
    assert len(packs(memory)) > left + 1


def test_strays_of_others_are_left_alone(memory: MemoryStore) -> None:
    """T30, T44: packs that are not ours, or damaged, neither stop a backup nor enter an index."""
    for number, junk in enumerate((b"", b"x", bytes(1000), b"\xff" * 70_000)):
        memory.objects[f"data/0{number}/0{number}{'a' * 62}"] = junk
    backed_up(memory, sample(3))
    with opened(memory) as repository:
        report = repository.check(True)
    assert report.problems == []
    assert report.unused_packs == 4


def test_a_lying_encoder_is_caught(memory: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule 3 (restic #4523): everything that is added to a repository with contents is decoded and compared."""
    backed_up(memory, [b"first"])
    monkeypatch.setattr(writer, "compress_large", lambda data, level: compression.compress(data[:-1] + b"!", level))
    with opened(memory) as repository, repository.lock():
        repository.load_index()
        with pytest.raises(RepositoryError, match="does not decompress to the same"):
            repository.add(BlobKind.DATA, bytes(1000))


@pytest.mark.parametrize(("tuning", "checked"), [(Tuning(), 6), (Tuning(level=6), 96), (Tuning(check_one_in=1), 96)])
def test_a_sample_of_a_first_backup_is_decoded(
    memory: MemoryStore, monkeypatch: pytest.MonkeyPatch, tuning: Tuning, checked: int
) -> None:
    """Rule 3."""
    seen: list[int] = []
    monkeypatch.setattr(writer, "check_round_trip", lambda frame, data: seen.append(len(data)))
    with opened(memory, tuning) as repository:
        repository.load_index()
        for data in sample(96):
            repository.add(BlobKind.DATA, data)
    assert len(seen) == checked


def test_memory_is_bounded_while_uploads_are_slow() -> None:
    """No more than the set number of packs waits; whoever adds more waits too."""
    gate = threading.Event()
    waiting: list[int] = []

    def slow(operation: str, name: str, turn: int) -> None:
        if operation == "put" and name.startswith("data/"):
            waiting.append(turn)
            gate.wait(60)

    memory = MemoryStore()
    created(memory).close()
    repository = Repository.open(Faulty(memory, slow), PASSWORD, tuning=Tuning(pack_size=10_000, uploads=2))
    added: list[int] = []

    def add() -> None:
        for number, data in enumerate(sample(100)):
            repository.add(BlobKind.DATA, data)
            added.append(number)

    thread = threading.Thread(target=add)
    with repository:
        thread.start()
        while len(waiting) < 2:
            thread.join(0.01)
        thread.join(0.3)
        blocked = len(added)
        gate.set()
        thread.join(60)
        repository.flush()
    assert blocked < 16  # 3 packs of 4 blobs, and the last that filled one
    assert len(added) == 100


def test_nothing_is_written_for_nothing(memory: MemoryStore) -> None:
    before = dict(memory.objects)
    with opened(memory) as repository:
        repository.load_index()
        repository.flush()
        repository.recheck()
    assert memory.objects == before


def test_trees_of_a_snapshot_can_be_walked(memory: MemoryStore) -> None:
    backed_up(memory, sample(3))
    with opened(memory, SMALL) as repository:
        ((_, found),) = repository.snapshots()
        repository.load_index()
        content = [sha256(data).digest() for data in sample(3)]
        inner = tree({"file": content})
        assert repository.read(BlobKind.TREE, sha256(inner).digest()) == inner
        assert repository.read(BlobKind.TREE, bytes.fromhex(found.tree)) == tree({}, {"volume": sha256(inner).digest()})
