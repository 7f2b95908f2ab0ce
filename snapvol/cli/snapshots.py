"""Snapshots: take, list, compare, go back to, hold."""

from __future__ import annotations

import click

from snapvol.api import BASE_HOLD, SnapshotInfo
from snapvol.cli import output
from snapvol.cli.command import command
from snapvol.cli.output import Column
from snapvol.cli.parameters import (
    OBJECT,
    SNAPSHOT,
    SNAPSHOT_NAME,
    VOLUME,
    ObjectRef,
    SnapshotRef,
    dry_run_option,
    json_option,
    quiet_option,
)
from snapvol.cli.session import Session, pass_session
from snapvol.errors import UsageError


def _name(snapshot: SnapshotInfo) -> str:
    return f"{snapshot.volume}@{snapshot.name}"


def _holds(snapshot: SnapshotInfo) -> str:
    words = [
        f"next backup to {hold.removeprefix(BASE_HOLD)}" if hold.startswith(BASE_HOLD) else hold
        for hold in snapshot.holds
    ]
    return ",".join(words) or "-"


SNAPSHOT_COLUMNS = (
    Column[SnapshotInfo]("SNAPSHOT", _name),
    Column[SnapshotInfo]("CREATED", lambda snapshot: output.ago(snapshot.created)),
    Column[SnapshotInfo]("BY", lambda snapshot: snapshot.made_by),
    Column[SnapshotInfo]("HOLDS", _holds),
    Column[SnapshotInfo](
        "MESSAGE", lambda snapshot: f"damaged: {snapshot.error}" if snapshot.error else snapshot.message
    ),
)


@command("snapshot", "snapvol snapshot wiki", "snapvol snapshot wiki db -n before-upgrade -m 'MediaWiki 1.46'")
@click.argument("volumes", type=VOLUME, nargs=-1, required=True, metavar="VOLUME...")
@click.option("-n", "--name", type=SNAPSHOT_NAME, help="Its name; the time where none is given.")
@click.option("-m", "--message", default="", help="What it is for.")
@json_option
@pass_session
def snapshot(session: Session, volumes: tuple[str, ...], name: str | None, message: str, as_json: bool) -> None:
    """Take a snapshot of volumes, of all at one instant.

    All volumes get a snapshot of the same name, or none does. How close to one instant they are depends on the
    storage: 'snapvol status --json' tells of each pool ("instant").
    """
    if len(set(volumes)) < len(volumes):
        raise UsageError("a volume is named twice", "name each volume once")
    taken = session.client.snapshot(volumes, name, message)
    if as_json:
        return output.print_json(taken)
    for each in taken:
        print(_name(each))
    return None


@command("snapshots", "snapvol snapshots wiki", "snapvol snapshots -q wiki | tail -1")
@click.argument("volume", type=VOLUME, required=False)
@json_option
@quiet_option
@pass_session
def snapshots(session: Session, volume: str | None, as_json: bool, quiet: bool) -> None:
    """List the snapshots.

    Of one volume, or of all; the oldest first.
    """
    empty = f"no snapshots; take one: snapvol snapshot {volume or 'VOLUME'}"
    output.listing(session.client.snapshots(volume), SNAPSHOT_COLUMNS, as_json=as_json, quiet=quiet, empty=empty)


SIGNS = {"added": "+", "removed": "-", "modified": "M"}


@command("diff", "snapvol diff wiki@before            # against the present", "snapvol diff wiki@monday wiki@friday")
@click.argument("a", type=SNAPSHOT, metavar="VOLUME@A")
@click.argument("b", type=OBJECT, required=False, metavar="[VOLUME[@B]]")
@json_option
@pass_session
def diff(session: Session, a: SnapshotRef, b: ObjectRef | None, as_json: bool) -> None:
    """Show which files differ between two points in time.

    From the snapshot A to B, or to the volume as it is now. A line begins with + (added), - (removed) or M (modified).
    """
    changes = session.client.diff(str(a), str(b or a.volume))
    if as_json:
        return output.print_json(changes)
    for change in changes:
        print(f"{SIGNS.get(change.kind, change.kind)} {output.printable(change.path)}")
    return None


@command(
    "rollback",
    "snapvol rollback --dry-run wiki@before",
    "snapvol rollback wiki@before",
    exits="0 done, 1 failed, 3 no such snapshot, 4 the volume is in use, 5 daemon unreachable.",
)
@click.argument("snapshot", type=SNAPSHOT, metavar="VOLUME@SNAPSHOT")
@dry_run_option
@json_option
@pass_session
def rollback(session: Session, snapshot: SnapshotRef, dry_run: bool, as_json: bool) -> None:
    """Take a volume back to a snapshot.

    The present state is snapshotted first, so that a rollback can be rolled back; newer snapshots stay. The volume
    must not be in use: stop its containers.
    """
    output.plan(session.client.rollback(snapshot.volume, snapshot.name, dry_run=dry_run), as_json=as_json)


tag_option = click.option("--tag", default="user", show_default=True, help="Who holds it, or why; any word.")


@command("hold", "snapvol hold wiki@before", "snapvol hold wiki@2026 --tag audit")
@click.argument("snapshot", type=SNAPSHOT, metavar="VOLUME@SNAPSHOT")
@tag_option
@pass_session
def hold(session: Session, snapshot: SnapshotRef, tag: str) -> None:
    """Keep a snapshot from being removed.

    A held snapshot, and a volume that has one, are not removed by anybody until the hold is released.
    """
    _tell(session.client.hold(snapshot.volume, snapshot.name, tag), snapshot)


@command("release", "snapvol release wiki@before", "snapvol release wiki@2026 --tag audit")
@click.argument("snapshot", type=SNAPSHOT, metavar="VOLUME@SNAPSHOT")
@tag_option
@pass_session
def release(session: Session, snapshot: SnapshotRef, tag: str) -> None:
    """Take a hold away.

    Holds with other tags stay. Releasing what is not held is no error.
    """
    _tell(session.client.release(snapshot.volume, snapshot.name, tag), snapshot)


def _tell(info: SnapshotInfo | None, snapshot: SnapshotRef) -> None:
    holds = f"held by {', '.join(info.holds)}" if info and info.holds else "not held"
    print(output.printable(f"{snapshot}: {holds}"))
