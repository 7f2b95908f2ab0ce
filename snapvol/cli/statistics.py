"""Repositories: what the space goes to."""

from __future__ import annotations

from snapvol.cli import output
from snapvol.cli.access import Access, access_options, opened
from snapvol.cli.command import command
from snapvol.cli.output import Column
from snapvol.cli.parameters import json_option
from snapvol.cli.progress import Counter, display
from snapvol.cli.session import Session, pass_session
from snapvol.engine.statistics import Statistics, VolumeStatistics, statistics

_COLUMNS = (
    Column[VolumeStatistics]("VOLUME", lambda it: it.volume or f"{it.host}:{' '.join(it.paths)}"),
    Column[VolumeStatistics]("BACKUPS", lambda it: str(it.backups), right=True),
    Column[VolumeStatistics]("SIZE", lambda it: output.size(it.size), right=True),
    Column[VolumeStatistics]("STORED", lambda it: output.size(it.stored), right=True),
    Column[VolumeStatistics]("UNIQUE", lambda it: output.size(it.unique), right=True),
)


@command(
    "stats",
    "snapvol repo stats",
    "snapvol repo stats --json",
    exits="0 done, 1 damage, 3 no repository, 4 locked by another program, 5 its storage does not answer.",
)
@access_options
@json_option
@pass_session
def stats(session: Session, access: Access, as_json: bool) -> None:
    """Show what the space of a repository goes to.

    For each volume the SIZE of its newest backup, the bytes STORED that its backups need, and those that nothing else
    needs (UNIQUE): forgetting all of its backups frees them. Then the whole repository: how well it compresses and
    deduplicates, what the next prune can free, and what each of the last backups added. Reads all directories.
    """
    with opened(session, access) as repository:
        with repository.lock(), display() as shown:
            found = statistics(repository, Counter("stats", shown))
        output.warn(f"backup {id[:8]} is not counted: {error.message}" for id, error in repository.damaged_snapshots)
    if as_json:
        output.print_json(found)
    else:
        _say(found)


def _say(found: Statistics) -> None:
    output.listing(found.volumes, _COLUMNS)
    print()
    output.fields(
        {
            "backups": f"{found.backups}, {output.size(found.logical)} of files",
            "stored": f"{output.size(found.stored)} in {output.count(found.packs, 'pack')}",
            "blobs": str(found.blobs),
            "compression": f"{found.compression:.2f}",
            "deduplication": f"{found.deduplication:.2f} (files of all backups / stored)",
            "not needed": f"{output.size(found.unneeded)}, which snapvol repo prune --max-unused 0 frees",
        }
    )
    for grown in found.growth:
        added = "unknown" if grown.added is None else output.size(grown.added)
        print(output.printable(f"{output.exactly(grown.time)}  {grown.id[:8]}  {grown.volume or '-'}  +{added}"))
