"""How fast a job goes, when it will be done, and whether it stands still."""

from __future__ import annotations

import math

import msgspec

from snapvol.api import JobProgress
from snapvol.service.work import Progressed

SMOOTHING = 10.0  # seconds: what happened longer ago hardly counts
STALLED = 30 * 60.0  # seconds without any progress after which people are told (T20)


class Pace:
    """Turns the figures that a worker reports into figures for people.

    Args:
        at: the time of the start, in seconds of a clock that never goes back.
    """

    def __init__(self, at: float) -> None:
        self.progress = JobProgress()
        self._at = at
        self._moved = at
        self._told = False

    def take(self, report: Progressed, at: float) -> JobProgress:
        """Return the progress after ``report``, which came at ``at``."""
        before = self.progress
        if (report.phase, report.bytes_done, report.files_done) != (before.phase, before.bytes_done, before.files_done):
            self._moved = at
            self._told = False
        rate = self._rate(report.bytes_done - before.bytes_done, at)
        left = report.bytes_total - report.bytes_done
        self.progress = JobProgress(
            phase=report.phase,
            bytes_done=report.bytes_done,
            bytes_total=report.bytes_total,
            files_done=report.files_done,
            files_total=report.files_total,
            rate=rate,
            eta_seconds=left / rate if rate > 0 and report.bytes_total and left >= 0 else None,
        )
        return self.progress

    def enter(self, phase: str, at: float) -> JobProgress:
        """Return the progress after the job itself went on to ``phase``."""
        self._moved = at
        self.progress = msgspec.structs.replace(self.progress, phase=phase, rate=0.0, eta_seconds=None)
        return self.progress

    def stalled(self, at: float) -> float | None:
        """Return the seconds without progress, once for each time that it stands still for `STALLED`."""
        if self._told or at - self._moved < STALLED:
            return None
        self._told = True
        return at - self._moved

    def _rate(self, done: int, at: float) -> float:
        seconds = at - self._at
        if seconds <= 0 or done < 0:
            return self.progress.rate
        self._at = at
        weight = 1.0 if self.progress.rate == 0 else 1 - math.exp(-seconds / SMOOTHING)
        return self.progress.rate + weight * (done / seconds - self.progress.rate)
