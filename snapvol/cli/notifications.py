"""Who is told what needs attention, and whether that works."""

from __future__ import annotations

import click

from snapvol.api import TargetInfo, TrialResult
from snapvol.cli import output
from snapvol.cli.command import Entry, Group, command
from snapvol.cli.output import Column
from snapvol.cli.parameters import json_option, quiet_option
from snapvol.cli.session import Session, pass_session

TARGET_COLUMNS = (
    Column[TargetInfo]("TARGET", lambda target: target.name),
    Column[TargetInfo]("SERVICE", lambda target: target.service or "-"),
    Column[TargetInfo]("LEVEL", lambda target: str(target.level)),
    Column[TargetInfo]("DIGEST", lambda target: target.digest or "-"),
    Column[TargetInfo]("OPEN", lambda target: str(target.alarms), right=True),
    Column[TargetInfo]("LAST TOLD", lambda target: output.ago(target.told)),
    Column[TargetInfo]("", lambda target: target.problem or ""),
)
TRIAL_COLUMNS = (
    Column[TrialResult]("TARGET", lambda result: result.target),
    Column[TrialResult]("", lambda result: "accepted" if result.accepted else f"not accepted: {result.problem}"),
)


@command("ls", "snapvol notify ls")
@json_option
@quiet_option
@pass_session
def ls(session: Session, as_json: bool, quiet: bool) -> None:
    """List who is told what needs attention.

    OPEN is how much of what they were told is not over yet. Of the services' URLs only the kind is shown.
    """
    listed = session.client.targets()
    output.listing(listed, TARGET_COLUMNS, as_json=as_json, quiet=quiet, empty="nobody is told: see [notify.NAME]")


@command(
    "test",
    "snapvol notify test",
    "snapvol notify test pager",
    exits="0 all have accepted it, 1 one has not, 3 no such target or none at all, 5 daemon unreachable.",
)
@click.argument("target", required=False)
@json_option
@pass_session
def test(session: Session, target: str | None, as_json: bool) -> None:
    """Send a test message, and say who has accepted it.

    The daemon sends it, to one target or to all, as it would send an alarm. Whether it has arrived only you can see.
    """
    results = session.client.test_targets(target)
    output.listing(results, TRIAL_COLUMNS, as_json=as_json)
    if not all(result.accepted for result in results):
        raise click.exceptions.Exit(1)


notify = Group(
    "notify",
    help="See who is told what needs attention, and try it.\n\nThe settings say who: [notify.NAME].",
    examples=("snapvol notify test", "snapvol notify ls"),
    sections={
        "Commands": {
            "ls": Entry("notifications", "List who is told what needs attention."),
            "test": Entry("notifications", "Send a test message, and say who has accepted it."),
        }
    },
)
