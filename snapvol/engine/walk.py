"""One walk of a directory tree, from which its tree objects are made."""

from __future__ import annotations

import os
import stat
from collections import deque

from snapvol.backend import Tree
from snapvol.engine import manifest, node
from snapvol.engine.account import Account
from snapvol.engine.changed import Mark
from snapvol.engine.descent import Descent, member
from snapvol.engine.files import Files, Replaced, readable_attributes
from snapvol.engine.metadata import Recorder
from snapvol.engine.node import Attribute, Kind, Node, kind_and_mode
from snapvol.engine.parent import Base, Parent, Unusable
from snapvol.engine.pipeline import Pipeline, Slot
from snapvol.engine.reading import Unreadable
from snapvol.engine.sample import Sample
from snapvol.errors import StorageFailed
from snapvol.repository import BlobKind, Repository

_AHEAD = 20_000  # entries whose blobs may still be under way


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
    """A directory that is being walked.

    Attributes:
        mark: what has changed in it; None where that is not known.
    """

    __slots__ = ("directory", "mark", "names", "parent")

    def __init__(self, directory: _Directory, names: list[bytes], parent: Parent, mark: Mark | None) -> None:
        self.directory = directory
        self.names = iter(names)
        self.parent = parent
        self.mark = mark


class Walk:
    """One walk of one tree.

    Args:
        repository: with its index loaded.
        tree: what is read.
        pipeline: takes the blobs.
        base: the earlier backup, or nothing, that unchanged files are taken from.
        account: is told what is done; where ``mark`` is given, it begins with the figures of ``base``.
        sample: is offered what is taken from ``base`` without a look.
        mark: what has changed since ``base``: all else is taken from it. None where that is not known: everything is
            looked at.
    """

    def __init__(
        self,
        repository: Repository,
        tree: Tree,
        pipeline: Pipeline,
        base: Base,
        account: Account,
        sample: Sample,
        mark: Mark | None = None,
    ) -> None:
        self._repository = repository
        self._tree = tree
        self._pipeline = pipeline
        self._base = base
        self._account = account
        self._sample = sample
        self._mark = mark
        self._recorder = Recorder(tree.stable_inodes)
        self._files = Files(repository, tree, pipeline, base, self._recorder, account, sample)
        self._done: deque[_Directory] = deque()
        self._done_entries = 0
        self._place: Descent

    # -- the walk -----------------------------------------------------------------------------------------------

    def run(self) -> Node:
        """Store the whole tree and return the node of its root.

        Raises:
            SnapvolError: the repository failed, or the root itself cannot be read.
            BaseMismatch: what is said to be unchanged is not.
            Unusable: ``base`` does not have what would be taken from it.
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
            self._account.report(force=True)
        self._sample.check(self._tree, self._recorder)
        return self._directory_node(root)

    def _walk(self, root: _Directory) -> None:
        frames = [self._frame(root, self._base.root(), self._mark)]
        while frames:
            frame = frames[-1]
            for name in frame.names:
                entered = self._entry(frame, name)
                if entered is not None:
                    frames.append(entered)
                    break
            else:
                self._leave(frames)

    def _frame(self, directory: _Directory, parent: Parent, mark: Mark | None) -> _Frame:
        names = self._names()
        if mark is not None:
            if not parent.listed:
                raise Unusable("a directory of it is lost")
            self._account.dirs -= 1  # this one
            here = set(names)
            for entry in parent.entries.values():
                if entry.name not in here:
                    self._take_off(entry)
        return _Frame(directory, names, parent, mark)

    def _leave(self, frames: list[_Frame]) -> None:
        directory = frames.pop().directory
        self._account.dirs += 1
        self._done.append(directory)
        self._done_entries += len(directory.entries) + 1
        if frames:
            self._place.leave()
        self._account.progress.cancelled()
        while self._done and (self._done_entries > _AHEAD or self._settled(self._done[0])):
            self._finish(self._done[0])

    def _names(self) -> list[bytes]:
        try:
            return sorted(map(os.fsencode, os.listdir(self._place.fd)))
        except OSError as error:
            self._problem(b"", f"the directory cannot be listed: {error.strerror}")
            return []

    def _entry(self, frame: _Frame, name: bytes) -> _Frame | None:
        """Take in one entry; return the frame of a directory to go into."""
        try:
            if frame.mark is not None and self._keep(frame, frame.mark, name):
                return None
            found = os.stat(name, dir_fd=self._place.fd, follow_symlinks=False)
            mark = self._mark_of(frame, name, found)
            if stat.S_ISDIR(found.st_mode):
                return self._enter(frame, name, found, mark)
            if stat.S_ISREG(found.st_mode):
                ranges = mark.ranges if mark is not None else None
                entry = self._files.node(self._place, name, found, frame.parent.file(name), ranges)
            else:
                extended = self._attributes(member(self._place.fd, name), name)
                entry = (self._recorder.special(self._place.fd, name, found, extended), None)
            frame.directory.entries.append(entry)
            self._account.files += 1
            self._account.report(files=1)
        except FileNotFoundError:
            self._problem(name, "it vanished while the backup was running")
        except OSError as error:
            self._problem(name, f"it cannot be read: {error.strerror}")
        except (ValueError, Replaced) as error:
            self._problem(name, str(error))
        return None

    def _enter(self, frame: _Frame, name: bytes, found: os.stat_result, mark: Mark | None) -> _Frame | None:
        try:
            self._place.enter(name)
        except PermissionError as error:
            if mark is not None:
                raise Unusable(f"a directory cannot be entered: {error.strerror}") from error
            closed = _Directory(name, found, self._attributes(member(self._place.fd, name), name))
            frame.directory.entries.append(closed)
            self._done.append(closed)
            raise
        directory = _Directory(name, os.fstat(self._place.fd), self._attributes(self._place.fd, b""))
        frame.directory.entries.append(directory)
        return self._frame(directory, frame.parent.below(name), mark)

    def _attributes(self, where: int | bytes, name: bytes) -> list[Attribute] | None:
        return readable_attributes(self._account, self._place, where, name)

    def _problem(self, name: bytes, what: str) -> None:
        self._account.problem(self._place.path(name), what)

    # -- what is taken without a look ---------------------------------------------------------------------------

    def _keep(self, frame: _Frame, mark: Mark, name: bytes) -> bool:
        """Take an entry in which nothing has changed from the earlier backup; return whether that was possible."""
        if name in mark.below:
            return False
        entry = frame.parent.entry(name)
        if entry is None or not self._base.has_all(entry):
            return False
        self._sample.offer((*self._place.names, name), entry)
        frame.directory.entries.append((entry, None))
        return True

    def _mark_of(self, frame: _Frame, name: bytes, found: os.stat_result) -> Mark | None:
        """Return what has changed in an entry; None where it must be looked at as if nothing were known of it."""
        if frame.mark is None:
            return None
        mark, before = frame.mark.below.get(name), frame.parent.entry(name)
        kind, _ = kind_and_mode(found.st_mode)
        same = mark is not None and mark.same and before is not None and before.type == kind
        if before is not None and not (same and kind is Kind.DIRECTORY):
            self._take_off(before)
        return mark if same else None

    def _take_off(self, entry: Node) -> None:
        try:
            self._account.take_off(self._repository, entry)
        except Unreadable as error:
            raise Unusable(error.message) from error

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
