"""T28, T29: any history of backups, forgetting and prunes, killed or beside one another, loses no completed backup."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from datetime import datetime, timedelta
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from snapvol.errors import Damaged, RepositoryLocked
from snapvol.model import now
from snapvol.repository import BlobKind, Repository, Tuning, locks
from snapvol.repository.plan import Limits
from snapvol.stores.base import Store
from snapvol.stores.memory import MemoryStore
from support.faults import Faulty
from support.mortal import Killed, Mortal
from support.repositories import back_up, created, opened, restored, sample

PACKS = Tuning(pack_size=9000, uploads=1, index_after_packs=2)  # three blobs each, and several indexes
BLOBS = sample(14, size=3000)
DAY = timedelta(days=1)
T = TypeVar("T")

SOME_BLOBS = st.lists(st.integers(0, len(BLOBS) - 1), min_size=1, max_size=8, unique=True)
SKEWS = st.sampled_from([timedelta(), timedelta(), -DAY, DAY])
LIMITS = st.sampled_from([Limits(unused_share=0.0), Limits(), Limits(unused_share=None), Limits(repack_bytes=20_000)])
ACTIONS = st.sampled_from(["begin", "begin", "commit", "commit", "back up", "prune", "forget"])
MOMENTS = {  # in a prune: the call before which, and which of those calls
    "seen": ("list", "data/", 1),
    "copied": ("delete", "locks/", 1),
    "between": ("put", "locks/", 2),
    "alone": ("list", "snapshots/", 2),
    "known": ("list", "data/", 2),
    "rewritten": ("delete", "index/", 1),
    "unnamed": ("delete", "data/", 1),
}
EVENTS = st.lists(st.tuples(st.sampled_from(list(MOMENTS)), ACTIONS, SOME_BLOBS, SKEWS), min_size=1, max_size=5)


class Skewed(locks.SystemClocks):
    """The clocks of whichever machine acts at the moment."""

    skew = timedelta()

    def now(self) -> datetime:
        return now() + self.skew


class Writer:
    """A backup that is under way on some machine, perhaps for a long time."""

    def __init__(self, store: Store, skew: timedelta) -> None:
        self.skew = skew
        self.blobs: list[bytes] = []
        self.repository: Repository = opened(store, PACKS)
        self._held: AbstractContextManager[locks.Lock] = self.repository.lock()
        self.lock = self._held.__enter__()
        self.repository.load_index()

    def end(self) -> None:
        self._held.__exit__(None, None, None)
        self.repository.close()


class Histories(RuleBasedStateMachine):
    """One repository and those who use it."""

    def __init__(self) -> None:
        super().__init__()
        self.store = MemoryStore()
        created(self.store, PACKS).close()
        self.backups: dict[str, list[bytes]] = {}
        self.writers: list[Writer] = []

    def teardown(self) -> None:
        for writer in self.writers:
            writer.end()

    @initialize(running=st.lists(st.tuples(SOME_BLOBS, SKEWS), max_size=1))
    def half_forgotten(self, running: list[tuple[list[int], timedelta]]) -> None:
        for part in (range(14), range(5), range(3, 14, 2)):
            self.back_up(list(part), timedelta())
        for blobs, skew in running:
            self.begin(blobs, skew)
        self.forget(0)

    @rule(blobs=SOME_BLOBS, skew=SKEWS)
    def begin(self, blobs: list[int], skew: timedelta) -> None:
        with suppress(RepositoryLocked):
            self._on(skew, lambda: self.writers.append(Writer(self.store, skew)))
            self._add(self.writers[-1], blobs)

    @precondition(lambda self: self.writers)
    @rule(blobs=SOME_BLOBS)
    def add(self, blobs: list[int]) -> None:
        self._add(self.writers[blobs[0] % len(self.writers)], blobs)

    def _add(self, writer: Writer, blobs: list[int]) -> None:
        for number in blobs:
            writer.repository.add(BlobKind.DATA, BLOBS[number])
            writer.blobs.append(BLOBS[number])

    @precondition(lambda self: self.writers)
    @rule(which=st.integers(0, 100))
    def commit(self, which: int) -> None:
        writer = self.writers.pop(which % len(self.writers))
        try:
            # A pack that it relied on may be gone where a clock is wrong: it says so, and writes no backup.
            with suppress(Damaged, RepositoryLocked):
                identity = self._on(writer.skew, lambda: back_up(writer.repository, writer.lock, writer.blobs))
                self.backups[identity] = writer.blobs
        finally:
            writer.end()

    @rule(blobs=SOME_BLOBS, skew=SKEWS)
    def back_up(self, blobs: list[int], skew: timedelta) -> None:
        contents = [BLOBS[number] for number in blobs]
        with suppress(RepositoryLocked):
            self.backups[self._on(skew, lambda: self._whole_backup(contents))] = contents

    @precondition(lambda self: self.backups)
    @rule(which=st.integers(0, 100))
    def forget(self, which: int) -> None:
        identity = list(self.backups)[which % len(self.backups)]
        with opened(self.store, PACKS) as repository:
            repository.forget([identity])
        del self.backups[identity]

    @rule(limits=LIMITS, lives=st.none() | st.integers(0, 60), skew=SKEWS)
    def prune(self, limits: Limits, lives: int | None, skew: timedelta) -> None:
        known = set(self.store.list("locks/"))
        with suppress(RepositoryLocked, Killed):
            self._on(skew, lambda: self._prune(Mortal(self.store, lives), limits))
        # The killed one's lock would count as held, for this process lives.
        self.store.delete([entry.name for entry in set(self.store.list("locks/")) - known])

    @rule(limits=LIMITS, events=EVENTS, skew=SKEWS)
    def prune_beside(
        self, limits: Limits, events: list[tuple[str, str, list[int], timedelta]], skew: timedelta
    ) -> None:
        seen: Counter[tuple[str, str]] = Counter()

        def before(operation: str, name: str, _turn: int) -> None:
            call = operation, f"{name.partition('/')[0]}/"
            seen[call] += 1
            for moment, action, blobs, other in events:
                if MOMENTS[moment] == (*call, seen[call]):
                    self._act(action, blobs, other)

        with suppress(RepositoryLocked):
            self._on(skew, lambda: self._prune(Faulty(self.store, before), limits))

    @invariant()
    def every_backup_is_whole(self) -> None:
        with opened(self.store, PACKS) as repository:
            assert repository.check().problems == []
            repository.load_index()
            assert restored(repository) == self.backups

    def _act(self, action: str, blobs: list[int], skew: timedelta) -> None:
        if action == "begin":
            self.begin(blobs, skew)
        elif action == "commit" and self.writers:
            self.commit(blobs[0])
        elif action == "back up":
            self.back_up(blobs, skew)
        elif action == "prune":
            with suppress(RepositoryLocked):
                self._on(skew, lambda: self._prune(self.store, Limits(unused_share=0.0)))
        elif action == "forget" and self.backups:
            self.forget(blobs[0])

    def _whole_backup(self, contents: list[bytes]) -> str:
        with opened(self.store, PACKS) as repository, repository.lock() as lock:
            repository.load_index()
            return back_up(repository, lock, contents)

    def _prune(self, store: Store, limits: Limits) -> None:
        with opened(store, PACKS) as repository:
            repository.prune(limits, dry_run=False)

    def _on(self, skew: timedelta, work: Callable[[], T]) -> T:
        before, Skewed.skew = Skewed.skew, skew
        try:
            return work()
        finally:
            Skewed.skew = before


def test_no_completed_backup_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "SystemClocks", Skewed)
    run_state_machine_as_test(
        Histories,
        settings=settings(max_examples=100, stateful_step_count=8, suppress_health_check=list(HealthCheck)),
    )
