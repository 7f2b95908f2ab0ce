"""How an image lies in a backup's tree: one file, or many that make it when they are put together in order.

Up to 8 GiB it is ``/volume/image.img``. Above, it is cut every GiB, and each segment is alone in its directory:
``/volume/image/0007/42/segment.img`` begins at 742 GiB. So an incremental backup stores anew only the lists of the
segments that have changed, and of the directories above them. The times of all of these are the volume's creation:
an equal segment is an equal tree, whenever it was read.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator, Sequence
from functools import lru_cache
from hashlib import sha256

from msgspec import Struct

from snapvol.engine import manifest, node
from snapvol.engine.contents import zeros
from snapvol.engine.manifest import VolumeMeta
from snapvol.engine.node import Kind, Node
from snapvol.engine.progress import Problem
from snapvol.engine.ranges import Span, joined
from snapvol.errors import Damaged, NotFound, SnapvolError
from snapvol.repository import BlobKind, Repository

FILE = b"image.img"
DIRECTORY = b"image"
SEGMENT_FILE = b"segment.img"
SEGMENT = 1 << 30
ONE_FILE = 8 << 30
GROUP = 100  # segments whose directories share one
_MOST_GROUPS = 10_000
SMALLEST_CHUNK = 64 << 10
LARGEST_CHUNK = 4 << 20
_CHUNKS = tuple(SMALLEST_CHUNK << power for power in range(7))
_READ_AHEAD = 16 << 20  # bytes of segments' trees
LOST = "the repository had lost them when this backup was made anew"
_ID_BYTES = 67  # a blob's id in a tree, with quotes and comma


@lru_cache(maxsize=32)
def zero_id(length: int) -> str:
    """Return the hexadecimal id of the blob of ``length`` zero bytes."""
    return sha256(zeros(length)).hexdigest()


def segments_of(size: int) -> list[tuple[int, int]]:
    """Return (offset, length) of the files that an image of ``size`` bytes is stored as."""
    if size <= ONE_FILE:
        return [(0, size)]
    return [(offset, min(SEGMENT, size - offset)) for offset in range(0, size, SEGMENT)]


def chunk_of(size: int, count: int) -> int | None:
    """Return the size of the pieces of a file of ``size`` bytes that has ``count``; None where none is allowed."""
    return next((chunk for chunk in reversed(_CHUNKS) if -(-size // chunk) == count), None)


class Segment(Struct, frozen=True, kw_only=True):
    """A file of a stored image.

    Attributes:
        offset: its first byte's in the image.
        size: in bytes.
        chunk: bytes of its pieces; only its last may have less.
        content: the pieces' hexadecimal ids; empty where they are lost.
        tree: the hexadecimal id of the tree that lists it.
        problem: why they are lost, or None.
    """

    offset: int
    size: int
    chunk: int = SMALLEST_CHUNK
    content: Sequence[str] = ()
    tree: str
    problem: str | None = None

    def pieces(self) -> Iterator[tuple[int, int, str]]:
        """Yield (offset in the image, length, hexadecimal id) of each piece."""
        for number, blob in enumerate(self.content):
            at = number * self.chunk
            yield self.offset + at, min(self.chunk, self.size - at), blob


class Writer:
    """Stores the trees of a new image.

    Args:
        repository: with its index loaded.
        meta: of the volume.
        size: of the image, in bytes.
    """

    def __init__(self, repository: Repository, meta: VolumeMeta, size: int) -> None:
        self._repository = repository
        self._created = node.time_of(meta.created)
        self._taken = node.time_of(meta.taken)
        self._whole = size <= ONE_FILE
        self._segments: list[bytes] = []
        self._groups: list[bytes] = []

    def add(self, size: int, content: list[str]) -> str:
        """Store the next file's tree; return its hexadecimal id.

        Raises:
            SnapvolError: the repository failed.
        """
        file = Node(
            quoted=(FILE if self._whole else SEGMENT_FILE).decode(),
            type=Kind.FILE,
            mode=0o600,
            mtime=self._created,
            atime=self._created,
            ctime=self._created,
            size=size,
            links=1,
            content=content,
        )
        tree = self._store([node.encode(file)])
        if self._whole:
            self._groups.append(tree.encode())
        else:
            self._segments.append(self._directory(f"{len(self._segments):02d}", tree))
            if len(self._segments) == GROUP:
                self._close_group()
        return tree

    def finish(self) -> Node:
        """Return the node of ``/volume``.

        Raises:
            SnapvolError: the repository failed.
        """
        if self._whole:
            return self._node(manifest.TREE.decode(), self._groups[0].decode(), self._taken)
        if self._segments:
            self._close_group()
        image = self._directory(DIRECTORY.decode(), self._store(self._groups))
        return self._node(manifest.TREE.decode(), self._store([image]), self._taken)

    def _close_group(self) -> None:
        self._groups.append(self._directory(f"{len(self._groups):04d}", self._store(self._segments)))
        self._segments = []

    def _directory(self, name: str, tree: str) -> bytes:
        return node.encode(self._node(name, tree, self._created))

    @staticmethod
    def _node(name: str, tree: str, when: str) -> Node:
        kind, mode = node.kind_and_mode(stat.S_IFDIR | 0o700)
        return Node(quoted=name, type=kind, mode=mode, mtime=when, atime=when, ctime=when, subtree=tree)

    def _store(self, nodes: list[bytes]) -> str:
        return self._repository.add(BlobKind.TREE, node.encode_tree(nodes))[0].hex()


class StoredImage:
    """The image in a backup. Its layout is checked at once, however many segments it claims: see T44.

    Args:
        repository: with its index loaded.
        subtree: the hexadecimal id of the tree of ``/volume``.
        meta: the backup's manifest; None where that is lost.

    Attributes:
        size: in bytes.
        lost: spans of bytes that are zeros here and were something else, see `VolumeMeta.lost`.

    Raises:
        NotFound: an object is missing.
        Damaged: an object is damaged, or this is not laid out as images are.
    """

    def __init__(self, repository: Repository, subtree: str, meta: VolumeMeta | None) -> None:
        self._repository = repository
        self._subtree = subtree
        self.lost: Sequence[Span] = meta.lost if meta is not None else ()
        self._claimed = meta.image.size if meta is not None and meta.image is not None else None
        (top,) = self._directory(subtree, 1)
        self._groups: list[str] = []
        self._latest: tuple[str, list[str]] = "", []
        if top.type == Kind.FILE and top.quoted == FILE.decode():
            self.size = top.size
        elif top.type == Kind.DIRECTORY and top.quoted == DIRECTORY.decode():
            self._groups = self._subtrees(top, 4, _MOST_GROUPS)
            self.size = self._measured()
        else:
            raise _foreign(f"/volume holds '{top.quoted}'")
        if self._claimed not in (None, self.size):
            raise _foreign(f"it has {self.size} bytes, but its manifest says {self._claimed}")
        if not self.size:
            raise _foreign("it is empty")

    def segments(self) -> Iterator[Segment]:
        """Yield the image's files in order; one whose list is lost says so.

        Raises:
            RepositoryUnreachable: the repository does not answer.
        """
        if not self._groups:
            yield self._segment(0, self.size, self._subtree, self._read([self._subtree])[self._subtree], FILE)
            return
        offset = 0
        batch = max(1, _READ_AHEAD // (-(-SEGMENT // self._first_chunk()) * _ID_BYTES))
        for group in self._groups:
            trees = self._listed(group)
            for first in range(0, len(trees), batch):
                part = trees[first : first + batch]
                read = self._read(part)
                for tree in part:
                    size = min(SEGMENT, self.size - offset)
                    yield self._segment(offset, size, tree, read[tree], SEGMENT_FILE)
                    offset += size

    def _segment(self, offset: int, size: int, tree: str, data: bytes | SnapvolError, name: bytes) -> Segment:
        try:
            if isinstance(data, SnapvolError):
                raise data
            nodes = node.decode_tree(data)
            if len(nodes) != 1 or nodes[0].type != Kind.FILE or nodes[0].quoted != name.decode():
                raise _foreign(f"it does not have one file '{name.decode()}' for the bytes from {offset} on")
            content = nodes[0].content or []
            chunk = chunk_of(size, len(content))
            if nodes[0].size != size or chunk is None:
                raise _foreign(f"{nodes[0].size} bytes in {len(content)} pieces are no file of an image")
        except (Damaged, NotFound) as error:
            return Segment(offset=offset, size=size, tree=tree, problem=error.message)
        return Segment(offset=offset, size=size, chunk=chunk, content=content, tree=tree)

    def _measured(self) -> int:
        """Return the size that the segments add up to. None is missing: their numbers tell."""
        count, trees = 0, [""]
        for number, group in enumerate(self._groups):
            trees = self._listed(group)
            if not trees or (len(trees) < GROUP and number < len(self._groups) - 1):
                raise _foreign(f"segments are missing after {count + len(trees)} GiB")
            count += len(trees)
        try:
            (last,) = self._directory(trees[-1], 1)
        except (Damaged, NotFound):
            if self._claimed is None or -(-self._claimed // SEGMENT) != count:
                raise
            return self._claimed
        if not 0 < last.size <= SEGMENT:
            raise _foreign(f"its last segment has {last.size} bytes")
        return (count - 1) * SEGMENT + last.size

    def _first_chunk(self) -> int:
        """Return how small pieces may be: what reading ahead must allow for."""
        try:
            (file,) = self._directory(self._listed(self._groups[0])[0], 1)
        except (Damaged, NotFound):
            return SMALLEST_CHUNK
        return chunk_of(file.size, len(file.content or ())) or SMALLEST_CHUNK

    def _listed(self, group: str) -> list[str]:
        """Return the trees of a group's segments. Groups of nothing but holes are all the same one."""
        if self._latest[0] != group:
            nodes = self._directory(group, GROUP)
            self._latest = group, [self._subtree_of(entry, f"{number:02d}") for number, entry in enumerate(nodes)]
        return self._latest[1]

    def _subtrees(self, directory: Node, digits: int, most: int) -> list[str]:
        if directory.subtree is None:
            raise _foreign(f"'{directory.quoted}' lists nothing")
        nodes = self._directory(directory.subtree, most)
        return [self._subtree_of(entry, f"{number:0{digits}d}") for number, entry in enumerate(nodes)]

    @staticmethod
    def _subtree_of(entry: Node, name: str) -> str:
        if entry.quoted != name or entry.type != Kind.DIRECTORY or entry.subtree is None:
            raise _foreign(f"it has '{entry.quoted}' where the directory '{name}' should be")
        return entry.subtree

    def _directory(self, tree: str, most: int) -> list[Node]:
        nodes = node.decode_tree(self._repository.read(BlobKind.TREE, bytes.fromhex(tree)))
        if not 0 < len(nodes) <= most:
            raise _foreign(f"a directory of it has {len(nodes)} entries")
        return nodes

    def _read(self, trees: Sequence[str]) -> dict[str, bytes | SnapvolError]:
        read: dict[str, bytes | SnapvolError] = {}
        wanted = {bytes.fromhex(tree) for tree in trees}

        def lost(blob: bytes, error: SnapvolError) -> None:
            read[blob.hex()] = error

        for blob, data in self._repository.read_many(BlobKind.TREE, wanted, lost=lost):
            read[blob.hex()] = data
        return read


def _foreign(what: str) -> Damaged:
    return Damaged(f"the backup is not laid out as an image is: {what}", "restore what it has with stock restic")


def lost_parts(lost: list[tuple[int, int, str]]) -> list[Problem]:
    """Return the problems of an image that has lost parts (start, end, why), neighbours put together."""
    lost = sorted(lost)
    why: dict[int, str] = {}
    for start, _, reason in lost:
        why.setdefault(start, reason)
    parts: list[Span] = joined((start, end) for start, end, _ in lost)
    path = FILE.decode()
    return [Problem(path, f"bytes {start} to {end - 1} are lost: {why[start]}") for start, end in parts]
