"""Whole runs against an S3 server, with stock restic as the judge."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256

import pytest

from snapvol.errors import NotFound
from snapvol.repository import BlobKind
from snapvol.repository.plan import Limits
from snapvol.stores import open_store
from snapvol.stores.base import Store, Transient
from snapvol.stores.memory import MemoryStore
from snapvol.stores.retry import RetryingStore
from support import moto_s3, needs
from support.faults import Faulty, nth
from support.moto_s3 import MotoS3
from support.process import run
from support.repositories import PASSWORD, back_up, backed_up, created, opened, restored, sample


@pytest.fixture(scope="module")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MotoS3]:
    with moto_s3.served(tmp_path_factory.mktemp("moto")) as server:
        server.bucket("runs")
        yield server


@pytest.fixture
def store(moto: MotoS3) -> Store:
    moto.empty("runs")
    return open_store(moto.settings("s3://runs/vol1"))


def test_a_whole_life(moto: MotoS3, store: Store) -> None:
    """T1: also beside vol10, whose objects nothing touches."""
    needs.program("restic")
    with pytest.raises(NotFound, match="no repository at s3://runs/vol1"):
        opened(store)
    neighbour = open_store(moto.settings("s3://runs/vol10"))
    created(neighbour).close()
    backed_up(neighbour, sample(10, seed=3))
    before = {key for key in moto.keys("runs") if key.startswith("vol10/")}
    created(store).close()
    blobs = sample(150)
    first = backed_up(store, blobs)
    backed_up(store, sample(30, seed=1))
    with opened(store) as repository, repository.lock(exclusive=True):
        repository.load_index()
        wanted = {sha256(data).digest(): data for data in blobs}
        assert dict(repository.read_many(BlobKind.DATA, wanted)) == wanted
        assert repository.check(True).problems == []
        repository.forget([first])
    assert {key for key in moto.keys("runs") if key.startswith("vol10/")} == before
    judge(moto, "check", "--read-data")
    judge(moto, "prune", "--max-unused", "0")
    judge(moto, "check", "--read-data")
    with opened(store) as repository:
        assert repository.check(True).problems == []
        assert len(repository.snapshots()) == 1


def test_a_prune_of_thousands_of_packs_beside_vol10(moto: MotoS3, store: Store) -> None:
    """T1, T27: listings of several pages, deletions of several batches, and not one object of another's."""
    needs.program("restic")
    created(store).close()
    doomed = backed_up(store, sample(60))
    kept = {backed_up(store, sample(60)[::2]): sample(60)[::2]}
    ids = [sha256(str(number).encode()).hexdigest() for number in range(2600)]
    moto.fill("runs", [f"{place}/data/{name[:2]}/{name}" for place in ("vol1", "vol10") for name in ids])
    moto.fill("runs", ["vol1/notes.txt", "vol1/data/readme"])
    with opened(store) as repository:
        repository.forget([doomed])
        outcome = repository.prune(Limits(unused_share=0.0), dry_run=False)
    assert outcome.plan.packs_unreferenced == 2600
    assert outcome.packs_deleted >= 2600
    left = moto.keys("runs")
    assert sum(key.startswith("vol10/") for key in left) == 2600
    assert {"vol1/notes.txt", "vol1/data/readme"} <= left
    assert sum(key.startswith("vol1/data/") for key in left) < 10
    judge(moto, "check", "--read-data")
    with opened(store) as repository:
        repository.load_index()
        assert restored(repository) == kept


def judge(moto: MotoS3, *arguments: str) -> None:
    environment = {"RESTIC_PASSWORD": PASSWORD, "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y"}
    run("restic", "--no-cache", "-r", f"s3:{moto.endpoint}/runs/vol1", *arguments, env=environment)


@pytest.mark.parametrize("operation", ["put", "get", "size", "list", "delete"])
@pytest.mark.parametrize("lost", ["request", "answer"])
def test_a_run_through_a_storm(operation: str, lost: str) -> None:
    """T27: every second call of a kind fails, before it did anything or after it did all."""
    fault = nth(operation, range(1, 1000, 2), Transient("503"))
    memory = MemoryStore()
    store = RetryingStore(
        Faulty(memory, fault) if lost == "request" else Faulty(memory, after=fault), longest_wait=0.001
    )
    created(store).close()
    with opened(store) as repository, repository.lock() as lock:
        repository.load_index()
        back_up(repository, lock, sample(100))
    with opened(memory) as repository:
        assert repository.check(True).problems == []
        assert len(repository.snapshots()) == 1


@pytest.mark.parametrize("operation", ["put", "get", "size", "list", "delete"])
@pytest.mark.parametrize("lost", ["request", "answer"])
def test_a_prune_through_a_storm(operation: str, lost: str) -> None:
    """T27: the same for what deletes."""
    fault = nth(operation, range(1, 1000, 2), Transient("503"))
    memory = MemoryStore()
    created(memory).close()
    doomed = backed_up(memory, sample(60))
    kept = {backed_up(memory, sample(60)[::2]): sample(60)[::2]}
    store = RetryingStore(
        Faulty(memory, fault) if lost == "request" else Faulty(memory, after=fault), longest_wait=0.001
    )
    with opened(store) as repository:
        repository.forget([doomed])
        assert repository.prune(Limits(unused_share=0.0), dry_run=False).packs_deleted > 0
    with opened(memory) as repository:
        assert repository.check(True).problems == []
        repository.load_index()
        assert restored(repository) == kept
