from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from snapvol.api import JobInfo, JobState
from snapvol.errors import InUse, NotFound, Refused, SnapvolError, UsageError
from snapvol.service.job import Kind, Run, Spec
from snapvol.service.jobs import Jobs
from snapvol.service.state import MOST_LOG_LINES, StateDatabase

SECONDS = 10.0


class Told(Kind):
    """Does what its spec says."""

    name = "backup"

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.begun: list[str] = []
        self.given_up: list[JobState] = []

    def accept(self, job: str, spec: Spec) -> None:
        if spec.get("refuse"):
            raise Refused("not this one")

    def conduct(self, run: Run) -> dict[str, Any]:
        self.begun.append(run.spec["do"])
        match run.spec["do"]:
            case "wait":
                while not self.go_on.wait(0.01):
                    run.check()
            case "fail":
                raise UsageError("it failed", "do otherwise")
            case "bug":
                raise ZeroDivisionError("by zero")
            case "talk":
                for number in range(MOST_LOG_LINES + 10):
                    run.log(str(number))
                run.warn("mind")
        return {"answer": 42}

    def give_up(self, job: JobInfo, spec: Spec) -> None:
        self.given_up.append(job.state)


class Urgent(Told):
    name = "restore"
    urgent = True


@pytest.fixture
def state(tmp_path: Path) -> Iterator[StateDatabase]:
    database = StateDatabase(tmp_path / "state.db")
    yield database
    database.close()


@pytest.fixture
def kind() -> Told:
    return Told()


@pytest.fixture
def jobs(state: StateDatabase, kind: Told) -> Iterator[Jobs]:
    made = Jobs(state, 1)
    made.register(kind)
    urgent = Urgent()
    urgent.begun, urgent.go_on = kind.begun, kind.go_on
    made.register(urgent)
    made.start()
    yield made
    kind.go_on.set()
    made.close()


def test_a_job_runs_to_its_result(jobs: Jobs) -> None:
    ended = jobs.wait(jobs.submit("backup", "web", {"do": "nothing"}).id, SECONDS)
    assert ended.state is JobState.DONE
    assert ended.result == {"answer": 42}
    assert ended.error is None
    assert ended.started is not None
    assert ended.ended is not None
    assert ended.created <= ended.started <= ended.ended


def test_a_failure_is_one_line_with_its_kind_and_hint(jobs: Jobs, kind: Told) -> None:
    ended = jobs.wait(jobs.submit("backup", "web", {"do": "fail"}).id, SECONDS)
    assert (ended.state, ended.error, ended.error_kind, ended.hint) == (
        JobState.FAILED, "it failed", "UsageError", "do otherwise",
    )  # fmt: skip
    assert kind.given_up == [JobState.FAILED]


def test_a_bug_fails_the_job_and_its_traceback_is_in_the_log(jobs: Jobs) -> None:
    ended = jobs.wait(jobs.submit("backup", "web", {"do": "bug"}).id, SECONDS)
    assert ended.state is JobState.FAILED
    assert ended.error == "ZeroDivisionError: by zero"
    assert any("Traceback" in line for line in jobs.log(ended.id))


def test_so_many_run_at_once_and_the_others_wait_the_urgent_ones_first(jobs: Jobs, kind: Told) -> None:
    first = jobs.submit("backup", "a", {"do": "wait"}, "1")
    second = jobs.submit("backup", "b", {"do": "second"}, "2")
    third = jobs.submit("restore", "c", {"do": "third"}, "3")
    assert [jobs.get(job.id).state for job in (second, third)] == [JobState.QUEUED, JobState.QUEUED]
    kind.go_on.set()
    for job in (first, second, third):
        assert jobs.wait(job.id, SECONDS).state is JobState.DONE
    assert kind.begun == ["wait", "third", "second"]


def test_a_second_job_of_a_volume_is_refused_and_names_the_first(jobs: Jobs, kind: Told) -> None:
    first = jobs.submit("backup", "web", {"do": "wait"}, "1")
    with pytest.raises(InUse) as refused:
        jobs.submit("restore", "web", {"do": "wait"}, "1")
    assert refused.value.message == f"volume 'web': backup job {first.id} works on it"
    assert first.id in (refused.value.hint or "")
    kind.go_on.set()
    jobs.wait(first.id, SECONDS)
    jobs.wait(jobs.submit("restore", "web", {"do": "nothing"}, "1").id, SECONDS)


def test_a_job_that_is_not_accepted_leaves_nothing(jobs: Jobs) -> None:
    with pytest.raises(Refused, match="not this one"):
        jobs.submit("backup", "web", {"do": "nothing", "refuse": True}, "1")
    assert jobs.list() == []
    assert jobs.active("1") is None


def test_cancelling_a_queued_and_a_running_job(jobs: Jobs, kind: Told) -> None:
    running = jobs.submit("backup", "a", {"do": "wait"}, "1")
    queued = jobs.submit("backup", "b", {"do": "never"}, "2")
    assert jobs.cancel(queued.id).state is JobState.CANCELLED
    jobs.cancel(running.id)
    assert jobs.wait(running.id, SECONDS).state is JobState.CANCELLED
    assert kind.begun == ["wait"]
    assert kind.given_up == [JobState.CANCELLED, JobState.CANCELLED]
    with pytest.raises(Refused, match="has ended"):
        jobs.cancel(running.id)


def test_retry_does_the_same_again_and_only_what_did_not_succeed(jobs: Jobs, kind: Told) -> None:
    failed = jobs.wait(jobs.submit("backup", "web", {"do": "fail"}, "1").id, SECONDS)
    again = jobs.wait(jobs.retry(failed.id).id, SECONDS)
    assert again.id != failed.id
    assert kind.begun == ["fail", "fail"]
    done = jobs.wait(jobs.submit("backup", "web", {"do": "nothing"}).id, SECONDS)
    with pytest.raises(Refused, match="nothing to retry"):
        jobs.retry(done.id)


def test_a_job_is_found_by_the_beginning_of_its_id(jobs: Jobs) -> None:
    job = jobs.submit("backup", "web", {"do": "nothing"})
    assert jobs.get(job.id[:6]).id == job.id
    for unknown in ("", "zz"):
        with pytest.raises(NotFound):
            jobs.get(unknown)
    jobs.wait(job.id, SECONDS)


def test_a_log_does_not_grow_without_end(jobs: Jobs) -> None:
    ended = jobs.wait(jobs.submit("backup", "web", {"do": "talk"}).id, 60)
    lines = jobs.log(ended.id)
    assert len(lines) == MOST_LOG_LINES
    assert lines[-1].endswith("… the rest of the log was dropped")
    assert ended.warnings == ["mind"]


def test_watching_sees_every_state_to_the_end(jobs: Jobs, kind: Told) -> None:
    job = jobs.submit("backup", "web", {"do": "wait"})
    seen: list[JobState] = []

    def watch() -> None:
        seen.extend(info.state for info in jobs.watch(job.id, heartbeat=0.05))

    watcher = threading.Thread(target=watch)
    watcher.start()
    time.sleep(0.3)
    kind.go_on.set()
    watcher.join(SECONDS)
    assert not watcher.is_alive()
    assert seen[-1] is JobState.DONE
    assert seen.count(JobState.RUNNING) >= 3  # a heartbeat, so that a client that went away is noticed


def test_T21_jobs_of_an_earlier_life_are_interrupted_and_can_be_retried(state: StateDatabase) -> None:
    kind = Told()
    before = Jobs(state, 1)
    before.register(kind)
    running = before.submit("backup", "a", {"do": "wait"}, "1")
    queued = before.submit("backup", "b", {"do": "nothing"}, "2")
    deadline = time.monotonic() + SECONDS
    while before.get(running.id).state is not JobState.RUNNING and time.monotonic() < deadline:
        time.sleep(0.01)
    later = Told()
    after = Jobs(state, 1)
    after.register(later)
    after.start()
    for job in (running, queued):
        ended = after.get(job.id)
        assert ended.state is JobState.INTERRUPTED
        assert ended.error == "interrupted: the daemon was stopped"
        assert ended.hint == f"retry with: snapvol job retry {job.id}"
    assert later.given_up == [JobState.INTERRUPTED] * 2
    assert later.begun == []  # nothing runs again by itself
    assert after.wait(after.retry(queued.id).id, SECONDS).state is JobState.DONE
    after.close()
    kind.go_on.set()
    before.close()


def test_closing_interrupts_what_runs_and_what_waits(state: StateDatabase, kind: Told) -> None:
    jobs = Jobs(state, 1)
    jobs.register(kind)
    running = jobs.submit("backup", "a", {"do": "wait"}, "1")
    queued = jobs.submit("backup", "b", {"do": "nothing"}, "2")
    jobs.close()
    assert [jobs.get(job.id).state for job in (running, queued)] == [JobState.INTERRUPTED] * 2
    with pytest.raises(SnapvolError, match="stopping"):
        jobs.submit("backup", "c", {"do": "nothing"}, "3")
    assert [record.info.state for record in state.jobs()] == [JobState.INTERRUPTED] * 2
