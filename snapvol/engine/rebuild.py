"""One backup's entries, made again in a target: the walk, and the order in which things can be set."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from msgspec import Struct

from snapvol.engine import reading
from snapvol.engine.node import Kind, Node
from snapvol.engine.progress import Problem, Progress, shown
from snapvol.engine.scatter import File, Scatter
from snapvol.engine.stamp import FATAL, FULL, Stamp, no_space
from snapvol.engine.target import Place, Target
from snapvol.errors import AlreadyExists, Damaged, Refused, StorageFailed
from snapvol.repository import Repository

_MOST_WAITING = 8192
_SPECIAL: dict[str, int] = {
    Kind.BLOCK_DEVICE: stat.S_IFBLK,
    Kind.CHARACTER_DEVICE: stat.S_IFCHR,
    Kind.FIFO: stat.S_IFIFO,
    Kind.SOCKET: stat.S_IFSOCK,
}
_FORMATS: dict[str, int] = {
    Kind.FILE: stat.S_IFREG,
    Kind.DIRECTORY: stat.S_IFDIR,
    Kind.SYMLINK: stat.S_IFLNK,
    **_SPECIAL,
}


class RestoreResult(Struct, frozen=True, kw_only=True):
    """What a restore did.

    Attributes:
        files: entries other than directories that are now as in the backup.
        dirs: directories, the target itself included where its own mode and owner were restored.
        bytes_written: bytes written to files.
        bytes_kept: bytes that were there already and equal.
        removed: entries that were there and are not in the backup (or were of another kind).
        problems: what is not restored.
        notes: what was restored without its owner, mode or attributes, because the target does not take them.
        filesystem: on an image that was restored, where that is known.
    """

    files: int
    dirs: int
    bytes_written: int
    bytes_kept: int
    removed: int
    problems: list[Problem]
    notes: list[str]
    filesystem: str | None = None


class _Frame:
    """A directory of the backup that is being restored."""

    __slots__ = ("entries", "node", "place")

    def __init__(self, place: Place, entries: Iterator[Node], node: Node | None) -> None:
        self.place = place
        self.entries = entries
        self.node = node


class Rebuild:
    """One restore into one target."""

    def __init__(self, repository: Repository, target: Target, exact: bool, progress: Progress) -> None:
        self._target = target
        self._exact = exact
        self._progress = progress
        self._repository = repository
        self._stamp = Stamp()
        self._scatter = Scatter(repository, target, progress, self._stamp_file)
        self._links: dict[tuple[int, int], File | tuple[Place, bytes, Node]] = {}
        self._linked: list[tuple[Place, bytes, Node, File]] = []
        self._left: list[tuple[Place, Node]] = []
        self._problems: list[Problem] = []
        self._files = self._dirs = self._removed = 0

    def close(self) -> None:
        """Let go of open files."""
        self._scatter.close()

    def result(self) -> RestoreResult:
        """Return what was done."""
        return RestoreResult(
            files=self._files,
            dirs=self._dirs,
            bytes_written=self._scatter.bytes_written,
            bytes_kept=self._scatter.bytes_kept,
            removed=self._removed,
            problems=self._problems,
            notes=self._stamp.notes,
        )

    # -- the walk -----------------------------------------------------------------------------------------------

    def run(self, start: reading.Root, found: list[Node]) -> None:
        """Restore everything, or the last of ``found``, whose predecessors are the directories on the way."""
        if not found:
            self._tree(self._frame(self._target.top, start.subtree, start.node))
        else:
            place = self._way(found[:-1])
            node = found[-1]
            if not self._exact and self._target.find(place, node.name) is not None:
                raise AlreadyExists(
                    f"'{shown(place.path(node.name))}' exists in the target", "restore it in place, or elsewhere"
                )
            frame = self._entry(place, node)
            if frame is not None:
                self._tree(frame)
        self._flush()
        if not self._files and not self._dirs and not self._problems:
            raise StorageFailed(
                "nothing was restored: the backup holds nothing", "see what it has: snapvol files BACKUP"
            )

    def _way(self, nodes: list[Node]) -> Place:
        place = self._target.top
        for node in nodes:
            name = node.name
            there = self._target.find(place, name)
            if there is None:
                os.mkdir(name, 0o700, dir_fd=self._target.fd(place))
            elif not stat.S_ISDIR(there.st_mode):
                raise Refused(
                    f"'{shown(place.path(name))}' in the target is not a directory", "restore elsewhere, or remove it"
                )
            place = Place(place, name)
            if there is None:
                self._left.append((place, node))
        # Deepest first: a directory's time is set when nothing is made in it any more.
        self._left.reverse()
        return place

    def _tree(self, top: _Frame) -> None:
        frames = [top]
        while frames:
            frame = frames[-1]
            for node in frame.entries:
                entered = self._guarded(frame.place, node)
                if entered is not None:
                    frames.append(entered)
                    break
            else:
                frames.pop()
                if frame.node is not None:
                    self._left.append((frame.place, frame.node))
                if len(self._left) + len(self._linked) >= _MOST_WAITING or self._scatter.full:
                    self._flush()
                self._progress.cancelled()

    def _guarded(self, place: Place, node: Node) -> _Frame | None:
        """Restore one entry; what is wrong with it alone does not stop the others."""
        try:
            return self._entry(place, node)
        except OSError as error:
            path = place.path(node.name)
            if error.errno in FULL:
                raise no_space(path, error) from error
            if error.errno in FATAL:
                raise
            self._problem(path, f"it cannot be made: {error.strerror}")
        except ValueError as error:
            self._problem(place.path(node.name), f"it cannot be made: {error}")
        return None

    def _frame(self, place: Place, subtree: str | None, node: Node | None) -> _Frame:
        path = place.path()
        try:
            if subtree is None:
                raise Damaged("it has no list of entries")
            if place.depth > reading.DEEPEST:
                raise Damaged(f"it is nested more than {reading.DEEPEST} deep")
            entries = self._safe(path, reading.load_tree(self._repository, subtree))
        except reading.Unreadable as error:
            self._problem(path, f"what it holds is lost: {error.message}")
            return _Frame(place, iter(()), node)  # also: what the target has there is left alone
        if self._exact:
            self._remove_extras(place, {entry.name for entry in entries})
        return _Frame(place, iter(entries), node)

    def _safe(self, path: bytes, entries: list[Node]) -> list[Node]:
        """Return the entries whose names a directory can have, each once."""
        seen: set[bytes] = set()
        safe = []
        for entry in entries:
            try:
                name = entry.name
            except Damaged as error:
                self._problem(path, error.message)
                continue
            if not reading.is_safe(name):
                self._problem(path, f"the backup has an entry named '{shown(name)}' there, which no directory can have")
            elif name in seen:
                self._problem(path + b"/" + name if path else name, "the backup has two entries of this name")
            else:
                seen.add(name)
                safe.append(entry)
        return safe

    def _remove_extras(self, place: Place, wanted: set[bytes]) -> None:
        for name in self._target.names(place):
            if name in wanted:
                continue
            try:
                self._removed += self._target.remove(place, name)
            except OSError as error:
                if error.errno in FATAL:
                    raise
                self._problem(place.path(name), f"it cannot be removed: {error.strerror}")

    # -- entries ------------------------------------------------------------------------------------------------

    def _entry(self, place: Place, node: Node) -> _Frame | None:
        name = node.name
        existing = self._existing(place, name, node) if self._exact else None
        if node.type == Kind.DIRECTORY:
            return self._directory(place, name, node, existing)
        if node.type not in _FORMATS:
            self._problem(place.path(name), f"its type {node.type!r} is not known")
        elif node.type == Kind.FILE:
            self._file(place, name, node, existing)
        else:
            self._other(place, name, node, existing)
        return None

    def _existing(self, place: Place, name: bytes, node: Node) -> os.stat_result | None:
        """Return the lstat of what is there, if it can be made equal; otherwise remove it."""
        found = self._target.find(place, name)
        if found is None:
            return None
        if stat.S_IFMT(found.st_mode) == _FORMATS.get(node.type):
            if stat.S_ISDIR(found.st_mode):
                return found
            # Another name of the same file may be meant to differ from this one.
            if found.st_nlink == 1 and self._same_special(place, name, node, found):
                return found
        self._removed += self._target.remove(place, name)
        return None

    def _same_special(self, place: Place, name: bytes, node: Node, found: os.stat_result) -> bool:
        if stat.S_ISLNK(found.st_mode):
            return os.readlink(name, dir_fd=self._target.fd(place)) == node.target
        if stat.S_ISBLK(found.st_mode) or stat.S_ISCHR(found.st_mode):
            return found.st_rdev == node.device
        return True

    def _directory(self, place: Place, name: bytes, node: Node, existing: os.stat_result | None) -> _Frame:
        inside = Place(place, name)
        if existing is None:
            os.mkdir(name, 0o700, dir_fd=self._target.fd(place))
        else:
            self._target.refuse_mount(inside)
        return self._frame(inside, node.subtree, node)

    def _leader(self, node: Node) -> File | tuple[Place, bytes, Node] | None:
        """Return the entry that this one is a hard link to, if it has been met."""
        if node.links < 2:
            return None
        met = self._links.get((node.device_id, node.inode))
        if met is None:
            return None
        first = met.node if isinstance(met, File) else met[2]
        same = (first.type, first.content, first.target, first.device) == (
            node.type,
            node.content,
            node.target,
            node.device,
        )
        return met if same else None

    def _file(self, place: Place, name: bytes, node: Node, existing: os.stat_result | None) -> None:
        leader = self._leader(node)
        if isinstance(leader, File):
            if existing is not None:
                self._removed += self._target.remove(place, name)
            self._linked.append((place, name, node, leader))
            return
        file = File(place, name, node)
        if node.links > 1:
            self._links.setdefault((node.device_id, node.inode), file)
        self._scatter.restore(file, existing is not None)

    def _other(self, place: Place, name: bytes, node: Node, existing: os.stat_result | None) -> None:
        leader = self._leader(node)
        directory = self._target.fd(place)
        if isinstance(leader, tuple):
            if existing is not None:
                self._removed += self._target.remove(place, name)
            self._link(leader[0], leader[1], place, name)
        else:
            if existing is None:
                self._make(directory, name, node)
            self._stamp.entry(directory, name, node, lambda: place.path(name))
            if node.links > 1:
                self._links.setdefault((node.device_id, node.inode), (place, name, node))
        self._count(0)

    def _make(self, directory: int, name: bytes, node: Node) -> None:
        if node.type == Kind.SYMLINK:
            os.symlink(node.target, name, dir_fd=directory)
        else:
            os.mknod(name, _SPECIAL[node.type] | 0o600, node.device, dir_fd=directory)

    def _link(self, source: Place, source_name: bytes, place: Place, name: bytes) -> None:
        # A descriptor is only good until the next is asked for; the first of two therefore needs one of its own.
        first = os.dup(self._target.fd(source))
        try:
            os.link(source_name, name, src_dir_fd=first, dst_dir_fd=self._target.fd(place), follow_symlinks=False)
        finally:
            os.close(first)

    # -- the end of a batch -------------------------------------------------------------------------------------

    def _stamp_file(self, fd: int, file: File) -> None:
        self._stamp.opened(fd, file.node, file.path)
        self._count(0)

    def _count(self, size: int) -> None:
        self._files += 1
        self._progress.advance(size, 1)

    def _flush(self) -> None:
        """Write what is wanted, then make the links, then put their times on the directories that are left."""
        self._scatter.flush()
        for file in self._scatter.take_damaged():
            self._problem(file.path(), file.failure or "")
        linked, self._linked = self._linked, []
        for place, name, _, leader in linked:
            if leader.failure is not None:
                self._problem(place.path(name), leader.failure)
            else:
                self._link(leader.place, leader.name, place, name)
                self._count(0)
        left, self._left = self._left, []
        for place, node in left:
            self._stamp.opened(self._target.fd(place), node, place.path)
            self._dirs += 1

    def _problem(self, path: bytes, what: str) -> None:
        where = shown(path) or "/"
        self._problems.append(Problem(where, what))
        self._progress.note(where, what)
