"""The pieces that a file was cut into by an earlier backup, and which of them are still what is in it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from msgspec import Struct

from snapvol.engine.node import Node
from snapvol.engine.ranges import Span, within
from snapvol.errors import NotFound
from snapvol.repository import BlobKind, Repository


class Piece(Struct, frozen=True):
    """A part of a file that is in the repository.

    Attributes:
        offset: in the file.
        length: in bytes.
        blob: its hexadecimal id.
    """

    offset: int
    length: int
    blob: str


def pieces(repository: Repository, before: Node) -> list[Piece] | None:
    """Return what a file is made of in an earlier backup; None where a part of that is not in the repository."""
    found, offset = [], 0
    for blob in before.content or ():
        identity = bytes.fromhex(blob)
        if not repository.has(BlobKind.DATA, identity):
            return None
        try:
            length = repository.locate(BlobKind.DATA, identity).plain_length
        except NotFound:
            return None  # on its way: another file has just brought it back
        found.append(Piece(offset, length, blob))
        offset += length
    return found if before.content is not None and offset == before.size else None


class Unchanged:
    """Pieces that need not be read.

    A piece may only be taken where a run that reads everything would cut the same: then the backup is the same. Where
    cuts are made depends on what is before them, never after; but a hole or the end of the file cuts, too. So a piece
    is taken where nothing has changed as far behind it as a hole must reach to count (``margin``).

    Args:
        pieces: of the file as it was, in order and without gaps.
        changed: what may differ since, ascending.
        margin: in bytes.
    """

    def __init__(self, pieces: Sequence[Piece], changed: Sequence[Span], margin: int) -> None:
        self._changed = changed
        self._margin = margin
        self._pieces = {piece.offset: piece for piece in pieces if not within(changed, *_span(piece))}
        self._starts = sorted(self._pieces)

    def at(self, offset: int, end: int) -> Piece | None:
        """Return the piece that begins at ``offset``, where it can be taken.

        Args:
            offset: in the file.
            end: where the data around it end: a hole, or the end of the file.
        """
        piece = self._pieces.get(offset)
        if piece is None:
            return None
        behind = offset + piece.length
        if behind > end or (behind < end and within(self._changed, behind, behind + self._margin)):
            return None
        return piece

    def after(self, offset: int) -> int | None:
        """Return where the first piece behind ``offset`` begins that may be taken."""
        at = bisect_right(self._starts, offset)
        return self._starts[at] if at < len(self._starts) else None


def _span(piece: Piece) -> Span:
    return piece.offset, piece.offset + piece.length
