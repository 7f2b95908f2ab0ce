"""Volumes: list, remove, rename, resize, change options, log."""

from __future__ import annotations

import sys

import click

from snapvol.api import Plan, VolumeInfo
from snapvol.cli import output
from snapvol.cli.command import command
from snapvol.cli.output import Column
from snapvol.cli.parameters import (
    NEW_VOLUME,
    OBJECT,
    VOLUME,
    ObjectRef,
    dry_run_option,
    json_option,
    pairs,
    quiet_option,
    yes_option,
)
from snapvol.cli.session import Session, pass_session
from snapvol.errors import UsageError
from snapvol.model import State
from snapvol.units import size as parsed_size


def state(volume: VolumeInfo) -> str:
    """Return how a volume is, in a word or two."""
    if volume.damaged:
        return "damaged"
    if volume.state is State.RESTORING and volume.progress is not None:
        return f"restoring {volume.progress:.0%}".replace("%", " %")
    if volume.state is not State.READY:
        return str(volume.state)
    return "in use" if volume.mounted else "ready"


def _size(volume: VolumeInfo) -> str:
    return output.size(volume.size) if volume.size is not None else "-"


VOLUME_COLUMNS = (
    Column[VolumeInfo]("NAME", lambda volume: volume.name),
    Column[VolumeInfo]("POOL", lambda volume: volume.pool),
    Column[VolumeInfo]("STATE", state),
    Column[VolumeInfo]("SIZE", _size, right=True),
    Column[VolumeInfo]("USED", lambda volume: output.size(volume.used), right=True),
    Column[VolumeInfo]("SNAPSHOTS", lambda volume: str(volume.snapshots), right=True),
    Column[VolumeInfo]("LAST SNAPSHOT", lambda volume: output.ago(volume.last_snapshot)),
    Column[VolumeInfo](
        "LAST BACKUP", lambda volume: output.ago(volume.last_backup.time if volume.last_backup else None)
    ),
)


@command("ls", "snapvol ls", "snapvol ls --json | jq '.[] | select(.last_backup == null) | .name'")
@json_option
@quiet_option
@pass_session
def ls(session: Session, as_json: bool, quiet: bool) -> None:
    """List the volumes.

    USED is as last measured; 'snapvol inspect VOLUME' tells when that was.
    """
    empty = "no volumes yet; make one: snapvol create NAME"
    output.listing(session.client.volumes(), VOLUME_COLUMNS, as_json=as_json, quiet=quiet, empty=empty)


@command("log", "snapvol log wiki")
@click.argument("volume", type=VOLUME)
@json_option
@pass_session
def log(session: Session, volume: str, as_json: bool) -> None:
    """Show what happened to a volume.

    The oldest event comes first. The log is history only: nothing is lost with it but the history.
    """
    events = session.client.log(volume)
    if as_json:
        return output.print_json(events)
    for event in events:
        print(output.printable(f"{output.exactly(event.time)}  {event.object}  {event.message}"))
    return None


@command(
    "rm",
    "snapvol rm wiki                 # undo: snapvol undelete wiki",
    "snapvol rm wiki@before          # one snapshot, for good",
    "snapvol rm --dry-run wiki db",
    exits="0 removed, 1 failed, 3 no such volume or snapshot, 4 in use, protected or held, 5 daemon unreachable.",
)
@click.argument("objects", type=OBJECT, nargs=-1, required=True, metavar="VOLUME[@SNAPSHOT]...")
@click.option("--permanent", is_flag=True, help="Pass the trash by: the volume cannot be brought back.")
@dry_run_option
@yes_option
@json_option
@pass_session
def rm(
    session: Session, objects: tuple[ObjectRef, ...], permanent: bool, dry_run: bool, yes: bool, as_json: bool
) -> None:
    """Move volumes to the trash, or destroy snapshots.

    A volume goes to the trash with its snapshots. Its name is free at once, and 'snapvol undelete' brings it back
    until the trash expires. Backups stay. A snapshot is destroyed at once.

    A volume that any process has mounted, a protected one and a held snapshot are refused.
    """
    if permanent and not dry_run and not yes:
        planned = [_remove(session, reference, permanent=True, dry_run=True) for reference in objects]
        whole = Plan(actions=[action for each in planned for action in each.actions], done=False)
        output.confirm(whole, "removing past the trash")
    plans = []
    for reference in objects:
        plans.append(_remove(session, reference, permanent=permanent, dry_run=dry_run))
        if not as_json:
            output.plan(plans[-1])
    if as_json:
        output.print_json(plans)


def _remove(session: Session, reference: ObjectRef, *, permanent: bool, dry_run: bool) -> Plan:
    if reference.name is not None:
        return session.client.destroy_snapshot(reference.volume, reference.name, dry_run=dry_run)
    return session.client.remove(reference.volume, dry_run=dry_run, permanent=permanent)


@command("rename", "snapvol rename wiki wiki-old")
@click.argument("volume", type=VOLUME)
@click.argument("new", type=NEW_VOLUME)
@pass_session
def rename(session: Session, volume: str, new: str) -> None:
    """Give a volume another name.

    Snapshots follow; its backups are found under the old name as well, because they carry the volume's identity.
    Docker does not notice a rename: containers that name the volume must be changed.
    """
    print(session.client.rename(volume, new).name)


@command("resize", "snapvol resize wiki 20G")
@click.argument("volume", type=VOLUME)
@click.argument("size")
@pass_session
def resize(session: Session, volume: str, size: str) -> None:
    """Change a volume's size.

    SIZE is a whole number and K, M, G or T, in binary units. Less than what is in use is refused.
    """
    parsed_size(size)
    print(f"{volume}: {output.size(session.client.resize(volume, size).size)}")


@command("set", "snapvol set wiki protect=true", "snapvol set wiki protect= repository=offsite")
@click.argument("volume", type=VOLUME)
@click.argument("changes", nargs=-1, required=True, metavar="KEY=VALUE...")
@json_option
@pass_session
def set_options(session: Session, volume: str, changes: tuple[str, ...], as_json: bool) -> None:
    """Change a volume's options.

    KEY=VALUE sets an option, KEY= takes it away. A size is changed by 'snapvol resize'.
    """
    given = pairs(changes, "change")
    if "size" in given:
        raise UsageError("the size is not changed by 'set'", f"snapvol resize {volume} {given['size'] or 'SIZE'}")
    info = session.client.set_options(volume, {key: value or None for key, value in given.items()})
    if as_json:
        return output.print_json(info)
    for key, value in sorted(info.options.items()):
        print(output.printable(f"{key}={value}"))
    if not info.options and sys.stdout.isatty():
        output.note(f"{volume} has no options now")
    return None
