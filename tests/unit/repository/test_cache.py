"""What is cached of a repository: it saves requests, and changes no answer, whatever becomes of it."""

from __future__ import annotations

import os
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from snapvol.errors import Damaged, NotFound, PackLost, WrongPassword
from snapvol.model import now
from snapvol.repository import BlobKind, Repository, index_image, inventory, keys, loading, unpacked
from snapvol.repository.index import BlobIndex, index_file, index_files
from snapvol.repository.loading import IndexLoader
from snapvol.repository.packs import PackedBlob
from snapvol.repository.sealing import OVERHEAD, MasterKey
from snapvol.stores.base import Entry, Store
from snapvol.stores.cache import Cache, CachePlace
from snapvol.stores.caching import CachingStore
from snapvol.stores.local import LocalStore
from snapvol.stores.memory import MemoryStore
from support import needs
from support.faults import Faulty, nth
from support.repositories import CHEAP, PASSWORD, SMALL, approved, back_up, created, opened, restic, sample

KEY = MasterKey.generate()


@pytest.fixture
def place(tmp_path: Path) -> CachePlace:
    return CachePlace(tmp_path / "cache", 1 << 30)


def cached(store: Store, place: CachePlace) -> Repository:
    return Repository.open(store, PASSWORD, tuning=SMALL, cache=place)


def run(store: Store, place: CachePlace, blobs: list[bytes], name: str = "file") -> str:
    with cached(store, place) as repository, repository.lock() as lock:
        repository.snapshots()
        repository.load_index()
        return back_up(repository, lock, blobs, name=name)


def files(place: CachePlace, folder: str = "") -> list[Path]:
    return sorted(path for path in place.path.rglob("*") if path.is_file() and folder in ("", path.parent.name))


def everything(repository: Repository) -> tuple[object, dict[str, bytes]]:
    """Return all snapshots, and all trees below them."""
    found = repository.snapshots()
    repository.load_index()
    return found, {document.tree: repository.read(BlobKind.TREE, bytes.fromhex(document.tree)) for _, document in found}


# -- requests --------------------------------------------------------------------------------------------------------


def test_a_second_opening_fetches_only_what_is_new(memory: MemoryStore, place: CachePlace) -> None:
    for seed in range(3):
        run(memory, place, sample(5, seed=seed))
    with opened(memory) as repository:
        expected = everything(repository)
    counted = Faulty(memory)
    with cached(counted, place) as repository:
        assert everything(repository) == expected
    assert {name.split("/")[0] for operation, name in counted.calls if operation == "get"} == {"config", "keys"}
    with opened(memory) as repository, repository.lock() as lock:  # another machine
        repository.load_index()
        back_up(repository, lock, sample(5, seed=9))
    counted = Faulty(memory)
    with cached(counted, place) as repository:
        everything(repository)
    assert [counted.count("get", prefix) for prefix in ("index/", "snapshots/", "data/")] == [1, 1, 1]


def test_without_a_cache_nothing_is_kept(memory: MemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with opened(memory) as repository, repository.lock() as lock:
        repository.load_index()
        back_up(repository, lock, sample(5))
    assert list(tmp_path.iterdir()) == []


# -- the same answers ------------------------------------------------------------------------------------------------

blobs = st.builds(
    PackedBlob,
    id=st.binary(min_size=2, max_size=2).map(lambda start: start + b"\7" * 30),  # in few buckets, often the same
    kind=st.sampled_from(BlobKind),
    offset=st.integers(0, 2**32 - 1),
    length=st.integers(OVERHEAD, 1 << 20),
    plain=st.integers(0, 1 << 20),
)
packs = st.dictionaries(st.binary(min_size=32, max_size=32), st.lists(blobs, max_size=6), min_size=1, max_size=4)
changes = st.lists(st.tuples(packs, st.sets(st.integers(0, 9)), st.booleans()), min_size=1, max_size=6)


def content(index: BlobIndex) -> set[tuple[bytes, PackedBlob]]:
    return set(index.blobs())


def fresh(store: Store) -> set[tuple[bytes, PackedBlob]]:
    index = BlobIndex()
    for _, found in index_files(store, KEY, list(store.list("index/"))):
        assert not isinstance(found, Damaged)
        for pack, listed in found:
            index.add(pack, listed)
    return content(index)


def loaded(store: Store, cache: Cache) -> BlobIndex:
    index = BlobIndex()
    wrapped = CachingStore(store, cache)
    assert IndexLoader(wrapped, KEY, index, cache).load(list(wrapped.list("index/"))) == []
    return index


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images of few blobs."""
    monkeypatch.setattr(loading, "FEWEST", 3)


@given(changes)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
def test_a_cached_index_says_what_a_fresh_one_says(eager: None, rounds: list[tuple[dict, set[int], bool]]) -> None:  # type: ignore[type-arg]
    """T29: also after somebody pruned, which takes index files away, and with the cache of another moment."""
    store = MemoryStore()
    with TemporaryDirectory() as where, TemporaryDirectory() as other:
        cache = Cache(Path(where), "id", 1 << 30)
        for content_of, gone, replaced in rounds:
            unpacked.write(store, KEY, "index", index_file(content_of.items()))
            names = sorted(entry.name for entry in store.list("index/"))
            store.delete([name for number, name in enumerate(names) if number in gone])
            index = loaded(store, cache)
            assert content(index) == fresh(store)
            for pack, blob in content(index):
                assert (pack, blob.offset) in {(it.pack, it.offset) for it in index.find(blob.kind, blob.id)}
            if replaced:  # as by a copy of the root directory that is brought back
                shutil.rmtree(other)
                shutil.copytree(where, other)
                loaded(store, Cache(Path(other), "id", 1 << 30))


where = st.integers(0, 2**16)
damages = st.lists(
    st.tuples(where, where, st.integers(1, 255), st.sampled_from(["flip", "cut", "append", "swap"])), min_size=1
)


def damage(known: list[Path], victim: int, at: int, bits: int, how: str) -> None:
    path = known[victim % len(known)]
    was = path.read_bytes()
    at %= len(was) + 1
    if how == "flip":
        path.write_bytes(was[:at] + bytes(byte ^ bits for byte in was[at : at + 1]) + was[at + 1 :])
    elif how == "swap":
        path.write_bytes(known[at % len(known)].read_bytes())
    else:
        path.write_bytes(was[:at] if how == "cut" else was + b"more")


@given(damages)
@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    deadline=None,
    max_examples=25,
    phases=(Phase.generate, Phase.reuse),
)
def test_a_damaged_cache_changes_no_answer(eager: None, told: list[tuple[int, int, int, str]]) -> None:
    """Cut short, overwritten, emptied, put in another's place: it is noticed, dropped and made again."""
    store = MemoryStore()
    created(store).close()
    with TemporaryDirectory() as root:
        place = CachePlace(Path(root), 1 << 30)
        for seed in range(2):
            run(store, place, sample(3, seed=seed), name=f"f{seed}")
        with cached(store, place) as repository:
            everything(repository)
        with opened(store) as repository:
            expected = everything(repository)
        known = files(place)
        assert any(path.name == index_image.FILE for path in known)
        for what in told:
            damage(known, *what)
        for _ in range(2):
            with cached(store, place) as repository:
                assert everything(repository) == expected
                assert repository.damaged_indexes == repository.damaged_snapshots == []
        run(store, place, sample(3, seed=5))
        with opened(store) as repository:
            assert repository.check(True).problems == []


def test_another_repositorys_image_is_not_believed(tmp_path: Path) -> None:
    """Nor one of another version: what is not ours is removed."""
    index = BlobIndex()
    index.add(b"p" * 32, [PackedBlob(b"b" * 32, BlobKind.DATA, 0, 99, 0)])
    cache = Cache(tmp_path, "id", 1 << 30)
    index_image.save(cache, MasterKey.generate(), index, {b"n" * 32: 7})
    assert index_image.load(cache, KEY) is None
    assert cache.read(index_image.FILE) is None
    index_image.save(cache, KEY, index, {b"n" * 32: 7})
    image = index_image.load(cache, KEY)
    assert image is not None
    assert (image.names, image.packs) == ({b"n" * 32: 7}, [b"p" * 32])


def test_two_images_are_not_mixed(tmp_path: Path) -> None:
    """Two processes write at once; one reads sections of both."""
    cache = Cache(tmp_path, "id", 1 << 30)
    index = BlobIndex()
    images = []
    for number in range(2):
        index.add(bytes([number]) * 32, [PackedBlob(bytes([number]) * 32, BlobKind.DATA, 0, 99, 0)])
        index_image.save(cache, KEY, index, {b"n" * 32: 7})
        images.append(cache.read(index_image.FILE) or b"")
    half = len(images[0]) // 2
    cache.write(index_image.FILE, [images[0][:half], images[1][len(images[1]) - (len(images[0]) - half) :]])
    assert index_image.load(cache, KEY) is None


# -- what others do between two runs ---------------------------------------------------------------------------------


def test_a_prune_between_two_runs(path: Path, local: LocalStore, place: CachePlace) -> None:
    """T29: stock restic deletes what the cache knows: nothing of it comes back, what is needed is uploaded again."""
    needs.program("restic")
    first, kept = sample(40, seed=1), sample(40, seed=2)
    old = run(local, place, first)
    run(local, place, kept, name="kept")
    restic(path, "forget", old)
    restic(path, "prune", "--max-unused", "0")
    with cached(local, place) as repository, repository.lock():
        assert [name for name, _ in repository.snapshots()] != [old]
        with pytest.raises(NotFound):
            repository.find_snapshot(old)
        repository.load_index()
        assert not repository.has(BlobKind.DATA, sha256(first[0]).digest())
        assert repository.has(BlobKind.DATA, sha256(kept[0]).digest())
    run(local, place, first)
    approved(path)


def test_a_listing_that_is_older_than_the_cache(memory: MemoryStore, place: CachePlace) -> None:
    """T27: an index that is not listed counts as little as without a cache; the next listing brings it back."""

    class Stale(Faulty):
        hidden = ""

        def list(self, prefix: str) -> Iterator[Entry]:
            return (entry for entry in super().list(prefix) if entry.name != self.hidden)

    run(memory, place, sample(5, seed=1))
    store = Stale(memory)
    new = sample(5, seed=2)
    before = {entry.name for entry in memory.list("index/")}
    run(store, place, new)
    (store.hidden,) = {entry.name for entry in memory.list("index/")} - before
    blob = sha256(new[0]).digest()
    for hidden in (store.hidden, ""):
        store.hidden = hidden
        with cached(store, place) as repository:
            repository.load_index()
            assert repository.has(BlobKind.DATA, blob) == (not hidden)


def test_an_index_that_is_still_listed_after_a_prune(memory: MemoryStore, place: CachePlace) -> None:
    """T27, T29: what the cache knows of it is worth nothing without its packs: no backup comes to rely on them."""

    class Late(Faulty):
        gone: tuple[Entry, ...] = ()

        def list(self, prefix: str) -> Iterator[Entry]:
            yield from super().list(prefix)
            yield from (entry for entry in self.gone if entry.name.startswith(prefix))

    content = sample(40)
    run(memory, place, content)
    late = Late(memory)
    late.gone = tuple(memory.list("index/"))
    memory.delete([name for name in memory.objects if name.startswith(("index/", "data/", "snapshots/"))])
    with pytest.raises(PackLost):
        run(late, place, content)
    assert list(memory.list("snapshots/")) == []
    late.gone = ()
    run(late, place, content)
    with opened(memory) as repository:
        assert repository.check(True).problems == []


def test_an_object_that_is_listed_and_answers_404(memory: MemoryStore, place: CachePlace) -> None:
    """T27: 404, then 200: what the cache holds under that name is what the store holds; the name says so."""
    run(memory, place, sample(5))
    flaky = Faulty(memory, nth("get", range(1, 99), NotFound("404"), "snapshots/"))
    with cached(flaky, place) as repository:
        assert len(repository.snapshots()) == 1


def test_a_snapshot_that_somebody_forgot_is_gone(memory: MemoryStore, place: CachePlace) -> None:
    gone = run(memory, place, sample(5))
    memory.delete([f"snapshots/{gone}"])
    with cached(memory, place) as repository:
        with pytest.raises(NotFound):
            repository.find_snapshot(gone)
        assert repository.snapshots() == []
    assert files(place, "snapshots") == []


def test_pieces_of_packs_that_are_gone_are_dropped(memory: MemoryStore, place: CachePlace) -> None:
    run(memory, place, sample(5))
    assert files(place, "packs")
    memory.delete([entry.name for entry in memory.list("index/")])
    with cached(memory, place) as repository:
        repository.load_index()
    assert files(place, "packs") == []


# -- packs that get lost, and packs of killed runs -------------------------------------------------------------------


def test_a_lost_pack_fails_one_run_and_is_uploaded_by_the_next(memory: MemoryStore, place: CachePlace) -> None:
    """Rule 2: the listing that is spared at the beginning is made up for before the snapshot is written."""
    content = sample(40)
    run(memory, place, content)
    run(memory, place, content)
    lost = next(name for name, data in memory.objects.items() if name.startswith("data/") and len(data) > 50_000)
    del memory.objects[lost]
    before = {entry.name for entry in memory.list("snapshots/")}
    with pytest.raises(PackLost, match="is gone, and this backup needs it; run it again, which uploads what is lost"):
        run(memory, place, content)
    assert {entry.name for entry in memory.list("snapshots/")} == before
    run(memory, place, content)
    with opened(memory) as repository:
        newest = repository.snapshots()[-1]
        repository.load_index()
        wanted = {sha256(blob).digest(): blob for blob in content}
        assert newest[0] not in before
        assert dict(repository.read_many(BlobKind.DATA, wanted)) == wanted


def listings(store: MemoryStore, place: CachePlace) -> int:
    counted = Faulty(store)
    with cached(counted, place) as repository, repository.lock():
        repository.load_index()
    return counted.count("list", "data/")


def test_all_packs_are_listed_once_a_day(
    memory: MemoryStore, place: CachePlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """T22: and at once where the clock was set back since."""
    run(memory, place, sample(5))
    assert listings(memory, place) == 0
    for shift in (inventory.VALID, -timedelta(hours=1)):
        with monkeypatch.context() as patch:
            patch.setattr(inventory, "now", lambda shift=shift: now() + shift)
            assert listings(memory, place) == 1
        assert listings(memory, place) == 0


def test_after_a_run_that_failed_all_packs_are_listed(memory: MemoryStore, place: CachePlace) -> None:
    """T28: so its packs without an index are found and used."""
    run(memory, place, sample(5))
    with suppress(NotFound), cached(memory, place) as repository, repository.lock():
        repository.load_index()
        repository.read(BlobKind.TREE, bytes(32))
    assert listings(memory, place) == 1
    assert listings(memory, place) == 0


def test_beside_another_writer_nothing_is_noted(memory: MemoryStore, place: CachePlace) -> None:
    """T29: its packs have no index yet, and one that was killed looks the same."""
    with opened(memory) as other, other.lock():
        assert [listings(memory, place) for _ in range(2)] == [1, 1]
    assert [listings(memory, place) for _ in range(2)] == [1, 0]


def test_whoever_may_delete_sees_all_packs(memory: MemoryStore, place: CachePlace) -> None:
    run(memory, place, sample(5))
    counted = Faulty(memory)
    with cached(counted, place) as repository, repository.lock(exclusive=True):
        repository.load_index()
    assert counted.count("list", "data/") == 1


# -- keys ------------------------------------------------------------------------------------------------------------


def test_a_key_that_was_removed_opens_no_more(memory: MemoryStore, place: CachePlace) -> None:
    """T32: that it opened the repository last time does not count."""
    with cached(memory, place) as repository:
        repository.add_key("other", cost=CHEAP)
        gone = repository.key_id
    memory.delete([f"keys/{gone}"])
    with pytest.raises(WrongPassword):
        cached(memory, place)
    Repository.open(memory, "other", cache=place).close()


def test_a_wrong_password_and_another_repository_are_told_at_once(memory: MemoryStore, place: CachePlace) -> None:
    """T32: also where a repository was made anew at the same place."""
    run(memory, place, sample(5))
    with pytest.raises(WrongPassword):
        Repository.open(memory, "wrong", cache=place)
    known = dict(memory.objects)
    memory.objects.clear()
    with pytest.raises(NotFound, match="no repository at memory"):
        cached(memory, place)
    created(memory).close()
    with cached(memory, place) as repository:
        assert everything(repository) == ([], {})
    memory.objects["config"] = known["config"]
    with pytest.raises(Damaged, match="opens a key at memory, but not the repository's config"):
        cached(memory, place)


def test_opening_takes_two_requests(memory: MemoryStore, place: CachePlace) -> None:
    cached(memory, place).close()
    counted = Faulty(memory)
    cached(counted, place).close()
    assert [operation for operation, _ in counted.calls] == ["get", "get"]


# -- the disk --------------------------------------------------------------------------------------------------------


def test_nobody_else_reads_it_and_it_says_nothing(memory: MemoryStore, place: CachePlace) -> None:
    """T42: neither names nor ids of contents nor anything by which a password could be tried is there to be read."""
    os.umask(mask := os.umask(0))
    content = sample(40)
    try:
        os.umask(0)
        run(memory, place, content, name="a-telling-name")
    finally:
        os.umask(mask)
    assert stat.S_IMODE(place.path.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in files(place)} == {0o600}
    stored = b"".join(path.read_bytes() for path in files(place))
    blob = sha256(content[0])
    key = next(keys.opened(memory, PASSWORD))[0]
    assert stored
    for told in (b"a-telling-name", blob.digest(), blob.hexdigest().encode(), memory.objects[f"keys/{key}"][-100:]):
        assert told not in stored


def test_a_disk_that_takes_nothing_is_told_once(
    memory: MemoryStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """T39: a backup does not need its cache."""
    (tmp_path / "file").write_bytes(b"")
    place = CachePlace(tmp_path / "file" / "cache", 1 << 30)
    run(memory, place, sample(40))
    told = [record.getMessage() for record in caplog.records if record.name == "snapvol.stores.cache"]
    assert told == [f"nothing more is cached in {place.path}: File exists"] * len(told)
    assert 1 <= len(told) <= 2  # by what opens it, and by what reads it
    with opened(memory) as repository:
        assert repository.check(True).problems == []


def test_a_full_disk_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = Cache(tmp_path, "id", 1 << 30)

    def parts() -> Iterator[bytes]:
        yield b"half"
        raise OSError(28, "No space left on device")

    cache.write("index/a", [b"whole"])
    cache.write("index/a", parts())
    assert cache.read("index/a") == b"whole"
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["a"]


def test_what_was_not_used_for_longest_goes_first(tmp_path: Path) -> None:
    """Of all repositories together; and what a killed writer left."""
    caches = [Cache(tmp_path, name, 250) for name in ("one", "two")]
    for age, name in enumerate(["d", "c", "b"]):
        caches[age % 2].write(name, [bytes(100)])
        when = time.time() - 100 + age
        os.utime(caches[age % 2].directory / name, (when, when))
    assert caches[0].read("d") is not None  # used just now
    (caches[0].directory / ".left").write_bytes(b"x")
    os.utime(caches[0].directory / ".left", (0, 0))
    caches[1].trim()
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["b", "d"]


def test_a_limit_of_little_only_costs_requests(memory: MemoryStore, tmp_path: Path) -> None:
    place = CachePlace(tmp_path / "cache", 2000)
    for seed in range(3):
        run(memory, place, sample(40, seed=seed))
        assert sum(path.stat().st_size for path in files(place)) <= 2000
    with opened(memory) as repository:
        assert repository.check(True).problems == []


def test_two_at_once_share_a_cache(memory: MemoryStore, place: CachePlace) -> None:
    with cached(memory, place) as one, cached(memory, place) as two, one.lock() as lock:
        one.load_index()
        with two.lock() as other:
            two.load_index()
            first = back_up(one, lock, sample(20, seed=1), name="one")
            second = back_up(two, other, sample(20, seed=2), name="two")
    with cached(memory, place) as repository:
        assert {name for name, _ in repository.snapshots()} == {first, second}
        assert repository.check(True).problems == []


def test_damage_in_the_store_is_found_beside_a_cache(memory: MemoryStore, place: CachePlace) -> None:
    """T30: `check` looks at the store, not at what is cached of it."""
    run(memory, place, sample(5))
    name = next(name for name in memory.objects if name.startswith("index/"))
    memory.objects[name] = memory.objects[name][:-1] + b"x"
    with cached(memory, place) as repository:
        assert [problem.object for problem in repository.check().problems if problem.object == name]


@pytest.mark.parametrize("fewest", [1, loading.FEWEST])
def test_T30_an_index_that_is_cut_short_is_not_hidden_by_the_cache(
    memory: MemoryStore, place: CachePlace, monkeypatch: pytest.MonkeyPatch, fewest: int
) -> None:
    """Else every backup from then on could only be read on this machine."""
    monkeypatch.setattr(loading, "FEWEST", fewest)  # with the image, too
    run(memory, place, sample(30))
    run(memory, place, sample(30))
    for entry in list(memory.list("index/")):
        memory.objects[entry.name] = b""
    run(memory, place, sample(30))
    with opened(memory) as elsewhere:
        elsewhere.load_index()
        for _, document in elsewhere.snapshots():
            elsewhere.read(BlobKind.TREE, bytes.fromhex(document.tree))


def test_T28_what_a_killed_run_left_is_found_by_a_backup_after_a_restore(
    memory: MemoryStore, place: CachePlace
) -> None:
    run(memory, place, sample(3, seed=9))
    blobs = sample(30)
    with suppress(KeyboardInterrupt), cached(memory, place) as killed, killed.lock():
        killed.load_index()
        for blob in blobs:
            killed.add(BlobKind.DATA, blob)
        killed.flush()
        for name in killed._writer.indexes:
            memory.delete([f"index/{name.hex()}"])
        raise KeyboardInterrupt
    with cached(memory, place) as restoring, restoring.lock():
        restoring.load_index()
    with cached(memory, place) as repository, repository.lock():
        repository.load_index()
        assert not any(repository.add(BlobKind.DATA, blob)[1] for blob in blobs)
