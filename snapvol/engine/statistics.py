"""What a repository's space goes to, volume by volume."""

from __future__ import annotations

from datetime import datetime

from msgspec import Struct

from snapvol.engine.backups import Backup, describe
from snapvol.repository import Repository
from snapvol.repository.findings import CheckProgress
from snapvol.repository.stats import Measured

RECENT = 10  # backups of which the growth is told


class VolumeStatistics(Struct, frozen=True, kw_only=True):
    """What one volume's backups take.

    Attributes:
        volume: its name; None where stock restic made the backups.
        volume_id: its identity, likewise: two volumes of one name are two.
        host: where they were made.
        paths: what was backed up, where stock restic did.
        backups: how many there are.
        size: bytes of the files, or of the device, in the newest one.
        stored: bytes in the repository that they need.
        unique: those of them that nothing else needs: what forgetting all of them frees.
    """

    volume: str | None
    volume_id: str | None
    host: str
    paths: tuple[str, ...]
    backups: int
    size: int
    stored: int
    unique: int


class Growth(Struct, frozen=True, kw_only=True):
    """What one backup added to the repository; None where whoever made it did not record that."""

    id: str
    time: datetime
    volume: str | None
    added: int | None


class Statistics(Struct, frozen=True, kw_only=True):
    """A repository in numbers.

    Attributes:
        backups: how many can be read.
        logical: bytes of the files in all of them.
        stored: bytes of all packs.
        packs: how many.
        blobs: in them, every copy counted.
        compression: plain bytes of what backups need for each stored one; 0 where there are none.
        deduplication: ``logical`` for each byte in ``stored``; 0 likewise.
        unneeded: bytes that no backup needs: `snapvol repo prune --max-unused 0` frees them.
        volumes: by name.
        growth: of the last backups, oldest first.
    """

    backups: int
    logical: int
    stored: int
    packs: int
    blobs: int
    compression: float
    deduplication: float
    unneeded: int
    volumes: list[VolumeStatistics]
    growth: list[Growth]


def statistics(repository: Repository, progress: CheckProgress) -> Statistics:
    """Read all trees of a repository and count.

    Backups that cannot be read are in ``repository.damaged_snapshots`` afterwards, and not counted.

    Raises:
        Damaged: an index or a tree cannot be read.
    """
    groups: dict[str, list[tuple[Backup, str]]] = {}
    for identity, document in repository.snapshots():
        backup = describe(identity, document)
        groups.setdefault(_group(backup), []).append((backup, document.tree))
    measure = repository.measure(progress)
    measured = measure.run({name: [tree for _, tree in found] for name, found in groups.items()})
    known: dict[bytes, int] = {}
    sizes = {
        backup.id: measure.logical(tree, known) if backup.size is None else backup.size
        for found in groups.values()
        for backup, tree in found
    }
    everything = sorted((backup for found in groups.values() for backup, _ in found), key=lambda it: (it.time, it.id))
    logical = sum(sizes.values())
    return Statistics(
        backups=len(everything),
        logical=logical,
        stored=measured.stored_bytes,
        packs=measured.packs,
        blobs=measured.blobs,
        compression=_ratio(measured.plain_bytes, measured.needed_bytes),
        deduplication=_ratio(logical, measured.stored_bytes),
        unneeded=measured.unneeded_bytes,
        volumes=[_volume(name, [it for it, _ in groups[name]], sizes, measured) for name in sorted(groups)],
        growth=[Growth(id=it.id, time=it.time, volume=it.volume, added=it.added) for it in everything[-RECENT:]],
    )


def _group(backup: Backup) -> str:
    """Whose a backup is: by the volume's identity, and for stock restic's by host and paths, as it groups them."""
    if backup.volume is not None:
        return f"{backup.volume}\0{backup.volume_id or ''}"
    return "\0".join(("", backup.host, *backup.paths))


def _volume(name: str, backups: list[Backup], sizes: dict[str, int], measured: Measured) -> VolumeStatistics:
    newest = backups[-1]
    return VolumeStatistics(
        volume=newest.volume,
        volume_id=newest.volume_id,
        host=newest.host,
        paths=newest.paths if newest.foreign else (),
        backups=len(backups),
        size=sizes[newest.id],
        stored=measured.shares[name].bytes,
        unique=measured.shares[name].unique_bytes,
    )


def _ratio(one: int, other: int) -> float:
    return round(one / other, 3) if other else 0.0
