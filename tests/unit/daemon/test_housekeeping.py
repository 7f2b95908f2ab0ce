"""Timed work: in threads, one run at a time, and its failures said once."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from snapvol.daemon.housekeeping import Housekeeping
from snapvol.errors import PoolUnavailable
from snapvol.service.pulse import Pulse


class Tasks:
    """A service's housekeeping, that does what a test wants."""

    def __init__(self, work: Callable[[], object]) -> None:
        self.runs: list[str] = []
        self.work = work

    def __getattr__(self, name: str) -> Callable[..., None]:
        def task(*volumes: str) -> None:
            thread = threading.current_thread().name.partition("_")[0]
            self.runs.append(f"{name}({volumes[0]})" if volumes else f"{name} in {thread}")
            self.work()

        return task


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("POOLS", "USERS", "TRASH", "USAGE", "REPOSITORIES", "NOTIFY", "PING", "SOON", "LATER"):
        monkeypatch.setattr(f"snapvol.daemon.housekeeping.{name}_SECONDS", 1)


def test_every_task_runs_soon_and_in_a_thread(quick: None) -> None:
    async def main() -> list[str]:
        tasks: Any = Tasks(lambda: None)
        housekeeping = Housekeeping(tasks, Pulse())
        housekeeping.start()
        await asyncio.sleep(1.5)
        housekeeping.stop()
        return sorted(tasks.runs)

    names = (
        *("announce", "expire_trash", "ping"),
        *("refresh_pools", "refresh_repositories", "refresh_usage", "refresh_users"),
    )
    assert asyncio.run(main()) == [f"{name} in housekeeping" for name in names]


def test_a_slow_task_is_not_started_twice(quick: None) -> None:
    async def main() -> list[str]:
        go = threading.Event()
        tasks: Any = Tasks(lambda: go.wait(10))
        housekeeping = Housekeeping(tasks, Pulse())
        housekeeping.start()
        await asyncio.sleep(3.2)
        housekeeping.stop()
        go.set()
        return list(tasks.runs)

    assert len(asyncio.run(main())) == 7


def test_a_failure_is_said_when_it_begins_and_when_it_ends(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    failing = True

    def work() -> None:
        if failing:
            raise PoolUnavailable("pool 'tank' is not there")

    async def main() -> None:
        nonlocal failing
        tasks: Any = Tasks(work)
        housekeeping = Housekeeping(tasks, Pulse())
        for _ in range(3):
            await housekeeping._run("pools")
        failing = False
        for _ in range(2):
            await housekeeping._run("pools")
        housekeeping.stop()

    asyncio.run(main())
    assert [record.getMessage() for record in caplog.records if record.name == "snapvol.daemon.housekeeping"] == [
        "housekeeping of pools fails: pool 'tank' is not there",
        "housekeeping of pools works again",
    ]


def test_a_volume_is_measured_after_use_and_not_all_the_time() -> None:
    async def main() -> list[str]:
        tasks: Any = Tasks(lambda: time.sleep(0.01))
        housekeeping = Housekeeping(tasks, Pulse())
        for _ in range(10):
            housekeeping.changed("web")
            housekeeping.changed("db")
        await asyncio.sleep(0.2)
        housekeeping.changed("web")  # less than a hundred times as long ago as it took
        await asyncio.sleep(1.2)
        housekeeping.changed("web")
        await asyncio.sleep(0.1)
        housekeeping.stop()
        housekeeping.changed("late")  # by a request that was in flight
        return list(tasks.runs)

    assert asyncio.run(main()) == ["refresh_usage(web)", "refresh_usage(db)", "refresh_usage(web)"]
