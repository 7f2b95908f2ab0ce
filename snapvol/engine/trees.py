"""Trees of a backup in the order of a walk, fetched a directory's children at a time."""

from __future__ import annotations

from collections.abc import Iterable

from snapvol.engine import node
from snapvol.engine.node import Kind, Node
from snapvol.engine.reading import load_tree
from snapvol.errors import SnapvolError
from snapvol.repository import BlobKind, Repository

_AHEAD = 16 << 20
_MOST = 512


def _passed_over(blob: bytes, error: SnapvolError) -> None:
    """What could not be fetched ahead is asked for again when its turn comes, and then says why."""


class Trees:
    """Loads directories. Those that a walk comes to next are fetched together: a request each would be far slower."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._ahead: dict[str, bytes] = {}
        self._bytes = 0

    def load(self, tree: str) -> list[Node]:
        """Return a directory's entries.

        Raises:
            NotFound: no index names the tree.
            Damaged: it is lost or altered, or is not a tree.
        """
        data = self._ahead.pop(tree, None)
        if data is None:
            entries = load_tree(self._repository, tree)
        else:
            self._bytes -= len(data)
            entries = node.decode_tree(data)
        self._fetch(entries)
        return entries

    def _fetch(self, entries: Iterable[Node]) -> None:
        if self._bytes >= _AHEAD:
            return
        wanted = {entry.subtree for entry in entries if entry.type == Kind.DIRECTORY and entry.subtree is not None}
        missing = [bytes.fromhex(tree) for tree in sorted(wanted.difference(self._ahead))][:_MOST]
        if len(missing) < 2:
            return
        reader = self._repository.read_many(BlobKind.TREE, missing, lost=_passed_over)
        for blob, data in reader:
            self._ahead[blob.hex()] = data
            self._bytes += len(data)
            if self._bytes >= _AHEAD:
                break
