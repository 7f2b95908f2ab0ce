from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from snapvol.errors import NotFound, RepositoryUnreachable
from snapvol.stores.base import Transient
from snapvol.stores.memory import MemoryStore
from snapvol.stores.retry import RetryingStore
from support.faults import Faulty, nth

NAME = "snapshots/" + "a" * 64
SLOW_DOWN = Transient("the server says SlowDown")


@pytest.fixture
def memory() -> MemoryStore:
    store = MemoryStore()
    store.put(NAME, b"contents")
    return store


@pytest.mark.parametrize("operation", ["put", "get", "size", "list", "delete"])
def test_what_fails_in_passing_is_tried_again(memory: MemoryStore, operation: str) -> None:
    """T27: 503 twice, then the answer."""
    faulty = Faulty(memory, nth(operation, [1, 2], SLOW_DOWN))
    store = RetryingStore(faulty, longest_wait=0.01)
    calls: dict[str, Callable[[], object]] = {
        "put": lambda: store.put(NAME, b"contents"),
        "get": lambda: store.get(NAME),
        "size": lambda: store.size(NAME),
        "list": lambda: list(store.list("snapshots/")),
        "delete": lambda: store.delete([NAME]),
    }
    calls[operation]()
    assert faulty.count(operation) == 3


def test_a_put_whose_answer_is_lost_is_repeated(memory: MemoryStore) -> None:
    """T27: duplicate PUT."""
    other = "snapshots/" + "b" * 64
    store = RetryingStore(Faulty(memory, after=nth("put", [1], SLOW_DOWN)), longest_wait=0.01)
    store.put(other, b"x")
    assert memory.objects[other] == b"x"


def test_a_listing_that_breaks_off_is_begun_again(memory: MemoryStore) -> None:
    """T24, T27: neither short nor with anything twice."""
    memory.put("snapshots/" + "b" * 64, b"x")
    store = RetryingStore(Faulty(memory, after=nth("list", [1, 2], SLOW_DOWN)), longest_wait=0.01)
    assert len(list(store.list("snapshots/"))) == 2


@pytest.mark.parametrize("error", [NotFound("absent"), RepositoryUnreachable("the server says AccessDenied")])
def test_what_no_retry_mends_is_said_at_once(memory: MemoryStore, error: Exception) -> None:
    faulty = Faulty(memory, nth("get", [1], error))
    with pytest.raises(type(error), match=str(error)):
        RetryingStore(faulty).get(NAME)
    assert faulty.count("get") == 1


def test_the_whole_time_is_bounded(memory: MemoryStore) -> None:
    faulty = Faulty(memory, nth("get", range(1, 10_000), SLOW_DOWN))
    store = RetryingStore(faulty, patience=60, first_patience=0.3, longest_wait=0.05)
    begun = time.monotonic()
    with pytest.raises(Transient, match="SlowDown"):
        store.get(NAME)
    assert 0.2 < time.monotonic() - begun < 5
    assert faulty.count("get") > 3


def test_a_store_that_answered_once_is_given_more_time(memory: MemoryStore) -> None:
    faulty = Faulty(memory, nth("get", range(1, 8), SLOW_DOWN))
    store = RetryingStore(faulty, patience=60, first_patience=0, longest_wait=0.01)
    with pytest.raises(Transient):
        store.get(NAME)
    assert store.size(NAME) == 8
    assert store.get(NAME) == b"contents"


def test_preparing_what_needs_nothing_is_no_answer(memory: MemoryStore) -> None:
    faulty = Faulty(memory, before=nth("put", range(1, 1000), Transient("no route")))
    store = RetryingStore(faulty, patience=60, first_patience=0, longest_wait=0.01)
    store.prepare()
    with pytest.raises(Transient):
        store.put("keys/a", b"")
    assert faulty.count("put") == 1
