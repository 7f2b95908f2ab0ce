"""Pruning: what no backup needs goes, all else stays, and stock restic agrees."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import pytest

from snapvol.errors import Damaged, RepositoryLocked, RepositoryUnreachable
from snapvol.repository import BlobKind, Repository, Tuning, writer
from snapvol.repository.ids import pack_name
from snapvol.repository.packs import PackedBlob
from snapvol.repository.plan import Limits
from snapvol.repository.prune import Outcome
from snapvol.repository.writer import Writer
from snapvol.stores.base import Entry, Store, Transient
from snapvol.stores.local import LocalStore
from snapvol.stores.memory import MemoryStore
from support.faults import Faulty, nth
from support.repositories import SMALL, approved, back_up, backed_up, opened, restic, restored, sample

ALL = Limits(unused_share=0.0)


def pruned(store: Store, limits: Limits = ALL, *, dry_run: bool = False, tuning: Tuning = SMALL) -> Outcome:
    with opened(store, tuning) as repository:
        return repository.prune(limits, dry_run=dry_run)


def forget(store: Store, *ids: str) -> None:
    with opened(store) as repository:
        repository.forget(ids)


def names(store: Store, prefix: str = "data/") -> set[str]:
    return {entry.name for entry in store.list(prefix)}


def weight(store: Store) -> int:
    return sum(entry.size for entry in store.list("data/"))


def whole(store: Store) -> dict[str, list[bytes]]:
    """Return all backups; nothing is wrong with the repository."""
    with opened(store) as repository:
        assert repository.check(True).problems == []
        repository.load_index()
        return restored(repository)


def overlapping(store: Store) -> dict[str, list[bytes]]:
    """Leave two backups, after one was forgotten that had all their blobs and as many others between them."""
    blobs = sample(80)
    first = backed_up(store, blobs)
    kept = {backed_up(store, part): part for part in (blobs[::4], blobs[40::2])}
    forget(store, first)
    return kept


def test_what_nobody_needs_goes(local: LocalStore, path: Path) -> None:
    kept = overlapping(local)
    before, packs = weight(local), names(local)
    planned = pruned(local, dry_run=True)
    assert (names(local), planned.done, planned.packs_deleted) == (packs, False, 0)
    done = pruned(local)
    assert done.plan == planned.plan  # what is shown is what is done
    assert done.done
    assert before - weight(local) == pytest.approx(done.bytes_freed, abs=200)  # headers of new packs
    assert done.bytes_freed == planned.plan.bytes_freed > 80_000
    assert whole(local) == kept
    approved(path)
    told = restic(path, "prune", "--max-unused", "0").stdout
    assert "total prune:           0 blobs / 0 B" in told
    again = pruned(local)
    assert (again.packs_deleted, again.plan.unneeded_bytes, again.plan.bytes_copied) == (0, 0, 0)
    assert list(local.list("locks/")) == []


def test_a_second_prune_writes_nothing(memory: MemoryStore) -> None:
    overlapping(memory)
    pruned(memory)
    before = dict(memory.objects)
    pruned(memory)
    assert memory.objects == before


def test_without_backups_nothing_is_left(local: LocalStore, path: Path) -> None:
    forget(local, backed_up(local, sample(50)))
    pruned(local)
    assert names(local) == names(local, "index/") == set()
    approved(path)
    assert whole(local) == {}
    backed_up(local, sample(5))
    approved(path)


def test_an_empty_repository(memory: MemoryStore) -> None:
    assert pruned(memory).plan.packs == 0


def test_trees_and_data_stay_apart(memory: MemoryStore) -> None:
    overlapping(memory)
    pruned(memory)
    with opened(memory) as repository:
        repository.load_index()
        kinds: dict[bytes, set[BlobKind]] = {}
        for pack, blob in repository._index.blobs():
            kinds.setdefault(pack, set()).add(blob.kind)
    assert all(len(found) == 1 for found in kinds.values())


def test_what_is_tolerated_stays(memory: MemoryStore) -> None:
    """Whole packs go, others are copied only as far as the limits want."""
    kept = overlapping(memory)
    unlimited = pruned(memory, Limits(unused_share=None), dry_run=True).plan
    assert unlimited.packs_repacked <= 2  # trees, and what is small
    some = pruned(memory, Limits(unused_share=None, unused_bytes=40_000), dry_run=True).plan
    none = pruned(memory, dry_run=True).plan
    assert none.unneeded_left == 0 < some.unneeded_left <= 40_000 < unlimited.unneeded_left
    assert none.bytes_copied > some.bytes_copied > unlimited.bytes_copied
    capped = pruned(memory, Limits(unused_share=0.0, repack_bytes=70_000))
    assert 0 < capped.plan.bytes_copied < 70_000
    assert capped.plan.unneeded_left > 0
    assert pruned(memory, Limits(unused_share=0.0, repack_bytes=0), dry_run=True).plan.packs_repacked == 0
    assert whole(memory) == kept


def test_small_packs_are_merged(local: LocalStore, path: Path) -> None:
    made = [backed_up(local, sample(1, seed=seed)) for seed in range(12)]
    assert len(names(local)) == 24
    pruned(local)
    assert len(names(local)) == 2  # all data, and all trees
    assert len(names(local, "index/")) <= 2
    assert len(whole(local)) == len(made)
    approved(path)


def test_packs_of_killed_runs_go(local: LocalStore, path: Path) -> None:
    kept = {backed_up(local, blobs): blobs for blobs in [sample(20)]}
    before = names(local)
    with opened(local) as repository:
        for blob in sample(40, seed=5):
            repository.add(BlobKind.DATA, blob)
    strays = names(local) - before
    assert strays
    planned = pruned(local, dry_run=True).plan
    assert planned.packs_unreferenced == len(strays)
    assert pruned(local).packs_deleted == len(strays)
    assert names(local) == before
    assert whole(local) == kept
    approved(path)


def copied(store: Store, blobs: list[bytes]) -> None:
    """Store blobs that are there already once more, as two hosts do that back up the same at once."""
    with opened(store) as repository, repository.lock():
        for blob in blobs:
            repository.add(BlobKind.DATA, blob)
        repository.flush()


def test_of_duplicates_one_stays(local: LocalStore, path: Path) -> None:
    blobs = sample(40)
    kept = {backed_up(local, blobs): blobs}
    before = names(local)
    copied(local, blobs[:15])
    done = pruned(local)
    assert done.plan.duplicate_blobs == 15
    assert done.plan.bytes_copied == 0  # the pack that has nothing else goes
    assert names(local) == before
    assert whole(local) == kept
    approved(path)


def test_of_duplicates_the_whole_one_stays(memory: MemoryStore) -> None:
    """T30: where one copy is damaged the other must not be thrown away for it."""
    blobs = sample(12)
    kept = {backed_up(memory, blobs): blobs}
    copied(memory, blobs)
    with opened(memory) as repository:
        repository.load_index()
        places = list(repository._index.find(BlobKind.DATA, sha256(blobs[3]).digest()))
    for place in places:
        store = MemoryStore()
        store.objects = dict(memory.objects)
        pack = bytearray(store.objects[pack_name(place.pack)])
        pack[place.offset + 20] ^= 1
        store.objects[pack_name(place.pack)] = bytes(pack)
        with suppress(Damaged):  # where it is the older one that nobody needs, all may go well
            pruned(store)
        with opened(store) as repository:
            repository.load_index()
            assert restored(repository) == kept


def test_a_damaged_blob_that_is_needed_is_not_copied(memory: MemoryStore) -> None:
    """T30: its pack stays as it is, and the message says what to do."""
    overlapping(memory)
    with opened(memory) as repository:
        repository.load_index()
        place = repository.locate(BlobKind.DATA, sha256(sample(80)[4]).digest())
    pack = bytearray(memory.objects[pack_name(place.pack)])
    pack[place.offset + 20] ^= 1
    memory.objects[pack_name(place.pack)] = bytes(pack)
    before = names(memory)
    with pytest.raises(Damaged, match="snapvol repo check --read-data"):
        pruned(memory)
    assert before <= names(memory)


def damaged(store: MemoryStore, name: str) -> None:
    store.objects[name] = store.objects[name][:-1] + bytes([store.objects[name][-1] ^ 1])


@pytest.mark.parametrize("prefix", ["snapshots/", "index/"])
@pytest.mark.parametrize("number", [0, 1])
def test_what_cannot_be_read_stops_it(memory: MemoryStore, prefix: str, number: int) -> None:
    """T24, T30: what is needed is not known then."""
    overlapping(memory)
    damaged(memory, sorted(names(memory, prefix))[number])
    before = dict(memory.objects)
    with pytest.raises(Damaged):
        pruned(memory)
    assert memory.objects == before


def test_a_tree_that_cannot_be_read_stops_it(memory: MemoryStore) -> None:
    overlapping(memory)
    with opened(memory) as repository:
        repository.load_index()
        _, newest = repository.snapshots()[-1]
        place = repository.locate(BlobKind.TREE, bytes.fromhex(newest.tree))
    damaged_pack = bytearray(memory.objects[pack_name(place.pack)])
    damaged_pack[place.offset + 20] ^= 1
    memory.objects[pack_name(place.pack)] = bytes(damaged_pack)
    before = dict(memory.objects)
    with pytest.raises(Damaged, match=r"what backups need is not known: .*nothing was deleted.*snapvol repo check"):
        pruned(memory)
    assert memory.objects == before


@pytest.mark.parametrize("loss", ["index", "pack", "shorter"])
def test_what_is_missing_stops_it(memory: MemoryStore, loss: str) -> None:
    """T30: an index or a pack that is gone; a blob that is needed is lost, so another may be worth keeping."""
    overlapping(memory)
    with opened(memory) as repository:
        repository.load_index()
        place = repository.locate(BlobKind.DATA, sha256(sample(80)[4]).digest())
    if loss == "index":
        for name in names(memory, "index/"):
            del memory.objects[name]
    elif loss == "pack":
        del memory.objects[pack_name(place.pack)]
    else:
        memory.objects[pack_name(place.pack)] += b"x"
    before = dict(memory.objects)
    with pytest.raises(Damaged):
        pruned(memory)
    assert memory.objects == before


def test_a_missing_pack_that_nobody_needs_leaves_the_indexes(local: LocalStore, path: Path) -> None:
    kept = {backed_up(local, part): part for part in [sample(20)]}
    dead = names(local)
    doomed = backed_up(local, sample(40, seed=8))
    forget(local, doomed)
    local.delete([min(names(local) - dead)])
    pruned(local)
    assert whole(local) == kept
    approved(path)


@pytest.mark.parametrize("prefix", ["snapshots/", "index/", "data/", "locks/"])
@pytest.mark.parametrize("turn", [1, 2, 3])
def test_a_listing_that_fails_deletes_nothing(memory: MemoryStore, prefix: str, turn: int) -> None:
    """T24, T27: a listing that breaks off is no listing, in the long part and in the short one."""
    kept = overlapping(memory)
    before = names(memory)
    store = Faulty(memory, after=nth("list", [turn], Transient("503"), prefix))
    try:
        with opened(store) as repository:
            repository.prune(ALL, dry_run=False)
    except Transient:
        assert before <= names(memory)
    else:
        assert store.count("list", prefix) < turn
    assert whole(memory) == kept
    pruned(memory)
    assert whole(memory) == kept


def test_an_index_that_is_listed_and_gone_stops_it(memory: MemoryStore) -> None:
    """T27: under a lock no index vanishes; a server that says so contradicts itself."""
    overlapping(memory)
    phantom = f"index/{'0' * 64}"

    class Older(Faulty):
        def list(self, prefix: str) -> Iterator[Entry]:
            yield from super().list(prefix)
            if prefix == "index/":
                yield Entry(phantom, 100)

    before = dict(memory.objects)
    with pytest.raises(RepositoryUnreachable, match="is listed in memory, but cannot be read there"):
        pruned(Older(memory))
    assert memory.objects == before


def test_without_locks_it_only_looks(memory: MemoryStore) -> None:
    overlapping(memory)
    before = dict(memory.objects)
    with opened(memory) as repository:
        repository.forgo_locks()
        assert repository.prune(ALL, dry_run=True).plan.bytes_freed > 0
        with pytest.raises(RepositoryLocked, match="leave out --no-lock"):
            repository.prune(ALL, dry_run=False)
    assert memory.objects == before


def test_what_restic_left_is_pruned(local: LocalStore, path: Path, tmp_path: Path) -> None:
    """Stock clients' backups, without our tags and with their own cutting, and their small packs."""
    source = tmp_path / "source"
    source.mkdir()
    for number, blob in enumerate(sample(30, size=200_000)):
        (source / f"{number}").write_bytes(blob)
    restic(path, "backup", source)
    for number in range(0, 30, 2):
        (source / f"{number}").unlink()
    restic(path, "backup", source)
    restic(path, "forget", "--keep-last", "1")
    freed = pruned(local, tuning=Tuning()).bytes_freed
    assert freed > 15 * 100_000
    approved(path)
    assert "total prune:           0 blobs / 0 B" in restic(path, "prune", "--max-unused", "0").stdout
    restic(path, "restore", "latest", "--target", tmp_path / "target")
    for number, blob in enumerate(sample(30, size=200_000)):
        file = tmp_path / "target" / source.relative_to("/") / f"{number}"
        assert file.read_bytes() == blob if number % 2 else not file.exists()


def test_what_restic_prunes_and_what_we_prune_are_the_same(local: LocalStore, path: Path) -> None:
    """Without tolerance both leave just what is needed."""
    overlapping(local)
    theirs = LocalStore(path.with_name("theirs"))
    shutil.copytree(path, path.with_name("theirs"))
    restic(path.with_name("theirs"), "prune", "--max-unused", "0")
    pruned(local)
    assert weight(local) == pytest.approx(weight(theirs), rel=0.02)


def test_thousands_of_packs(memory: MemoryStore) -> None:
    """T1, T27: more than a listing's page and a deletion's batch holds."""
    tiny = Tuning(pack_size=1, index_after_packs=500)
    blobs = [number.to_bytes(4, "big") for number in range(2600)]
    kept = {}
    with opened(memory, tiny) as repository, repository.lock() as lock:
        repository.load_index()
        doomed = back_up(repository, lock, blobs)
    part = blobs[100:150]
    kept[backed_up(memory, part)] = part
    forget(memory, doomed)
    counted = Faulty(memory)
    done = pruned(counted, tuning=Tuning(pack_size=1))
    assert done.packs_deleted == 2550 + 2
    assert max(len(name.split(",")) for operation, name in counted.calls if operation == "delete") <= 1000
    assert whole(memory) == kept


def test_the_repository_may_be_used_on(memory: MemoryStore) -> None:
    kept = overlapping(memory)
    pruned(memory)
    blobs = sample(80)
    kept[backed_up(memory, blobs)] = blobs
    assert whole(memory) == kept


def test_what_is_compressed_anew_is_proved_before_it_takes_the_place_of_the_old(
    memory: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trees that are stored as they are, as in repositories that were migrated from version 1."""
    with monkeypatch.context() as patch:
        patch.setattr(Writer, "_compressed", lambda self, kind, data, check: (data, 0))
        for seed in range(3):
            backed_up(memory, sample(3, seed=seed))
    proved: list[bytes] = []
    monkeypatch.setattr(writer, "check_round_trip", lambda frame, data: proved.append(bytes(data)))
    with opened(memory) as repository:
        trees = {repository.read(blob.kind, blob.id) for _, blob in loaded(repository) if blob.kind is BlobKind.TREE}
        repository.prune(Limits(unused_share=0.0), dry_run=False)
    assert trees
    assert trees <= set(proved)


def loaded(repository: Repository) -> list[tuple[bytes, PackedBlob]]:
    repository.load_index()
    return list(repository._index.blobs())
