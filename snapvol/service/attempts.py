"""What a policy tried and could not do, and when it may try again."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from msgspec import Struct

from snapvol.api import JobInfo, JobState

FIRST = timedelta(minutes=1)
LONGEST = timedelta(hours=1)


class Failure(Struct, frozen=True, kw_only=True):
    """The last of several failures in a row.

    Attributes:
        at: when.
        why: in a line.
        count: how many there were.
    """

    at: datetime
    why: str
    count: int = 1

    def over(self, now: datetime) -> bool:
        """Return whether it may be tried again: after a minute, then two, four, … up to an hour."""
        waited = now - self.at
        return not timedelta() <= waited < min(FIRST * 2 ** min(self.count - 1, 10), LONGEST)


class Attempts:
    """Failures since the last success, by identity. A restart of the daemon forgets them: it tries at once."""

    def __init__(self) -> None:
        self._failures: dict[str, Failure] = {}

    def last(self, identity: str) -> Failure | None:
        """Return the last failure, where the last attempt was one."""
        return self._failures.get(identity)

    def failed(self, identity: str, why: str, now: datetime) -> bool:
        """Note a failure; return whether it is news: the first in a row, or another one than before."""
        before = self._failures.get(identity)
        self._failures[identity] = Failure(at=now, why=why, count=before.count + 1 if before else 1)
        return before is None or before.why != why

    def succeeded(self, identity: str) -> None:
        """Forget what failed before."""
        self._failures.pop(identity, None)


def of_jobs(jobs: Sequence[JobInfo]) -> Failure | None:
    """Return the failure that the last of one volume's backup jobs, oldest first, ended with.

    One that was interrupted, with the daemon, is none: it is tried again at once. One that somebody cancelled is not
    tried again for as long as after many failures.
    """
    count = 0
    for job in reversed(jobs):
        if job.state is JobState.CANCELLED and not count:
            return Failure(at=job.ended or job.created, why=f"job {job.id} was cancelled", count=10)
        if job.state is not JobState.FAILED:
            break
        count += 1
    if not count:
        return None
    last = jobs[-1]
    return Failure(at=last.ended or last.created, why=f"job {last.id}: {last.error}", count=count)
