"""A worker process: one piece of bulk work, told on standard input, reported as JSON lines on standard output.

``python -m snapvol.worker`` is started by `snapvol.service.process`, and by nobody else.
"""

from __future__ import annotations

import ctypes
import errno
import faulthandler
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from types import FrameType
from typing import IO, TYPE_CHECKING, Any, NoReturn, Protocol

import msgspec

from snapvol import errors
from snapvol.errors import Cancelled, Damaged, NoSpace, NotFound, PackLost, SnapvolError
from snapvol.service import work
from snapvol.service.repositories import open_repository

if TYPE_CHECKING:
    from snapvol.engine.archiver import BackupResult
    from snapvol.engine.base import BaseBackup
    from snapvol.engine.manifest import BackupKind
    from snapvol.repository import Repository

PACE = 0.2  # seconds between reports of progress
REACTION = 3.0  # seconds in which the engine should have noticed that it is to end
MOST_PROBLEMS = 100
MOST_NOTES = 1000  # problems passed on one by one; the result has their number

_PR_SET_PDEATHSIG = 1


class Report:
    """What the daemon hears; the engine's `Progress`.

    Args:
        out: the pipe to the daemon.
    """

    def __init__(self, out: IO[bytes]) -> None:
        self._out = out
        self._lock = threading.Lock()
        self._counting = threading.Lock()
        self._progress = work.Progressed()
        self._sent = 0.0
        self._noted = 0
        self.stopping = False

    def say(self, message: work.Message) -> None:
        """Send a message."""
        line = work.encode(message)
        with self._lock:
            self._out.write(line)
            self._out.flush()

    def phase(self, name: str) -> None:
        """Say what is done now."""
        with self._counting:
            self._progress = msgspec.structs.replace(self._progress, phase=name)
        self.say(self._progress)

    def warn(self, line: str) -> None:
        """Say what people should know although it does not stop the work."""
        self.say(work.Said(line=line, warning=True))

    def restart(self) -> None:
        """Count from the beginning again."""
        with self._counting:
            self._progress = work.Progressed(phase=self._progress.phase)

    def total(self, files: int, bytes: int) -> None:
        """See `snapvol.engine.progress.Progress`."""
        with self._counting:
            self._progress = msgspec.structs.replace(self._progress, files_total=files, bytes_total=bytes)
        self._send()

    def advance(self, bytes: int, files: int) -> None:
        """See `snapvol.engine.progress.Progress`."""
        with self._counting:
            so_far = self._progress
            self._progress = msgspec.structs.replace(
                so_far, bytes_done=so_far.bytes_done + bytes, files_done=so_far.files_done + files
            )
        self._send()

    def note(self, path: str, problem: str) -> None:
        """See `snapvol.engine.progress.Progress`."""
        self._noted += 1
        if self._noted <= MOST_NOTES:
            self.say(work.Said(line=f"{path}: {problem}", warning=True))

    def cancelled(self) -> None:
        """See `snapvol.engine.progress.Progress`."""
        if self.stopping:
            raise Cancelled("it was cancelled")

    def last(self) -> None:
        """Send the progress that was kept back to keep the pace."""
        self.say(self._progress)

    def _send(self) -> None:
        at = time.monotonic()
        if at - self._sent >= PACE:
            self._sent = at
            self.say(self._progress)


# -- the kinds of work ------------------------------------------------------------------------------------------------


def _opened(place: work.Place) -> Repository:
    return open_repository(place.name, place.settings, place.cache)


def _back_up(what: work.BackUp, report: Report) -> dict[str, Any]:
    from snapvol.backend import Tree
    from snapvol.engine.archiver import back_up, latest_parent
    from snapvol.engine.manifest import BackupKind

    def attempt(base: BaseBackup | None, *, again: bool) -> BackupResult:
        # After a wrong answer of the storage, times and inodes prove nothing either: nothing is taken unread.
        parent = latest_parent(repository, what.meta.id, what.host) if base is None and not again else None
        tree = Tree(root=what.source, identity=what.identity, stable_inodes=what.stable_inodes)
        changes = what.changes if base is not None else None
        result = back_up(
            *(repository, tree, what.meta),
            parent=parent,
            progress=report,
            host=what.host,
            base=base,
            changes=changes,
        )
        if changes is None:
            report.total(result.files, result.bytes_total)
        return result

    report.phase("opening the repository")
    with _opened(what.repository) as repository:
        return _on_base(repository, what, BackupKind.FILES, attempt, report)


def _back_up_image(what: work.BackUpImage, report: Report) -> dict[str, Any]:
    from snapvol.engine.image_archiver import CHUNK, back_up_image
    from snapvol.engine.manifest import BackupKind

    def attempt(base: BaseBackup | None, *, again: bool) -> BackupResult:
        changed = what.changed if base is not None else None
        chunk = what.chunk or CHUNK
        return back_up_image(
            repository, what.image, what.meta, base=base, changed=changed, progress=report, host=what.host, chunk=chunk
        )

    report.phase("opening the repository")
    with _opened(what.repository) as repository:
        return _on_base(repository, what, BackupKind.IMAGE, attempt, report)


class _Attempt(Protocol):
    def __call__(self, base: BaseBackup | None, *, again: bool) -> BackupResult: ...


def _on_base(
    repository: Repository,
    what: work.BackUp | work.BackUpImage,
    kind: BackupKind,
    attempt: _Attempt,
    report: Report,
) -> dict[str, Any]:
    """Back up what has changed since the base, where there is one; everything where the storage was wrong."""
    from snapvol.engine.base import base_backup
    from snapvol.errors import BaseMismatch

    base, mismatch = None, False
    if what.base is not None:
        base = base_backup(repository, what.meta.id, what.base, kind, host=what.host)
        if base is None:
            report.warn("the backup that the last one was based on is no longer in the repository: all is read")
    report.phase("backing up")
    try:
        result = attempt(base, again=False)
    except BaseMismatch as error:
        mismatch = True
        report.warn(f"{error}; everything is read anew")
        report.restart()
        result = attempt(None, again=True)
    for note in result.notes[:MOST_PROBLEMS]:
        report.warn(note)
    return _plain(result) | {"parent": result.base, "mismatch": mismatch}


def _restore(what: work.Restore, report: Report) -> dict[str, Any]:
    from snapvol.engine.restorer import restore

    report.phase("opening the repository")
    with _opened(what.repository) as repository:
        report.phase("restoring")
        result = restore(repository, what.backup, what.target, path=what.path, exact=what.exact, progress=report)
    for note in result.notes[:MOST_PROBLEMS]:
        report.warn(note)
    return _plain(result)


def _restore_image(what: work.RestoreImage, report: Report) -> dict[str, Any]:
    from snapvol.engine.image_restorer import restore_image

    report.phase("opening the repository")
    with _opened(what.repository) as repository:
        report.phase("restoring the image")
        result = restore_image(repository, what.backup, what.target, progress=report)
    for note in result.notes[:MOST_PROBLEMS]:
        report.warn(note)
    return _plain(result)


def _extract(what: work.Extract, report: Report) -> dict[str, Any]:
    from snapvol.engine.image_restorer import restore_image
    from snapvol.service import extraction

    report.phase("opening the repository")
    file = what.scratch / "image"
    half = extraction.Half(report)
    with _opened(what.repository) as repository:
        report.phase("restoring the image")
        restored = restore_image(repository, what.backup, file, progress=half)
    extraction.seclude(what.mounts, what.target)
    with extraction.mounted(file, what.filesystem, what.scratch / "files") as root:
        report.phase("copying the files out of the image")
        return extraction.copy(root, what.target, what.path, restored.bytes_written, half)


def _verify(what: work.Verify, report: Report) -> dict[str, Any]:
    from snapvol.engine.verifier import verify

    report.phase("opening the repository")
    # Without the cache: what it holds says nothing of what the repository still holds.
    with open_repository(what.repository.name, what.repository.settings) as repository:
        report.phase("verifying")
        result = verify(repository, what.backup, report)
    for problem in result.problems[:MOST_PROBLEMS]:
        report.note(problem.path, problem.what)
    if result.problems:
        count = len(result.problems)
        raise Damaged(
            f"backup {what.backup[:8]}: {count} {'file' if count == 1 else 'files'} cannot be restored whole; "
            f"first {result.problems[0]}",
            "make a new backup while the volume is there; see: snapvol repo check --read-data",
        )
    return _plain(result)


def _list(what: work.List, report: Report) -> dict[str, Any]:
    from snapvol.engine.backups import backups

    with _opened(what.repository) as repository:
        found = [_info(backup, what.repository.name) for backup in backups(repository)]
        for name, error in repository.damaged_snapshots:
            report.say(work.Said(line=f"repository '{what.repository.name}': backup {name[:8]}: {error}", warning=True))
    return {"backups": found}


def _describe(what: work.Describe, report: Report) -> dict[str, Any]:
    from snapvol.engine import reading
    from snapvol.engine.backups import select

    with _opened(what.repository) as repository:
        backup = select(repository, what.backup)
        _, document = repository.find_snapshot(backup.id)
        meta = lost = None
        if not backup.foreign:
            repository.load_index()
            try:
                start = reading.root(repository, document)
                meta, lost = start.meta, start.lost
            except (Damaged, NotFound) as error:
                lost = error.message
        if lost is not None:
            # The files may still be whole, and they matter more than the volume's options.
            line = f"backup {backup.short_id}: what it says of its volume is lost: {lost}"
            report.say(work.Said(line=line, warning=True))
    return {"backup": _info(backup, what.repository.name), "meta": meta}


def _forget(what: work.Forget, report: Report) -> dict[str, Any]:
    # A shared lock is enough: it keeps a prune away, and whoever reads one of these backups now still has its data.
    # An exclusive one would make a long backup of one volume keep all others from being forgotten.
    with _opened(what.repository) as repository, repository.lock() as lock:
        lock.check()
        repository.forget(what.backups)
    return {}


def _probe(what: work.Probe, report: Report) -> dict[str, Any]:
    with _opened(what.repository) as repository:
        return {"id": repository.id}


_WORK: dict[type[Any], Callable[[Any, Report], dict[str, Any]]] = {
    work.BackUp: _back_up,
    work.BackUpImage: _back_up_image,
    work.Restore: _restore,
    work.RestoreImage: _restore_image,
    work.Extract: _extract,
    work.Verify: _verify,
    work.List: _list,
    work.Describe: _describe,
    work.Forget: _forget,
    work.Probe: _probe,
}


def _info(backup: Any, repository: str) -> dict[str, Any]:
    from snapvol.api import BackupInfo

    fields = {name: getattr(backup, name) for name in BackupInfo.__struct_fields__ if hasattr(backup, name)}
    return dict(fields) | {"repository": repository}


def _plain(result: object) -> dict[str, Any]:
    """Return a result as people see it in a job: problems as lines, and not without end."""
    plain: dict[str, Any] = {}
    for name in getattr(result, "__struct_fields__", ()):
        value = getattr(result, name)
        plain[name] = [str(item) for item in value[:MOST_PROBLEMS]] if isinstance(value, list | tuple) else value
    return plain


# -- the process ------------------------------------------------------------------------------------------------------


def main() -> NoReturn:
    """Do what standard input says, report it, and end."""
    out = _own_output()
    faulthandler.enable()
    report = Report(out)
    request = work.decode_request(sys.stdin.buffer.read())
    _end_with(request.parent)
    _obey(report)
    last: work.Finished | work.Failed
    try:
        last = work.Finished(result=_done(request.work, report))
    except BaseException as error:
        last = _failed(error)
    # Its end is reported now: another signal would only cut that short.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.setitimer(signal.ITIMER_REAL, 0)
    report.last()
    report.say(last)
    sys.stdout.flush()  # what was printed waits there for as long as nobody makes it go
    sys.stderr.flush()
    # Not `return`: Python would wait for threads, and one of them may wait for a server that is silent.
    os._exit(0 if isinstance(last, work.Finished) else 1)


def _done(what: Any, report: Report) -> dict[str, Any]:
    """Do the work. Where a pack proves to be lost, once more: the repository is then looked through from the start."""
    try:
        return _WORK[type(what)](what, report)
    except PackLost as error:
        report.warn(f"{error.message}: once more, so that what was in it is uploaded again")
        report.restart()
        return _WORK[type(what)](what, report)


def _own_output() -> IO[bytes]:
    """Keep standard output for the reports; what anything else prints goes to the log."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return out


def _end_with(parent: int) -> None:
    """Have the kernel end this process with its parent: no daemon, no work behind its back, no half-written volume.

    Raises:
        OSError: the kernel refuses.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
    if os.getppid() != parent:
        sys.exit("the daemon has ended")


def _obey(report: Report) -> None:
    """On SIGTERM: end as soon as the engine looks; else by an exception after `REACTION`; else hard, after as long."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        report.stopping = True
        signal.setitimer(signal.ITIMER_REAL, REACTION)

    def insist(_number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGALRM, lambda *_: os._exit(1))
        signal.setitimer(signal.ITIMER_REAL, REACTION)
        raise Cancelled("it was cancelled")

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGALRM, insist)


def _failed(error: BaseException) -> work.Failed:
    """Return an error as the daemon reports it: one line for people. What nobody expected goes to the log whole."""
    if isinstance(error, SnapvolError):
        return work.Failed(kind=_kind(error), message=error.message, hint=error.hint)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return work.Failed(kind=NoSpace.__name__, message=str(error), hint="free space, or raise the volume's size")
    traceback.print_exception(error)
    return work.Failed(
        kind=SnapvolError.__name__, message=f"{type(error).__name__}: {error}", hint="this is a bug; its log says more"
    )


def _kind(error: SnapvolError) -> str:
    """Return the nearest class that the daemon can make again from a message and a hint."""
    for kind in type(error).__mro__:
        if kind is not errors.ToolFailed and getattr(errors, kind.__name__, None) is kind:
            return str(kind.__name__)
    return SnapvolError.__name__


if __name__ == "__main__":
    main()
