"""Waiting for jobs: shows how far they are, passes their warnings on, and cancels them on Ctrl-C."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from snapvol.api import JobInfo, JobState
from snapvol.cli import output
from snapvol.cli.progress import Display, display
from snapvol.client import Client
from snapvol.errors import Cancelled, SnapvolError, by_kind


def settle(
    client: Client,
    jobs: Sequence[JobInfo],
    *,
    detach: bool = False,
    as_json: bool = False,
    done: Callable[[JobInfo], str | None],
) -> None:
    """Wait for jobs to end and print what came of each; or, detached, only their ids.

    Args:
        client: the daemon that runs them.
        jobs: just started, or running.
        detach: do not wait.
        as_json: print the jobs as JSON instead.
        done: makes the line for a job that is done; it may raise where the result is a failure all the same.

    Raises:
        SnapvolError: a job failed; the class is that of the failure. Where several jobs ran, all are waited for.
    """
    if detach:
        if as_json:
            output.print_json(jobs)
        else:
            for job in jobs:
                print(job.id)
        return
    ended = follow(client, jobs)
    if as_json:
        output.print_json(ended if len(ended) != 1 else ended[0])
    failures = []
    for job in ended:
        try:
            line = _outcome(job, done)
            if line and not as_json:
                print(output.printable(line))
        except SnapvolError as error:
            failures.append(error)
    for error in failures[:-1]:
        output.note(str(error))
    if failures:
        raise failures[-1]


def follow(client: Client, jobs: Sequence[JobInfo]) -> list[JobInfo]:
    """Show the progress of ``jobs`` until all have ended, and return them as they ended."""
    ended: list[JobInfo] = []
    with display() as shown:
        try:
            for job in jobs:
                ended.append(_watch(client, job, shown))
        except KeyboardInterrupt:
            return _cancel(client, jobs, ended, shown)
    return ended


def _watch(client: Client, job: JobInfo, shown: Display) -> JobInfo:
    warned = 0
    for job in client.watch(job.id):
        if not job.state.ended:
            shown.show(f"{job.kind} of {job.object}", job.progress)
        for warning in job.warnings[warned:]:
            shown.say(f"snapvol: warning: {warning}")
        warned = max(warned, len(job.warnings))
    return job if job.state.ended else client.job(job.id)


def _cancel(client: Client, jobs: Sequence[JobInfo], ended: list[JobInfo], shown: Display) -> list[JobInfo]:
    shown.say("snapvol: cancelling; press Ctrl-C again to leave without waiting")
    for job in jobs[len(ended) :]:
        client.cancel(job.id)
    return [*ended, *(_watch(client, job, shown) for job in jobs[len(ended) :])]


def _outcome(job: JobInfo, done: Callable[[JobInfo], str | None]) -> str | None:
    if job.state is JobState.DONE:
        return done(job)
    what = f"{job.kind} of {job.object}"
    if job.state is JobState.CANCELLED:
        raise Cancelled(f"{what} was cancelled", f"start it again: snapvol job retry {job.id}")
    if job.state is JobState.INTERRUPTED:
        raise SnapvolError(f"{what} was interrupted: {job.error or 'the daemon ended'}", f"snapvol job retry {job.id}")
    if not job.state.ended:
        raise SnapvolError(f"{what} has not ended, but the daemon tells no more of it", f"see: snapvol job show {job.id}")
    kind = by_kind(job.error_kind or "")
    failure = kind.__new__(kind)
    SnapvolError.__init__(failure, f"{what} failed: {job.error}", job.hint or f"see: snapvol job log {job.id}")
    raise failure
