"""Jobs: long work with progress, a log, a result, a place in a queue and an end that is always known."""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import msgspec

from snapvol.api import JobInfo, JobState
from snapvol.errors import Cancelled, InUse, NotFound, PoolUnavailable, Refused, SnapvolError
from snapvol.model import now
from snapvol.service import work
from snapvol.service.job import Job, Kind, Run, Spec
from snapvol.service.process import Worker
from snapvol.service.state import MOST_LOG_LINES, JobRecord, StateDatabase

log = logging.getLogger(__name__)

MOST_REMEMBERED = 500  # ended jobs that `Jobs.list` shows
MOST_WARNINGS = 100  # of one job; the log has more
HEARTBEAT = 15.0  # seconds after which `Jobs.watch` yields also where nothing changed
RETRIED = (JobState.FAILED, JobState.INTERRUPTED, JobState.CANCELLED)


class Jobs:
    """All jobs: queued, running, and those that ended.

    Args:
        state: where they are remembered.
        at_once: how many run at the same time.
    """

    def __init__(self, state: StateDatabase, at_once: int) -> None:
        self._state = state
        self._at_once = at_once
        self._kinds: dict[str, Kind] = {}
        self._jobs: dict[str, Job] = {}
        self._queue: list[Job] = []
        self._unclean: list[Job] = []
        self._changed = threading.Condition()
        self._closing = False

    def register(self, kind: Kind) -> None:
        """Make jobs of this kind possible."""
        self._kinds[kind.name] = kind

    def start(self) -> None:
        """Read what is remembered. Jobs that were not at their end then are interrupted now."""
        for record in self._state.jobs(MOST_REMEMBERED):
            job = Job(record)
            job.lines = len(self._state.job_log(record.info.id)) if not record.info.state.ended else 0
            self._jobs[job.id] = job
        for job in [job for job in self._jobs.values() if not job.info.state.ended]:
            self._end(job, JobState.INTERRUPTED, _stopped(job.id))

    def close(self) -> None:
        """Stop the running jobs, forget the queue; both are interrupted. Takes some seconds."""
        with self._changed:
            self._closing = True
            waiting, self._queue = self._queue, []
            running = [job for job in self._jobs.values() if job.thread is not None]
        for job in waiting:
            self._end(job, JobState.INTERRUPTED, _stopped(job.id))
        for job in running:
            job.stop()
        for job in running:
            if job.thread is not None:
                job.thread.join()
        with self._changed:
            self._changed.notify_all()

    # -- asking -------------------------------------------------------------------------------------------------

    def list(self) -> list[JobInfo]:
        """List jobs, oldest first."""
        with self._changed:
            return [job.info for job in self._jobs.values()]

    def get(self, id: str) -> JobInfo:
        """Return the job whose id is, or alone begins with, ``id``.

        Raises:
            NotFound: there is none.
        """
        return self._job(id).info

    def log(self, id: str) -> Sequence[str]:
        """Return a job's log.

        Raises:
            NotFound: there is no such job.
        """
        return self._state.job_log(self._job(id).id)

    def active(self, volume_id: str) -> JobInfo | None:
        """Return the queued or running job that works on this volume, where there is one. Reads memory only."""
        with self._changed:
            return next((job.info for job in self._active() if job.volume_id == volume_id), None)

    def restoring(self, volume_id: str) -> JobInfo | None:
        """Return the queued or running job that replaces this volume's contents: until its end nobody may mount it."""
        job = self.active(volume_id)
        return job if job is not None and job.kind == "restore" else None

    def refuse_busy(self, volume_id: str, volume: str) -> None:
        """Check that no job works on the volume, so that it can be renamed, removed or rolled back.

        Raises:
            InUse: one does; it is named.
        """
        job = self.active(volume_id)
        if job is not None:
            raise InUse(
                f"volume '{volume}': {job.kind} job {job.id} works on it",
                f"wait for it: snapvol job wait {job.id}; or stop it: snapvol job cancel {job.id}",
            )

    def wait(self, id: str, timeout: float | None = None) -> JobInfo:
        """Return the job once it has ended, or as it is after ``timeout`` seconds."""
        job = self._job(id)
        with self._changed:
            self._changed.wait_for(lambda: job.settled or self._closing, timeout)
            return job.info

    def watch(self, id: str, heartbeat: float = HEARTBEAT) -> Iterator[JobInfo]:
        """Yield the job now, at every change, and every ``heartbeat`` seconds, until it has ended."""
        job = self._job(id)
        while True:
            with self._changed:
                seen, info, over = job.version, job.info, job.settled or self._closing
            yield info
            if over:
                return
            self._await_change(job, seen, heartbeat)

    def idle(self) -> bool:
        """Return whether a job that was submitted now would begin at once."""
        with self._changed:
            return sum(1 for _ in self._active()) < self._at_once

    # -- acting -------------------------------------------------------------------------------------------------

    def submit(self, kind: str, object: str, spec: Spec, volume_id: str = "") -> JobInfo:
        """Queue a job.

        Args:
            kind: of those that were registered.
            object: what people call the thing it works on.
            spec: what to do: JSON, without any secret; kept, so that it can be done again.
            volume_id: the volume that no other job may work on meanwhile; empty for none.

        Raises:
            InUse: another job works on that volume; it is named.
        """
        info = JobInfo(id=uuid4().hex[:8], kind=kind, object=object, state=JobState.QUEUED, created=now())
        job = Job(JobRecord(info=info, spec=spec, volume_id=volume_id))
        with self._changed:
            if self._closing:
                raise Refused("the daemon is stopping", "try again when it runs")
            if volume_id:
                self.refuse_busy(volume_id, object)
            self._jobs[job.id] = job
        try:
            self._kinds[kind].accept(job.id, spec)
        except BaseException:
            with self._changed:
                del self._jobs[job.id]
            raise
        self._state.save_job(job.record)
        with self._changed:
            self._queue.append(job)
            self._queue.sort(key=lambda queued: not self._kinds[queued.info.kind].urgent)
        self._start_next()
        return job.info

    def cancel(self, id: str) -> JobInfo:
        """Stop a job; one that runs ends within seconds.

        Raises:
            NotFound: there is no such job.
            Refused: it has ended.
        """
        job = self._job(id)
        with self._changed:
            if job.info.state.ended:
                raise Refused(f"job {job.id} has ended: it is {job.info.state}")
            queued = job in self._queue
            if queued:
                self._queue.remove(job)
        if queued:
            self._end(job, JobState.CANCELLED, Cancelled("it was cancelled before it began"))
        else:
            job.cancelled = True
            job.stop()
        return job.info

    def retry(self, id: str) -> JobInfo:
        """Do once more what a failed, interrupted or cancelled job was to do, as a new job.

        Raises:
            NotFound: there is no such job.
            Refused: it did not fail.
        """
        job = self._job(id)
        if job.info.state not in RETRIED:
            raise Refused(f"job {job.id} is {job.info.state}: there is nothing to retry")
        return self.submit(job.info.kind, job.info.object, dict(job.record.spec), job.volume_id)

    # -- inside -------------------------------------------------------------------------------------------------

    def _job(self, id: str) -> Job:
        with self._changed:
            if id in self._jobs:
                return self._jobs[id]
            found = [job for known, job in self._jobs.items() if id and known.startswith(id)]
        if len(found) != 1:
            raise NotFound(
                f"job '{id}' does not exist" if not found else f"'{id}' begins the ids of {len(found)} jobs",
                "see: snapvol jobs",
            )
        return found[0]

    def _await_change(self, job: Job, seen: int, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: job.version != seen or self._closing, seconds)

    def _active(self) -> Iterator[Job]:
        return (job for job in self._jobs.values() if not job.settled)

    def _start_next(self) -> None:
        with self._changed:
            while self._queue and not self._closing and self._running() < self._at_once:
                job = self._queue.pop(0)
                job.thread = threading.Thread(target=self._perform, args=(job,), name=f"job-{job.id}", daemon=True)
                job.thread.start()

    def _running(self) -> int:
        return sum(1 for job in self._jobs.values() if job.thread is not None)

    def _perform(self, job: Job) -> None:
        self._update(job, state=JobState.RUNNING, started=now())
        self._state.save_job(job.record)
        try:
            result = self._kinds[job.info.kind].conduct(Run(self, job))
        except Cancelled as error:
            # Nobody cancelled it here: the daemon stops, or systemd has stopped the worker with the daemon.
            state = JobState.CANCELLED if job.cancelled else JobState.INTERRUPTED
            self._end(job, state, error if job.cancelled else _stopped(job.id))
        except SnapvolError as error:
            self._end(job, JobState.FAILED, error)
        except Exception as error:
            log.exception("job %s: a bug", job.id)
            self.append(job, traceback.format_exc().splitlines())
            fault = SnapvolError(f"{type(error).__name__}: {error}", f"this is a bug; see: snapvol job show {job.id}")
            self._end(job, JobState.FAILED, fault)
        else:
            self._end(job, JobState.DONE, None, result)

    def _end(
        self, job: Job, state: JobState, error: SnapvolError | None, result: Mapping[str, Any] | None = None
    ) -> None:
        ended = msgspec.structs.replace(
            job.info,
            state=state,
            ended=now(),
            result=dict(result or {}),
            error=error.message if error else None,
            error_kind=type(error).__name__ if error else None,
            hint=error.hint if error else None,
        )
        clean = error is None or self._give_up(ended, job.record.spec)
        if error is not None:
            self.append(job, [str(error)])
        with self._changed:
            job.put(ended)
            job.thread = None
            job.settled = True
            self._forget_old()
            self._changed.notify_all()
            if not clean:
                self._unclean.append(job)
        if clean:  # else it must not look ended to the next daemon, which then tries, too
            self._state.save_job(job.record)
        log.info("job %s: %s of %s: %s%s", job.id, ended.kind, ended.object, state, f": {error}" if error else "")
        self._start_next()

    def clean(self) -> None:
        """Clean up once more after jobs that ended while the pool of what they worked on was away."""
        with self._changed:
            waiting, self._unclean = self._unclean, []
        for job in waiting:
            if self._give_up(job.info, job.record.spec):
                self._state.save_job(job.record)
            else:
                with self._changed:
                    self._unclean.append(job)

    def _give_up(self, ended: JobInfo, spec: Mapping[str, Any]) -> bool:
        """Clean up after a job that did not end well; False where that must be tried again."""
        try:
            self._kinds[ended.kind].give_up(ended, dict(spec))
        except PoolUnavailable as error:
            log.warning("job %s: what it left behind is cleaned up when the pool is back: %s", ended.id, error)
            return False
        except Exception:
            log.exception("job %s: what it left behind was not cleaned up", ended.id)
        return True

    def _forget_old(self) -> None:
        ended = [id for id, job in self._jobs.items() if job.settled]
        for id in ended[: max(0, len(ended) - MOST_REMEMBERED)]:
            del self._jobs[id]

    def _update(self, job: Job, **changes: object) -> None:
        with self._changed:
            job.put(msgspec.structs.replace(job.info, **changes))
            self._changed.notify_all()

    def append(self, job: Job, lines: Sequence[str]) -> None:
        """Add lines to a job's log, as far as it may grow."""
        with self._changed:
            first = job.lines
            job.lines += len(lines)
        room = MOST_LOG_LINES - first
        if room > 0:
            lines = lines if len(lines) < room else [*lines[: room - 1], "… the rest of the log was dropped"]
            self._state.add_log(job.id, [f"{now():%H:%M:%S} {line}" for line in lines], first)

    @contextmanager
    def worker(self, job: Job, worker: Worker) -> Iterator[None]:
        """Make ``worker`` the process that cancelling the job stops, while the context lasts."""
        with self._changed:
            job.worker = worker
        if job.stopping:
            worker.cancel()
        try:
            yield
        finally:
            with self._changed:
                job.worker = None

    def hear(self, job: Job, message: work.Message) -> None:
        """Take in what a worker says."""
        if isinstance(message, work.Progressed):
            self._update(job, progress=job.pace.take(message, time.monotonic()))
        elif isinstance(message, work.Said):
            self.append(job, [message.line])
            if message.warning:
                self.warn(job, message.line)

    def warn(self, job: Job, line: str) -> None:
        """Show a warning with the job."""
        with self._changed:
            if len(job.info.warnings) < MOST_WARNINGS:
                self._update(job, warnings=[*job.info.warnings, line])

    def look(self, job: Job) -> None:
        """Warn where a job stands still."""
        seconds = job.pace.stalled(time.monotonic())
        if seconds is not None:
            line = f"no progress for {seconds / 60:.0f} min; stop it with: snapvol job cancel {job.id}"
            self.append(job, [line])
            self.warn(job, line)

    def enter(self, job: Job, phase: str) -> None:
        """Say what the job does now."""
        self._update(job, progress=job.pace.enter(phase, time.monotonic()))


def _stopped(job: str) -> SnapvolError:
    return Refused("interrupted: the daemon was stopped", f"retry with: snapvol job retry {job}")
