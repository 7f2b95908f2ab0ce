"""One volume's directory: its sidecar, its snapshots' sidecars, and how they stay whole through every kill.

A move (rename, trash, undelete) changes two things, the directory's place and the sidecar, with one rename between
them: the sidecar for the new place is written beside the old one first, and counts once it describes where it lies.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import msgspec

from snapvol import units
from snapvol.backends import durable
from snapvol.errors import UsageError
from snapvol.model import Damage, Snapshot, Volume
from snapvol.names import volume_name

SIDECAR = "volume.json"
NEXT = "volume.next.json"  # the sidecar of the place that a move leads to
SNAPSHOT = "snapshot.json"
DATA = "data"
OLD = "data.old"  # what a swap replaces
STAGED = "data.new"
# No clock is that wrong; and beyond, time zones and terms cannot be added any more.
_FIRST_YEAR, _LAST_YEAR = 1900, 9000


def is_directory(path: Path) -> bool:
    """Return whether ``path`` is a directory itself, not a link to one. Only ENOENT means that there is nothing."""
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except FileNotFoundError:
        return False


def entries(directory: Path) -> list[Path]:
    """Return what ``directory`` holds, sorted; nothing where there is none."""
    try:
        return sorted(directory / name for name in os.listdir(directory))
    except FileNotFoundError:
        return []


def describes(volume: Volume, directory: Path, *, trash: bool) -> bool:
    """Return whether ``volume`` is the sidecar of a volume that lies at ``directory``."""
    if trash:
        return volume.id == directory.name and volume.deleted is not None
    return volume.name == directory.name and volume.deleted is None


def read_volume(directory: Path, pool: str, *, trash: bool) -> Volume | Damage | None:
    """Return the volume at ``directory``, what is wrong with it, or None for something that is not ours (T6, T41)."""

    def damage(reason: str) -> Damage:
        return Damage(name=directory.name, reason=reason, pool=pool, path=directory)

    if not is_directory(directory):
        return None
    try:
        moved = durable.read(directory / NEXT, Volume)
        if describes(moved, directory, trash=trash) and unsound_volume(moved) is None:
            return msgspec.structs.replace(moved, pool=pool)
    except (FileNotFoundError, durable.Unreadable):
        pass  # no move, or one that did not come to pass: the sidecar counts
    try:
        volume = durable.read(directory / SIDECAR, Volume)
    except FileNotFoundError:
        return None
    except durable.Unreadable as error:
        return damage(str(error))
    unsound = unsound_volume(volume)
    if unsound is not None:
        return damage(f"{SIDECAR} has {unsound}")
    if not describes(volume, directory, trash=trash):
        return damage(f"{SIDECAR} is that of volume '{volume.name}' ({volume.id})")
    if not is_directory(directory / DATA):
        return damage(f"its contents ({DATA}) are missing")
    return msgspec.structs.replace(volume, pool=pool)


def unsound_volume(volume: Volume) -> str | None:
    """Return what in a sidecar of the right form nobody could work with; None where all can be."""
    try:
        volume_name(volume.id)  # it becomes part of a path
        if "size" in volume.options:
            units.size(volume.options["size"])
    except UsageError as error:
        return f"an id or a size that is none: {error.message}"
    return unsound_time(volume.created) or unsound_time(volume.deleted)


def unsound_time(time: datetime | None) -> str | None:
    """Return why nobody can count from ``time``; None where everybody can."""
    if time is None:
        return None
    if time.tzinfo is None:
        return "a time without a zone"
    if not _FIRST_YEAR <= time.year <= _LAST_YEAR:
        return f"a time in the year {time.year}"
    return None


def write_volume(directory: Path, volume: Volume, name: str = SIDECAR) -> None:
    """Store ``volume`` as the sidecar of ``directory``."""
    durable.write(directory / name, msgspec.structs.replace(volume, pool=""))


def read_snapshot(directory: Path, volume: Volume) -> Snapshot | Damage | None:
    """Return the snapshot of ``volume`` at ``directory``, what is wrong with it, or None for what is not ours."""

    def damage(reason: str) -> Damage:
        return Damage(name=f"{volume.name}@{directory.name}", reason=reason, pool=volume.pool, path=directory)

    if not is_directory(directory):
        return None
    try:
        snapshot = durable.read(directory / SNAPSHOT, Snapshot)
    except FileNotFoundError:
        return None
    except durable.Unreadable as error:
        return damage(str(error))
    unsound = unsound_time(snapshot.created)
    if unsound is not None:
        return damage(f"{SNAPSHOT} has {unsound}")
    if snapshot.name != directory.name or snapshot.volume_id != volume.id:
        return damage(f"{SNAPSHOT} is that of '{snapshot.full_name}' ({snapshot.volume_id})")
    if not is_directory(directory / DATA):
        return damage(f"its contents ({DATA}) are missing")
    return msgspec.structs.replace(snapshot, volume=volume.name)


def move(directory: Path, target: Path, volume: Volume) -> None:
    """Bring a volume's directory to ``target``, where ``volume`` is its sidecar.

    Raises:
        OSError: it is where it was.
    """
    write_volume(directory, volume, NEXT)
    try:
        os.rename(directory, target)
    except OSError:
        with suppress(OSError):
            os.unlink(directory / NEXT)
        raise
    durable.sync_directory(target.parent)
    durable.sync_directory(directory.parent)
    durable.move(target / NEXT, target / SIDECAR)


def swap(directory: Path, fresh: Path) -> Path:
    """Make ``fresh`` the contents of the volume at ``directory``; return where the old ones are.

    Killed in the middle, `settle` brings the old ones back.

    Raises:
        OSError: the contents are what they were.
    """
    data, old = directory / DATA, directory / OLD
    os.rename(data, old)
    try:
        os.rename(fresh, data)
    except OSError:
        os.rename(old, data)
        raise
    durable.sync_directory(directory)
    return old


def settle(directory: Path, *, trash: bool) -> list[Path]:
    """Finish or undo what a kill left in a volume's directory.

    Returns:
        The trees in it that are not needed any more.
    """
    if not is_directory(directory):
        return []
    if not durable.exists(directory / SIDECAR) and not durable.exists(directory / NEXT):
        return []  # not ours
    _settle_move(directory, trash=trash)
    data, old, staged = directory / DATA, directory / OLD, directory / STAGED
    if not is_directory(data) and is_directory(old):
        durable.move(old, data)
    snapshots = [entry / SNAPSHOT for entry in entries(directory / "snapshots")]
    for record in [directory / SIDECAR, directory / NEXT, *snapshots]:
        with suppress(FileNotFoundError, NotADirectoryError):
            os.unlink(record.with_name(record.name + durable.FRESH))
    if not is_directory(data):
        return []  # damaged in a way we did not do: touch nothing
    return [tree for tree in (old, staged) if is_directory(tree)]


def _settle_move(directory: Path, *, trash: bool) -> None:
    coming = directory / NEXT
    try:
        moved = describes(durable.read(coming, Volume), directory, trash=trash)
    except FileNotFoundError:
        return
    except durable.Unreadable:
        moved = False
    if moved:
        durable.move(coming, directory / SIDECAR)
    else:
        os.unlink(coming)
