"""Volumes, snapshots, pools and trash as people see them. Made from memory only."""

from __future__ import annotations

from datetime import timedelta

from snapvol import units
from snapvol.api import PoolInfo, SnapshotInfo, TrashInfo, VolumeInfo
from snapvol.model import Damage, Snapshot, State
from snapvol.service.catalog import Entry, Trashed
from snapvol.service.context import Context
from snapvol.service.pool import Pool, Seen


def volume(context: Context, entry: Entry) -> VolumeInfo:
    """Return a live volume as people see it."""
    it, state = entry.volume, context.state
    measured = state.usage(it.id)
    job = context.restorer.active(it.id) if it.state is State.RESTORING else None
    holders, users = context.holders.count(it.id), context.users.get(it.id, [])
    size = it.options.get("size")
    return VolumeInfo(
        id=it.id,
        name=it.name,
        pool=entry.pool.name,
        backend=entry.pool.kind,
        state=it.state,
        mountpoint=entry.pool.mountpoint(it),
        created=it.created,
        mounted=bool(holders or users),
        holders=holders,
        users=users,
        options=it.options,
        labels=it.labels,
        parent=it.parent,
        job=it.job,
        progress=job.progress.fraction if job else None,
        eta_seconds=job.progress.eta_seconds if job else None,
        error=entry.shadowed or it.error,
        size=units.size(size) if size else None,
        used=measured.used if measured else None,
        used_at=measured.at if measured else None,
        snapshots=len(entry.snapshots) + len(entry.damaged_snapshots),
        last_snapshot=entry.snapshots[-1].created if entry.snapshots else None,
        last_backup=state.last_backup(it.id),
        damaged=entry.shadowed is not None,
    )


def damaged(damage: Damage, pool: Pool) -> VolumeInfo:
    """Return a volume whose metadata cannot be read."""
    return VolumeInfo(
        id="",
        name=damage.name,
        pool=damage.pool,
        backend=pool.kind,
        state=State.FAILED,
        mountpoint=str(damage.path or ""),
        error=damage.reason,
        damaged=True,
    )


def missing(context: Context, seen: Seen, pool: Pool) -> VolumeInfo:
    """Return what is known of a volume whose pool is not open: Docker must not take it for gone (G2)."""
    return VolumeInfo(
        id=seen.id,
        name=seen.name,
        pool=pool.name,
        backend=pool.kind,
        state=State.FAILED,
        mountpoint=seen.mountpoint,
        created=seen.created,
        error=f"pool '{pool.name}' is not available: {pool.problem}",
        last_backup=context.state.last_backup(seen.id),
        damaged=True,
    )


def snapshot(it: Snapshot) -> SnapshotInfo:
    """Return a snapshot as people see it."""
    return SnapshotInfo(
        volume=it.volume,
        name=it.name,
        id=it.id,
        created=it.created,
        message=it.message,
        holds=it.holds,
        made_by=it.made_by,
    )


def snapshots(entry: Entry) -> list[SnapshotInfo]:
    """Return a volume's snapshots, the damaged ones last."""
    return [snapshot(it) for it in entry.snapshots] + [
        SnapshotInfo(volume=entry.volume.name, name=damage.name, id="", created=None, error=damage.reason)
        for damage in entry.damaged_snapshots
    ]


def trashed(it: Trashed, keep: int) -> TrashInfo:
    """Return a removed volume; ``keep`` is how many seconds the trash keeps it."""
    deleted = it.volume.deleted
    return TrashInfo(
        id=it.volume.id,
        name=it.volume.name,
        pool=it.pool.name,
        deleted=deleted,
        expires=deleted + timedelta(seconds=keep) if deleted else None,
    )


def damaged_trash(damage: Damage) -> TrashInfo:
    """Return what lies in the trash and cannot be read."""
    return TrashInfo(id="", name=damage.name, pool=damage.pool, deleted=None, error=damage.reason)


def pool(it: Pool, *, default: bool) -> PoolInfo:
    """Return a pool as it was when last looked at."""
    features: dict[str, bool] = {}
    if it.problem is None:
        known = it.backend.features
        features = {
            key: getattr(known, key)
            for key in ("snapshots", "instant", "quota", "resize", "shared_blocks", "stable_inodes", "keeps_base")
        }
    return PoolInfo(
        name=it.name,
        backend=it.kind,
        ok=it.problem is None and it.health.ok,
        default=default,
        size=it.health.size,
        free=it.health.free,
        metadata_size=it.health.metadata_size,
        metadata_free=it.health.metadata_free,
        problem=it.problem or it.health.problem,
        features=features,
    )
