"""Snapshots that stay because the next backup to a repository is based on them.

The snapshot that was backed up last is held with the tag ``base-REPOSITORY``. A new base is held before the old one is
let go of, so a kill in between leaves both, of which `clean` keeps the newer: it is in the repository, too.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import msgspec

from snapvol.api import BASE_HOLD
from snapvol.backend import Backend
from snapvol.errors import SnapvolError
from snapvol.model import Damage, Snapshot, Volume
from snapvol.service import points
from snapvol.service.catalog import Catalog, Entry

log = logging.getLogger(__name__)


def tag(repository: str) -> str:
    """Return the tag that holds the base of the next backup to a repository."""
    return f"{BASE_HOLD}{repository}"


def repository_of(hold: str) -> str | None:
    """Return the repository to which the next backup is based on the snapshot with this hold; None for other holds."""
    return hold.removeprefix(BASE_HOLD) if hold.startswith(BASE_HOLD) else None


def others(snapshot: Snapshot) -> tuple[str, ...]:
    """Return the holds that are none of a base."""
    return tuple(hold for hold in snapshot.holds if repository_of(hold) is None)


def of(entry: Entry, repository: str) -> Snapshot | None:
    """Return the base of the next backup to a repository, where there is one."""
    held = [snapshot for snapshot in entry.snapshots if tag(repository) in snapshot.holds]
    return held[-1] if held else None


def move(catalog: Catalog, volume_id: str, name: str, repository: str) -> None:
    """Make the snapshot ``name`` the base, and let go of the one before. Never raises: at worst the old one stays."""
    entry = catalog.by_id(volume_id)
    if entry is None:
        return
    try:
        points.mark(catalog, entry, entry.snapshot(name), tag(repository))
    except SnapvolError as error:
        log.warning(
            "snapshot '%s@%s' is not kept, so the next backup may read more: %s", entry.volume.name, name, error
        )
        return
    drop(catalog, volume_id, repository, but=name)


def drop(catalog: Catalog, volume_id: str, repository: str, *, but: str | None = None) -> None:
    """Let go of the bases for a repository, but of one. Never raises: what remains is tried again."""
    entry = catalog.by_id(volume_id)
    for snapshot in entry.snapshots if entry is not None else ():
        if tag(repository) in snapshot.holds and snapshot.name != but:
            points.let_go(catalog, volume_id, snapshot.name, tag(repository))


def drop_all(catalog: Catalog, volume_id: str) -> bool:
    """Let go of all bases, because what only they still need is wanted; return whether there were any. Never raises."""
    entry = catalog.by_id(volume_id)
    tags = {hold for snapshot in entry.snapshots for hold in snapshot.holds} if entry is not None else set()
    repositories = {repository for tag in tags if (repository := repository_of(tag)) is not None}
    for repository in repositories:
        drop(catalog, volume_id, repository)
    return bool(repositories)


def clean(catalog: Catalog, entry: Entry) -> None:
    """Let go of the older ones where a kill has left several bases for one repository."""
    newest = {hold: snapshot.name for snapshot in entry.snapshots for hold in snapshot.holds}
    for snapshot in entry.snapshots:
        for hold in snapshot.holds:
            if repository_of(hold) is not None and newest[hold] != snapshot.name:
                log.info("snapshot '%s' is no base any more", snapshot.full_name)
                points.let_go(catalog, snapshot.volume_id, snapshot.name, hold)


def release_all(backend: Backend, volume: Volume, snapshots: Sequence[Snapshot | Damage]) -> list[Snapshot]:
    """Release a volume's bases, because it is about to be destroyed; return its snapshots as they are then.

    Killed after this, the volume is whole, and its next backup reads everything.

    Raises:
        SnapvolError: the storage failed.
    """
    left = []
    for snapshot in snapshots:
        if isinstance(snapshot, Snapshot):
            for hold in snapshot.holds:
                if repository_of(hold) is not None:
                    backend.release(snapshot, hold)
            left.append(msgspec.structs.replace(snapshot, holds=others(snapshot)))
    return left
