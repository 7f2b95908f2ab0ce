"""Jobs: list, show, wait for, cancel, retry, read the log of."""

from __future__ import annotations

import click

from snapvol.api import JobInfo, JobState
from snapvol.cli import output, waiting
from snapvol.cli.command import Entry, Group, command
from snapvol.cli.output import Column
from snapvol.cli.parameters import JOB, detach_option, json_option, quiet_option
from snapvol.cli.progress import amounts, described
from snapvol.cli.session import Session, pass_session
from snapvol.model import now


def _took(job: JobInfo) -> str:
    return "-" if job.started is None else output.duration(((job.ended or now()) - job.started).total_seconds())


def _remark(job: JobInfo) -> str:
    if job.state is JobState.RUNNING:
        return described(job.progress)
    if job.error:
        return job.error
    return output.count(len(job.warnings), "warning") if job.warnings else ""


JOB_COLUMNS = (
    Column[JobInfo]("ID", lambda job: job.id),
    Column[JobInfo]("KIND", lambda job: job.kind),
    Column[JobInfo]("OBJECT", lambda job: job.object),
    Column[JobInfo]("STATE", lambda job: str(job.state)),
    Column[JobInfo]("STARTED", lambda job: output.ago(job.started)),
    Column[JobInfo]("TOOK", _took),
    Column[JobInfo]("", _remark),
)


@command("jobs", "snapvol jobs", "snapvol jobs --running -q")
@click.option("--running", is_flag=True, help="Only those that have not ended.")
@json_option
@quiet_option
@pass_session
def jobs(session: Session, running: bool, as_json: bool, quiet: bool) -> None:
    """List the jobs.

    Backups, restores and verifications: those that wait, run, or ended, the newest last.
    """
    found = [job for job in session.client.jobs() if not running or not job.state.ended]
    output.listing(found, JOB_COLUMNS, as_json=as_json, quiet=quiet, empty="no jobs")


@command("show", "snapvol job show 1a2b3c4d")
@click.argument("job", type=JOB)
@json_option
@pass_session
def show(session: Session, job: str, as_json: bool) -> None:
    """Show a job whole."""
    info = session.client.job(job)
    if as_json:
        return output.print_json(info)
    rows = {
        "job": info.id,
        "what": f"{info.kind} of {info.object}",
        "state": str(info.state),
        "created": output.exactly(info.created),
        "started": output.exactly(info.started),
        "ended": output.exactly(info.ended),
        "progress": amounts(info.progress) if info.started else "-",
        **{key.replace("_", " "): _value(value) for key, value in info.result.items()},
    }
    output.fields(rows)
    output.warn(info.warnings)
    if info.error:
        output.note(f"{info.error}; {info.hint}" if info.hint else info.error)
    return None


def _value(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "-"
    return "-" if value is None else str(value)


def _ended(job: JobInfo) -> str:
    return f"{job.kind} of {job.object}: {job.state}"


@command("wait", "snapvol job wait $(snapvol backup -d wiki)", exits="0 done, 1 or as the failure says, 3 no such job.")
@click.argument("job", type=JOB)
@json_option
@pass_session
def wait(session: Session, job: str, as_json: bool) -> None:
    """Wait for a job to end.

    Shows its progress. Ctrl-C cancels the job.
    """
    waiting.settle(session.client, [session.client.job(job)], as_json=as_json, done=_ended)


@command("cancel", "snapvol job cancel 1a2b3c4d")
@click.argument("job", type=JOB)
@pass_session
def cancel(session: Session, job: str) -> None:
    """Stop a job.

    What a backup has uploaded is kept: the next one does not upload it again. A cancelled restore leaves its volume as
    it was.
    """
    session.client.cancel(job)
    print(f"{job}: cancelled")


@command("retry", "snapvol job retry 1a2b3c4d")
@click.argument("job", type=JOB)
@detach_option
@json_option
@pass_session
def retry(session: Session, job: str, detach: bool, as_json: bool) -> None:
    """Do again what a job was to do.

    For jobs that failed or were cancelled or interrupted. It is a new job.
    """
    waiting.settle(session.client, [session.client.retry(job)], detach=detach, as_json=as_json, done=_ended)


@command("log", "snapvol job log 1a2b3c4d")
@click.argument("job", type=JOB)
@pass_session
def log(session: Session, job: str) -> None:
    """Print a job's log."""
    for line in session.client.job_log(job):
        print(output.printable(line))


job = Group(
    "job",
    help="Show, wait for, cancel or retry a job.\n\n'snapvol jobs' lists them; the start of an ID is enough.",
    examples=("snapvol job wait 1a2b3c4d", "snapvol job cancel 1a2b3c4d"),
    sections={
        "Commands": {
            "show": Entry("jobs", "Show a job whole."),
            "wait": Entry("jobs", "Wait for a job to end."),
            "cancel": Entry("jobs", "Stop a job."),
            "retry": Entry("jobs", "Do again what a job was to do."),
            "log": Entry("jobs", "Print a job's log."),
        }
    },
)
