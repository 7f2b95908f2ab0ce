"""T28: a prune that is killed at any moment loses nothing, and the next one finishes its work."""

from __future__ import annotations

import shutil
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from snapvol.errors import NoSpace, SnapvolError
from snapvol.repository import BlobKind, Tuning, locks
from snapvol.repository.plan import Limits
from snapvol.stores.base import Store
from snapvol.stores.local import LocalStore
from snapvol.stores.memory import MemoryStore
from support.faults import Faulty, nth
from support.mortal import Killed, Mortal
from support.process import run
from support.repositories import approved, backed_up, created, opened, restored, sample

TESTS = Path(__file__).parents[2]
ALL = Limits(unused_share=0.0)
TINY = Tuning(pack_size=20 << 10, uploads=1)
PROGRAM = """
import sys
from pathlib import Path
from snapvol.repository.plan import Limits
from snapvol.stores.local import LocalStore
from support.faults import Faulty, killer
from support.repositories import opened
from snapvol.repository import Tuning
path, operation, moment, turn = sys.argv[1:]
store = Faulty(LocalStore(Path(path)), **{moment: killer(operation, int(turn))})
with opened(store, Tuning(pack_size=20 << 10, uploads=1)) as repository:
    repository.prune(Limits(unused_share=0.0), dry_run=False)
"""


def prepared(store: Store) -> dict[str, list[bytes]]:
    """Leave dead packs, half dead ones, packs without an index, and duplicates; return the backups that stay."""
    blobs = sample(60)
    doomed = backed_up(store, blobs, TINY)
    kept = {backed_up(store, part, TINY): part for part in (blobs[:20:3], blobs[30:40])}
    with opened(store, TINY) as repository, repository.lock():
        for blob in blobs[30:35]:
            repository.add(BlobKind.DATA, blob)
        repository.flush()
    with opened(store, TINY) as repository:
        for blob in sample(20, seed=9):
            repository.add(BlobKind.DATA, blob)
        repository.forget([doomed])
    return kept


def prune(store: Store) -> int:
    with opened(store, TINY) as repository:
        return repository.prune(ALL, dry_run=False).plan.bytes_copied


def held(store: Store) -> dict[str, list[bytes]]:
    with opened(store, TINY) as repository:
        assert repository.check(True).problems == []
        repository.load_index()
        return restored(repository)


def copy_of(store: MemoryStore) -> MemoryStore:
    other = MemoryStore()
    other.objects = dict(store.objects)
    return other


def written_out(store: MemoryStore, path: Path) -> None:
    """Write a repository where stock restic finds it."""
    if path.exists():
        shutil.rmtree(path)
    local = LocalStore(path)
    local.prepare()
    for name, data in store.objects.items():
        local.put(name, data)


def weight(store: Store) -> int:
    return sum(entry.size for entry in store.list("data/"))


def dead(store: Store) -> None:
    """Remove the locks of the killed: their process, this one, is alive."""
    with opened(store, TINY) as repository:
        repository.unlock(remove_all=True)


def test_killed_after_every_change(memory: MemoryStore, tmp_path: Path) -> None:
    """Objects written and deleted, locks too; of a deletion of many any number may be gone, in any order."""
    kept = prepared(memory)
    finished = copy_of(memory)
    copied = prune(finished)
    lives = 0
    while True:
        store = copy_of(memory)
        with suppress(Killed):
            prune(Mortal(store, lives))
            break
        dead(store)
        assert held(store) == kept, f"killed after {lives} changes"
        written_out(store, tmp_path / "repository")
        approved(tmp_path / "repository")
        backed_up(store, sample(60), TINY)  # whoever comes next needs all that was dead
        assert len(held(store)) == 3
        store = copy_of(store)
        lives += 1
    assert copied > 0
    assert lives > 12


def test_the_next_prune_finishes(memory: MemoryStore, tmp_path: Path) -> None:
    kept = prepared(memory)
    finished = copy_of(memory)
    prune(finished)
    lives = 0
    again = []
    while True:
        store = copy_of(memory)
        with suppress(Killed):
            prune(Mortal(store, lives))
            break
        dead(store)
        again.append(prune(store))
        assert held(store) == kept
        assert weight(store) == pytest.approx(weight(finished), abs=2000), f"killed after {lives} changes"
        assert list(store.list("locks/")) == []
        lives += 1
    written_out(store, tmp_path / "repository")
    approved(tmp_path / "repository")
    assert again[0] > 0
    assert again[-1] == 0
    assert 0 in again[: len(again) // 2]  # what was copied and named in an index is not copied again


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize(("operation", "turn"), [("put", 2), ("put", 5), ("delete", 2), ("delete", 3)])
def test_a_process_that_is_killed(tmp_path: Path, operation: str, turn: int, moment: str) -> None:
    """The same with a real process on a real disk, whose locks are known to be a dead one's."""
    path = tmp_path / "repository"
    store = LocalStore(path)
    created(store).close()
    kept = prepared(store)
    done = run(
        sys.executable, "-c", PROGRAM, path, operation, moment, str(turn), env={"PYTHONPATH": str(TESTS)}, check=False
    )
    assert done.code == -9, done
    with opened(store) as repository:
        assert repository.unlock() <= 1
    approved(path)
    prune(store)
    approved(path)
    assert held(store) == kept


@pytest.mark.parametrize("turn", range(2, 9))
def test_a_full_disk(memory: MemoryStore, turn: int) -> None:
    """Copying needs space before any is freed: where there is none all stays as it was."""
    kept = prepared(memory)
    before = {name for name in memory.objects if name.startswith("data/")}
    store = Faulty(memory, nth("put", range(turn, 1000), NoSpace("the storage is full")))
    with opened(store, TINY) as repository, suppress(NoSpace):
        repository.prune(ALL, dry_run=False)
    if store.count("delete", "data/") == 0:
        assert before <= memory.objects.keys()
    assert held(memory) == kept


@pytest.mark.parametrize("operation", ["put", "get", "size", "list", "delete"])
def test_a_failure_at_every_request(memory: MemoryStore, operation: str) -> None:
    """T27: an answer that does not come is no answer; what is needed is there whatever fails, and then it goes on."""
    kept = prepared(memory)
    turn = 0
    while True:
        turn += 1
        store = copy_of(memory)
        faulty = Faulty(store, nth(operation, [turn], SnapvolError("the server is gone")))
        with suppress(SnapvolError):
            prune(faulty)
        if sum(called == operation for called, _ in faulty.calls) < turn:
            break
        dead(store)
        assert held(store) == kept
    assert turn > 4


def test_locks_of_the_dead_do_not_stop_it(memory: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = prepared(memory)
    with suppress(Killed):
        prune(Mortal(memory, 1))
    assert len(list(memory.list("locks/"))) == 1
    monkeypatch.setattr(locks, "is_dead", lambda lock: lock.pid > 0)
    prune(memory)
    assert held(memory) == kept
