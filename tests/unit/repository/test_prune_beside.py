"""T29: prunes beside backups, ours and stock restic's, beside other prunes, and beside machines with a wrong clock."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from snapvol.errors import Damaged, RepositoryLocked
from snapvol.model import now
from snapvol.repository import BlobKind, Repository, locks
from snapvol.repository import prune as pruning
from snapvol.repository.plan import Limits
from snapvol.repository.prune import Outcome
from snapvol.repository.watch import QUIET, Watch
from snapvol.stores.base import Store
from snapvol.stores.local import LocalStore
from snapvol.stores.memory import MemoryStore
from support.faults import Faulty
from support.process import Server
from support.repositories import PASSWORD, SMALL, approved, back_up, backed_up, opened, restic, restored, sample

ALL = Limits(unused_share=0.0)
Action = Callable[[], object]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruning, "PAUSE", 0.01)


def held(store: Store) -> dict[str, list[bytes]]:
    with opened(store) as repository:
        assert repository.check(True).problems == []
        repository.load_index()
        return restored(repository)


def half_forgotten(store: Store) -> dict[str, list[bytes]]:
    blobs = sample(60)
    doomed = backed_up(store, blobs)
    part = blobs[:28] + blobs[28::3]  # a pack that stays whole, one that does not, and one index that names both
    kept = {backed_up(store, part): part}
    with opened(store) as repository:
        repository.forget([doomed])
    return kept


def interrupted(store: Store, action: Action) -> Faulty:
    """Return a store that does something between a prune's two parts, when it holds no lock."""
    seen: list[str] = []

    def after(operation: str, name: str, _: int) -> None:
        if operation == "delete" and name.startswith("locks/") and not seen:
            seen.append(name)
            action()

    return Faulty(store, after=after)


def exclusive(store: Store) -> bool:
    """Say whether somebody holds an exclusive lock."""
    with opened(store) as repository:
        return any(lock is not None and lock.exclusive for _, lock in locks.others(store, repository._key))


def prune(store: Store, wait: float = 0.0, limits: Limits = ALL) -> Outcome:
    with opened(store) as repository:
        return repository.prune(limits, dry_run=False, wait=wait)


def test_a_backup_between_the_two_parts(memory: MemoryStore) -> None:
    """It finds the blobs of the forgotten backup, and needs them again: their packs are spared."""
    kept = half_forgotten(memory)
    blobs = sample(60)[20:40]

    def between() -> None:
        kept[backed_up(memory, blobs)] = blobs

    outcome = prune(interrupted(memory, between))
    assert outcome.packs_spared > 0
    assert held(memory) == kept
    after = prune(memory)
    assert after.packs_spared == 0
    assert after.plan.bytes_freed > 0
    assert held(memory) == kept


def test_a_new_backup_that_needs_nothing_old(memory: MemoryStore) -> None:
    kept = half_forgotten(memory)

    def between() -> None:
        kept[backed_up(memory, sample(20, seed=4))] = sample(20, seed=4)

    outcome = prune(interrupted(memory, between))
    assert outcome.packs_spared == 0
    assert outcome.bytes_freed == pytest.approx(outcome.plan.bytes_freed)
    assert held(memory) == kept


def test_a_backup_that_began_before(memory: MemoryStore) -> None:
    """It read the indexes before the prune began, and is done before the prune deletes."""
    kept = half_forgotten(memory)
    blobs = sample(60)[20:50] + sample(10, seed=2)
    with opened(memory) as repository, repository.lock() as lock:
        repository.load_index()

        def commit() -> None:
            kept[back_up(repository, lock, blobs)] = blobs
            locks.remove(memory, repository._key, everything=True)  # as the end of the block would

        assert prune(interrupted(memory, commit)).packs_spared > 0
    assert held(memory) == kept


def test_a_backup_that_is_not_done_is_waited_for(memory: MemoryStore) -> None:
    kept = half_forgotten(memory)
    blobs = sample(60)[20:50]
    before = {name for name in memory.objects if name.startswith("data/")}
    with opened(memory) as repository, repository.lock() as lock:
        repository.load_index()
        for blob in blobs:
            repository.add(BlobKind.DATA, blob)
        with pytest.raises(RepositoryLocked, match="locked by process"):
            prune(memory)
        assert before <= memory.objects.keys()
        kept[back_up(repository, lock, blobs)] = blobs
    assert held(memory) == kept
    prune(memory)
    assert held(memory) == kept


def test_it_goes_on_as_soon_as_the_backup_is_done(memory: MemoryStore) -> None:
    kept = half_forgotten(memory)
    waiting = threading.Event()

    def writer() -> None:
        with opened(memory) as repository, repository.lock() as lock:
            repository.load_index()
            ready.set()
            waiting.wait(30)
            kept[back_up(repository, lock, sample(60)[20:50])] = sample(60)[20:50]

    ready = threading.Event()
    thread = threading.Thread(target=writer)
    thread.start()
    ready.wait(30)
    prune(interrupted(memory, waiting.set), wait=30)
    thread.join()
    assert held(memory) == kept


def test_restic_backs_up_between(local: LocalStore, path: Path, tmp_path: Path) -> None:
    """Stock restic, which knows nothing of us but locks, needs again what was to go."""
    source = tmp_path / "source"
    source.mkdir()
    for number, blob in enumerate(sample(20, size=20_000)):
        (source / f"{number}").write_bytes(blob)
    restic(path, "backup", source)
    restic(path, "forget", "--keep-last", "1", "--unsafe-allow-remove-all", check=False)
    identity = next(iter(local.list("snapshots/"))).name
    local.delete([identity])
    kept = half_forgotten(local)

    outcome = prune(interrupted(local, lambda: restic(path, "backup", source)))
    assert outcome.packs_spared > 0
    approved(path)
    restic(path, "restore", "latest", "--host", _host(path), "--path", source, "--target", tmp_path / "target")
    for number, blob in enumerate(sample(20, size=20_000)):
        assert (tmp_path / "target" / source.relative_to("/") / f"{number}").read_bytes() == blob
    prune(local)
    approved(path)
    with opened(local) as repository:
        repository.load_index()
        for _, written in repository.snapshots():
            if written.tags:
                assert list(kept.values()) == [restored_one(repository, written.tree)]


def _host(path: Path) -> str:
    with opened(LocalStore(path)) as repository:
        return repository.snapshots()[-1][1].hostname


def restored_one(repository: Repository, tree: str) -> list[bytes]:
    import msgspec

    root = msgspec.json.decode(repository.read(BlobKind.TREE, bytes.fromhex(tree)))
    inner = msgspec.json.decode(repository.read(BlobKind.TREE, bytes.fromhex(root["nodes"][0]["subtree"])))
    return [repository.read(BlobKind.DATA, bytes.fromhex(blob)) for blob in inner["nodes"][0]["content"]]


@pytest.mark.parametrize("tool", ["snapvol", "restic"])
def test_another_prune_between(local: LocalStore, path: Path, tool: str) -> None:
    """The second to come says so and deletes nothing; what it copied is the other's, or gone."""
    kept = half_forgotten(local)

    def between() -> None:
        if tool == "restic":
            restic(path, "prune", "--max-unused", "0")
        else:
            prune(local)

    with pytest.raises(RepositoryLocked, match=r"replaced index.* meanwhile; nothing was deleted: run it again"):
        prune(interrupted(local, between))
    assert held(local) == kept
    approved(path)
    prune(local)
    assert held(local) == kept
    approved(path)


def test_two_prunes_at_once(memory: MemoryStore) -> None:
    kept = half_forgotten(memory)
    errors = []

    def one() -> None:
        try:
            prune(memory, wait=20)
        except RepositoryLocked as error:
            errors.append(error)

    threads = [threading.Thread(target=one) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(errors) < 2
    assert held(memory) == kept
    prune(memory)  # what the one that was late has copied
    assert prune(memory).packs_deleted == 0


def test_a_backup_forgotten_between(memory: MemoryStore) -> None:
    kept = half_forgotten(memory)
    other = backed_up(memory, sample(10, seed=6))

    def between() -> None:
        with opened(memory) as repository:
            repository.forget([other])

    prune(interrupted(memory, between))
    assert held(memory) == kept
    assert prune(memory).packs_deleted > 0
    assert held(memory) == kept


def test_strays_that_a_backup_takes_in_between(memory: MemoryStore) -> None:
    """No index named them when the prune looked, and one does when it deletes."""
    kept = half_forgotten(memory)
    strays = sample(60, seed=7)
    with opened(memory) as repository:
        for blob in strays:
            repository.add(BlobKind.DATA, blob)

    def between() -> None:
        before = len(list(memory.list("data/")))
        kept[backed_up(memory, strays[:40])] = strays[:40]
        assert len(list(memory.list("data/"))) <= before + 2

    assert prune(interrupted(memory, between)).plan.packs_unreferenced > 0
    assert held(memory) == kept


def test_a_restic_that_began_before(local: LocalStore, path: Path, tmp_path: Path) -> None:
    """It read the indexes long ago, and is done between the two parts, with data that was to go."""
    data = b"".join(sample(20, size=50_000))
    file = tmp_path / "data"
    file.write_bytes(data)
    restic(path, "backup", file)
    local.delete([entry.name for entry in local.list("snapshots/")])
    kept = half_forgotten(local)
    reading, writing = os.pipe()
    argv: list[str | Path] = ["restic", "--no-cache", "-r", path, "backup", "--stdin", "--stdin-filename", "data"]
    backup = Server(argv, tmp_path / "log", {"RESTIC_PASSWORD": PASSWORD}, stdin=reading)
    os.close(reading)

    def finish() -> None:
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(data)
        assert backup.wait(60) == 0, backup.output()

    try:
        backup.ready(lambda: "lock" in backup.output() or bool(list(local.list("locks/"))))
        time.sleep(1)  # it reads the indexes
        with pytest.raises(RepositoryLocked, match=f"locked by process {backup.pid}"):
            prune(local)
        assert prune(interrupted(local, finish)).packs_spared > 0
    finally:
        backup.stop()
    approved(path)
    restic(path, "restore", "latest", "--path", "/data", "--target", tmp_path / "target")
    assert (tmp_path / "target/data").read_bytes() == data
    assert len(kept) == 1


# -- clocks ---------------------------------------------------------------------------------------------------------


class Skewed(locks.SystemClocks):
    """The clocks of a machine on which it is another day."""

    skew = timedelta()

    def now(self) -> datetime:
        return now() + self.skew


@contextmanager
def on_a_day(skew: timedelta) -> Iterator[None]:
    before, Skewed.skew = Skewed.skew, skew
    try:
        yield
    finally:
        Skewed.skew = before


DAY = timedelta(days=1)


@pytest.fixture
def skewed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "SystemClocks", Skewed)


@pytest.mark.parametrize("skew", [-DAY, DAY])
@pytest.mark.usefixtures("skewed")
def test_a_writer_whose_lock_looks_old_is_no_dead_one(memory: MemoryStore, skew: timedelta) -> None:
    """By a clock that is a day off every lock is stale: only one that does not change for minutes is."""
    kept = half_forgotten(memory)
    blobs = sample(60)[20:50]
    with opened(memory) as repository:
        with on_a_day(skew):
            lock = locks.Lock(memory, repository._key, False, Skewed())
            repository._lock = lock
            repository.load_index()
            for blob in blobs:
                repository.add(BlobKind.DATA, blob)
        with pytest.raises(RepositoryLocked):
            prune(memory)
        kept[back_up(repository, lock, blobs)] = blobs
        lock.release()
    assert held(memory) == kept


@pytest.mark.usefixtures("skewed")
@pytest.mark.parametrize("moment", ["put index/", "delete index/", "delete data/"])
def test_a_writer_to_whom_our_lock_looks_old(memory: MemoryStore, moment: str) -> None:
    """It comes in although the prune is alone: before the old indexes go the prune gives up, afterwards it undoes."""
    kept = half_forgotten(memory)
    blobs = sample(60)[10:50]
    operation, prefix = moment.split()
    came: list[Repository] = []

    def before(called: str, name: str, _: int) -> None:
        if called == operation and name.startswith(prefix) and not came and exclusive(memory):
            with on_a_day(DAY):
                came.append(opened(memory))
                entered = came[0].lock()
                mine.append(entered.__enter__())
                held_open.append(entered)
                came[0].load_index()

    mine: list[locks.Lock] = []
    held_open: list[AbstractContextManager[locks.Lock]] = []
    with suppress(RepositoryLocked):
        prune(Faulty(memory, before))
    assert came
    with suppress(Damaged):  # it may find that a pack is gone, and then nothing was written
        identity = back_up(came[0], mine[0], blobs)
        kept[identity] = blobs
    held_open[0].__exit__(None, None, None)
    came[0].close()
    assert held(memory) == kept
    if moment != "delete data/":
        assert len(kept) == 2


def test_a_lock_that_nobody_refreshes_is_waited_for_no_longer(memory: MemoryStore) -> None:
    with opened(memory) as repository, repository.lock() as own:
        at = [0.0]
        watch = Watch(memory, repository._key, lambda: at[0])
        dead = locks.Lock(memory, repository._key, False, locks.SystemClocks())
        assert [name for name, _ in watch.others(own)] == [dead.id]
        at[0] = QUIET / 2
        dead.refresh()
        assert watch.others(own)
        at[0] = QUIET
        with pytest.raises(RepositoryLocked, match="may be at work; wait for it: --wait 30m; if it is gone: snapvol"):
            watch.refuse_others(own)
        at[0] = QUIET * 1.5 + 1
        watch.refuse_others(own)


def test_our_own_refresh_is_no_other(memory: MemoryStore) -> None:
    """The lock is written anew while the locks are listed: both of its names are ours."""
    with opened(memory) as repository, repository.lock() as own:

        def before(operation: str, name: str, turn: int) -> None:
            if (operation, name, turn) == ("list", "locks/", 1):
                own.refresh()

        Watch(Faulty(memory, before), repository._key).refuse_others(own)


def test_a_late_lock_deletes_nothing(memory: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pruner itself slept for an hour, just before it would have deleted."""
    kept = half_forgotten(memory)
    before = {name for name in memory.objects if name.startswith(("data/", "index/"))}
    slept = [0.0]

    class Sleeper(locks.SystemClocks):
        def readings(self) -> tuple[float, ...]:
            return (time.monotonic() + slept[0],)

    monkeypatch.setattr(locks, "SystemClocks", Sleeper)

    def sleep(operation: str, name: str, _: int) -> None:
        if operation == "put" and name.startswith("index/") and exclusive(memory):
            slept[0] = 3600.0

    with pytest.raises(RepositoryLocked, match="was not refreshed for 60 min"):
        prune(Faulty(memory, sleep), limits=Limits(unused_share=0.0))
    assert before <= memory.objects.keys()
    monkeypatch.undo()
    with opened(memory) as repository:
        repository.unlock(remove_all=True)
    assert held(memory) == kept


def test_what_a_running_backup_uploaded_is_not_taken_for_garbage(memory: MemoryStore) -> None:
    """Its packs are in no index yet when the prune looks, and in one when it deletes."""
    kept = half_forgotten(memory)
    blobs = sample(40, seed=3)
    with opened(memory) as repository, repository.lock() as lock:
        repository.load_index()
        for blob in blobs:
            repository.add(BlobKind.DATA, blob)
        time.sleep(0.1)

        def commit() -> None:
            kept[back_up(repository, lock, blobs)] = blobs
            locks.remove(memory, repository._key, everything=True)

        assert prune(interrupted(memory, commit)).plan.packs_unreferenced > 0
    assert held(memory) == kept
    assert SMALL.pack_size < sum(map(len, blobs))


def test_a_writer_whose_lock_is_not_late_yet_is_not_dead_by_a_wrong_clock(
    memory: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It could not reach the store for twelve minutes, and its backup is committed all the same; all of it is kept."""
    blobs = sample(60)
    kept = {backed_up(memory, other): other for other in [sample(30, seed=5)]}
    doomed = backed_up(memory, blobs)
    passed = [0.0]

    class Right(locks.SystemClocks):
        def readings(self) -> tuple[float, ...]:
            return (time.monotonic() + passed[0],)

    class Ahead(locks.SystemClocks):
        def now(self) -> datetime:
            return now() + timedelta(days=1)

    with opened(memory) as writer:
        writer.forget([doomed])
        lock = locks.Lock(memory, writer._key, False, Right())
        writer._lock = lock
        writer.load_index()
        assert writer.has(BlobKind.DATA, writer.add(BlobKind.DATA, blobs[0])[0])
        monkeypatch.setattr(locks, "SystemClocks", Ahead)
        watch = Watch
        monkeypatch.setattr(pruning, "Watch", lambda store, key: watch(store, key, lambda: passed[0]))

        def before(operation: str, name: str, _: int) -> None:
            if operation == "delete" and name.startswith("locks/"):
                passed[0] = 12 * 60.0

        with pytest.raises(RepositoryLocked, match="may be at work"):
            prune(Faulty(memory, before))
        kept[back_up(writer, lock, blobs)] = blobs
        lock.release()
    monkeypatch.undo()
    assert held(memory) == kept
