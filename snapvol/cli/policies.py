"""Policies: list, show, set, remove, run, simulate."""

from __future__ import annotations

import click

from snapvol.api import Forecast, JobInfo, PolicyInfo, Protected
from snapvol.cli import output, waiting
from snapvol.cli.command import Entry, Group, command
from snapvol.cli.output import Column
from snapvol.cli.parameters import POLICY, detach_option, json_option, pairs, quiet_option
from snapvol.cli.session import Session, pass_session


def _field(key: str) -> Column[PolicyInfo]:
    return Column[PolicyInfo](key.upper().replace(".", " "), lambda policy: str(policy.fields.get(key, "-")))


POLICY_COLUMNS = (
    Column[PolicyInfo]("POLICY", lambda policy: policy.name),
    _field("snapshot.schedule"),
    _field("snapshot.keep"),
    _field("backup.schedule"),
    _field("backup.keep"),
    Column[PolicyInfo]("VOLUMES", lambda policy: str(len(policy.volumes)), right=True),
)
VOLUME_COLUMNS = (
    Column[Protected]("VOLUME", lambda it: it.volume),
    Column[Protected]("LAST SNAPSHOT", lambda it: output.ago(it.last_snapshot)),
    Column[Protected]("NEXT SNAPSHOT", lambda it: output.exactly(it.next_snapshot)),
    Column[Protected]("LAST BACKUP", lambda it: output.ago(it.last_backup)),
    Column[Protected]("NEXT BACKUP", lambda it: output.exactly(it.next_backup)),
)
FORECAST_COLUMNS = (
    Column[Forecast]("VOLUME", lambda it: it.volume),
    Column[Forecast]("WHAT", lambda it: it.what),
    Column[Forecast]("AFTER", lambda it: it.after),
    Column[Forecast]("KEPT", lambda it: str(it.points), right=True),
    Column[Forecast]("OLDEST", lambda it: output.exactly(it.oldest)),
    Column[Forecast]("ABOUT", lambda it: "-" if it.bytes is None else output.size(it.bytes), right=True),
)


@command("ls", "snapvol policy ls", "snapvol policy ls -q")
@json_option
@quiet_option
@pass_session
def ls(session: Session, as_json: bool, quiet: bool) -> None:
    """List the policies."""
    empty = "no policies; make one: snapvol policy set NAME snapshot.schedule=hourly snapshot.keep='24h 7d'"
    output.listing(session.client.policies(), POLICY_COLUMNS, as_json=as_json, quiet=quiet, empty=empty)


@command("show", "snapvol policy show standard", exits="0 shown, 3 no such policy, 5 daemon unreachable.")
@click.argument("policy", type=POLICY)
@json_option
@pass_session
def show(session: Session, policy: str, as_json: bool) -> None:
    """Show a policy, and when its volumes have their turn."""
    _show(session.client.policy(policy), as_json=as_json)


def _show(info: PolicyInfo, *, as_json: bool) -> None:
    if as_json:
        return output.print_json(info)
    output.fields({"policy": info.name, "from": info.origin, **{key: _text(it) for key, it in info.fields.items()}})
    if info.volumes:
        print()
        output.listing(info.volumes, VOLUME_COLUMNS)
    else:
        output.note(f"it protects no volume; give it one: snapvol set VOLUME policy={info.name}")
    return None


def _text(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


@command(
    "set",
    "snapvol policy set standard snapshot.schedule=hourly snapshot.keep='24h 7d'",
    "snapvol policy set standard backup.schedule=03:00 backup.keep='7d 4w 12m'",
    "snapvol policy set standard time_zone=Europe/Berlin jitter=10m backup.window=22:00-06:00",
    "snapvol policy set standard 'volumes=db-*, wiki' labels=com.docker.compose.project=shop",
    exits="0 done, 2 it would be wrong, 4 it is one of the settings file, 5 daemon unreachable.",
)
@click.argument("policy", type=POLICY)
@click.argument("changes", nargs=-1, required=True, metavar="KEY=VALUE...")
@json_option
@pass_session
def set_policy(session: Session, policy: str, changes: tuple[str, ...], as_json: bool) -> None:
    """Make a policy, or change one; it is in force at once.

    Schedules are hourly, daily, weekly, monthly, a time (03:00), or five fields of cron. What to keep is written as in
    '24h 7d 4w 12m 3y', 'last 5' or 'within 48h': the newest point of so many hours, days, weeks, months and years.
    KEY= takes a key away. Policies of the settings file are changed there.
    """
    given = pairs(changes, "change")
    _show(session.client.set_policy(policy, {key: value or None for key, value in given.items()}), as_json=as_json)


@command("rm", "snapvol policy rm old", exits="0 done, 3 no such policy, 4 a volume or pool names it.")
@click.argument("policy", type=POLICY)
@pass_session
def rm(session: Session, policy: str) -> None:
    """Remove a policy.

    What it made stays, and is no longer thinned out. Refused while a volume or a pool names it.
    """
    session.client.remove_policy(policy)
    print(policy)


@command("run", "snapvol policy run standard", exits="0 done, 3 no such policy, or it protects nothing.")
@click.argument("policy", type=POLICY)
@detach_option
@json_option
@pass_session
def run(session: Session, policy: str, detach: bool, as_json: bool) -> None:
    """Do now what a policy does by its schedules.

    Snapshots all its volumes and backs them up, and waits for the backups.
    """
    jobs = session.client.run_policy(policy)
    if jobs or as_json:
        return waiting.settle(session.client, jobs, detach=detach, as_json=as_json, done=_ended)
    return print(f"{policy}: done")


def _ended(job: JobInfo) -> str:
    return f"{job.kind} of {job.object}: {job.state}"


@command("simulate", "snapvol policy simulate standard")
@click.argument("policy", type=POLICY)
@json_option
@pass_session
def simulate(session: Session, policy: str, as_json: bool) -> None:
    """Say what a policy will have kept in a day, in 30 days and in a year.

    ABOUT is what the backups will take in their repository, by what those so far have added.
    """
    output.listing(session.client.simulate_policy(policy), FORECAST_COLUMNS, as_json=as_json)


policy = Group(
    "policy",
    help="Protect volumes by the clock: what policies there are, what they do and what they keep.\n\n"
    "A volume has a policy by its option (snapvol set VOLUME policy=NAME), by a policy's patterns of names or Docker\n"
    "labels, or by its pool's defaults; policy=none keeps it from all. Only what policies made is ever removed by them.",
    examples=(
        "snapvol policy set standard snapshot.schedule=hourly snapshot.keep='24h 7d' backup.schedule=03:00 "
        "backup.keep='7d 4w 12m'",
        "snapvol set wiki policy=standard",
        "snapvol policy show standard",
    ),
    sections={
        "Commands": {
            "ls": Entry("policies", "List the policies."),
            "show": Entry("policies", "Show a policy, and when its volumes have their turn."),
            "set": Entry("policies:set_policy", "Make a policy, or change one; it is in force at once."),
            "rm": Entry("policies", "Remove a policy."),
            "run": Entry("policies", "Do now what a policy does by its schedules."),
            "simulate": Entry("policies", "Say what a policy will have kept in a day, in 30 days and in a year."),
        }
    },
)
