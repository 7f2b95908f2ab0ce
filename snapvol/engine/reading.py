"""Looking into backups: their trees, their files, what volume they are of."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from snapvol.engine import gotext, image_layout, manifest, node
from snapvol.engine.contents import zeros
from snapvol.engine.image_layout import StoredImage
from snapvol.engine.manifest import BackupKind, VolumeMeta
from snapvol.engine.node import Kind, Node
from snapvol.engine.progress import shown
from snapvol.engine.ranges import within
from snapvol.errors import Damaged, NotFound, UsageError
from snapvol.repository import BlobKind, Repository, SnapshotDocument

TAG = "snapvol"
INCOMPLETE = "incomplete"
IMAGE = "image"
DEEPEST = 5000  # levels of directories; no filesystem that people use comes near
_LARGEST_MANIFEST = 8 << 20

# What a read raises where the repository answers, but what it was asked for is not there or not whole.
Unreadable = (Damaged, NotFound)


class Root(Struct, frozen=True, kw_only=True):
    """Where the contents of a backup begin.

    Attributes:
        subtree: the hexadecimal id of the tree of the volume's root, or of the directory that holds its image.
        node: the root's own node; None in a backup that stock restic made.
        meta: the volume; None in a backup that stock restic made, or where ``lost`` says why.
        kind: what it is a backup of.
        lost: why what the backup of ours says of its volume cannot be read. Its contents may be whole nevertheless.
    """

    subtree: str
    node: Node | None = None
    meta: VolumeMeta | None = None
    kind: BackupKind = BackupKind.FILES
    lost: str | None = None


def load_tree(repository: Repository, tree: str) -> list[Node]:
    """Return the entries of a directory.

    Raises:
        NotFound: no index names the tree.
        Damaged: it is lost or altered, or is not a tree.
    """
    return node.decode_tree(repository.read(BlobKind.TREE, bytes.fromhex(tree)))


def _top(repository: Repository, tree: str) -> dict[bytes, Node]:
    return {entry.name: entry for entry in load_tree(repository, tree)}


def _is_volume(top: dict[bytes, Node]) -> bool:
    tree, file = top.get(manifest.TREE), top.get(manifest.FILE)
    return tree is not None and tree.subtree is not None and file is not None and file.type == Kind.FILE


def _meta(repository: Repository, file: Node) -> VolumeMeta:
    if file.size > _LARGEST_MANIFEST:
        raise Damaged(f"the backup's /snapvol.json has {file.size} bytes")
    blobs = (repository.read(BlobKind.DATA, bytes.fromhex(blob)) for blob in file.content or ())
    return manifest.decode(b"".join(blobs))


def root(repository: Repository, document: SnapshotDocument) -> Root:
    """Return where the volume's contents begin in a backup.

    A manifest that cannot be read does not keep anybody from the contents (T30): see `Root.lost`.

    Raises:
        NotFound: an object is missing.
        Damaged: an object is damaged, a backup with our tag is not laid out as ours are, or it is what is left of an
            image and what is not left is not known.
    """
    top = _top(repository, document.tree)
    tags = document.tags or ()
    if TAG not in tags:
        return Root(subtree=document.tree)
    if not _is_volume(top):
        raise Damaged("the backup is tagged 'snapvol' but has no /volume", "restore it with stock restic")
    tree = top[manifest.TREE]
    try:
        meta = _meta(repository, top[manifest.FILE])
    except Unreadable as error:
        if IMAGE in tags and INCOMPLETE in tags:
            raise Damaged(f"which pieces of the image are lost is not known any more: {error.message}") from None
        kind = BackupKind.IMAGE if IMAGE in tags else BackupKind.FILES
        return Root(subtree=tree.subtree or "", node=tree, kind=kind, lost=error.message)
    return Root(subtree=tree.subtree or "", node=tree, meta=meta, kind=meta.kind)


def check_path(path: bytes) -> list[bytes]:
    """Return the names of a path in a backup; a slash at either end is passed over.

    Raises:
        UsageError: it has ``.``, ``..``, an empty name or NUL.
    """
    stripped = path.strip(b"/")
    names = stripped.split(b"/") if stripped else []
    if any(not is_safe(name) for name in names):
        raise UsageError(f"path '{shown(path)}' is not allowed", "write it as `snapvol files` shows it")
    return names


def is_safe(name: bytes) -> bool:
    """Return whether a name is one that a directory can have; anything else is an attack, or damage."""
    return name not in (b"", b".", b"..") and b"/" not in name and b"\0" not in name


def find(repository: Repository, start: Root, path: bytes) -> list[Node]:
    """Return the nodes from below the root to ``path``; none for the root itself.

    Raises:
        NotFound: the backup has no such path.
        UsageError: it is not a path.
        Damaged: a tree on the way is lost.
    """
    found: list[Node] = []
    subtree: str | None = start.subtree
    for name in check_path(path):
        quoted = gotext.quote(name)
        entries = load_tree(repository, subtree) if subtree is not None else []
        entry = next((entry for entry in entries if entry.quoted == quoted or entry.name == name), None)
        if entry is None:
            raise NotFound(f"the backup has no '{shown(path)}'", "see what it has: snapvol files BACKUP")
        found.append(entry)
        subtree = entry.subtree if entry.type == Kind.DIRECTORY else None
    return found


def entries(
    repository: Repository, snapshot_id: str, path: bytes = b"", *, recursive: bool = False
) -> Iterator[tuple[bytes, Node]]:
    """Yield what a directory of a backup holds, or a file itself, in the order of names.

    The image of a block device is one file, ``image.img``, however it is stored.

    Args:
        repository: with its index loaded.
        snapshot_id: the backup's id.
        path: relative to the volume's root, or to the top of a backup that stock restic made.
        recursive: go into directories.

    Returns:
        Pairs of the path and the node.

    Raises:
        NotFound: there is no such backup or path.
        Damaged: a tree is lost.
    """
    _, document = repository.find_snapshot(snapshot_id)
    start = root(repository, document)
    if start.kind is BackupKind.IMAGE:
        yield _image_entry(start, StoredImage(repository, start.subtree, start.meta), path)
        return
    found = find(repository, start, path)
    base = b"/".join(check_path(path))
    if found and found[-1].type != Kind.DIRECTORY:
        yield base, found[-1]
        return
    subtree = found[-1].subtree if found else start.subtree
    waiting = [iter(_listed(repository, base, subtree))]
    while waiting:
        if len(waiting) > DEEPEST:
            raise Damaged(f"the backup's directories are nested more than {DEEPEST} deep")
        for where, entry in waiting[-1]:
            yield where, entry
            if recursive and entry.type == Kind.DIRECTORY:
                waiting.append(iter(_listed(repository, where, entry.subtree)))
                break
        else:
            waiting.pop()


def _listed(repository: Repository, base: bytes, subtree: str | None) -> list[tuple[bytes, Node]]:
    listed = load_tree(repository, subtree) if subtree is not None else []
    return [(base + b"/" + entry.name if base else entry.name, entry) for entry in listed]


def cat(repository: Repository, snapshot_id: str, path: bytes) -> Iterator[bytes]:
    """Yield the contents of a file, or of the image ``image.img``, in pieces.

    Raises:
        NotFound: there is no such backup or path.
        UsageError: the path is not a file's, or not a path.
        Damaged: a piece is lost, or the file is not as long as it should be.
    """
    _, document = repository.find_snapshot(snapshot_id)
    start = root(repository, document)
    if start.kind is BackupKind.IMAGE:
        image = StoredImage(repository, start.subtree, start.meta)
        _image_entry(start, image, path)
        yield from _image_pieces(repository, image)
        return
    found = find(repository, start, path)
    if not found or found[-1].type != Kind.FILE:
        raise UsageError(f"'{shown(path) or '/'}' is not a file", "list a directory: snapvol files BACKUP PATH")
    length = 0
    for blob in found[-1].content or ():
        data = repository.read(BlobKind.DATA, bytes.fromhex(blob))
        length += len(data)
        yield data
    if length != found[-1].size:
        raise Damaged(f"'{shown(path)}' has {length} bytes in the backup instead of {found[-1].size}")


def _image_entry(start: Root, image: StoredImage, path: bytes) -> tuple[bytes, Node]:
    if check_path(path) not in ([], [image_layout.FILE]):
        raise NotFound(
            f"the backup has no '{shown(path)}': it is the image of a block device",
            f"its one file is {image_layout.FILE.decode()}; to see files: snapvol restore BACKUP NEW",
        )
    when = node.time_of(start.meta.taken) if start.meta is not None else node.ZERO_TIME
    entry = Node(quoted=image_layout.FILE.decode(), type=Kind.FILE, mode=0o600, mtime=when, size=image.size, links=1)
    return image_layout.FILE, entry


def _image_pieces(repository: Repository, image: StoredImage) -> Iterator[bytes]:
    for segment in image.segments():
        if segment.problem is not None:
            raise Damaged(f"the image's bytes from {segment.offset} on are lost: {segment.problem}")
        for offset, length, blob in segment.pieces():
            if within(image.lost, offset, offset + length):
                raise Damaged(f"the image's piece at byte {offset} is lost: {image_layout.LOST}")
            if blob == image_layout.zero_id(length):
                yield zeros(length)
                continue
            data = repository.read(BlobKind.DATA, bytes.fromhex(blob))
            if len(data) != length:
                raise Damaged(f"the image's piece at byte {offset} has {len(data)} bytes instead of {length}")
            yield data
