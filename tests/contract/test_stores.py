"""The contract of `snapvol.stores.base.Store`, which every store has to keep."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import pytest

from snapvol.errors import AlreadyExists, Damaged, NotFound, UsageError
from snapvol.stores import open_store
from snapvol.stores.base import Entry, Store
from snapvol.stores.local import LocalStore
from snapvol.stores.memory import MemoryStore
from snapvol.stores.retry import RetryingStore
from support import moto_s3
from support.moto_s3 import MotoS3

KINDS = ("memory", "local", "s3", "retry")


def name(text: str, directory: str = "snapshots") -> str:
    digest = sha256(text.encode()).hexdigest()
    return f"data/{digest[:2]}/{digest}" if directory == "data" else f"{directory}/{digest}"


@pytest.fixture(scope="module")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MotoS3]:
    with moto_s3.served(tmp_path_factory.mktemp("moto")) as server:
        yield server


@pytest.fixture(scope="module")
def bucket(moto: MotoS3) -> Store:
    moto.bucket("contract")
    return open_store(moto.settings("s3://contract/some/prefix"))


@pytest.fixture
def emptied(moto: MotoS3, bucket: Store) -> Store:
    """One client for all tests: it takes a third of a second to make."""
    moto.empty("contract")
    return bucket


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    made: dict[str, Callable[[], Store]] = {
        "memory": MemoryStore,
        "local": lambda: LocalStore(tmp_path / "repository"),
        "s3": lambda: request.getfixturevalue("emptied"),
        "retry": lambda: RetryingStore(MemoryStore()),
    }
    store = made[request.param]()
    store.prepare()
    return store


@pytest.mark.parametrize("directory", ["keys", "locks", "snapshots", "index", "data"])
def test_what_is_put_is_there(store: Store, directory: str) -> None:
    store.put(name("a", directory), b"contents")
    assert store.get(name("a", directory)) == b"contents"
    assert store.size(name("a", directory)) == 8
    assert list(store.list(f"{directory}/")) == [Entry(name("a", directory), 8)]


@pytest.mark.parametrize("data", [b"", b"\0" * 70_000, bytearray(b"abc"), memoryview(b"-abc-")[1:4]])
def test_every_kind_of_buffer_is_stored(store: Store, data: bytes) -> None:
    store.put(name("a"), data)
    assert store.get(name("a")) == bytes(data)
    assert store.size(name("a")) == len(data)


def test_ranges_are_exact(store: Store) -> None:
    store.put(name("a"), b"0123456789")
    assert store.get(name("a"), 3, 4) == b"3456"
    assert store.get(name("a"), 3) == b"3456789"
    assert store.get(name("a"), 0, 10) == b"0123456789"
    assert store.get(name("a"), 9, 1) == b"9"


@pytest.mark.parametrize(("offset", "length"), [(8, 3), (0, 11), (20, 1)])
def test_a_short_answer_raises(store: Store, offset: int, length: int) -> None:
    """T27, T30: an object cut short is never taken for a whole one."""
    store.put(name("a"), b"0123456789")
    with pytest.raises(Damaged, match=name("a")):
        store.get(name("a"), offset, length)


def test_absence_is_said(store: Store) -> None:
    store.put(name("b"), b"another")
    with pytest.raises(NotFound, match=name("a")):
        store.get(name("a"))
    with pytest.raises(NotFound, match=name("a")):
        store.get(name("a"), 2, 3)
    with pytest.raises(NotFound, match=name("a")):
        store.size(name("a"))
    assert list(store.list("index/")) == []


def test_absent_objects_can_be_deleted(store: Store) -> None:
    store.put(name("a"), b"1")
    store.put(name("b"), b"2")
    store.delete([name("a"), name("c"), name("d")])
    store.delete([name("a")])
    store.delete([])
    assert [entry.name for entry in store.list("snapshots/")] == [name("b")]


def test_config_is_never_replaced(store: Store) -> None:
    store.put("config", b"first")
    with pytest.raises(AlreadyExists):
        store.put("config", b"other")
    assert store.get("config") == b"first"


def test_other_objects_may_be_put_again(store: Store) -> None:
    """T27: a PUT whose answer was lost is repeated."""
    store.put(name("a"), b"contents")
    store.put(name("a"), b"contents")
    assert list(store.list("snapshots/")) == [Entry(name("a"), 8)]


def test_an_object_of_the_wrong_size_is_replaced(store: Store) -> None:
    """T30: an empty object in a pack's place does not stay there."""
    store.put(name("a", "data"), b"")
    store.put(name("a", "data"), b"contents")
    assert store.get(name("a", "data")) == b"contents"


@pytest.mark.parametrize(
    "wrong",
    ["", "x", "../config", "data/../config", "snapshots/", "snapshots/abc", "/config", "config\n", "config/x",
     "data/aa/" + "b" * 64, "snapshots/" + "A" * 64, "locks/" + "a" * 63, "tmp/" + "a" * 64],
)  # fmt: skip
def test_other_names_are_refused(store: Store, wrong: str) -> None:
    """T5: no name reaches a path or a URL that is not one of ours."""
    for work in (lambda: store.put(wrong, b""), lambda: store.get(wrong), lambda: store.size(wrong)):
        with pytest.raises(UsageError):
            work()
    with pytest.raises(UsageError):
        store.delete([wrong])


@pytest.mark.parametrize("prefix", ["", "data", "snapshots", "data/ab", "/", "other/"])
def test_only_whole_directories_are_listed(store: Store, prefix: str) -> None:
    """T1: a prefix without its slash would reach what only begins like it."""
    with pytest.raises(UsageError):
        list(store.list(prefix))


def test_threads_may_share_it(store: Store) -> None:
    def work(number: int) -> bytes:
        key = name(str(number), "data")
        store.put(key, str(number).encode())
        return store.get(key)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(64))) == [str(number).encode() for number in range(64)]
    assert len(list(store.list("data/"))) == 64
