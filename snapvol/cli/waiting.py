"""Waiting for jobs: shows how far they are, passes their warnings on, and cancels them on Ctrl-C."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

from snapvol.api import JobInfo, JobState
from snapvol.cli import output
from snapvol.cli.progress import Display, display
from snapvol.client import Client, rebuilt
from snapvol.errors import Cancelled, Refused, SnapvolError


def settle(
    client: Client,
    jobs: Sequence[JobInfo],
    *,
    detach: bool = False,
    as_json: bool = False,
    done: Callable[[JobInfo], str],
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
        return output.print_json(jobs) if as_json else print("\n".join(job.id for job in jobs))
    ended = follow(client, jobs)
    if as_json:
        output.print_json(ended if len(ended) != 1 else ended[0])
    failures = []
    for job in ended:
        try:
            line = _outcome(job, done)
        except SnapvolError as error:
            failures.append(error)
        else:
            if not as_json:
                print(output.printable(line))
    for failure in failures[:-1]:
        output.note(str(failure))
    if failures:
        raise failures[-1]
    return None


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


def _watch(client: Client, started: JobInfo, shown: Display) -> JobInfo:
    last, warned = started, 0
    for last in client.watch(started.id):
        if not last.state.ended:
            shown.show(f"{last.kind} of {last.object}", last.progress)
        for warning in last.warnings[warned:]:
            shown.say(f"snapvol: warning: {warning}")
        warned = max(warned, len(last.warnings))
    return last if last.state.ended else client.job(last.id)


def _cancel(client: Client, jobs: Sequence[JobInfo], ended: list[JobInfo], shown: Display) -> list[JobInfo]:
    shown.say("snapvol: cancelling; press Ctrl-C again to leave without waiting")
    for job in jobs[len(ended) :]:
        with suppress(Refused):  # it has just ended
            client.cancel(job.id)
    return [*ended, *(_watch(client, job, shown) for job in jobs[len(ended) :])]


def _outcome(job: JobInfo, done: Callable[[JobInfo], str]) -> str:
    if job.state is JobState.DONE:
        return done(job)
    what = f"{job.kind} of {job.object}"
    if job.state is JobState.CANCELLED:
        raise Cancelled(f"{what} was cancelled", f"start it again: snapvol job retry {job.id}")
    if job.state is JobState.INTERRUPTED:
        raise SnapvolError(
            f"{what}: {job.error or 'interrupted'}", job.hint or f"retry with: snapvol job retry {job.id}"
        )
    if not job.state.ended:
        raise SnapvolError(f"{what} goes on, but the daemon tells no more of it", f"see: snapvol job show {job.id}")
    raise rebuilt(job.error_kind or "", f"{what} failed: {job.error}", job.hint or f"see: snapvol job log {job.id}")


def figures(job: JobInfo) -> str:
    """Return what a job has done, in figures: files, their sizes, what was read and new of that, how long it took."""
    result, progress = job.result, job.progress
    files = result.get("files", progress.files_done)
    written = result.get("bytes_written", 0) + result.get("bytes_kept", 0) or progress.bytes_done
    size = result.get("bytes_total", result.get("bytes", written))
    parts = [output.count(files, "file"), output.size(size)]
    if result.get("base") is not None:
        parts.append(f"{output.size(result['bytes_read'])} of it read")
    if "bytes_added" in result:
        parts.append(f"{output.size(result['bytes_added'])} of it new")
    if job.started and job.ended:
        parts.append(f"in {output.duration((job.ended - job.started).total_seconds())}")
    return ", ".join(parts)
