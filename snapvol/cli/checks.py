"""Looking for damage in a repository: its structure, and as much of its contents as is asked for."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import click

from snapvol.cli import output
from snapvol.cli.access import Access, access_options, opened
from snapvol.cli.command import command
from snapvol.cli.parameters import json_option
from snapvol.cli.progress import Counter, display
from snapvol.cli.session import Session, pass_session
from snapvol.errors import Damaged, UsageError

if TYPE_CHECKING:
    from snapvol.repository import CheckReport
    from snapvol.repository.portions import Amount, Portion
    from snapvol.service.scrubbing import KeptScrub, Scrubbed

_READ_DATA = "--read-data, --read-data-subset and --scrub"


@command(
    "check",
    "snapvol repo check",
    "snapvol repo check --read-data         # reads every byte: takes as long as a restore of everything",
    "snapvol repo check --scrub 5%          # from a timer: within 20 runs every byte was read",
    "snapvol repo check --read-data-subset 1/7",
    exits="0 no damage, 1 damage, 3 no repository, 4 locked by another program, 5 its storage does not answer.",
)
@click.option("--read-data", is_flag=True, help="Read and check all contents, not only the structure.")
@click.option(
    "--read-data-subset",
    metavar="5%|10G|1/7",
    help="Of a part of the packs: so many at random, or the first of seven parts that are always the same.",
)
@click.option(
    "--scrub",
    metavar="5%|10G",
    help="Of those packs that were read longest ago. What was read when is remembered on this machine.",
)
@access_options
@json_option
@pass_session
def check(
    session: Session,
    access: Access,
    read_data: bool,
    read_data_subset: str | None,
    scrub: str | None,
    as_json: bool,
) -> None:
    """Look for damage in a repository, and name the backups that it hits.

    Every backup that is not named restores. Damage of which the live volumes still have the contents is mended by
    'snapvol repo repair index --read-data' and backing them up again.

    A scrub that is interrupted goes on with the next one. Packs that it finds damaged come first again next time.
    """
    if sum((read_data, read_data_subset is not None, scrub is not None)) > 1:
        raise UsageError(f"{_READ_DATA} say how much is read: one of them at a time", "leave the others out")
    chosen = read_data if read_data_subset is None else _subset(read_data_subset)
    scrubs = _amount(scrub) if scrub is not None else None
    with opened(session, access) as repository, _scrub(session, access, scrubs, repository.id) as scrubbing:
        with repository.lock(), display() as shown:
            report = repository.check(chosen if scrubbing is None else scrubbing, Counter("check", shown))
        location = repository.store.location
        scrubbed = scrubbing.result(report.packs) if scrubbing is not None else None
    if as_json:
        _print_json(report, scrubbed)
    else:
        _print(report)
        if scrubbed is not None or read_data_subset is not None:
            print(f"{location}: {_amount_read(report, scrubbed)}")
    if report.problems:
        raise Damaged(f"{location}: {output.count(len(report.problems), 'problem')} found", _next(report))
    if not as_json:
        print(f"{location}: no damage found in {output.count(report.snapshots, 'backup')}")


def _subset(text: str) -> Portion:
    from snapvol.repository.portions import subset

    return subset(text)


def _amount(text: str) -> Amount:
    from snapvol.repository.portions import amount

    return amount(text)


def _scrub(
    session: Session, access: Access, amount: Amount | None, repository: str
) -> AbstractContextManager[KeptScrub | None]:
    if amount is None:
        return nullcontext()
    from snapvol.service.scrubbing import record_file, scrub

    return scrub(record_file(None if access.url else session.settings, repository), repository, amount)


def _print_json(report: CheckReport, scrubbed: Scrubbed | None) -> None:
    import msgspec

    whole = msgspec.to_builtins(report)
    output.print_json(whole if scrubbed is None else {**whole, "scrubbed": scrubbed})


def _print(report: CheckReport) -> None:
    for problem in report.problems:
        hit = ", ".join(backup[:8] for backup in problem.snapshots_hit)
        print(output.printable(f"{problem.object}: {problem.what}{f' (in backups {hit})' if hit else ''}"))
        for file in problem.files:
            print(output.printable(f"  {file}"))


def _next(report: CheckReport) -> str:
    """Return what helps: where nothing but pieces are missing any more, the indexes need no repair."""
    from snapvol.repository.findings import UNINDEXED

    if all(problem.what == UNINDEXED for problem in report.problems):
        return "back the volumes up again; if it is lost for good: snapvol repo repair backups"
    return "snapvol repo repair index --read-data, then back the volumes up again; or bring it back from a copy"


def _amount_read(report: CheckReport, scrubbed: Scrubbed | None) -> str:
    done = f"read {report.packs_read} of {output.count(report.packs, 'pack')}, {output.size(report.bytes_read)}"
    if scrubbed is None:
        return done
    if scrubbed.since is None:
        return f"{done}; {scrubbed.unread} not yet read and found whole"
    return f"{done}; every pack was read since {scrubbed.since.astimezone():%Y-%m-%d}"
