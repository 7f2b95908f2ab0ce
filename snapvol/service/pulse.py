"""Whether what the daemon does by the clock is still being done."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping

from msgspec import Struct

from snapvol.api import Finding, Level

ALIVE_SECONDS = 60.0  # in which some task must have ended
LEAST_SECONDS = 600.0  # that every task may take
PERIODS = 60  # of its own, that a task may take besides: one that is rare is so because it is long


class _Task(Struct):
    limit: float
    began: float | None = None  # by the monotonic clock
    ended: float | None = None
    ended_at: float | None = None  # as time.time() tells it, for people


class Pulse:
    """When each task of the housekeeping last began and ended."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tasks: dict[str, _Task] = {}

    def expect(self, task: str, seconds: float) -> None:
        """Say that ``task`` is run every ``seconds``."""
        with self._lock:
            self._tasks[task] = _Task(max(LEAST_SECONDS, PERIODS * seconds))

    def began(self, task: str) -> None:
        """Note that a run begins."""
        with self._lock:
            self._tasks[task].began = time.monotonic()

    def ended(self, task: str) -> None:
        """Note that a run has ended, well or not."""
        with self._lock:
            state = self._tasks[task]
            state.began, state.ended, state.ended_at = None, time.monotonic(), time.time()

    def alive(self) -> bool:
        """Whether tasks are still begun and ended. One that hangs, in a storage perhaps, does not make it false."""
        with self._lock:
            ends = [state.ended for state in self._tasks.values() if state.ended is not None]
        return bool(ends) and time.monotonic() - max(ends) < ALIVE_SECONDS

    def ends(self) -> Mapping[str, float]:
        """Return when each task last ended, in seconds since 1970."""
        with self._lock:
            return {name: state.ended_at for name, state in self._tasks.items() if state.ended_at is not None}

    def findings(self) -> list[Finding]:
        """Return which tasks do not end."""
        now = time.monotonic()
        with self._lock:
            taken = {name: now - state.began for name, state in self._tasks.items() if state.began is not None}
            late = {name: seconds for name, seconds in taken.items() if seconds > self._tasks[name].limit}
        return [
            Finding(
                level=Level.ERROR,
                subject=f"housekeeping of {name}",
                message=f"has not ended for {seconds / 60:.0f} minutes: its storage may hang",
                command="journalctl -u snapvol",
            )
            for name, seconds in late.items()
        ]
