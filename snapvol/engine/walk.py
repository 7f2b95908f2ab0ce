"""One walk of a directory tree, from which its tree objects are made."""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Iterator

from snapvol.backend import Tree
from snapvol.engine import manifest, node
from snapvol.engine.contents import SMALLEST, Cutter, is_zero
from snapvol.engine.descent import Descent, member
from snapvol.engine.metadata import Recorder, attributes
from snapvol.engine.node import Attribute, Node
from snapvol.engine.parent import Base, Parent
from snapvol.engine.pipeline import Pipeline, Slot
from snapvol.engine.progress import Problem, Progress, shown
from snapvol.errors import StorageFailed
from snapvol.repository import BlobKind, Repository

_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_LARGE = 64 << 20
_AHEAD = 20_000  # entries whose blobs may still be under way
_REPORT_FILES = 64
_REPORT_BYTES = 4 << 20


class _Changed(Exception):
    """A file is not what it was a moment ago."""


class _Directory:
    """A directory on its way: its entries are known, their blobs may not be stored yet."""

    __slots__ = ("attributes", "entries", "found", "name", "settled", "subtree")

    def __init__(self, name: bytes, found: os.stat_result, extended: list[Attribute] | None) -> None:
        self.name = name
        self.found = found
        self.attributes = extended
        self.entries: list[tuple[Node, Slot | None] | _Directory] = []
        self.settled = 0
        self.subtree = ""


class _Frame:
    """A directory that is being walked."""

    __slots__ = ("directory", "names", "parent")

    def __init__(self, directory: _Directory, names: Iterator[bytes], parent: Parent) -> None:
        self.directory = directory
        self.names = names
        self.parent = parent


class Walk:
    """One walk of one tree.

    Args:
        repository: with its index loaded.
        tree: what is read.
        pipeline: takes the blobs.
        base: the earlier backup, or nothing, that unchanged files are taken from.
        progress: is told.
        in_place: paths of files that are changed in place, with known ranges: cut at fixed places when large.
    """

    def __init__(
        self,
        repository: Repository,
        tree: Tree,
        pipeline: Pipeline,
        base: Base,
        progress: Progress,
        in_place: frozenset[bytes] = frozenset(),
    ) -> None:
        self._repository = repository
        self._tree = tree
        self._pipeline = pipeline
        self._base = base
        self._progress = progress
        self._in_place = in_place
        self._recorder = Recorder(tree.stable_inodes)
        self._cutter = Cutter()
        self._links: dict[tuple[int, int], tuple[Slot, int, int]] = {}
        self._done: deque[_Directory] = deque()
        self._done_entries = 0
        self._open_flags = _OPEN | (os.O_NOATIME if os.geteuid() == 0 else 0)
        self._unreported = [0, 0]
        self._place: Descent
        self.problems: list[Problem] = []
        self.files = self.dirs = self.new = self.changed = self.unmodified = 0
        self.bytes_total = self.bytes_read = 0

    # -- the walk -----------------------------------------------------------------------------------------------

    def run(self) -> Node:
        """Store the whole tree and return the node of its root.

        Raises:
            SnapvolError: the repository failed, or the root itself cannot be read.
            Cancelled: nobody wants it any more.
        """
        try:
            self._place = Descent(self._tree.root)
        except OSError as error:
            raise StorageFailed(f"{self._tree.root} cannot be read: {error.strerror}") from error
        with self._place:
            root = _Directory(manifest.TREE, os.fstat(self._place.fd), self._attributes(self._place.fd, b""))
            self._walk(root)
            while self._done:
                self._finish(self._done[0])
            self._report(force=True)
        return self._directory_node(root)

    def _walk(self, root: _Directory) -> None:
        frames = [_Frame(root, self._names(), self._base.root())]
        while frames:
            frame = frames[-1]
            for name in frame.names:
                entered = self._entry(frame, name)
                if entered is not None:
                    frames.append(entered)
                    break
            else:
                self._leave(frames)

    def _leave(self, frames: list[_Frame]) -> None:
        directory = frames.pop().directory
        self.dirs += 1
        self._done.append(directory)
        self._done_entries += len(directory.entries) + 1
        if frames:
            self._place.leave()
        self._progress.cancelled()
        while self._done and (self._done_entries > _AHEAD or self._settled(self._done[0])):
            self._finish(self._done[0])

    def _names(self) -> Iterator[bytes]:
        try:
            return iter(sorted(map(os.fsencode, os.listdir(self._place.fd))))
        except OSError as error:
            self._problem(b"", f"the directory cannot be listed: {error.strerror}")
            return iter(())

    def _entry(self, frame: _Frame, name: bytes) -> _Frame | None:
        """Take in one entry; return the frame of a directory to go into."""
        try:
            found = os.stat(name, dir_fd=self._place.fd, follow_symlinks=False)
            if stat.S_ISDIR(found.st_mode):
                return self._enter(frame, name, found)
            if stat.S_ISREG(found.st_mode):
                entry = self._file(frame.parent, name, found)
            else:
                extended = self._attributes(member(self._place.fd, name), name)
                entry = (self._recorder.special(self._place.fd, name, found, extended), None)
            frame.directory.entries.append(entry)
            self.files += 1
            self._report(files=1)
        except FileNotFoundError:
            self._problem(name, "it vanished while the backup was running")
        except OSError as error:
            self._problem(name, f"it cannot be read: {error.strerror}")
        except (ValueError, _Changed) as error:
            self._problem(name, str(error))
        return None

    def _enter(self, frame: _Frame, name: bytes, found: os.stat_result) -> _Frame | None:
        try:
            self._place.enter(name)
        except PermissionError:
            closed = _Directory(name, found, self._attributes(member(self._place.fd, name), name))
            frame.directory.entries.append(closed)
            self._done.append(closed)
            raise
        directory = _Directory(name, os.fstat(self._place.fd), self._attributes(self._place.fd, b""))
        frame.directory.entries.append(directory)
        return _Frame(directory, self._names(), frame.parent.below(name))

    def _attributes(self, where: int | bytes, name: bytes) -> list[Attribute] | None:
        """Read extended attributes; what cannot be read is a problem, but no reason to leave the entry out."""
        try:
            return attributes(where)
        except OSError as error:
            self._problem(name, f"its extended attributes cannot be read: {error.strerror}")
        except ValueError as error:
            self._problem(name, str(error))
        return None

    # -- files --------------------------------------------------------------------------------------------------

    def _file(self, parent: Parent, name: bytes, found: os.stat_result) -> tuple[Node, Slot | None]:
        before = parent.file(name)
        if before is not None and self._tree.stable_inodes and self._unchanged(before, found):
            self.unmodified += 1
            self.bytes_total += before.size
            self._report(bytes=before.size)
            extended = before.extended_attributes
            return self._recorder.node(name, found, attributes=extended, content=before.content, size=before.size), None
        if before is None:
            self.new += 1
        else:
            self.changed += 1
        identity = (found.st_dev, found.st_ino)
        linked = self._links.get(identity) if found.st_nlink > 1 else None
        if linked is not None:
            slot, size, left = linked
            if left > 1:
                self._links[identity] = (slot, size, left - 1)
            else:
                del self._links[identity]
            extended = self._attributes(member(self._place.fd, name), name)
        else:
            slot = Slot()
            extended, size = self._read(name, found, slot)
            if found.st_nlink > 1:
                self._links[identity] = (slot, size, found.st_nlink - 1)
        self.bytes_total += size
        made = self._recorder.node(name, found, attributes=extended, content=slot.content, size=size)
        return made, slot

    def _unchanged(self, before: Node, found: os.stat_result) -> bool:
        return (
            before.size == found.st_size
            and before.inode == found.st_ino
            and self._base.same_times(before, found)
            and self._base.has_content(before)
        )

    def _read(self, name: bytes, found: os.stat_result, slot: Slot) -> tuple[list[Attribute] | None, int]:
        """Send a file's contents on their way and return its extended attributes and the bytes that it had."""
        fd = self._open(name)
        try:
            opened = os.fstat(fd)
            if (opened.st_ino, opened.st_dev, stat.S_IFMT(opened.st_mode)) != (
                found.st_ino,
                found.st_dev,
                stat.S_IFREG,
            ):
                raise _Changed("it was replaced by something else while the backup was running")
            extended = self._attributes(fd, name)
            size = self._small(fd, slot) if opened.st_size < SMALLEST else self._large(fd, name, opened, slot)
            after = os.fstat(fd)
            if size != found.st_size or after.st_mtime_ns != found.st_mtime_ns or after.st_size != size:
                self._problem(name, "it changed while it was being read")
            return extended, size
        finally:
            os.close(fd)

    def _open(self, name: bytes) -> int:
        try:
            return os.open(name, self._open_flags, dir_fd=self._place.fd)
        except PermissionError:
            if not self._open_flags & os.O_NOATIME:
                raise
            self._open_flags = _OPEN  # this root may read what it does not own, but not in passing
            return os.open(name, _OPEN, dir_fd=self._place.fd)

    def _small(self, fd: int, slot: Slot) -> int:
        data = os.read(fd, SMALLEST)
        if data:
            if is_zero(data):
                self._pipeline.put_zeros(slot, len(data))
            else:
                self._pipeline.put(slot, data)
        self.bytes_read += len(data)
        self._report(bytes=len(data))
        return len(data)

    def _large(self, fd: int, name: bytes, opened: os.stat_result, slot: Slot) -> int:
        size = 0
        fixed = opened.st_size >= _LARGE and self._place.path(name) in self._in_place
        for piece in self._cutter.cut(fd, opened, fixed=fixed):
            if isinstance(piece, int):
                self._pipeline.put_zeros(slot, piece)
                length = piece
            else:
                self._pipeline.put(slot, piece)
                length = len(piece)
                self.bytes_read += length
            size += length
            self._report(bytes=length)
        return size

    # -- directories --------------------------------------------------------------------------------------------

    def _settled(self, directory: _Directory) -> bool:
        """Return whether every blob of the directory's files is stored; directories below come before it anyway."""
        entries = directory.entries
        while directory.settled < len(entries):
            entry = entries[directory.settled]
            if not isinstance(entry, _Directory) and entry[1] is not None and not entry[1].complete:
                return False
            directory.settled += 1
        return True

    def _finish(self, directory: _Directory) -> None:
        """Store the tree object of the first directory that is waiting."""
        while not self._settled(directory):
            entry = directory.entries[directory.settled]
            if not isinstance(entry, _Directory) and entry[1] is not None:
                self._pipeline.wait(entry[1])
        data = node.encode_tree(
            node.encode(self._directory_node(entry) if isinstance(entry, _Directory) else entry[0])
            for entry in directory.entries
        )
        directory.subtree = self._repository.add(BlobKind.TREE, data)[0].hex()
        self._done.popleft()
        self._done_entries -= len(directory.entries) + 1
        directory.entries = []

    def _directory_node(self, directory: _Directory) -> Node:
        return self._recorder.node(
            directory.name, directory.found, attributes=directory.attributes, subtree=directory.subtree
        )

    # -- telling ------------------------------------------------------------------------------------------------

    def _problem(self, name: bytes, what: str) -> None:
        path = shown(self._place.path(name)) or "/"
        self.problems.append(Problem(path, what))
        self._progress.note(path, what)

    def _report(self, *, bytes: int = 0, files: int = 0, force: bool = False) -> None:
        waiting = self._unreported
        waiting[0] += bytes
        waiting[1] += files
        if waiting[0] >= _REPORT_BYTES or waiting[1] >= _REPORT_FILES or force:
            self._progress.advance(waiting[0], waiting[1])
            self._unreported = [0, 0]
            self._progress.cancelled()
