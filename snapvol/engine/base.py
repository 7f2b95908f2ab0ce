"""The earlier backup that the storage's word on what has changed since refers to."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from snapvol.engine.manifest import BackupKind
from snapvol.engine.reading import IMAGE, TAG
from snapvol.repository import Repository

_SOURCES: Mapping[BackupKind, str] = {BackupKind.IMAGE: "image_source", BackupKind.FILES: "tree_source"}


class BaseBackup(Struct, frozen=True, kw_only=True):
    """An earlier backup of the same volume.

    Attributes:
        id: the backup's full id.
        source: the identity of the snapshot that it is of.
    """

    id: str
    source: str


def sourced(kind: BackupKind, source: str | None) -> dict[str, object]:
    """Return what stands in a backup's summary, so that it is found as a base without reading any manifest."""
    return {_SOURCES[kind]: source} if source is not None else {}


def unsourced(summary: Mapping[str, object]) -> dict[str, object]:
    """Return the summary of a backup that is not what its source was, and so no base any more."""
    return {key: value for key, value in summary.items() if key not in _SOURCES.values()}


def base_backup(
    repository: Repository, volume_id: str, source: str, kind: BackupKind, *, host: str | None = None
) -> BaseBackup | None:
    """Return the newest backup of the snapshot with this identity; None where there is none.

    Whether it fits otherwise, and is whole, whoever builds on it finds out.

    Args:
        repository: opened; its index is not needed.
        volume_id: the volume's identity.
        source: the identity of the base snapshot (`Snapshot.id`), which the backend compares the new one with.
        kind: what it is a backup of.
        host: only backups made under this host's name.

    Raises:
        RepositoryUnreachable: the repository does not answer.
    """
    wanted = {TAG, f"volume-id={volume_id}"}
    fitting = [
        identity
        for identity, document in repository.snapshots()
        if wanted.issubset(document.tags or ())
        and (IMAGE in (document.tags or ())) is (kind is BackupKind.IMAGE)
        and (document.summary or {}).get(_SOURCES[kind]) == source
        and (host is None or document.hostname == host)
    ]
    return BaseBackup(id=fitting[-1], source=source) if fitting else None


def no_base(identity: str, why: str) -> str:
    """Return what people are told where nothing can be taken from a backup without a look."""
    return f"everything is read: backup {identity[:8]} is no base any more, {why}"
