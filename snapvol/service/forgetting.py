"""Which backups may be forgotten: a pure decision over a complete listing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from snapvol.api import Action, BackupInfo
from snapvol.errors import NotFound, Protected, UsageError

SHORT = 8


def resolve(texts: Iterable[str], backups: Sequence[BackupInfo], repository: str) -> list[BackupInfo]:
    """Return the backups whose ids begin with ``texts``, each once. Names are not taken: they mean "the newest".

    Raises:
        NotFound: there is none for one of them.
        UsageError: one of them begins several ids.
    """
    found: dict[str, BackupInfo] = {}
    for text in texts:
        matching = [backup for backup in backups if text and backup.id.startswith(text)]
        if not matching:
            raise NotFound(f"backup '{text}' does not exist in repository '{repository}'", "see: snapvol backups")
        if len(matching) > 1:
            raise UsageError(f"'{text}' begins the ids of {len(matching)} backups", "write more of it")
        found[matching[0].id] = matching[0]
    return list(found.values())


def refuse_last(chosen: Sequence[BackupInfo], backups: Sequence[BackupInfo], now: datetime) -> None:
    """Refuse to forget the newest complete backup of a volume.

    Backups dated in the future are not taken for the newest: a clock that was wrong made them.

    Raises:
        Protected: one of ``chosen`` is that.
    """
    leaving = {backup.id for backup in chosen}
    for volume in {_source(backup) for backup in chosen}:
        own = [backup for backup in backups if _source(backup) == volume]
        best = max(own, key=lambda backup: (not backup.incomplete, backup.time <= now, backup.time))
        if best.id in leaving:
            name = f"volume '{best.volume}'" if best.volume else f"host '{best.host}'"
            raise Protected(
                f"backup {best.id[:SHORT]} is the newest complete one of {name}",
                "make a newer one first, or say --force",
            )


def actions(chosen: Iterable[BackupInfo]) -> list[Action]:
    """Return what forgetting ``chosen`` does."""
    return [
        Action(
            verb="forget",
            object=f"backup {backup.id[:SHORT]}",
            detail=f"{backup.volume or backup.host or 'unknown'}, {backup.time:%Y-%m-%d %H:%M %Z}",
        )
        for backup in chosen
    ]


def _source(backup: BackupInfo) -> tuple[str, str]:
    if backup.volume_id:
        return "volume", backup.volume_id
    return ("name", backup.volume) if backup.volume else ("host", backup.host)
