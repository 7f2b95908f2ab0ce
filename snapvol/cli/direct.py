"""Work with a repository in this process: what the daemon's workers do, for a machine without a daemon."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from msgspec import Struct

from snapvol.api import BackupInfo, Plan
from snapvol.cli import images, output
from snapvol.cli.access import Access, opened
from snapvol.cli.progress import Counter, display
from snapvol.cli.session import Session
from snapvol.engine import backups as engine
from snapvol.engine import reading, restorer, verifier
from snapvol.engine.backups import Backup
from snapvol.engine.manifest import BackupKind
from snapvol.engine.node import Node, permissions
from snapvol.engine.progress import shown as shown_path
from snapvol.errors import Damaged, Refused, SnapvolError, StorageFailed
from snapvol.model import now
from snapvol.service import forgetting


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
    """List backups, oldest first: in the repository that is meant, or where none is named in all of the settings."""
    if access.repository is not None or access.direct:
        chosen = [access]
    else:
        chosen = [Access(repository=name) for name in session.settings.repositories]
    found = [backup for each in chosen for backup in _listed(session, each)]
    return sorted((it for it in found if volume in (None, it.volume)), key=lambda backup: backup.time)


def _listed(session: Session, access: Access) -> list[BackupInfo]:
    name, _ = access.resolve(session)
    with opened(session, access) as repository:
        found = [_info(backup, name) for backup in engine.backups(repository)]
        output.warn(f"{name}: backup {id[:8]}: {error.message}" for id, error in repository.damaged_snapshots)
    return found


def _info(backup: Backup, repository: str) -> BackupInfo:
    fields = {name: getattr(backup, name) for name in BackupInfo.__struct_fields__ if hasattr(backup, name)}
    return BackupInfo(**{**fields, "repository": repository})


def verify(session: Session, access: Access, chosen: tuple[str, ...], *, as_json: bool) -> None:
    """Read backups whole and print what is wrong with them.

    Raises:
        Damaged: something is.
    """
    results, damaged = [], []
    with opened(session, access.uncached) as repository:
        for backup in [engine.select(repository, text) for text in chosen]:
            with display() as shown:
                result = verifier.verify(repository, backup.id, Counter(f"verify of {backup.short_id}", shown))
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
    """Take backups out of a repository, by their ids.

    Raises:
        Protected: one is the newest complete backup of its volume, and ``force`` is not given.
    """
    name, _ = access.resolve(session)
    with opened(session, access) as repository:
        known = [_info(backup, name) for backup in engine.backups(repository)]
        doomed = forgetting.resolve(chosen, known, name)
        if not force:
            forgetting.refuse_last(doomed, known, now())
        if not dry_run:
            with repository.lock() as lock:
                lock.check()
                repository.forget([backup.id for backup in doomed])
    return Plan(actions=forgetting.actions(doomed), done=not dry_run)


def restore(session: Session, access: Access, text: str, directory: Path, *, path: str | None, as_json: bool) -> None:
    """Restore a backup into a directory, which is made where it does not exist; an image becomes a file in it.

    Raises:
        Refused: the directory is not empty, or ``path`` is given and the backup is an image.
        Damaged: files could not be restored; they are named on standard error.
    """
    with opened(session, access) as repository:
        backup = engine.select(repository, text)
        if backup.kind is BackupKind.IMAGE and path is not None:
            raise Refused(
                f"backup {backup.short_id} is the image of a block device: without a daemon it is restored whole",
                "leave out --path; how to mount the image is shown then",
            )
        with _made(directory), display() as shown:
            counter = Counter(f"restore of {backup.short_id}", shown)
            if backup.kind is BackupKind.IMAGE:
                restored = images.restore(repository, backup, directory, counter)
            else:
                part = None if path is None else os.fsencode(path)
                result = restorer.restore(repository, backup.id, directory, path=part, progress=counter)
    if backup.kind is BackupKind.IMAGE:
        return _say_image(restored, as_json=as_json)
    output.warn(result.notes)
    if as_json:
        output.print_json(result)
    else:
        size = output.size(result.bytes_written + result.bytes_kept)
        print(output.printable(f"{directory}: {output.count(result.files, 'file')}, {size}"))
    return None


def _say_image(restored: images.ImageFile, *, as_json: bool) -> None:
    output.warn(restored.notes)
    if as_json:
        output.print_json(restored)
    else:
        restored.say()


@contextmanager
def _made(directory: Path) -> Iterator[None]:
    """Make a directory where there is none, and take it away again where nothing came to be in it."""
    made = not directory.exists()
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise Refused(f"{directory} is not a directory", "name a directory, or one that does not exist") from None
    except OSError as error:
        raise StorageFailed(f"directory {directory} cannot be made: {error.strerror}") from None
    try:
        yield
    except SnapvolError:
        if made:
            with suppress(OSError):
                directory.rmdir()
        raise


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
