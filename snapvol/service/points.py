"""Snapshots that jobs take for themselves, and what is done with them when the job is over."""

from __future__ import annotations

import logging
import re
from datetime import datetime

import msgspec

from snapvol.errors import AlreadyExists, NotFound, SnapvolError, Unsupported
from snapvol.model import Snapshot, now
from snapvol.service.catalog import Catalog, Entry

log = logging.getLogger(__name__)

BACKUP = "backup"  # made_by of a snapshot that goes when its backup is done
RESTORE = "restore"  # made_by of a snapshot of what an in-place restore replaced; it stays

_TAG = re.compile(r"backup-([0-9a-f]{8})\Z")


def job_of(hold: str) -> str | None:
    """Return the backup job whose hold this is; None for other holds."""
    match = _TAG.match(hold)
    return match[1] if match else None


def require_snapshots(entry: Entry, hint: str | None = None) -> None:
    """Check that a volume can be snapshotted.

    Raises:
        PoolUnavailable: its pool is not open.
        Unsupported: its storage cannot; ``hint`` says what to do instead.
    """
    features = entry.pool.require().features
    if not features.snapshots:
        raise Unsupported(
            f"volume '{entry.volume.name}': pool '{entry.pool.name}' ({entry.pool.kind}) has no snapshots",
            hint or features.reason,
        )


def require_undo(entry: Entry, hint: str) -> None:
    """Check that a snapshot taken now would bring back all that the volume holds.

    Raises:
        PoolUnavailable: its pool is not open.
        Unsupported: its storage has no snapshots; ``hint`` says what to do instead.
        Refused: the volume holds what no snapshot keeps.
    """
    require_snapshots(entry, hint)
    what = f"the contents of volume '{entry.volume.name}' cannot be replaced"
    entry.backend.refuse_left_out(entry.volume, what)


def take(catalog: Catalog, entry: Entry, prefix: str, message: str, made_by: str) -> Snapshot:
    """Snapshot a volume as ``PREFIX-TIME``; where that is taken, a number follows.

    Raises:
        SnapvolError: the storage failed, or has no snapshots.
    """
    stem = f"{prefix}-{_stamp(now())}"
    for name in (stem, *(f"{stem}-{number}" for number in range(2, 10))):
        try:
            (snapshot,) = entry.backend.snapshot([entry.volume], name, message=message, made_by=made_by)
        except AlreadyExists:
            continue
        catalog.add_snapshots([snapshot])
        return snapshot
    raise AlreadyExists(f"snapshot '{entry.volume.name}@{stem}' and the names after it exist already")


def hold(catalog: Catalog, entry: Entry, snapshot: Snapshot, job: str) -> str:
    """Keep a snapshot from being destroyed while job ``job`` reads it; return the tag for `let_go`."""
    tag = f"backup-{job}"
    mark(catalog, entry, snapshot, tag)
    return tag


def mark(catalog: Catalog, entry: Entry, snapshot: Snapshot, tag: str) -> None:
    """Hold a snapshot.

    Raises:
        SnapvolError: the storage failed.
    """
    entry.backend.hold(snapshot, tag)
    if tag not in snapshot.holds:
        _show(catalog, msgspec.structs.replace(snapshot, holds=(*snapshot.holds, tag)))


def let_go(catalog: Catalog, volume_id: str, name: str, tag: str) -> None:
    """Release a snapshot, and destroy it if it was taken for a backup. Never raises: what remains is tried again."""
    entry = catalog.by_id(volume_id)  # anew: it may have been renamed or released meanwhile
    if entry is None:
        return
    try:
        snapshot = entry.snapshot(name)
        entry.backend.release(snapshot, tag)
        left = tuple(hold for hold in snapshot.holds if hold != tag)
        snapshot = msgspec.structs.replace(snapshot, holds=left)
        _show(catalog, snapshot)
        if snapshot.made_by == BACKUP and not left:
            destroy(catalog, entry, snapshot)
    except NotFound:
        return
    except SnapvolError as error:
        log.warning("snapshot '%s@%s' stays until the next backup or start: %s", entry.volume.name, name, error)


def destroy(catalog: Catalog, entry: Entry, snapshot: Snapshot) -> None:
    """Destroy a snapshot.

    Raises:
        SnapvolError: the storage failed, or something needs it.
    """
    entry.backend.destroy_snapshot(snapshot)
    catalog.set_snapshots(snapshot.volume_id, lambda known: [other for other in known if other.name != snapshot.name])


def clean(catalog: Catalog, entry: Entry, active: str | None = None) -> None:
    """Take away what backups that no longer run left on a volume: holds, and the snapshots taken for them.

    Args:
        catalog: to be told.
        entry: the volume.
        active: the id of the job that works on it now.
    """
    for snapshot in entry.snapshots:
        tags = [tag for tag in snapshot.holds if job_of(tag) not in (None, active)]
        running = active is not None and f"backup-{active}" in snapshot.holds
        for tag in tags or ([""] if snapshot.made_by == BACKUP and not snapshot.holds and not running else []):
            log.info("snapshot '%s' was left by a backup that no longer runs", snapshot.full_name)
            let_go(catalog, snapshot.volume_id, snapshot.name, tag)


def _show(catalog: Catalog, snapshot: Snapshot) -> None:
    catalog.set_snapshots(
        snapshot.volume_id, lambda known: [snapshot if other.name == snapshot.name else other for other in known]
    )


def _stamp(at: datetime) -> str:
    return f"{at:%Y%m%dT%H%M%SZ}"
