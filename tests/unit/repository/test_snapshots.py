from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from snapvol.errors import NotFound, RepositoryUnreachable, UsageError
from snapvol.repository import SnapshotDocument, keys, unpacked
from snapvol.stores.base import Transient
from snapvol.stores.memory import MemoryStore
from support.faults import Faulty, nth
from support.repositories import PASSWORD, backed_up, opened, sample


def written(store: MemoryStore, **fields: object) -> str:
    document = {"time": datetime.now(UTC), "tree": "a" * 64, "paths": ["/x"], **fields}
    return unpacked.write(store, next(keys.opened(store, PASSWORD))[1], "snapshots", document)


def test_they_are_listed_by_time(memory: MemoryStore) -> None:
    begun = datetime(2026, 1, 1, tzinfo=UTC)
    ids = [written(memory, time=begun - timedelta(hours=n)) for n in range(20)]
    with opened(memory) as repository:
        assert [name for name, _ in repository.snapshots()] == ids[::-1]


def test_they_are_found_by_the_beginning_of_their_id(memory: MemoryStore) -> None:
    ids = [written(memory) for _ in range(40)]
    with opened(memory) as repository:
        assert repository.find_snapshot(ids[3])[0] == ids[3]
        assert repository.find_snapshot(ids[3][:12])[0] == ids[3]
        shared = next(name[0] for name in ids if sum(other[0] == name[0] for other in ids) > 1)
        with pytest.raises(UsageError, match=f"backups begin with '{shared}'; write more of it"):
            repository.find_snapshot(shared)
        for unknown in ("", "x", "a" * 64, "../config", "0" * 63):
            with pytest.raises(NotFound, match="no backup"):
                repository.find_snapshot(unknown)


def test_one_that_is_forgotten_is_gone(memory: MemoryStore) -> None:
    """T1: and no other."""
    ids = [written(memory) for _ in range(5)]
    with opened(memory) as repository:
        repository.snapshots()
        repository.forget(ids[:2])
        with pytest.raises(NotFound):
            repository.find_snapshot(ids[0])
        assert {name for name, _ in repository.snapshots()} == set(ids[2:])
        with pytest.raises(NotFound):
            repository.find_snapshot(ids[0])


@pytest.mark.parametrize(("operation", "prefix"), [("list", "snapshots/"), ("get", "snapshots/")])
def test_a_listing_is_whole_or_raises(memory: MemoryStore, operation: str, prefix: str) -> None:
    """T24, T27: never shorter because something failed."""
    for _ in range(5):
        written(memory)
    for turn in (1, 3):
        before = Faulty(memory, nth(operation, [turn if operation == "get" else 1], Transient("503"), prefix))
        after = Faulty(memory, after=nth(operation, [turn if operation == "get" else 1], Transient("503"), prefix))
        for store in (before, after):
            with opened(store) as repository, pytest.raises(Transient):
                repository.snapshots()


def test_an_empty_listing_of_a_place_that_is_gone_is_not_believed(memory: MemoryStore) -> None:
    """T24, T40: the disk was unmounted after the repository was opened."""
    backed_up(memory, sample(1))
    with opened(memory) as repository:
        memory.objects.clear()
        with pytest.raises(RepositoryUnreachable, match="the repository at memory is gone; is its disk mounted"):
            repository.snapshots()
        with pytest.raises(RepositoryUnreachable):
            repository.load_index()


def test_all_of_restics_fields_are_read(memory: MemoryStore) -> None:
    text = b"""{"time":"2020-02-03T04:05:06.123456789+01:00","parent":"b","tree":"c","paths":["/a"],"hostname":"h",
    "username":"u","uid":1,"gid":2,"excludes":["*.o"],"tags":null,"original":"d","program_version":"restic 0.18",
    "summary":{"files_new":1},"some_future_field":[1]}"""
    found = unpacked.decode(text, SnapshotDocument, "it")
    assert found.time == datetime(2020, 2, 3, 3, 5, 6, 123457, tzinfo=UTC)
    assert (found.parent, found.excludes, found.tags, found.summary) == ("b", ["*.o"], None, {"files_new": 1})


def test_they_are_written_as_restic_writes_them() -> None:
    """Fields that are empty are left out, as Go does."""
    document = SnapshotDocument(time=datetime(2026, 1, 1, tzinfo=UTC), tree="a", paths=["/x"], hostname="h")
    assert msgspec.json.encode(document) == b'{"time":"2026-01-01T00:00:00Z","tree":"a","paths":["/x"],"hostname":"h"}'


def test_one_that_is_listed_and_not_there_is_not_taken_for_absent(memory: MemoryStore) -> None:
    """T27: 404, then 200. Only where it is no longer listed either, somebody has forgotten it meanwhile."""
    ids = [written(memory) for _ in range(5)]
    flaky = Faulty(memory, nth("get", [2], NotFound("404"), "snapshots/"))
    with opened(flaky) as repository:
        with pytest.raises(RepositoryUnreachable, match="is listed in memory, but cannot be read there; try again"):
            repository.snapshots()
        assert {name for name, _ in repository.snapshots()} == set(ids)

    def forget(operation: str, name: str, turn: int) -> None:
        if operation == "get" and name.startswith("snapshots/"):
            memory.delete([f"snapshots/{ids[0]}"])

    with opened(Faulty(memory, forget)) as repository:
        assert {name for name, _ in repository.snapshots()} >= set(ids[1:])
    with opened(memory) as repository:
        assert {name for name, _ in repository.snapshots()} == set(ids[1:])
