from __future__ import annotations

import os
import socket
import threading
import time
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapvol.errors import RepositoryLocked
from snapvol.model import now
from snapvol.repository import keys, locks, unpacked
from snapvol.repository.locks import LATE, Lock, LockDocument, is_stale
from snapvol.repository.sealing import MasterKey
from snapvol.stores.base import Transient
from snapvol.stores.memory import MemoryStore
from support.faults import Faulty, nth
from support.process import run
from support.repositories import back_up, opened, sample

KEY = MasterKey.generate()


class Hands:
    """Clocks that tests set."""

    def __init__(self) -> None:
        self.time = now()
        self.clocks = [0.0, 0.0, 0.0]

    def now(self) -> datetime:
        return self.time

    def readings(self) -> tuple[float, ...]:
        return tuple(self.clocks)


def count(store: MemoryStore) -> int:
    return len(list(store.list("locks/")))


def foreign(store: MemoryStore, **changes: object) -> str:
    """Write somebody else's lock."""
    fields: dict[str, object] = {"time": now(), "hostname": "elsewhere", "pid": 1, "exclusive": False}
    return unpacked.write(store, KEY, "locks", LockDocument(**{**fields, **changes}))  # type: ignore[arg-type]


def dead_pid() -> int:
    return int(run("sh", "-c", "echo $$").stdout)


def test_a_lock_is_there_as_long_as_it_is_held() -> None:
    store = MemoryStore()
    with locks.held(store, KEY, exclusive=False) as lock:
        document = unpacked.read(store, KEY, f"locks/{lock.id}", LockDocument)
        assert (document.hostname, document.pid, document.exclusive) == (socket.gethostname(), os.getpid(), False)
        lock.check()
    assert count(store) == 0


@pytest.mark.parametrize(("theirs", "ours", "refused"), [
    (False, False, False), (False, True, True), (True, False, True), (True, True, True),
])  # fmt: skip
def test_who_excludes_whom(theirs: bool, ours: bool, refused: bool) -> None:
    """T29."""
    store = MemoryStore()
    foreign(store, exclusive=theirs)
    if refused:
        with pytest.raises(RepositoryLocked, match=r"locked by process 1 on elsewhere since 20.*snapvol repo unlock"):
            locks.held(store, KEY, exclusive=ours).__enter__()
        assert count(store) == 1
    else:
        with locks.held(store, KEY, exclusive=ours):
            assert count(store) == 2


@given(
    age=st.integers(-90, 90),
    here=st.booleans(),
    alive=st.booleans(),
)
def test_when_a_lock_is_stale(age: int, here: bool, alive: bool) -> None:
    """T29: silent for 30 minutes, or of a dead process of this very machine; never for a clock that is behind."""
    hands = Hands()
    document = LockDocument(
        time=hands.time - timedelta(minutes=age, seconds=1),
        hostname=socket.gethostname() if here else "elsewhere",
        pid=os.getpid() if alive else 2**22 + 5,  # above the largest process id that Linux gives
    )
    assert is_stale(document, hands) == (age >= 30 or (here and not alive))


def test_stale_locks_stop_nobody() -> None:
    """T28: the lock of a killed run."""
    store = MemoryStore()
    foreign(store, exclusive=True, hostname=socket.gethostname(), pid=dead_pid())
    foreign(store, exclusive=True, time=now() - timedelta(minutes=31))
    with locks.held(store, KEY, exclusive=True):
        pass


def test_two_that_lock_at_once_see_each_other() -> None:
    """T29: the second look, after the own lock is written."""
    memory = MemoryStore()
    store = Faulty(memory, after=lambda operation, name, turn: _intrude(memory, operation))
    with pytest.raises(RepositoryLocked, match="exclusively locked"):
        locks.held(store, KEY, exclusive=False).__enter__()
    assert count(memory) == 1


def _intrude(memory: MemoryStore, operation: str) -> None:
    if operation == "put":
        foreign(memory, exclusive=True)


def test_waiting_for_a_lock() -> None:
    store = MemoryStore()
    name = foreign(store, exclusive=True)
    threading.Timer(0.3, lambda: store.delete([f"locks/{name}"])).start()
    with locks.held(store, KEY, exclusive=False, wait=20):
        assert count(store) == 1


def test_a_lock_that_cannot_be_read_is_respected() -> None:
    """T30: it may well be held."""
    store = MemoryStore()
    store.objects["locks/" + "a" * 64] = b""
    with pytest.raises(RepositoryLocked, match=r"lock aaaaaaaa on memory cannot be read.*unlock --all"):
        locks.held(store, KEY, exclusive=False).__enter__()
    assert locks.remove(store, KEY) == 0
    assert locks.remove(store, KEY, everything=True) == 1


def test_unlock_removes_the_stale_ones_only() -> None:
    store = MemoryStore()
    living = foreign(store)
    foreign(store, time=now() - timedelta(hours=1))
    foreign(store, hostname=socket.gethostname(), pid=dead_pid())
    assert locks.remove(store, KEY) == 2
    assert [entry.name for entry in store.list("locks/")] == [f"locks/{living}"]


def test_a_refresh_writes_the_new_lock_before_it_deletes_the_old() -> None:
    memory = MemoryStore()
    store = Faulty(memory)
    lock = Lock(store, KEY, False, Hands())
    old = lock.id
    store.calls.clear()
    lock.refresh()
    assert lock.id != old
    assert [operation for operation, _ in store.calls if operation != "size"] == ["put", "delete"]
    assert [entry.name for entry in memory.list("locks/")] == [f"locks/{lock.id}"]


@pytest.mark.parametrize("clock", [0, 1, 2])
@pytest.mark.parametrize("late", [LATE - 1, LATE + 1])
def test_a_late_refresh_ends_the_lock(clock: int, late: float) -> None:
    """T29: a holder that slept for an hour notices, whichever clock shows it: one stands still in suspend."""
    hands = Hands()
    lock = Lock(MemoryStore(), KEY, False, hands)
    hands.clocks[clock] += late
    if late < LATE:
        lock.check()
        lock.refresh()
        hands.clocks[clock] += late
        lock.check()
        return
    with pytest.raises(RepositoryLocked, match="was not refreshed for 25 min"):
        lock.check()
    with pytest.raises(RepositoryLocked):
        lock.refresh()


def test_a_removed_lock_is_noticed() -> None:
    """T29: `unlock --all` in the middle of a backup."""
    store = MemoryStore()
    lock = Lock(store, KEY, False, Hands())
    locks.remove(store, KEY, everything=True)
    with pytest.raises(RepositoryLocked, match="somebody removed the lock"):
        lock.check()


def test_a_late_lock_writes_no_snapshot(memory: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """T29: the abort comes before the snapshot, so what another's prune did to it hits nobody."""
    hands = Hands()
    monkeypatch.setattr(locks, "SystemClocks", lambda: hands)
    with opened(memory) as repository, repository.lock() as lock:
        repository.load_index()
        hands.clocks[1] += 3600
        with pytest.raises(RepositoryLocked, match="60 min; others may have changed"):
            back_up(repository, lock, sample(3))
    assert list(memory.list("snapshots/")) == []


def test_refreshing_goes_on_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """A refresh that fails is tried again soon."""
    monkeypatch.setattr(locks, "REFRESH", 0.02)
    monkeypatch.setattr(locks, "RETRY", 0.02)
    memory = MemoryStore()
    store = Faulty(memory, nth("put", [2, 3], Transient("503")))
    with locks.held(store, KEY, exclusive=False) as lock:
        first = lock.id
        deadline = time.monotonic() + 20
        while store.count("put") < 5 and time.monotonic() < deadline:
            time.sleep(0.01)
        lock.check()
        assert lock.id != first
    assert count(memory) == 0
    assert store.count("put") >= 5


def test_a_lock_that_cannot_be_removed_is_left_to_go_stale() -> None:
    memory = MemoryStore()
    with locks.held(Faulty(memory, nth("delete", [1], Transient("503"))), KEY, exclusive=False):
        pass
    assert count(memory) == 1


def test_the_repositorys_own_lock(memory: MemoryStore) -> None:
    with opened(memory) as one, opened(memory) as two, one.lock(), two.lock():
        with pytest.raises(RepositoryLocked), one.lock(exclusive=True):
            raise AssertionError
        assert count(memory) == 2
        assert one.unlock() == 0
        assert one.unlock(remove_all=True) == 2
    assert next(keys.opened(memory, "correct horse"))[0]
