"""Whether a backup may be built upon without a look at all that it needs: only as long as all indexes stand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from snapvol.errors import PackLost
from snapvol.repository import BlobKind, Repository
from snapvol.stores.base import Entry, Store
from snapvol.stores.cache import CachePlace
from snapvol.stores.memory import MemoryStore
from support.damage import damage, objects
from support.faults import Faulty
from support.repositories import PASSWORD, SMALL, back_up, opened, sample


class Stale(Faulty):
    """Goes on listing what is gone."""

    def __init__(self, store: Store, old: Sequence[Entry]) -> None:
        super().__init__(store)
        self._old = old

    def list(self, prefix: str) -> Iterator[Entry]:
        yield from super().list(prefix)
        yield from (entry for entry in self._old if entry.name.startswith(prefix))


@pytest.fixture
def place(tmp_path: Path) -> CachePlace:
    return CachePlace(tmp_path / "cache", 1 << 30)


@pytest.fixture
def backup(memory: MemoryStore, place: CachePlace) -> str:
    with cached(memory, place) as repository, repository.lock() as lock:
        repository.load_index()
        return back_up(repository, lock, sample(30))


def cached(store: Store, place: CachePlace | None) -> Repository:
    return Repository.open(store, PASSWORD, tuning=SMALL, cache=place)


def stands(store: Store, place: CachePlace | None, backup: str) -> bool:
    with cached(store, place) as repository, repository.lock():
        repository.load_index()
        return repository.stands(backup)


def test_it_stands_while_others_only_add(memory: MemoryStore, place: CachePlace, backup: str) -> None:
    assert stands(memory, place, backup)
    with opened(memory) as other, other.lock() as lock:
        other.load_index()
        back_up(other, lock, sample(5, seed=1), name="other")
    assert stands(memory, place, backup)


def test_what_this_machine_does_not_know_does_not_stand(memory: MemoryStore, place: CachePlace, backup: str) -> None:
    assert not stands(memory, None, backup)
    with opened(memory) as other, other.lock() as lock:
        other.load_index()
        theirs = back_up(other, lock, sample(5, seed=1), name="other")
    assert not stands(memory, place, theirs)
    (note,) = place.path.glob("*/standing/*")
    content = bytearray(note.read_bytes())
    content[40] ^= 1
    note.write_bytes(content)
    assert not stands(memory, place, backup)


def test_T30_it_does_not_stand_when_indexes_were_replaced(memory: MemoryStore, place: CachePlace, backup: str) -> None:
    with opened(memory) as other:
        damage(memory, next(name for name in objects(memory, "data/") if len(memory.objects[name]) > 10_000), "flip")
        assert other.repair_index(read_data=True).lost_blobs
    assert not stands(memory, place, backup)


def test_T27_an_index_that_is_only_listed_does_not_stand(memory: MemoryStore, place: CachePlace, backup: str) -> None:
    """A listing may be older than a repair that replaced an index by one that says less."""
    before = list(memory.list("index/"))
    for name in place.path.glob("*/index/*"):
        name.unlink()
    with opened(memory) as other:
        damage(memory, next(name for name in objects(memory, "data/") if len(memory.objects[name]) > 10_000), "flip")
        assert other.repair_index(read_data=True).lost_blobs
    old = [entry for entry in before if entry.name not in memory.objects]
    assert old
    with cached(Stale(memory, old), place) as repository, repository.lock():
        repository.load_index()
        assert not repository.stands(backup)


def test_a_pack_that_is_lost_after_the_listing_ends_the_run_that_relies_on_it(
    memory: MemoryStore, place: CachePlace, backup: str
) -> None:
    """T26: of the packs of what is not looked at none is read, but all must be there."""
    with cached(memory, place) as repository, repository.lock():
        repository.load_index()
        assert repository.stands(backup)
        repository.recheck()
        repository.load_index()
        memory.delete([next(name for name in objects(memory, "data/") if len(memory.objects[name]) > 10_000)])
        with pytest.raises(PackLost):
            repository.recheck()
        assert repository.has(BlobKind.DATA, bytes(32)) is False
