"""From damaged objects to the backups and files that need them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from msgspec import Struct

from snapvol.errors import Damaged, SnapvolError
from snapvol.repository import unpacked
from snapvol.repository.findings import CheckProgress, Findings
from snapvol.repository.ids import BlobKind, parse_id
from snapvol.repository.reader import Reader

Loss = Callable[[BlobKind, bytes], str | None]


class _Node(Struct):
    name: str = ""
    type: str = ""
    content: list[str] | None = None
    subtree: str | None = None


class _Tree(Struct):
    nodes: list[_Node] | None = None


class _File(Struct, frozen=True):
    name: str
    content: list[bytes]
    subtree: bytes | None


class Trees:
    """Walks the trees of all snapshots.

    Args:
        reader: of the repository.
        findings: where damage is noted.
        loss: names the damaged object by which a blob is lost, or returns None.
        progress: asked now and then whether to go on.
    """

    def __init__(self, reader: Reader, findings: Findings, loss: Loss, progress: CheckProgress) -> None:
        self._reader = reader
        self._findings = findings
        self._loss = loss
        self._progress = progress
        self._lost: dict[bytes, str] = {}  # tree that cannot be read → name of the damaged object

    def walk(self, roots: Mapping[str, bytes]) -> None:
        """Read every tree once; where something is missing, name the files and snapshots that need it.

        Args:
            roots: snapshot → its root tree.
        """
        below: dict[bytes, bytes] = {}
        hit: set[bytes] = set()
        level = set(roots.values())
        while level:
            self._progress.cancelled()
            below.update((tree, b"") for tree in level)
            for tree, files in self._parsed(level):
                below[tree] = b"".join(file.subtree for file in files if file.subtree)
                if any(self._loss(BlobKind.DATA, blob) for file in files for blob in file.content):
                    hit.add(tree)
            hit |= level & self._lost.keys()
            level = {subtree for tree in level for subtree in _split(below[tree])} - below.keys()
        tainted = _with_parents(below, hit)
        for snapshot, root in roots.items():
            self._name_files(snapshot, root, tainted)

    def _name_files(self, snapshot: str, root: bytes, tainted: set[bytes]) -> None:
        """Follow damage from the root. A tree that lies in several places counts in one: there may be very many."""
        seen: set[bytes] = set()
        waiting = [("", root)]
        while waiting:
            path, tree = waiting.pop()
            if tree not in tainted or tree in seen:
                continue
            seen.add(tree)
            for _, files in self._parsed([tree]):
                for file in files:
                    for cause in {self._loss(BlobKind.DATA, blob) for blob in file.content}:
                        if cause is not None:
                            self._findings.hit(cause, snapshot, f"{path}/{file.name}")
                    if file.subtree is not None:
                        waiting.append((f"{path}/{file.name}", file.subtree))
            if tree in self._lost:
                self._findings.hit(self._lost[tree], snapshot, f"{path}/")

    def _parsed(self, trees: Iterable[bytes]) -> Iterator[tuple[bytes, list[_File]]]:
        """Yield the trees that can be read; note the others."""

        def lost(tree: bytes, error: SnapvolError) -> None:
            what = f"tree blob {tree.hex()}"
            self._lost[tree] = self._loss(BlobKind.TREE, tree) or self._findings.add(what, error.message)

        for tree, text in self._reader.read_many(BlobKind.TREE, trees, lost):
            what = f"tree blob {tree.hex()}"
            try:
                nodes = unpacked.decode(text, _Tree, what).nodes or []
                files = [_file(node, what) for node in nodes]
            except Damaged as error:
                self._lost[tree] = self._findings.add(what, error.message)
            else:
                yield tree, files


def _file(node: _Node, what: str) -> _File:
    content = [parse_id(text, what) for text in node.content or ()]
    return _File(node.name, content, parse_id(node.subtree or "", what) if node.type == "dir" else None)


def _split(ids: bytes) -> Iterator[bytes]:
    return (ids[at : at + 32] for at in range(0, len(ids), 32))


def _with_parents(below: Mapping[bytes, bytes], hit: set[bytes]) -> set[bytes]:
    """Return the trees from which one in ``hit`` is reached."""
    if not hit:
        return hit
    parents: dict[bytes, list[bytes]] = {}
    for tree, subtrees in below.items():
        for subtree in _split(subtrees):
            parents.setdefault(subtree, []).append(tree)
    reached = set(hit)
    waiting = list(hit)
    while waiting:
        for parent in parents.get(waiting.pop(), ()):
            if parent not in reached:
                reached.add(parent)
                waiting.append(parent)
    return reached
