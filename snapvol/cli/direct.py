"""Work with a repository in this process: what the daemon's workers do, for a machine without a daemon."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from snapvol.api import Action, BackupInfo, Plan
from snapvol.cli import output
from snapvol.cli.access import Access, opened
from snapvol.cli.progress import Counter, display
from snapvol.cli.session import Session
from snapvol.engine import backups as engine
from snapvol.engine import reading, restorer
from snapvol.engine.backups import Backup
from snapvol.engine.node import Node, permissions
from snapvol.engine.progress import shown as shown_path
from snapvol.errors import Damaged, Protected, Refused, SnapvolError, StorageFailed


class FileInfo(Struct, frozen=True, kw_only=True):
    """A file in a backup.

    Attributes:
        path: from the volume's root; bytes that are not text or not printable are escaped.
        type: file, dir, symlink, …
        mode: permission bits.
        mtime: RFC 3339, to the nanosecond.
    """

    path: str
    type: str
    mode: int
    uid: int
    gid: int
    mtime: str
    size: int | None = None
    target: str | None = None


def backups(session: Session, access: Access, volume: str | None) -> list[BackupInfo]:
    """List the backups in a repository, oldest first."""
    name, _ = access.resolve(session)
    with opened(session, access) as repository:
        return [_info(backup, name) for backup in engine.backups(repository, volume)]


def _info(backup: Backup, repository: str) -> BackupInfo:
    return BackupInfo(
        id=backup.id,
        time=backup.time,
        repository=repository,
        volume=backup.volume,
        volume_id=backup.volume_id,
        host=backup.host,
        tags=tuple(backup.tags),
        size=backup.size,
        files=backup.files,
        incomplete=backup.incomplete,
    )


def verify(session: Session, access: Access, chosen: tuple[str, ...], *, as_json: bool) -> None:
    """Read backups whole and print what is wrong with them.

    Raises:
        Damaged: something is.
    """
    results, damaged = [], []
    with opened(session, access) as repository:
        selected = [engine.select(repository, text) for text in chosen]
        repository.load_index()
        for backup in selected:
            with display() as shown:
                result = restorer.verify(repository, backup.id, Counter(f"verify of {backup.short_id}", shown))
            results.append({"backup": backup.id, "problems": [str(problem) for problem in result.problems]})
            if result.problems:
                damaged.append(backup.short_id)
            elif not as_json:
                print(f"{backup.short_id}: whole, {output.count(result.files, 'file')}, {output.size(result.bytes)}")
    if as_json:
        output.print_json(results)
    if damaged:
        raise Damaged(f"damaged: {', '.join(damaged)}", "make new backups: snapvol backup; and: snapvol repo check")


def forget(session: Session, access: Access, chosen: tuple[str, ...], *, dry_run: bool, force: bool) -> Plan:
    """Take backups out of a repository.

    Raises:
        Protected: one is the last good backup of its volume, and ``force`` is not given.
    """
    with opened(session, access) as repository:
        doomed = {backup.id: backup for backup in (engine.select(repository, text) for text in chosen)}
        if not force:
            _keep_last(engine.backups(repository), doomed)
        actions = [
            Action(verb="forget", object=f"backup {backup.short_id}", detail=f"{backup.volume or '-'}, {backup.time}")
            for backup in doomed.values()
        ]
        if not dry_run:
            with repository.lock(exclusive=True):
                repository.forget(list(doomed))
    return Plan(actions=actions, done=not dry_run)


def _keep_last(known: list[Backup], doomed: dict[str, Backup]) -> None:
    for backup in doomed.values():
        good = [each for each in known if each.volume_id == backup.volume_id and not each.incomplete]
        if backup.volume_id and backup in good and all(each.id in doomed for each in good):
            raise Protected(
                f"backup {backup.short_id} is the last good one of volume '{backup.volume}'",
                "to forget it, add --force",
            )


def restore(session: Session, access: Access, text: str, directory: Path, *, path: str | None, as_json: bool) -> None:
    """Restore a backup into a directory, which is made where it does not exist.

    Raises:
        Refused: the directory is not empty.
        SnapvolError: files could not be restored; they are named.
    """
    with opened(session, access) as repository:
        backup = engine.select(repository, text)
        repository.load_index()
        _make(directory)
        with display() as shown:
            counter = Counter(f"restore of {backup.short_id}", shown)
            part = None if path is None else os.fsencode(path)
            result = restorer.restore(repository, backup.id, directory, path=part, progress=counter)
    if as_json:
        output.print_json(result)
    if result.problems:
        raise SnapvolError(
            f"restore of {backup.short_id} to {directory}: {output.count(len(result.problems), 'problem')}",
            "what is there was checked; the files named above are missing or not as they were",
        )
    if not as_json:
        print(f"{directory}: {output.count(result.files, 'file')}, {output.size(result.bytes)}")


def _make(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if any(directory.iterdir()):
            raise Refused(
                f"directory '{directory}' is not empty", "name an empty directory, or one that does not exist"
            )
    except OSError as error:
        raise StorageFailed(f"directory '{directory}' cannot be used: {error.strerror}") from None


def files(session: Session, access: Access, text: str, path: bytes, *, recursive: bool) -> Iterator[FileInfo]:
    """Yield what a directory of a backup holds."""
    with opened(session, access) as repository:
        backup = engine.select(repository, text)
        repository.load_index()
        for where, node in reading.entries(repository, backup.id, path, recursive=recursive):
            yield _file(where, node)


def _file(path: bytes, node: Node) -> FileInfo:
    return FileInfo(
        path=f"/{shown_path(path)}",
        type=node.type,
        mode=permissions(node.mode),
        uid=node.uid,
        gid=node.gid,
        mtime=node.mtime,
        size=node.size if node.type == "file" else None,
        target=None if node.type != "symlink" else shown_path(node.target),
    )


def cat(session: Session, access: Access, text: str, path: bytes) -> Iterator[bytes]:
    """Yield a file's contents."""
    with opened(session, access) as repository:
        backup = engine.select(repository, text)
        repository.load_index()
        yield from reading.cat(repository, backup.id, path)
