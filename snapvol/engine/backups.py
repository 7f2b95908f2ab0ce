"""The backups of a repository: what there are, and which one is meant."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from msgspec import Struct

from snapvol.engine.manifest import BackupKind
from snapvol.engine.reading import IMAGE, INCOMPLETE, TAG
from snapvol.errors import Damaged, NotFound, UsageError, nearest
from snapvol.model import now
from snapvol.repository import Repository, SnapshotDocument

_SHORT = 8
_ID = re.compile(r"[0-9a-f]{1,64}\Z")
_MOMENT = re.compile(r"(\d{4}-\d\d-\d\d)(?:[T ](\d\d:\d\d)(:\d\d)?(\.\d+)?)?(Z|[+-]\d\d:?\d\d)?\Z")


class Backup(Struct, frozen=True, kw_only=True):
    """A backup.

    Attributes:
        id: 64 hexadecimal digits.
        time: when it was made.
        volume: the volume's name; None where stock restic made it.
        volume_id: the volume's identity, likewise.
        host: where it was made.
        tags: as they are.
        paths: what stock restic says was backed up.
        size: bytes of all files, where it was recorded.
        files: how many, likewise.
        added: bytes that the repository did not have, likewise.
        incomplete: something could not be read when it was made.
        kind: what it is of: files, or the image of a block device.
        policy: that asked for it; None where somebody did.
        foreign: made by something else than snapvol: it has no volume, and is restored from its root.
    """

    id: str
    time: datetime
    volume: str | None = None
    volume_id: str | None = None
    host: str = ""
    tags: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    size: int | None = None
    files: int | None = None
    added: int | None = None
    incomplete: bool = False
    kind: BackupKind = BackupKind.FILES
    policy: str | None = None
    foreign: bool = False

    @property
    def short_id(self) -> str:
        """The beginning of the id, as people see it."""
        return self.id[:_SHORT]


def _tagged(tags: tuple[str, ...], key: str) -> str | None:
    return next((tag.removeprefix(f"{key}=") for tag in tags if tag.startswith(f"{key}=")), None)


def _figure(document: SnapshotDocument, key: str) -> int | None:
    figure = (document.summary or {}).get(key)
    return figure if isinstance(figure, int) else None


def describe(identity: str, document: SnapshotDocument) -> Backup:
    """Return a snapshot document as a backup."""
    tags = tuple(document.tags or ())
    ours = TAG in tags
    return Backup(
        id=identity,
        time=document.time,
        volume=_tagged(tags, "volume") if ours else None,
        volume_id=_tagged(tags, "volume-id") if ours else None,
        host=document.hostname,
        tags=tags,
        paths=tuple(document.paths or ()),
        size=_figure(document, "total_bytes_processed"),
        files=_figure(document, "total_files_processed"),
        added=_figure(document, "data_added"),
        incomplete=INCOMPLETE in tags,
        kind=BackupKind.IMAGE if ours and IMAGE in tags else BackupKind.FILES,
        policy=_tagged(tags, "policy") if ours else None,
        foreign=not ours,
    )


def backups(repository: Repository, volume: str | None = None) -> list[Backup]:
    """Return all backups, or those of one volume, oldest first.

    Those whose records cannot be read are in ``repository.damaged_snapshots`` afterwards.

    Raises:
        RepositoryUnreachable: the list is not complete.
    """
    found = [describe(identity, document) for identity, document in repository.snapshots()]
    return [backup for backup in found if volume is None or backup.volume == volume]


def select(repository: Repository, text: str) -> Backup:
    """Return the backup that somebody means.

    Args:
        repository: opened.
        text: an id or the unique beginning of one; ``VOLUME`` for its newest; ``VOLUME@2026-11-20T03:00`` for the
            newest not after that time. A time is this machine's where it has no zone, and means all of the minute
            (or the day) that it names. A volume's name goes before an id that happens to begin like it.

    Raises:
        NotFound: there is none.
        UsageError: several ids begin so, or it is not a time.
        Damaged: the one that is meant cannot be read, or may be among those that cannot.
    """
    found = backups(repository)
    name, at, moment = text.partition("@")
    end = _end_of(moment, text) if at else None
    named = [backup for backup in found if backup.volume == name]
    if named or at:
        return _newest(repository, named, name, end, found)
    return _by_id(repository, found, text)


def _newest(
    repository: Repository, named: list[Backup], name: str, end: datetime | None, found: list[Backup]
) -> Backup:
    if not named:
        raise _unknown(repository, name, found)
    limit = now() if end is None else end
    fitting = [backup for backup in named if backup.time <= limit]
    if fitting:
        return fitting[-1]
    if end is None:
        return named[-1]  # a clock was wrong, then or now; it is still the volume's only backup
    raise NotFound(
        f"volume '{name}' has no backup from {end.isoformat(timespec='seconds')} or before",
        f"its first is from {named[0].time.isoformat(timespec='seconds')}",
    )


def _by_id(repository: Repository, found: list[Backup], text: str) -> Backup:
    if not _ID.match(text):
        raise _unknown(repository, text, found)
    fitting = [backup for backup in found if backup.id.startswith(text)]
    damaged = [(name, error) for name, error in repository.damaged_snapshots if name.startswith(text)]
    if len(fitting) + len(damaged) > 1:
        candidates = [f"{backup.short_id} ({backup.volume or 'restic'})" for backup in fitting]
        candidates += [f"{name[:_SHORT]} (damaged)" for name, _ in damaged]
        raise UsageError(f"several backups begin with '{text}': {', '.join(candidates[:10])}", "write more of the id")
    if damaged:
        raise damaged[0][1]
    if not fitting:
        raise _unknown(repository, text, found)
    return fitting[0]


def _unknown(repository: Repository, text: str, found: list[Backup]) -> NotFound | Damaged:
    if repository.damaged_snapshots:
        count, first = len(repository.damaged_snapshots), repository.damaged_snapshots[0][1]
        return Damaged(
            f"no backup '{text}' among those that can be read, and {count} cannot: {first}",
            "see: snapvol repo check",
        )
    volumes = sorted({backup.volume for backup in found if backup.volume is not None})
    hint = nearest(text, volumes) if len(volumes) in range(1, 20) else "list them: snapvol backups"
    return NotFound(f"no backup '{text}'", hint)


def _end_of(moment: str, text: str) -> datetime:
    """Return the end of the minute, second or day that is written."""
    match = _MOMENT.match(moment)
    try:
        if match is None:
            raise ValueError(moment)
        written = datetime.fromisoformat(moment if match[2] or not match[5] else f"{match[1]}T00:00{match[5]}")
    except ValueError:
        raise UsageError(f"'{text}': '{moment}' is not a time", "write it so: VOLUME@2026-11-20T03:00") from None
    if not match[2]:
        written += timedelta(days=1)
    elif not match[3]:
        written += timedelta(minutes=1)
    elif not match[4]:
        written += timedelta(seconds=1)
    else:
        return written.astimezone()
    return written.astimezone() - timedelta(microseconds=1)
