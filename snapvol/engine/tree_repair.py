"""Directories made anew without the pieces that a repository has lost.

A file that lost pieces is left out under its own name: what takes it for whole would work on with wrong contents. What
is left of it stays as ``NAME.partial``: with zeros in the place of what is lost where that place is known, else up to
there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from itertools import groupby

import msgspec

from snapvol.engine import gotext, node
from snapvol.engine.contents import LARGEST, zeros
from snapvol.engine.node import Kind, Node
from snapvol.engine.progress import Problem, shown
from snapvol.engine.reading import Unreadable, load_tree
from snapvol.errors import Damaged
from snapvol.repository import BlobKind, Repository

SUFFIX = b".partial"
_LONGEST_NAME = 255
_MOST_NAMES = 10
_LARGEST_PIECE = 32 << 20  # bytes: a file that claims that more is lost in one piece is not believed
_EMPTY = node.encode_tree([])


class _Frame:
    """A directory whose subdirectories are being made anew."""

    __slots__ = ("nodes", "tree", "waiting")

    def __init__(self, tree: str, nodes: list[Node]) -> None:
        self.tree = tree
        self.nodes = nodes
        self.waiting = iter([entry.subtree for entry in nodes if entry.type == Kind.DIRECTORY and entry.subtree])


class TreeRepair:
    """Makes trees anew, each once, however many backups share it.

    Args:
        repository: with its index loaded.
        store: whether new trees are stored; otherwise it only finds out what is lost.
        cancelled: raises `Cancelled` to end it.
    """

    def __init__(self, repository: Repository, store: bool, cancelled: Callable[[], None]) -> None:
        self._repository = repository
        self._store = store
        self._cancelled = cancelled
        self._new: dict[str, str | None] = {}  # tree → what stands for it now; None where it cannot be read
        self._lost: dict[str, list[tuple[bytes, str]]] = {}  # tree → names in it that lost something, and what
        self._hit: dict[str, list[tuple[bytes, str]]] = {}  # tree → names of directories in it that are made anew

    def rewrite(self, root: str) -> str | None:
        """Return the hexadecimal id of the tree that has what is left of ``root`` and all below it.

        Returns:
            ``root`` itself where nothing is lost; None where it cannot be read.

        Raises:
            RepositoryUnreachable: the repository does not answer.
        """
        frames: list[_Frame] = []
        self._enter(frames, root)
        while frames:
            frame = frames[-1]
            below = next(frame.waiting, None)
            if below is None:
                self._new[frame.tree] = self._anew(frame)
                frames.pop()
            else:
                self._enter(frames, below)
            self._cancelled()
        return self._new[root]

    def problems(self, root: str) -> Iterator[Problem]:
        """Yield what is lost below a root that was rewritten. A tree in several places counts in one: see T44."""
        seen: set[str] = set()
        waiting = [(b"", root)]
        while waiting:
            path, tree = waiting.pop()
            if tree in seen:
                continue
            seen.add(tree)
            for name, what in self._lost.get(tree, ()):
                yield Problem(shown(path + name), what)
            waiting += [(path + name + b"/", below) for name, below in self._hit.get(tree, ())]

    def _enter(self, frames: list[_Frame], tree: str) -> None:
        if tree in self._new:
            return
        try:
            frames.append(_Frame(tree, load_tree(self._repository, tree)))
        except Unreadable:
            self._new[tree] = None

    def _anew(self, frame: _Frame) -> str:
        made: list[Node] = []
        names = {_name(entry) for entry in frame.nodes}
        for entry in frame.nodes:
            if entry.type == Kind.DIRECTORY:
                made.append(self._directory(frame.tree, entry))
            elif lost := {blob for blob in entry.content or () if not self._has(blob)}:
                remains = self._partial(frame.tree, entry, lost, names)
                made += [remains] if remains is not None else []
            else:
                made.append(entry)
        if made == frame.nodes:
            return frame.tree
        made.sort(key=_name)
        return self._stored(node.encode_tree(map(node.encode, made)))

    def _has(self, blob: str) -> bool:
        return self._repository.has(BlobKind.DATA, bytes.fromhex(blob))

    def _directory(self, tree: str, entry: Node) -> Node:
        new = self._new[entry.subtree] if entry.subtree is not None else None
        if new is None:
            self._lost.setdefault(tree, []).append((_name(entry), "what it held is lost; it is empty now"))
            new = self._stored(_EMPTY)
        elif new != entry.subtree:
            self._hit.setdefault(tree, []).append((_name(entry), entry.subtree or ""))
        return entry if new == entry.subtree else msgspec.structs.replace(entry, subtree=new)

    def _partial(self, tree: str, entry: Node, lost: set[str], names: set[bytes]) -> Node | None:
        """Return what is left of a file under a name that nothing has; None where nothing is left, or no name free."""
        name = _name(entry)
        content, size, what = self._remains(entry, lost)
        free = _free_name(name, names)
        if not content or free is None:
            self._lost.setdefault(tree, []).append((name, "it is lost" if not content else "it is left out"))
            return None
        names.add(free)
        self._lost.setdefault(tree, []).append((name, f"{what}: the rest is '{shown(free)}'"))
        return msgspec.structs.replace(entry, quoted=gotext.quote(free), content=content, size=size)

    def _remains(self, entry: Node, lost: set[str]) -> tuple[list[str], int, str]:
        """Return the contents, their bytes, and what is lost. A lost piece's length follows from the others'."""
        runs = [(gone, list(run)) for gone, run in groupby(entry.content or (), key=lost.__contains__)]
        gaps = [len(run) for gone, run in runs if gone]
        missing = entry.size - sum(self._length(run) for gone, run in runs if not gone)
        if len(gaps) == 1 and 0 < missing <= gaps[0] * _LARGEST_PIECE:
            content: list[str] = []
            start = self._length(runs[0][1]) if not runs[0][0] else 0
            for gone, run in runs:
                content += self._zeros(missing) if gone else run
            whole = len(runs) == 1
            return [] if whole else content, entry.size, f"bytes {start} to {start + missing - 1} are lost"
        kept = [] if runs[0][0] else runs[0][1]
        return kept, self._length(kept), f"all from byte {self._length(kept)} on is lost or of unknown place"

    def _length(self, blobs: Sequence[str]) -> int:
        return sum(self._repository.locate(BlobKind.DATA, bytes.fromhex(blob)).plain_length for blob in blobs)

    def _zeros(self, length: int) -> list[str]:
        pieces = [min(LARGEST, length - at) for at in range(0, length, LARGEST)]
        if not self._store:
            return ["0" * 64 for _ in pieces]
        return [self._repository.add(BlobKind.DATA, zeros(piece))[0].hex() for piece in pieces]

    def _stored(self, data: bytes) -> str:
        return self._repository.add(BlobKind.TREE, data)[0].hex() if self._store else sha256(data).hexdigest()


def _name(entry: Node) -> bytes:
    """Return a name's bytes; of one that cannot be read what is stored: it is nobody's to change."""
    try:
        return entry.name
    except Damaged:
        return entry.quoted.encode()


def _free_name(name: bytes, taken: set[bytes]) -> bytes | None:
    for number in range(1, _MOST_NAMES):
        free = name + SUFFIX + (b"-%d" % number if number > 1 else b"")
        if len(free) <= _LONGEST_NAME and free not in taken:
            return free
    return None
