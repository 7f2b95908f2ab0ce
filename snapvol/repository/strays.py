"""Packs that no index names: what a killed run uploaded in vain, unless the next one takes it in."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator

from snapvol.errors import Damaged, NotFound
from snapvol.repository.ids import pack_name
from snapvol.repository.packs import PackedBlob, header_length, parse_header
from snapvol.repository.parallel import mapped
from snapvol.repository.sealing import MasterKey
from snapvol.stores.base import Store

log = logging.getLogger(__name__)

_TAIL = 64 << 10  # bytes at a pack's end that hold the header of nearly all packs
_AHEAD = 8


def taken_in(
    store: Store, key: MasterKey, packs: Iterable[tuple[bytes, int]]
) -> Iterator[tuple[bytes, list[PackedBlob]]]:
    """Yield the blobs of each pack whose header is whole; others are left for a prune.

    Args:
        store: where they lie.
        key: of the repository.
        packs: ids and sizes.
    """

    def read(pack: tuple[bytes, int]) -> tuple[bytes, list[PackedBlob]] | None:
        try:
            return pack[0], read_header(store, key, *pack)
        except (Damaged, NotFound) as error:
            log.warning("a pack without an index is left alone: %s", error)
            return None

    for found in mapped(read, packs, _AHEAD):
        if found is not None:
            yield found


def read_header(store: Store, key: MasterKey, pack: bytes, size: int) -> list[PackedBlob]:
    """Return the blobs that a pack of ``size`` bytes says it holds.

    Raises:
        NotFound: there is no such pack.
        Damaged: its header is not one of ours.
    """
    name = pack_name(pack)
    what = f"{name} in {store.location}"
    start = max(0, size - _TAIL)
    tail = store.get(name, start, size - start)
    length = header_length(tail, size, what)
    body = size - 4 - length
    sealed = tail[body - start : -4] if body >= start else store.get(name, body, length)
    return parse_header(key.open(sealed, what), body, what)
