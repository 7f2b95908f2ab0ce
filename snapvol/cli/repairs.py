"""Mending a repository in which a check found damage."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from snapvol.api import Action, Plan
from snapvol.cli import output
from snapvol.cli.access import Access, access_options, opened
from snapvol.cli.command import Entry, Group, command
from snapvol.cli.parameters import BACKUP, dry_run_option, json_option, yes_option
from snapvol.cli.progress import Counter, display
from snapvol.cli.session import Session, pass_session

if TYPE_CHECKING:
    from snapvol.engine.backup_repair import BackupRepair, RepairedBackup
    from snapvol.repository.index_repair import IndexRepair

_EXITS = "0 done or nothing to do, 3 no repository, 4 locked by another program, 5 its storage does not answer."


@command(
    "index",
    "snapvol repo repair index --dry-run",
    "snapvol repo repair index --read-data  # after a check --read-data that named damaged packs",
    exits=_EXITS,
)
@click.option("--read-data", is_flag=True, help="Read all packs, not only those whose size is wrong.")
@access_options
@dry_run_option
@json_option
@pass_session
def index(session: Session, access: Access, read_data: bool, dry_run: bool, as_json: bool) -> None:
    """Make indexes anew that are damaged or lost, or that name packs which are damaged or gone.

    What is whole in a damaged pack is copied into new packs before it is removed. What is lost is in no index any more:
    the next backup of a volume that still has it uploads it again, and all older backups that share it are whole again.
    Nobody else may use the repository meanwhile. Interrupted at any moment it leaves what can be read readable; run it
    again.
    """
    with opened(session, access.uncached) as repository, display() as shown:
        report = repository.repair_index(read_data=read_data, dry_run=dry_run, progress=Counter("repair", shown))
    if as_json:
        return output.print_json(report)
    output.plan(Plan(actions=_index_actions(report), done=not dry_run))
    output.warn(f"{pack.name} {pack.problem}: left as it is" for pack in report.left_packs)
    if report.lost_blobs:
        output.note(
            f"{output.count(report.lost_blobs, 'piece')} without any whole copy; back the volumes up again, which "
            "uploads what they have of it, then: snapvol repo check; for the rest: snapvol repo repair backups"
        )
    return None


def _index_actions(report: IndexRepair) -> list[Action]:
    actions = []
    for pack in report.damaged_packs:
        pieces = f"{pack.kept} of {output.count(pack.blobs, 'piece')}"
        actions.append(Action(verb="rescue", object=pieces, target=f"of {pack.name}", detail=pack.problem))
    for pack in report.entered_packs:
        detail = f"{output.count(pack.blobs, 'piece')}; it {pack.problem}"
        actions.append(Action(verb="enter", object=pack.name, target="in an index", detail=detail))
    for name, why in sorted(report.replaced_indexes.items()):
        actions.append(Action(verb="replace", object=name, detail=why))
    for pack in report.damaged_packs:
        actions.append(Action(verb="remove", object=pack.name, detail=pack.problem))
    return actions


@command(
    "backups",
    "snapvol repo repair backups --dry-run",
    "snapvol repo repair backups --forget   # the damaged ones go when those of the rest are there",
    "snapvol repo repair backups 1a2b3c4d",
    exits="0 done or nothing to do, 3 no such backup, 4 locked, not confirmed or too early, 5 unreachable.",
)
@click.argument("chosen", type=BACKUP, nargs=-1, metavar="[BACKUP...]")
@click.option("--forget", is_flag=True, help="Remove the damaged backups, and records that cannot be read.")
@access_options
@dry_run_option
@yes_option
@json_option
@pass_session
def backups(
    session: Session, chosen: tuple[str, ...], access: Access, forget: bool, dry_run: bool, yes: bool, as_json: bool
) -> None:
    """Make backups that have lost something anew without it.

    First: 'snapvol repo repair index --read-data', and back the volumes up again: what they still have is whole again
    then, in old backups too. What is still lost after that is for this command. A file that lost pieces is left out;
    what is left of it is in NAME.partial. Each new backup is marked incomplete and lists what is lost; an image of a
    block device restores to a file only. Without --forget the damaged ones stay beside the new ones.
    """
    if forget and not dry_run and not yes:
        planned = _repair(session, access, chosen, forget=True, dry_run=True)
        _print(planned, dry_run=True)
        output.confirm(Plan(actions=_doomed(planned), done=False), "forgetting damaged backups")
    report = _repair(session, access, chosen, forget=forget, dry_run=dry_run)
    if as_json:
        output.print_json(report)
    else:
        _print(report, dry_run=dry_run)


def _repair(session: Session, access: Access, chosen: tuple[str, ...], *, forget: bool, dry_run: bool) -> BackupRepair:
    from snapvol.engine.backup_repair import repair_backups
    from snapvol.engine.backups import select

    with opened(session, access.uncached) as repository, display() as shown:
        ids = [select(repository, text).id for text in chosen]
        progress = Counter("repair", shown)
        return repair_backups(repository, chosen=ids, forget=forget, dry_run=dry_run, progress=progress)


def _doomed(report: BackupRepair) -> list[Action]:
    return [
        Action(verb="forget", object=f"backup {item.backup.short_id}", detail=_what(item))
        for item in report.backups
        if item.forgotten
    ] + [Action(verb="forget", object=name, detail="it cannot be read") for name in report.unreadable]


def _print(report: BackupRepair, *, dry_run: bool) -> None:
    if not report.backups and not report.unreadable:
        print("no backup has lost anything")
    for item in report.backups:
        print(output.printable(f"{_outcome(item, dry_run=dry_run)} ({_what(item)})"))
        for problem in item.lost:
            print(output.printable(f"  {problem}"))
    for name in report.unreadable:
        forgotten = f"{'would be ' if dry_run else ''}forgotten" if report.forgotten else "left; to remove it: --forget"
        print(f"{name} cannot be read: {forgotten}")


def _outcome(item: RepairedBackup, *, dry_run: bool) -> str:
    short = item.backup.short_id
    old = "is left"
    if item.forgotten:
        old = "would be forgotten" if dry_run else "is forgotten"
    if item.hopeless is not None:
        left = "nothing is left of it" if item.nothing_left else "nothing can be made of what is left"
        return f"backup {short}: {left}: {item.hopeless}; it {old}"
    made = "would be made anew" if item.new is None else f"made anew as {item.new[:8]}"
    return f"backup {short}: {made}, {output.count(len(item.lost), 'loss', 'losses')}; the old one {old}"


def _what(item: RepairedBackup) -> str:
    name = item.backup.volume or item.backup.host or "unknown"
    return f"{name}, {output.exactly(item.backup.time)}"


repair = Group(
    "repair",
    help="Mend a repository in which 'snapvol repo check' found damage.\n\n"
    "In this order: 'repair index --read-data'; back the volumes up again; 'check'; and only for what is still lost,\n"
    "'repair backups'.",
    examples=("snapvol repo repair index --dry-run", "snapvol repo repair backups --dry-run"),
    sections={
        "Commands": {
            "index": Entry(
                "repairs",
                "Make indexes anew that are damaged or lost, or that name packs which are damaged or gone.",
            ),
            "backups": Entry("repairs", "Make backups that have lost something anew without it."),
        }
    },
)
