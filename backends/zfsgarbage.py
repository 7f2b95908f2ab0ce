"""Removing datasets and snapshots that clones may still need, and nothing that somebody else has made.

What a clone needs of a snapshot stays until the clone goes: `zfs destroy -d` takes the snapshot then. And a dataset can
go before its clones: a promoted clone takes over the snapshots that it and other clones need.
"""

from __future__ import annotations

from collections.abc import Sequence

from snapvol.backends import zfsfamily, zfsnames
from snapvol.backends.zfsfamily import Dataset, Point
from snapvol.backends.zfstool import Tool, batches, explained
from snapvol.errors import Refused, ToolFailed


def destroy(
    tool: Tool, names: Sequence[str], what: str, *, known: Sequence[Dataset] = (), spare: bool = False
) -> list[str]:
    """Remove datasets of ours with their snapshots. Nothing in them is mounted, and nobody wants them any more.

    Killed in the middle it can be done again.

    Args:
        tool: for the pool.
        names: the datasets.
        what: what cannot be done if it fails, for the message.
        known: the same datasets, where they were just read.
        spare: leave a dataset that has a snapshot which somebody wants, or whose removal would cost a clone its key.

    Returns:
        The datasets that were spared.

    Raises:
        Refused: there is something that snapvol has not made.
        SnapvolError: one cannot be removed.
    """
    left, found, spared = list(names), list(known), []
    while left:
        found = found or _read(tool, left, what)
        # Clones before what they were made from; each takes with it what only it needed there.
        free = [dataset for dataset in found if not any(clone in left for it in dataset.points for clone in it.clones)]
        for dataset in free:
            if spare and _is_worth_sparing(dataset):
                spared.append(dataset.name)
            else:
                _destroy(tool, dataset, what)
        gone = {dataset.name for dataset in free}
        left, found = [name for name in left if name not in gone] if gone else [], []
    return spared


def _read(tool: Tool, names: Sequence[str], what: str) -> list[Dataset]:
    try:
        return zfsfamily.read(tool, names)
    except ToolFailed as error:
        raise explained(what, error) from error


def _is_worth_sparing(dataset: Dataset) -> bool:
    return dataset.needed or (dataset.key != "-" and any(point.clones for point in dataset.points))


def _destroy(tool: Tool, dataset: Dataset, what: str) -> None:
    refuse_foreign(dataset, what)
    needed = [point for point in dataset.points if point.clones]
    plain = [point.leaf for point in dataset.points if not point.doomed and not point.clones]
    for word in batches(dataset.name, plain):
        tool.change(what, "destroy", word)
    for point in needed:
        doom(tool, point, what)
    if needed:
        tool.change(what, "promote", needed[-1].clones[0])
    tool.change(what, "destroy", dataset.name)


def doom(tool: Tool, point: Point, what: str) -> None:
    """Destroy a snapshot as soon as no clone needs it; from now on nobody sees it, and its name is free."""
    if point.doomed:
        return
    leaf = zfsnames.doomed(point.guid)
    if point.leaf != leaf:
        tool.change(what, "rename", point.name, f"{point.dataset}@{leaf}")
    tool.change(what, "destroy", "-d", f"{point.dataset}@{leaf}")


def refuse_foreign(dataset: Dataset, what: str) -> None:
    """Check that a dataset has nothing that snapvol has not made (T6).

    Raises:
        Refused: it has; names that, and the command that takes it out of the way.
    """
    refuse_children(dataset, what)
    for point in dataset.points:
        if point.record is None and point.alive:
            raise Refused(f"{what}: snapshot {point.name} is not snapvol's", f"zfs destroy {point.name}")


def refuse_children(dataset: Dataset, what: str) -> None:
    """Check that nobody has made datasets inside one of ours (T6).

    Raises:
        Refused: somebody has; names one, and the command that takes it out of the way.
    """
    if dataset.children:
        child = dataset.children[0]
        zpool = child.partition("/")[0]
        raise Refused(
            f"{what}: {child} is not snapvol's", f"move it: zfs rename {child} {zpool}/{child.rpartition('/')[2]}"
        )
