from __future__ import annotations

from hashlib import sha256

import pytest

from snapvol.errors import Cancelled, RepositoryLocked
from snapvol.repository import BlobKind, CheckReport, keys, locks
from snapvol.repository.findings import MOST_FILES, NoProgress
from snapvol.stores.base import Transient
from snapvol.stores.memory import MemoryStore
from support.faults import Faulty, nth
from support.repositories import PASSWORD, SMALL, back_up, document, opened, sample, tree


class Backups:
    """Two backups that share one file's contents, and have one file each of their own."""

    def __init__(self, store: MemoryStore) -> None:
        self.store = store
        self.data: dict[str, str] = {}  # name of a file → the pack with its contents
        self.trees: dict[str, str] = {}  # name of a file → the pack with its directory
        shared, first, second = (sample(4, seed=seed) for seed in (1, 2, 3))
        self.first = self._back_up({"shared": shared, "first": first})
        self.second = self._back_up({"shared": shared, "second": second})

    def _back_up(self, files: dict[str, list[bytes]]) -> str:
        with opened(self.store) as repository, repository.lock() as lock:
            repository.load_index()
            content = {}
            for name, blobs in files.items():
                before = set(self.store.objects)
                content[name] = [repository.add(BlobKind.DATA, blob)[0] for blob in blobs]
                repository.flush()
                self.data.update((name, new) for new in set(self.store.objects) - before if new.startswith("data/"))
            before = set(self.store.objects)
            inner = repository.add(BlobKind.TREE, tree(content))[0]
            root = repository.add(BlobKind.TREE, tree({}, {"volume": inner}))[0]
            snapshot = repository.commit_snapshot(document(root), lock)
            (self.trees[name],) = (new for new in set(self.store.objects) - before if new.startswith("data/"))
        return snapshot

    def check(self, read_data: bool = True) -> CheckReport:
        with opened(self.store) as repository:
            return repository.check(read_data)

    def found(self, read_data: bool = True) -> list[tuple[str, str, tuple[str, ...], tuple[str, ...]]]:
        return [(p.object, p.what, p.snapshots_hit, p.files) for p in self.check(read_data).problems]


@pytest.fixture
def backups(memory: MemoryStore) -> Backups:
    return Backups(memory)


def test_a_sound_repository_has_no_problems(backups: Backups) -> None:
    for read_data in (False, True):
        report = backups.check(read_data)
        assert report.problems == []
        assert (report.snapshots, report.packs, report.blobs, report.unused_packs) == (2, 5, 16, 0)
        assert bool(report.bytes_read) is read_data
    assert list(backups.store.list("locks/")) == []


def test_a_missing_pack_names_backups_and_files(backups: Backups) -> None:
    """T30."""
    first, second = backups.first, backups.second
    del backups.store.objects[backups.data["first"]]
    del backups.store.objects[backups.data["shared"]]
    both = tuple(sorted((first, second)))
    assert backups.found(False) == sorted(
        [
            (backups.data["first"], "is missing", (first,), (f"{first[:8]}:/volume/first",)),
            (backups.data["shared"], "is missing", both, tuple(f"{s[:8]}:/volume/shared" for s in _order(backups))),
        ]
    )


def _order(backups: Backups) -> list[str]:
    return [entry.name.removeprefix("snapshots/") for entry in backups.store.list("snapshots/")]


def test_a_missing_tree_pack_names_the_backup(backups: Backups) -> None:
    """T30: only that backup; the other, which shares contents, is whole."""
    del backups.store.objects[backups.trees["second"]]
    second = backups.second
    assert backups.found() == [(backups.trees["second"], "is missing", (second,), (f"{second[:8]}:/",))]


@pytest.mark.parametrize("content", [b"", b"x", b"\0" * 5000])
def test_an_object_of_the_wrong_size_is_found_without_reading(backups: Backups, content: bytes) -> None:
    """T30: an empty object."""
    backups.store.objects[backups.data["first"]] = content
    ((name, what, snapshots, files),) = backups.found(False)
    assert name == backups.data["first"]
    assert what.startswith(f"has {len(content)} bytes, but the indexes tell of 1")
    assert (snapshots, files) == ((backups.first,), (f"{backups.first[:8]}:/volume/first",))


@pytest.mark.parametrize("place", [0.1, 0.5, 0.75])
def test_a_flipped_bit_is_found_by_reading(backups: Backups, place: float) -> None:
    """T30."""
    name = backups.data["second"]
    data = bytearray(backups.store.objects[name])
    data[int(len(data) * place)] ^= 4
    backups.store.objects[name] = bytes(data)
    assert backups.found(False) == []
    ((found, what, snapshots, files),) = backups.found()
    assert found == name
    assert "altered" in what
    assert (snapshots, files) == ((backups.second,), (f"{backups.second[:8]}:/volume/second",))


def test_a_flipped_bit_in_a_header_loses_nothing(backups: Backups) -> None:
    """T30: blobs are found by the index; the pack is named, but no backup."""
    name = backups.data["second"]
    data = bytearray(backups.store.objects[name])
    data[-20] ^= 4
    backups.store.objects[name] = bytes(data)
    ((found, what, snapshots, files),) = backups.found()
    assert (found, snapshots, files) == (name, (), ())
    assert "altered" in what


@pytest.mark.parametrize("how", ["lost", "flipped", "empty"])
def test_a_lost_index_names_what_it_hits(backups: Backups, how: str) -> None:
    """T30: the contents are still there, and the next backup takes them in again."""
    store = backups.store
    indexes = [name for name in store.objects if name.startswith("index/")]
    for name in indexes:
        kept = store.objects.pop(name)
        report = backups.check(False)
        assert any(problem.snapshots_hit for problem in report.problems)
        assert all("is in no index" in problem.what for problem in report.problems)
        assert report.unused_packs > 0
        store.objects[name] = kept
    name = indexes[0]
    if how == "lost":
        del store.objects[name]
    else:
        store.objects[name] = b"" if how == "empty" else store.objects[name][:-1] + b"!"
    assert any(problem.snapshots_hit for problem in backups.check().problems)
    with opened(store) as repository, repository.lock() as lock:
        repository.load_index()
        assert [found for found, _ in repository.damaged_indexes] == ([] if how == "lost" else [name])
        back_up(repository, lock, sample(1, seed=9))
    assert [problem.object for problem in backups.check().problems] == ([] if how == "lost" else [name])


@pytest.mark.parametrize("content", [b"", b"x" * 100])
def test_a_damaged_snapshot_is_named(backups: Backups, content: bytes) -> None:
    """T30, T41: it is not left out silently, and hides no other."""
    backups.store.objects[f"snapshots/{backups.first}"] = content
    ((name, what, snapshots, _),) = backups.found()
    assert (name, snapshots) == (f"snapshots/{backups.first}", (backups.first,))
    assert "is altered" in what
    with opened(backups.store) as repository:
        assert [name for name, _ in repository.snapshots()] == [backups.second]
        assert [name for name, _ in repository.damaged_snapshots] == [backups.first]


def test_an_index_that_tells_of_more_than_there_is(backups: Backups) -> None:
    """T44: a hostile index that is properly sealed."""
    from snapvol.repository import unpacked
    from snapvol.repository.index import index_file
    from snapvol.repository.packs import PackedBlob

    key = next(keys.opened(backups.store, PASSWORD))[1]
    pack = bytes.fromhex(backups.data["first"][-64:])
    invented = PackedBlob(b"\7" * 32, BlobKind.DATA, 0, 2**24, 0)
    unpacked.write(backups.store, key, "index", index_file([(pack, [invented])]))
    ((name, what, _, _),) = backups.found()
    assert name == backups.data["first"]
    assert "but the indexes tell of" in what


@pytest.mark.parametrize(
    "content",
    [
        b"[]", b"", b"\xff", b'{"nodes":7}', b'{"nodes":[{"type":"dir"}]}', b'{"nodes":[{"type":"dir","subtree":"x"}]}',
        b'{"nodes":[{"type":"file","content":[5]}]}', b'{"nodes":[{"type":"file","content":["../x"]}]}',
        b'{"nodes":[{"type":["file"]}]}', b'{"nodes":' + b"[" * 5000,
    ],
)  # fmt: skip
def test_hostile_trees_are_named(memory: MemoryStore, content: bytes) -> None:
    """T44."""
    with opened(memory) as repository, repository.lock() as lock:
        root = repository.add(BlobKind.TREE, content)[0]
        snapshot = repository.commit_snapshot(document(root), lock)
        report = repository.check()
    ((problem),) = report.problems
    assert problem.object == f"tree blob {root.hex()}"
    assert problem.snapshots_hit == (snapshot,)


def test_a_bomb_of_trees_is_walked_once(memory: MemoryStore) -> None:
    """T44: 2^60 paths to one missing file, in 60 trees."""
    with opened(memory) as repository, repository.lock() as lock:
        below = repository.add(BlobKind.TREE, tree({"lost": [b"\1" * 32]}))[0]
        for _ in range(60):
            below = repository.add(BlobKind.TREE, tree({}, {"a": below, "b": below}))[0]
        snapshot = repository.commit_snapshot(document(below), lock)
        ((problem),) = repository.check().problems
    assert problem.what == "is in no index"
    assert problem.snapshots_hit == (snapshot,)
    assert len(problem.files) == 1
    assert problem.files[0].endswith("/lost")


def test_the_files_of_a_problem_are_bounded(memory: MemoryStore) -> None:
    with opened(memory) as repository, repository.lock() as lock:
        root = repository.add(BlobKind.TREE, tree({f"{n:04}": [b"\1" * 32] for n in range(1000)}))[0]
        repository.commit_snapshot(document(root), lock)
        ((problem),) = repository.check().problems
    assert len(problem.files) == MOST_FILES


def test_a_check_that_cannot_read_says_so(backups: Backups) -> None:
    """T27: an outage is not damage."""
    for operation, prefix in (("list", "data/"), ("list", "snapshots/"), ("get", "index/"), ("get", "data/")):
        store = Faulty(backups.store, nth(operation, range(1, 100), Transient("503"), prefix))
        with opened(store, SMALL) as repository, pytest.raises(Transient):
            repository.check(True)


def test_a_check_does_not_run_beside_a_prune(backups: Backups) -> None:
    """T29."""
    with opened(backups.store) as one, opened(backups.store) as other, one.lock(exclusive=True):
        with pytest.raises(RepositoryLocked):
            other.check()
        assert one.check().problems == []


def test_a_check_can_be_cancelled_and_tells_how_far_it_is(backups: Backups) -> None:
    class Counter(NoProgress):
        def __init__(self, stop: bool) -> None:
            self.known = self.done = (0, 0)
            self.stop = stop

        def total(self, files: int, bytes: int) -> None:
            self.known = (files, bytes)

        def advance(self, bytes: int, files: int) -> None:
            self.done = (self.done[0] + files, self.done[1] + bytes)

        def cancelled(self) -> None:
            if self.stop:
                raise Cancelled("stopped")

    with opened(backups.store) as repository:
        counter = Counter(stop=False)
        report = repository.check(True, counter)
        assert counter.known == counter.done == (5, report.bytes_read)
        with pytest.raises(Cancelled):
            repository.check(True, Counter(stop=True))
    assert locks.remove(backups.store, next(keys.opened(backups.store, PASSWORD))[1], everything=True) == 0


def test_the_contents_of_one_pack_can_be_listed(backups: Backups) -> None:
    from snapvol.repository.index import BlobIndex
    from snapvol.repository.packs import PackedBlob

    index = BlobIndex()
    blob = PackedBlob(sha256(b"x").digest(), BlobKind.DATA, 0, 50, 0)
    index.add(b"\1" * 32, [blob])
    index.add(b"\2" * 32, [blob])
    assert index.blobs_of(b"\2" * 32) == [blob]
