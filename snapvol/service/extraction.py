"""The files in the image of a filesystem, copied out of it. Runs in a worker process, which ends with all its mounts.

The image is mounted through a loop device in a mount namespace of the worker's own: when the worker is killed, the
kernel unmounts it and frees the device (mount(8) sets it up with autoclear, loop(4)).
"""

from __future__ import annotations

import ctypes
import errno
import os
import selectors
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any

from snapvol import mountinfo, shell
from snapvol.engine.kernel import sync_filesystem
from snapvol.engine.progress import Progress, shown
from snapvol.errors import Damaged, NoSpace, NotFound, Refused, StorageFailed, ToolFailed

_libc = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNS, _MS_REC, _MS_SLAVE, _MNT_DETACH = 0x20000, 0x4000, 1 << 19, 2
# XFS refuses a filesystem whose UUID is mounted already: the volume's own, on this very machine (T11).
# An ext4 image can say that the machine is to panic at its first error (tune2fs -e): not this machine (T44).
_OPTIONS = {
    "ext4": "loop,noatime,nodev,nosuid,noexec,errors=remount-ro",
    "xfs": "loop,noatime,nodev,nosuid,noexec,nouuid",
}
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FULL = ("No space left on device", "Disk quota exceeded")
_MOST_LINES = 100


class Half:
    """The first of two halves of the work, and then the second: the image is restored, then its files are copied."""

    def __init__(self, whole: Progress) -> None:
        self._whole = whole
        self._files = 0
        self._bytes = 0
        self._copied = 0
        self.cancelled = whole.cancelled
        self.note = whole.note
        self.advance = whole.advance

    def total(self, files: int, bytes: int) -> None:
        """See `snapvol.engine.progress.Progress`."""
        self._files, self._bytes = files, bytes
        self._whole.total(files, 2 * bytes)

    def second(self, files: int) -> None:
        """Begin the second half, in which about so many files are copied."""
        self._whole.total(self._files + files, 2 * self._bytes)

    def copied(self, fraction: float, files: int) -> None:
        """Say how much of the second half is done, and how many more files were copied."""
        done = max(self._copied, int(self._bytes * min(fraction, 1.0)))
        self._whole.advance(done - self._copied, files)
        self._copied = done


def seclude(mounts: Path, target: Path) -> None:
    """Give this thread a mount namespace of its own, which follows the machine's and keeps none of its volumes busy.

    Args:
        mounts: below it the daemon mounts volumes.
        target: the one directory below it that is needed here.

    Raises:
        StorageFailed: the kernel refuses.
    """
    _call("unshare", _libc.unshare(_CLONE_NEWNS))
    _call("mount", _libc.mount(None, b"/", None, ctypes.c_ulong(_MS_REC | _MS_SLAVE), None))
    place, own = PurePosixPath(os.path.realpath(mounts)), PurePosixPath(os.path.realpath(target))
    for mount in reversed(mountinfo.own()):
        point = mount.mountpoint
        if point != place and point.is_relative_to(place) and not own.is_relative_to(point):
            _libc.umount2(os.fsencode(point), _MNT_DETACH)  # a slave's unmounts stay in its namespace


def _call(name: str, failed: int) -> None:
    if failed:
        number = ctypes.get_errno()
        hint = "run the daemon as root, or restore into a pool that takes images"
        raise StorageFailed(f"an image cannot be mounted: {name}: {os.strerror(number)}", hint)


@contextmanager
def mounted(image: Path, filesystem: str, point: Path) -> Iterator[Path]:
    """Mount an image while the context lasts. It is written to: a journal that was not empty is played back.

    Raises:
        StorageFailed: it cannot be mounted.
    """
    if filesystem not in _OPTIONS:
        raise StorageFailed(f"the image holds a filesystem of the kind {filesystem!r}, which is not known here")
    point.mkdir(mode=0o700, exist_ok=True)
    try:
        shell.run("mount", "-t", filesystem, "-o", _OPTIONS[filesystem], image, point)
    except ToolFailed as error:
        hint = "restore it into an LVM pool, or write it to a file: snapvol restore BACKUP --to DIR"
        raise StorageFailed(f"the image cannot be mounted: {' '.join(error.stderr.split())}", hint) from error
    try:
        shell.run("mount", "-o", "remount,ro", point)
        yield point
    finally:
        with suppress(ToolFailed):  # the end of this process unmounts it as well
            shell.run("umount", "--lazy", point)


def copy(root: Path, target: Path, path: bytes | None, written: int, progress: Half) -> dict[str, Any]:
    """Copy a tree with everything that belongs to it, and have it on the disk.

    Args:
        root: of the tree.
        target: an existing directory; empty, unless ``path`` is given.
        path: only this, to the same path, in place of what is there; directories on the way are made.
        written: about how many bytes there are.
        progress: is told.

    Returns:
        Figures, as in `snapvol.engine.rebuild.RestoreResult`.

    Raises:
        NotFound: there is no ``path`` in the tree.
        Refused: something on the way to it is no directory.
        NoSpace: the target is full.
        Damaged: some files could not be copied; all others are.
        Cancelled: nobody wants it any more.
    """
    with ExitStack() as stack:
        old, new = _open(stack, root), _open(stack, target)
        facts = os.statvfs(old)
        progress.second(facts.f_files - facts.f_ffree)
        if path is None:
            os.fchmod(new, 0o700)  # or what is made in it would inherit a setgid bit; its mode comes at last
            figures = _Copying(written, progress).run(f"{_by(old)}/.", f"{_by(new)}/")
        else:
            figures = _copy_path(stack, old, new, path, _Copying(written, progress))
        sync_filesystem(new)
    return figures


def _open(stack: ExitStack, directory: Path | bytes, above: int | None = None) -> int:
    descriptor = os.open(directory, _DIRECTORY, dir_fd=above)
    stack.callback(os.close, descriptor)
    return descriptor


def _by(descriptor: int) -> str:
    """Return a short path to an open directory that other programs can use, and that nobody can move or replace."""
    return f"/proc/{os.getpid()}/fd/{descriptor}"


def _copy_path(stack: ExitStack, old: int, new: int, path: bytes, copying: _Copying) -> dict[str, Any]:
    *above, name = path.split(b"/")
    made = []
    for part in above:
        old = _source(stack, old, part, path)
        new, fresh = _way(stack, new, part, path)
        if fresh:
            made.append((old, new))
    try:
        os.stat(name, dir_fd=old, follow_symlinks=False)
    except FileNotFoundError:
        raise _missing(path) from None
    there = f"{_by(new)}/{os.fsdecode(name)}"
    copying.clear(there)
    figures = copying.run(f"{_by(old)}/{os.fsdecode(name)}", there)
    for source, directory in reversed(made):
        for said in _dress(source, directory):
            figures["notes"].append(said)
            copying.progress.note("copy", said)
    return figures


def _missing(path: bytes) -> NotFound:
    return NotFound(f"there is no '{shown(path)}' in the backup", "see: snapvol files BACKUP")


def _source(stack: ExitStack, above: int, part: bytes, path: bytes) -> int:
    try:
        return _open(stack, part, above)
    except OSError:
        raise _missing(path) from None


def _way(stack: ExitStack, above: int, part: bytes, path: bytes) -> tuple[int, bool]:
    """Open a directory on the way, or make it; say whether it was made."""
    fresh = True
    try:
        os.mkdir(part, 0o700, dir_fd=above)
    except FileExistsError:
        fresh = False
    try:
        return _open(stack, part, above), fresh
    except OSError as error:
        raise Refused(
            f"'{shown(path)}' cannot be restored: '{shown(part)}' on the way to it is no directory ({error.strerror})",
            "move that away, or restore into a new volume",
        ) from None


def _dress(source: int, directory: int) -> list[str]:
    """Give a directory that was made on the way what the one in the image has; return what the target does not take."""
    facts, unkept = os.fstat(source), []
    os.fchown(directory, facts.st_uid, facts.st_gid)
    for attribute in os.listxattr(source):
        try:
            os.setxattr(directory, attribute, os.getxattr(source, attribute))
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            unkept.append(f"setting attribute '{attribute}' of a directory on the way: {error.strerror}")
    os.fchmod(directory, facts.st_mode & 0o7777)
    os.utime(directory, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    return unkept


class _Copying:
    """cp(1) and rm(1): what they say, and how far they are."""

    def __init__(self, written: int, progress: Half) -> None:
        self._written = max(1, written)
        self.progress = progress
        self._problems: list[str] = []
        self._notes: list[str] = []
        self._files = 0

    def clear(self, path: str) -> None:
        """Remove what is at ``path``."""
        self._judge(self._ended("rm", "--recursive", "--force", "--one-file-system", "--", path))

    def run(self, source: str, target: str) -> dict[str, Any]:
        """Copy, and return the figures."""
        # --archive would pass over attributes that the target does not take in silence.
        code = self._ended(
            "cp", "--recursive", "--no-dereference", "--preserve=mode,ownership,timestamps,links,xattr",
            "--sparse=auto", "--one-file-system", "--no-target-directory", "--verbose", "--", source, target,
        )  # fmt: skip
        self._judge(code)
        return {
            "files": self._files,
            "bytes_written": self._written,
            "removed": 0,
            "problems": [],
            "notes": self._notes[:_MOST_LINES],
        }

    def _ended(self, *argv: str) -> int | None:
        child = shell.start(*argv)  # which ends with this process, and so cannot go on behind its back
        try:
            self._listen(child)
            return child.wait()
        finally:
            child.close()

    def _listen(self, child: shell.Child) -> None:
        rest = {child.stdout: b"", child.stderr: b""}
        with selectors.DefaultSelector() as selector:
            for pipe in rest:
                selector.register(pipe, selectors.EVENT_READ)
            while selector.get_map():
                copied = 0
                for key, _ in selector.select(0.5):
                    data = os.read(key.fd, 1 << 16)
                    if not data:
                        selector.unregister(key.fd)
                    *lines, rest[key.fd] = (rest[key.fd] + data).split(b"\n")
                    if key.fd == child.stdout:
                        copied += len(lines)
                    else:
                        self._hear(lines)
                self._files += copied
                self.progress.copied(_written(child.pid) / self._written, copied)
                self.progress.cancelled()

    def _hear(self, lines: list[bytes]) -> None:
        for line in lines:
            said = line.decode("utf-8", "replace").partition(": ")[2].replace(f"/proc/{os.getpid()}/fd/", "")
            if any(full in said for full in _FULL):
                raise NoSpace(f"the files of the image do not fit: {said}", "free space, or raise the volume's size")
            known = self._notes if said.endswith("Operation not supported") else self._problems
            known.append(said)
            if len(known) <= _MOST_LINES:
                self.progress.note("copy", said)

    def _judge(self, code: int | None) -> None:
        if self._problems:
            count = len(self._problems)
            raise Damaged(
                f"{count} {'file' if count == 1 else 'files'} could not be copied out of the image; "
                f"first: {self._problems[0]}",
                "everything else was; look at the job's log, and at the kernel's",
            )
        if code and not self._notes:
            raise StorageFailed(f"the files could not be copied out of the image: the program ended with status {code}")


def _written(pid: int) -> int:
    with suppress(OSError, StopIteration, ValueError):
        lines = Path(f"/proc/{pid}/io").read_text(encoding="ascii").splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("wchar:")))
    return 0
