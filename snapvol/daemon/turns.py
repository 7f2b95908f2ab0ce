"""Blocking work in threads: for each volume one piece at a time in order of arrival, for different volumes at once.

The service has its own locks. The turns see to it that a volume whose work hangs holds one thread, however many
requests for it arrive, and that requests for one volume are served in the order in which they came (G8).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from snapvol.errors import SnapvolError

log = logging.getLogger(__name__)
T = TypeVar("T")


class Late(Exception):
    """The work has not ended in time; it goes on."""


def _never() -> bool:
    return False


class Turns:
    """The threads of the plugin's side.

    Args:
        threads: how many volumes can be worked on at once.
    """

    def __init__(self, threads: int) -> None:
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="plugin")
        self._last: dict[str, asyncio.Task[object]] = {}
        self._all: set[asyncio.Task[object]] = set()

    def enter(
        self, volume: str, work: Callable[[], T], *, dropped: Callable[[], bool] = _never, what: str = "work"
    ) -> asyncio.Task[T]:
        """Run ``work`` in a thread after everything that was entered for ``volume`` before. Nothing cancels it.

        Args:
            volume: whose turn it is.
            work: what to do.
            dropped: asked when the turn comes: whether nobody wants it any more; then `Late` ends the task.
            what: the words for the log, should it fail after nobody waits for it any more.
        """
        task = asyncio.get_running_loop().create_task(self._take(self._last.get(volume), work, dropped), name=what)
        self._last[volume] = task
        self._all.add(task)
        task.add_done_callback(lambda done: self._leave(volume, done))
        return task

    async def _take(self, before: asyncio.Task[object] | None, work: Callable[[], T], dropped: Callable[[], bool]) -> T:
        if before is not None:
            await asyncio.wait([before])
        if dropped():
            raise Late
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _leave(self, volume: str, task: asyncio.Task[object]) -> None:
        self._all.discard(task)
        if self._last.get(volume) is task:
            del self._last[volume]
        if not task.cancelled():
            task.exception()  # seen: those who wait have it, and for nobody else it is news

    async def finish(self, seconds: float) -> list[str]:
        """Wait until nothing is under way, at most ``seconds``; return what still is, and take no more."""
        if self._all:
            await asyncio.wait(self._all, timeout=seconds)
        self._threads.shutdown(wait=False, cancel_futures=True)
        return [task.get_name() for task in self._all]


async def within(seconds: float, task: asyncio.Task[T]) -> T:
    """Return the task's result, or raise what it raised.

    Raises:
        Late: it has not ended after ``seconds``; it goes on, and its end will be logged.
    """
    done, _ = await asyncio.wait([task], timeout=seconds)
    if not done:
        task.remove_done_callback(_report)  # one line, however many waited
        task.add_done_callback(_report)
        raise Late
    return task.result()


def _report(task: asyncio.Task[T]) -> None:
    if task.cancelled():
        return
    error = task.exception()
    if error is None:
        log.info("%s: done, after its answer", task.get_name())
    elif isinstance(error, SnapvolError):
        log.warning("%s: failed after its answer: %s", task.get_name(), error)
    elif not isinstance(error, Late):
        log.error("%s: failed after its answer", task.get_name(), exc_info=error)
