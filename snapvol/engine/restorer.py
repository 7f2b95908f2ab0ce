"""A backup, or a part of it, into a directory."""

from __future__ import annotations

from pathlib import Path

import msgspec

from snapvol.engine import reading
from snapvol.engine.kernel import sync_filesystem
from snapvol.engine.manifest import BackupKind
from snapvol.engine.node import Kind, Node
from snapvol.engine.progress import Progress
from snapvol.engine.rebuild import Rebuild, RestoreResult
from snapvol.engine.target import Target
from snapvol.errors import Damaged, Refused, StorageFailed
from snapvol.mountinfo import mounted_below
from snapvol.repository import Repository

LOST_META = "what the backup says of its volume (options, labels) is lost"


class PartlyRestored(Damaged):
    """Everything that could be restored is; the rest is listed.

    Attributes:
        result: what was done.
    """

    def __init__(self, message: str, result: RestoreResult, rest: str) -> None:
        super().__init__(message, f"{rest}; find out what is damaged: snapvol verify BACKUP")
        self.result = result


def restore(
    repository: Repository,
    snapshot_id: str,
    target: Path,
    *,
    path: bytes | None = None,
    exact: bool = False,
    progress: Progress,
) -> RestoreResult:
    """Restore a backup. Takes the repository's lock and loads its index.

    When this returns everything is on the disk. A file that cannot be restored whole is left out and named, all
    others are restored, and `PartlyRestored` is raised at the end.

    Args:
        repository: opened.
        snapshot_id: the backup's id, or the unique beginning of it.
        target: an existing directory. Empty, unless ``exact`` or ``path`` is given.
        path: only this file or directory, to the same path below ``target``; directories on the way are made.
        exact: make what is there equal: remove what the backup does not have, write only what differs.
        progress: is told.

    Raises:
        NotFound: there is no such backup, path or target.
        Refused: the backup is an image, the target is not empty, or a mount is in the way. Nothing has changed.
        AlreadyExists: ``path`` is there already, and ``exact`` is not given. Nothing has changed.
        NoSpace: the target is full; it is left as far as it came.
        StorageFailed: the target failed.
        PartlyRestored: some files are damaged in the repository, or could not be made.
        Damaged: the backup cannot be read at all.
        Cancelled: nobody wants it any more; the target is left as far as it came.
    """
    with repository.lock():
        _, document = repository.find_snapshot(snapshot_id)
        repository.load_index()
        start = reading.root(repository, document)
        if start.kind is BackupKind.IMAGE:
            raise Refused(
                f"backup {snapshot_id[:8]} is the image of a block device, it has no files to restore",
                "restore it as a volume, or the whole image: snapvol restore BACKUP --to DIR",
            )
        found = reading.find(repository, start, path) if path is not None else []
        with Target(target) as directory:
            if not found and not exact and directory.names(directory.top):
                raise Refused(f"directory {target} is not empty", "restore into an empty one, or in place")
            if exact:
                _refuse_mounts(target)
            _announce(progress, document.summary, found)
            work = Rebuild(repository, directory, exact, progress)
            try:
                work.run(start, found)
                sync_filesystem(directory.fd(directory.top))
            except OSError as error:
                raise StorageFailed(f"directory {target} failed: {error.strerror}") from error
            finally:
                work.close()
    return checked(_with_loss(work.result(), start), snapshot_id)


def _refuse_mounts(target: Path) -> None:
    """Make sure, before anything is removed, that nothing is mounted in the target."""
    itself = target.resolve()
    for mounted in mounted_below(target):
        if Path(mounted) == itself:
            continue
        raise Refused(f"{mounted} is mounted in {target}", f"unmount it first: umount {mounted}")


def _announce(progress: Progress, summary: dict[str, object] | None, found: list[Node]) -> None:
    if found and found[-1].type != Kind.DIRECTORY:
        progress.total(1, found[-1].size)
    elif summary and not found:
        files, size = (summary.get(key) for key in ("total_files_processed", "total_bytes_processed"))
        if isinstance(files, int) and isinstance(size, int):
            progress.total(files, size)


def _with_loss(result: RestoreResult, start: reading.Root) -> RestoreResult:
    """Return the result, with a note of what the backup itself does not have (T26, T30)."""
    notes = [f"{LOST_META}: {start.lost}"] if start.lost is not None else []
    if start.meta is not None and start.meta.problems:
        first, more = start.meta.problems[0], len(start.meta.problems) - 1
        notes.append(f"the backup is incomplete: {first}{f', and {more} more like this' if more else ''}")
    return msgspec.structs.replace(result, notes=[*result.notes, *notes]) if notes else result


def checked(result: RestoreResult, backup: str, rest: str = "the other files are in place") -> RestoreResult:
    """Return the result of a restore that did all it should have done.

    Args:
        result: of the restore.
        backup: the backup's id.
        rest: what has come of the rest, for the hint.

    Raises:
        PartlyRestored: it did not.
    """
    if result.problems:
        first, count = result.problems[0], len(result.problems)
        more = f" and {count - 1} more" if count > 1 else ""
        raise PartlyRestored(f"backup {backup[:8]}: not restored: {first}{more}", result, rest)
    return result
