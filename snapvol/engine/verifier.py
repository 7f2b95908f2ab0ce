"""Whether a backup can be restored: every byte of it is read and checked."""

from __future__ import annotations

import os
from collections.abc import Iterator

from msgspec import Struct

from snapvol.engine import manifest, reading
from snapvol.engine.image_layout import LOST, StoredImage, lost_parts
from snapvol.engine.manifest import BackupKind
from snapvol.engine.node import Kind, Node
from snapvol.engine.progress import Problem, Progress, shown
from snapvol.errors import Damaged, SnapvolError
from snapvol.repository import BlobKind, Repository, SnapshotDocument

_VOLUME = b"/" + manifest.TREE


class VerifyResult(Struct, frozen=True, kw_only=True):
    """What was found.

    Attributes:
        id: the backup's full id.
        files: files in it; an image is one.
        dirs: directories in it.
        bytes: bytes of all files, holes included.
        blobs: different pieces that were read.
        problems: every file and directory that cannot be restored whole, and why.
    """

    id: str
    files: int
    dirs: int
    bytes: int
    blobs: int
    problems: list[Problem]

    @property
    def ok(self) -> bool:
        """Whether all of it can be restored."""
        return not self.problems


def verify(repository: Repository, snapshot_id: str, progress: Progress) -> VerifyResult:
    """Read and check everything that a backup consists of. Damage does not stop it: all files hit are listed.

    Takes the repository's lock and loads its index.

    Args:
        repository: opened.
        snapshot_id: the backup's id, or the unique beginning of it.
        progress: is told of the bytes read; a piece that several files share counts once.

    Raises:
        NotFound: there is no such backup.
        Damaged: the backup's own record cannot be read.
        Cancelled: nobody wants it any more.
    """
    with repository.lock():
        identity, document = repository.find_snapshot(snapshot_id)
        repository.load_index()
        return _Check(repository, document, progress).run(identity)


class _Check:
    def __init__(self, repository: Repository, document: SnapshotDocument, progress: Progress) -> None:
        self._repository = repository
        self._document = document
        self._progress = progress
        self._problems: list[Problem] = []
        self._lost: dict[bytes, str] = {}
        self._files = self._dirs = self._bytes = 0

    def run(self, identity: str) -> VerifyResult:
        wanted: set[bytes] = set()
        for path, node in self._nodes(tell=True):
            if node.type == Kind.DIRECTORY:
                self._dirs += 1
                continue
            self._files += 1
            self._bytes += node.size
            wanted.update(map(bytes.fromhex, node.content or ()))
            self._check_size(path, node)
        self._read(wanted)
        image = self._image()
        if self._lost:
            self._name_files(image is not None)
        if image is not None:
            self._name_parts(image)
            self._files, self._dirs, self._bytes = 1, 0, image.size  # as people know it, not as it is stored
        return VerifyResult(
            id=identity,
            files=self._files,
            dirs=self._dirs,
            bytes=self._bytes,
            blobs=len(wanted),
            problems=self._problems,
        )

    def _nodes(self, *, tell: bool) -> Iterator[tuple[bytes, Node]]:
        """Yield every entry of the backup's root tree; where ``tell``, note what cannot be read."""
        waiting = [iter(self._listed(b"", self._document.tree, tell))]
        while waiting:
            for path, node in waiting[-1]:
                yield path, node
                if node.type == Kind.DIRECTORY:
                    waiting.append(iter(self._listed(path, node.subtree, tell, len(waiting))))
                    break
            else:
                waiting.pop()
                self._progress.cancelled()

    def _listed(self, path: bytes, subtree: str | None, tell: bool, depth: int = 0) -> list[tuple[bytes, Node]]:
        listed: list[tuple[bytes, Node]] = []
        try:
            if subtree is None or depth > reading.DEEPEST:
                raise Damaged("it has no list of entries" if subtree is None else "it is nested too deep")
            for node in reading.load_tree(self._repository, subtree):
                listed.append((path + b"/" + node.name, node))
        except reading.Unreadable as error:
            if tell:
                self._problem(path, f"what it holds is lost: {error.message}")
        return listed

    def _check_size(self, path: bytes, node: Node) -> None:
        length = 0
        for blob in map(bytes.fromhex, node.content or ()):
            try:
                length += self._repository.locate(BlobKind.DATA, blob).plain_length
            except reading.Unreadable:
                return  # the reading finds that out, and for every file
        if node.type == Kind.FILE and length != node.size:
            self._problem(path, f"its pieces have {length} bytes, but it should have {node.size}")

    def _read(self, wanted: set[bytes]) -> None:
        self._progress.total(self._files, sum(map(self._length, wanted)))
        self._progress.advance(0, self._files)
        for _, data in self._repository.read_many(BlobKind.DATA, wanted, lost=self._note):
            self._progress.advance(len(data), 0)
            self._progress.cancelled()

    def _length(self, blob: bytes) -> int:
        try:
            return self._repository.locate(BlobKind.DATA, blob).plain_length
        except reading.Unreadable:
            return 0

    def _note(self, blob: bytes, error: SnapvolError) -> None:
        self._lost[blob] = error.message

    def _name_files(self, is_image: bool) -> None:
        """Go through the trees once more for the files that lost something: to keep all names would take memory."""
        for path, node in self._nodes(tell=False):
            if is_image and path.startswith(_VOLUME):
                continue
            hit = next((blob for blob in map(bytes.fromhex, node.content or ()) if blob in self._lost), None)
            if hit is not None:
                self._problem(path, self._lost[hit])

    def _image(self) -> StoredImage | None:
        """Return the image, where this is a backup of one that is laid out as it should be."""
        try:
            start = reading.root(self._repository, self._document)
        except reading.Unreadable:
            return None  # its tree is among the problems
        try:
            is_image = start.kind is BackupKind.IMAGE
            return StoredImage(self._repository, start.subtree, start.meta) if is_image else None
        except reading.Unreadable as error:
            self._problem(_VOLUME, error.message)
            return None

    def _name_parts(self, image: StoredImage) -> None:
        """Say what is lost of the image by its bytes: whatever is in them, no name tells."""
        lost = [(start, end, LOST) for start, end in image.lost]
        for segment in image.segments():
            if segment.problem is not None:
                lost.append((segment.offset, segment.offset + segment.size, segment.problem))
            for offset, length, blob in segment.pieces():
                why = self._lost.get(bytes.fromhex(blob)) if self._lost else None
                if why is not None:
                    lost.append((offset, offset + length, why))
        for problem in lost_parts(lost):
            self._problem(_VOLUME + b"/" + os.fsencode(problem.path), problem.what)

    def _problem(self, path: bytes, what: str) -> None:
        where = shown(path) or "/"
        self._problems.append(Problem(where, what))
        self._progress.note(where, what)
