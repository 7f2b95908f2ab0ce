"""Repositories: free space."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from snapvol.cli import output
from snapvol.cli.access import Access, access_options, opened
from snapvol.cli.command import command
from snapvol.cli.parameters import dry_run_option, json_option
from snapvol.cli.progress import Counter, display
from snapvol.cli.session import Session, pass_session

if TYPE_CHECKING:
    from snapvol.repository.plan import Figures
    from snapvol.repository.prune import Outcome


@command(
    "prune",
    "snapvol repo prune --dry-run",
    "snapvol repo prune",
    "snapvol repo prune --max-unused 0 --wait 2h",
    "snapvol repo prune --max-repack-size 10G       # at most so much is read and written again",
    exits="0 done, 1 damage, 3 no repository, 4 locked by another program, 5 its storage does not answer.",
)
@click.option(
    "--max-unused",
    default="5%",
    show_default=True,
    metavar="SHARE|SIZE|unlimited",
    help="How much of what is left may be unneeded: packs that are mostly needed are not copied for the rest.",
)
@click.option("--max-repack-size", metavar="SIZE", help="Read and write again at most so many bytes of packs.")
@click.option(
    "--wait",
    default="30m",
    show_default=True,
    metavar="TIME",
    help="How long to wait for backups of other hosts before deleting.",
)
@access_options
@dry_run_option
@json_option
@pass_session
def prune(
    session: Session,
    access: Access,
    max_unused: str,
    max_repack_size: str | None,
    wait: str,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Free the space of what no backup needs any more.

    Forgotten backups and killed runs leave it behind. Most of the work is done beside running backups, of this and of
    other hosts; before anything is deleted it waits until none is at work, and looks at what they brought. Packs that
    are needed in part are copied without the rest, which takes space for a moment.

    Where anything cannot be read nothing is deleted: what is needed is not known then. It can be stopped at any time:
    the next one goes on.
    """
    from snapvol.repository.plan import limits
    from snapvol.settings import duration

    wanted, seconds = limits(max_unused, max_repack_size), duration(wait)
    with opened(session, access) as repository:
        with display() as shown:
            counter = Counter("prune", shown)
            outcome = repository.prune(wanted, dry_run=dry_run, wait=seconds, progress=counter)
        location = repository.store.location
    if as_json:
        output.print_json(outcome)
    else:
        _say(location, outcome)


def _say(location: str, outcome: Outcome) -> None:
    plan = outcome.plan
    if not outcome.done:
        output.fields(_planned(plan))
        return
    if not outcome.packs_deleted:
        print(output.printable(f"{location}: nothing to free, {output.size(plan.unneeded_left)} unneeded"))
        return
    freed = f"{output.size(outcome.bytes_freed)} freed, {output.count(outcome.packs_deleted, 'pack')} deleted"
    left = f"{output.size(plan.unneeded_left)} unneeded left"
    print(output.printable(f"{location}: {freed}, {output.size(plan.bytes_copied)} copied, {left}"))
    if outcome.packs_spared:
        output.note(f"{output.count(outcome.packs_spared, 'pack')} spared, which new backups use: the next prune looks")


def _planned(plan: Figures) -> dict[str, str]:
    cost = plan.requests
    return {
        "needed": f"{output.size(plan.needed_bytes)} by {output.count(plan.snapshots, 'backup')}",
        "would delete": f"{output.count(plan.packs_deleted, 'pack')} without anything needed",
        "would delete too": f"{output.count(plan.packs_unreferenced, 'pack')} that no index names",
        "would repack": f"{output.count(plan.packs_repacked, 'pack')}, copying {output.size(plan.bytes_copied)}",
        "would replace": output.count(plan.indexes_replaced, "index", "indexes"),
        "would free": f"{output.size(plan.bytes_freed)}, {output.count(plan.blobs_deleted, 'blob')}",
        "unneeded left": output.size(plan.unneeded_left),
        "requests": f"about {cost.list} LIST, {cost.get} GET, {cost.put} PUT, {cost.delete} DELETE",
    }
