"""Pieces of tree packs, kept on this machine: the directories of the last backup are what the next one looks at.

Contents of files are never kept: who restores them reads them from the repository, and hears of damage there.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable

from snapvol.repository.index import Location
from snapvol.stores.base import Buffer
from snapvol.stores.cache import Cache

_FOLDER = "packs"
_PIECE = re.compile(r"([0-9a-f]{64})-([0-9]{1,10})")


class PieceCache:
    """Pieces as they lie in the store, sealed: whoever opens a blob in one finds out whether it is damaged.

    Any number of threads may use it.

    Args:
        cache: takes the pieces, each as a file that is named by its pack and where it begins in it.
    """

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._mutex = threading.Lock()
        self._known: dict[bytes, dict[int, int]] | None = None  # pack → first byte → bytes

    def get(self, place: Location, before: int = 0) -> tuple[int, bytes] | None:
        """Return a blob's stored bytes and up to ``before`` bytes that lie before them; None where they are not kept.

        With them goes where the first of them lies in the pack.
        """
        with self._mutex:
            pieces = list(self._pieces().get(place.pack, {}).items())
        for start, size in pieces:
            if start <= place.offset and place.offset + place.length <= start + size:
                first = max(start, place.offset - before)
                length = place.offset + place.length - first
                found = self._cache.read(_name(place.pack, start), first - start, length)
                if found is not None:
                    return first, found
        return None

    def keep(self, pack: bytes, start: int, piece: Buffer) -> None:
        """Keep a piece of ``pack`` that begins at byte ``start``."""
        self._cache.write(_name(pack, start), [piece])
        with self._mutex:
            self._pieces().setdefault(pack, {})[start] = len(piece)

    def forget(self, pack: bytes) -> None:
        """Drop what is kept of ``pack``."""
        with self._mutex:
            starts = self._pieces().pop(pack, {})
        self._cache.remove(_name(pack, start) for start in starts)

    def keep_only(self, wanted: Callable[[bytes], bool]) -> None:
        """Drop what is kept of packs that are not ``wanted``, such as those that somebody pruned."""
        with self._mutex:
            gone = [pack for pack in self._pieces() if not wanted(pack)]
        for pack in gone:
            self.forget(pack)

    def _pieces(self) -> dict[bytes, dict[int, int]]:
        if self._known is None:
            self._known = {}
            for name, size in self._cache.names(_FOLDER):
                if found := _PIECE.fullmatch(name):
                    self._known.setdefault(bytes.fromhex(found[1]), {})[int(found[2])] = size
        return self._known


def _name(pack: bytes, start: int) -> str:
    return f"{_FOLDER}/{pack.hex()}-{start}"
