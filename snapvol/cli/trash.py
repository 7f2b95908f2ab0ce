"""The trash: what was removed and can still be brought back."""

from __future__ import annotations

import click

from snapvol.api import TrashInfo
from snapvol.cli import output
from snapvol.cli.command import command
from snapvol.cli.output import Column
from snapvol.cli.parameters import NEW_VOLUME, TRASHED, dry_run_option, json_option, quiet_option, yes_option
from snapvol.cli.session import Session, pass_session
from snapvol.model import now


def _expiry(item: TrashInfo) -> str:
    if item.expires is None:
        return "-"
    seconds = (item.expires - now()).total_seconds()
    return f"in {output.duration(seconds)}" if seconds > 0 else "now"


TRASH_COLUMNS = (
    Column[TrashInfo]("NAME", lambda item: item.name),
    Column[TrashInfo]("POOL", lambda item: item.pool),
    Column[TrashInfo]("REMOVED", lambda item: output.ago(item.deleted)),
    Column[TrashInfo]("EXPIRES", _expiry),
    Column[TrashInfo]("ID", lambda item: item.id),
    Column[TrashInfo]("", lambda item: f"damaged: {item.error}" if item.error else ""),
)


@command("trash", "snapvol trash")
@json_option
@quiet_option
@pass_session
def trash(session: Session, as_json: bool, quiet: bool) -> None:
    """List the removed volumes that can still be brought back.

    Several may have had the same name: their IDs tell them apart.
    """
    output.listing(session.client.trash(), TRASH_COLUMNS, as_json=as_json, quiet=quiet, empty="the trash is empty")


@command("undelete", "snapvol undelete wiki", "snapvol undelete wiki --name wiki-old")
@click.argument("removed", type=TRASHED, metavar="NAME|ID")
@click.option("--name", type=NEW_VOLUME, help="Bring it back under this name, where its own is taken.")
@pass_session
def undelete(session: Session, removed: str, name: str | None) -> None:
    """Bring a removed volume back.

    With its snapshots and options. Of several with the same name the one removed last comes back.
    """
    print(session.client.undelete(removed, name).name)


@command(
    "empty-trash",
    "snapvol empty-trash --dry-run",
    "snapvol empty-trash wiki",
    "snapvol empty-trash --yes",
    exits="0 done, 1 failed, 3 nothing of that name in the trash, 4 not confirmed, 5 daemon unreachable.",
)
@click.argument("removed", type=TRASHED, metavar="[NAME|ID]", required=False)
@dry_run_option
@yes_option
@json_option
@pass_session
def empty_trash(session: Session, removed: str | None, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Remove what is in the trash for good.

    All of it, or one volume. Asks before it does, or needs --yes where nobody can be asked. Backups stay.
    """
    if not dry_run and not yes:
        planned = session.client.empty_trash(removed, dry_run=True)
        if not planned.actions:
            return output.plan(planned, as_json=as_json)
        output.confirm(planned, "emptying the trash")
    return output.plan(session.client.empty_trash(removed, dry_run=dry_run), as_json=as_json)
