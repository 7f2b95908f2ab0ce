"""Backups copied from one repository into another, in this process."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from snapvol.cli import output
from snapvol.cli.access import ADDRESSING, FILE, Access, access_options, opened
from snapvol.cli.command import command
from snapvol.cli.parameters import BACKUP, VOLUME, dry_run_option, json_option
from snapvol.cli.progress import Counter, display
from snapvol.cli.session import Session, pass_session
from snapvol.errors import Damaged, NotFound, UsageError

if TYPE_CHECKING:
    from snapvol.engine.copier import CopiedBackup, CopyResult
    from snapvol.repository import Repository

_TARGET = (
    click.option(
        "--to",
        "--to-repository",
        "to_repository",
        required=True,
        metavar="NAME|URL",
        help="Where to: a configured repository, s3://BUCKET/PREFIX, or a path.",
    ),
    click.option("--to-password-file", type=FILE, metavar="FILE", help="Its first line is the password there."),
    click.option("--to-endpoint", metavar="URL", help="The S3 server there; AWS without it."),
    click.option("--to-region", metavar="NAME", help="The S3 region there."),
    click.option("--to-addressing", type=click.Choice(ADDRESSING), help="How the bucket there enters the URL."),
    click.option("--to-ca-file", type=FILE, metavar="FILE", help="Certificates to trust instead of the system's."),
    click.option("--to-credentials-file", type=FILE, metavar="FILE", help="An AWS credentials file for there."),
    click.option("--to-profile", metavar="NAME", help="The profile in it."),
)


def _target_options(function: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say where to; the function gets them as ``target``."""

    @functools.wraps(function)
    def gathered(*arguments: Any, **keywords: Any) -> None:
        given = {name: keywords.pop(f"to_{name}") for name in Access.__struct_fields__ if f"to_{name}" in keywords}
        function(*arguments, target=Access(**given), **keywords)

    for option in reversed(_TARGET):
        gathered = option(gathered)
    return gathered


@command(
    "copy",
    "snapvol repo copy --to offsite                      # all backups that are not there yet",
    "snapvol repo copy --to offsite --volume wiki",
    "snapvol repo copy 1a2b3c4d wiki@2026-11-20 --to s3://backups/host1 --to-password-file F",
    exits="0 done, 1 not all could be copied, 3 no such backup or repository, 4 locked, 5 a storage does not answer.",
)
@click.argument("chosen", type=BACKUP, nargs=-1, metavar="[BACKUP...]")
@click.option("--volume", type=VOLUME, help="All backups of this volume.")
@_target_options
@access_options
@dry_run_option
@json_option
@pass_session
def copy(
    session: Session,
    chosen: tuple[str, ...],
    volume: str | None,
    target: Access,
    access: Access,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Copy backups to another repository, which gets only what it does not have.

    All of them, those of a volume, or the named ones: an ID, a VOLUME (its newest) or VOLUME@TIME. Those that are there
    already are passed over, so a timer may run this after each backup; interrupted, it goes on with what it has
    uploaded. Both repositories stay in use meanwhile. Their passwords may differ.
    """
    if chosen and volume is not None:
        raise UsageError("both backups and --volume are given", "leave one of them out")
    with opened(session, access) as source, opened(session, target) as other:
        ids = _chosen(source, chosen, volume)
        from snapvol.engine.copier import copy as copied

        with display() as shown:
            result = copied(source, other, chosen=ids, dry_run=dry_run, progress=Counter("copy", shown))
        location = other.store.location
    if as_json:
        output.print_json(result)
    else:
        _print(result, location, dry_run=dry_run)
    output.warn(result.notes)
    failed = [item.backup.short_id for item in result.backups if item.failed is not None]
    failed += [name.removeprefix("snapshots/")[:8] for name in result.unreadable]
    if failed:
        raise Damaged(f"not copied, because they are damaged: {', '.join(failed)}", "see: snapvol repo check")


def _chosen(source: Repository, texts: tuple[str, ...], volume: str | None) -> list[str] | None:
    from snapvol.engine.backups import backups, select

    if volume is not None:
        found = [backup.id for backup in backups(source, volume)]
        if not found:
            raise NotFound(f"volume '{volume}' has no backup in {source.store.location}", "see: snapvol backups")
        return found
    return [select(source, text).id for text in texts] or None


def _print(result: CopyResult, location: str, *, dry_run: bool) -> None:
    for item in result.backups:
        print(output.printable(f"backup {item.backup.short_id}: {_outcome(item, dry_run=dry_run)} ({_what(item)})"))
    for name in result.unreadable:
        print(f"{name}: not copied: it cannot be read")
    copied = [item for item in result.backups if item.failed is None]
    added = output.size(sum(item.bytes for item in copied))
    did = "would be copied" if dry_run else "copied"
    print(f"{location}: {output.count(len(copied), 'backup')} {did}, {added} new there; {result.present} there already")


def _outcome(item: CopiedBackup, *, dry_run: bool) -> str:
    if item.failed is not None:
        return f"not copied: {item.failed}"
    did = "would be copied" if dry_run or item.new is None else f"copied as {item.new[:8]}"
    return f"{did}, {output.size(item.bytes)} new there"


def _what(item: CopiedBackup) -> str:
    name = item.backup.volume or item.backup.host or "unknown"
    return f"{name}, {output.exactly(item.backup.time)}"
