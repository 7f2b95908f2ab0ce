"""From snapshots to all blobs that they need: every tree is read once, a few thousand at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec
from msgspec import Struct

from snapvol.errors import Damaged
from snapvol.repository.findings import CheckProgress
from snapvol.repository.ids import BlobKind, parse_id
from snapvol.repository.reader import Reader
from snapvol.repository.usage import Usage

_AT_ONCE = 4096  # trees; what waits grows with the depth of the directories, not with their number


class _Node(Struct, gc=False):
    type: str = ""
    content: list[str] | None = None
    subtree: str | None = None


class _Tree(Struct):
    nodes: list[_Node] | None = None


def mark(reader: Reader, usage: Usage, roots: Iterable[bytes], progress: CheckProgress) -> int:
    """Note in ``usage`` all blobs that the trees ``roots`` need, and return how many trees that were.

    A tree that is needed already is not read again.

    Raises:
        NotFound: no index names one of them.
        Damaged: a tree is lost or altered.
    """
    waiting = [root for root in roots if usage.need(BlobKind.TREE, root)]
    read = 0
    while waiting:
        progress.cancelled()
        batch = waiting[-_AT_ONCE:]
        del waiting[-_AT_ONCE:]
        for tree, text in reader.read_many(BlobKind.TREE, batch, None):
            contents, subtrees = references(text, f"tree blob {tree.hex()[:12]}")
            for blob in contents:
                usage.need(BlobKind.DATA, blob)
            waiting += [subtree for subtree in subtrees if usage.need(BlobKind.TREE, subtree)]
            progress.advance(0, 1)
            read += 1
    return read


def references(text: bytes, what: str) -> tuple[Iterator[bytes], list[bytes]]:
    """Return the data blobs and the trees that a tree names.

    Args:
        text: the tree.
        what: names it in errors.

    Raises:
        Damaged: it is none.
    """
    try:
        nodes = msgspec.json.decode(text, type=_Tree).nodes or []
        listed = "".join([blob for node in nodes for blob in node.content or ()])
        ids = bytes.fromhex(listed)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise Damaged(f"{what} has contents that cannot be read: {error}") from error
    count = sum(len(node.content) for node in nodes if node.content)
    if len(ids) != 32 * count or len(listed) != 64 * count:
        raise Damaged(f"{what} names objects by what is not an id")
    subtrees = [parse_id(node.subtree or "", what) for node in nodes if node.type == "dir"]
    return (ids[at : at + 32] for at in range(0, len(ids), 32)), subtrees
