"""The earlier backup of the same volume: what has not changed since is taken from it without being read."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import timedelta
from functools import cached_property

from snapvol.engine import gotext
from snapvol.engine.manifest import BackupKind
from snapvol.engine.node import Kind, Node
from snapvol.engine.reading import Unreadable, load_tree, root
from snapvol.repository import BlobKind, Repository, SnapshotDocument

# A file that is written twice within one tick of the kernel's clock keeps its ctime. What had just been changed when
# the earlier snapshot was taken may have been changed once more right after it.
_GRAIN = timedelta(seconds=2)


class Unusable(Exception):
    """A parent cannot be built upon without a look at everything; says why."""


class Base:
    """A parent backup, or none.

    Args:
        repository: with its index loaded.
        document: the parent; None for none.
        identity: its full id.
    """

    def __init__(self, repository: Repository, document: SnapshotDocument | None, identity: str) -> None:
        self._repository = repository
        self._identity = identity
        self._root: str | None = None
        self._settled_before = 0
        self._whole: set[str] = set()
        self.source: str | None = None
        if document is not None:
            self._open(document)

    def _open(self, document: SnapshotDocument) -> None:
        try:
            start = root(self._repository, document)
        except Unreadable:
            return  # a damaged parent costs time, never the backup
        if start.meta is not None and start.kind is BackupKind.FILES:
            self._root = start.subtree
            self._settled_before = int((start.meta.taken - _GRAIN).timestamp() * 1_000_000_000)
            self.source = start.meta.source

    @cached_property
    def _stands(self) -> bool:
        return self._repository.stands(self._identity)

    def root(self) -> Parent:
        """Return the parent's listing of the volume's root."""
        return Parent(self._repository, self._root)

    def same_times(self, before: Node, found: os.stat_result) -> bool:
        """Return whether the times prove that nothing has been written since."""
        return (
            found.st_ctime_ns < self._settled_before
            and before.mtime == gotext.time(found.st_mtime_ns)
            and before.ctime == gotext.time(found.st_ctime_ns)
        )

    def has_content(self, before: Node) -> bool:
        """Return whether every blob of an unchanged file is still in the repository."""
        has = self._repository.has
        return before.content is not None and all(has(BlobKind.DATA, bytes.fromhex(blob)) for blob in before.content)

    def has_all(self, entry: Node) -> bool:
        """Return whether an unchanged entry, with all that is in it, is still in the repository.

        Where the parent `stands`, only a directory's own tree is looked up: else this would cost as much as the volume
        is large.
        """
        if entry.type != Kind.DIRECTORY:
            return entry.type != Kind.FILE or self.has_content(entry)
        waiting, seen = [entry.subtree or ""], set[str]()
        while waiting:
            tree = waiting.pop()
            if tree in seen or tree in self._whole:
                continue
            if not self._repository.has(BlobKind.TREE, bytes.fromhex(tree)):
                return False
            seen.add(tree)
            if not self._stands:
                try:
                    inside = load_tree(self._repository, tree)
                except Unreadable:
                    return False
                if not all(self.has_content(below) for below in inside if below.type == Kind.FILE):
                    return False
                waiting += [below.subtree or "" for below in inside if below.type == Kind.DIRECTORY]
        self._whole |= seen
        return True


class Parent:
    """The parent's listing of one directory; empty where it has none.

    Attributes:
        entries: by their quoted names.
        listed: it has one, and it could be read.
    """

    __slots__ = ("_repository", "entries", "listed")

    def __init__(self, repository: Repository, subtree: str | None) -> None:
        self._repository = repository
        self.entries: Mapping[str, Node] = {}
        self.listed = False
        if subtree is not None:
            try:
                self.entries = {entry.quoted: entry for entry in load_tree(repository, subtree)}
            except Unreadable:
                return  # its files are read again
            self.listed = True

    def entry(self, name: bytes) -> Node | None:
        """Return the entry of this name."""
        return self.entries.get(gotext.quote(name))

    def file(self, name: bytes) -> Node | None:
        """Return the entry, if it was a file."""
        entry = self.entry(name)
        return entry if entry is not None and entry.type == Kind.FILE else None

    def below(self, name: bytes) -> Parent:
        """Return the listing of a directory in this one."""
        entry = self.entry(name)
        return Parent(self._repository, entry.subtree if entry is not None and entry.type == Kind.DIRECTORY else None)
