"""One job: what people see of it, and what the code that conducts it may do."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from snapvol.api import JobInfo
from snapvol.errors import Cancelled
from snapvol.service import work
from snapvol.service.pace import Pace
from snapvol.service.process import Worker
from snapvol.service.state import JobRecord

if TYPE_CHECKING:
    from snapvol.service.jobs import Jobs

Spec = dict[str, Any]


class Kind(ABC):
    """What a job of one kind does in the daemon, before, around and after its worker."""

    name: ClassVar[str]
    urgent: ClassVar[bool] = False  # goes before others in the queue: somebody waits for it

    def accept(self, job: str, spec: Spec) -> None:  # noqa: B027
        """Prepare for the job ``job``, which is about to be queued; raise to refuse it."""

    @abstractmethod
    def conduct(self, run: Run) -> dict[str, Any]:
        """Do it, in a thread of its own, and return the result. Raises where it failed."""

    def give_up(self, job: JobInfo, spec: Spec) -> None:  # noqa: B027
        """Clean up after a job that did not end well: failed, cancelled, or interrupted in another life.

        Raises:
            PoolUnavailable: the pool is not open; it is asked for again when one was opened.
        """


class Job:
    """A job's changing side."""

    def __init__(self, record: JobRecord) -> None:
        self.record = record
        self.id = record.info.id
        self.volume_id = record.volume_id
        self.settled = record.info.state.ended
        self.version = 0
        self.lines = 0
        self.pace = Pace(time.monotonic())
        self.thread: threading.Thread | None = None
        self.worker: Worker | None = None
        self.cancelled = False
        self.stopping = False

    @property
    def info(self) -> JobInfo:
        """What people see."""
        return self.record.info

    def put(self, info: JobInfo) -> None:
        """Replace what people see."""
        self.record = msgspec.structs.replace(self.record, info=info)
        self.version += 1

    def stop(self) -> None:
        """Make it end."""
        self.stopping = True
        worker = self.worker
        if worker is not None:
            worker.cancel()


class Run:
    """A running job as the code that conducts it sees it.

    Attributes:
        id: the job's id.
        spec: what it was asked to do.
        created: when it was asked.
    """

    def __init__(self, jobs: Jobs, job: Job) -> None:
        self._jobs = jobs
        self._job = job
        self.id = job.id
        self.spec = job.record.spec
        self.created: datetime = job.info.created

    def phase(self, name: str) -> None:
        """Say what is being done now.

        Raises:
            Cancelled: the job is no longer wanted.
        """
        self._jobs.enter(self._job, name)
        self.check()

    def check(self) -> None:
        """Go on only where the job is still wanted.

        Raises:
            Cancelled: it is not.
        """
        if self._job.stopping:
            raise Cancelled("it was cancelled")

    def log(self, line: str) -> None:
        """Add a line to the log."""
        self._jobs.append(self._job, [line])

    def warn(self, line: str) -> None:
        """Add a warning to the log and to what people see with the job."""
        self.log(line)
        self._jobs.warn(self._job, line)

    def perform(self, what: work.Work) -> dict[str, Any]:
        """Have a worker process do something, and return its result.

        Raises:
            SnapvolError: as `Worker.result`.
        """
        worker = Worker(what, self._hear, tick=self._tick)
        with self._jobs.worker(self._job, worker):
            return worker.result()

    def _hear(self, message: work.Message) -> None:
        self._jobs.hear(self._job, message)

    def _tick(self) -> None:
        self._jobs.look(self._job)
