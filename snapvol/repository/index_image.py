"""The index in memory as a file of the cache: what many index files say together, in the form in which it is searched.

It is sealed with the repository's key, in sections so that none of them takes much memory. That tells what was torn,
damaged or belongs to another repository from what this module wrote, and the names of files to nobody. A section is its
head, then what it holds: the first one the index files and packs, each other one a sixteenth of the blobs of a kind.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from itertools import product
from struct import Struct as Layout
from struct import error as TooShort
from typing import NamedTuple

from snapvol.errors import Damaged
from snapvol.repository.ids import BlobKind
from snapvol.repository.index import RECORD, BlobIndex, Buckets
from snapvol.repository.sealing import MasterKey
from snapvol.stores.cache import Cache

log = logging.getLogger(__name__)

FILE = "index-image"

_MAGIC = b"snapvol-index-2\n"
_HEAD = Layout("<16s16sI")  # magic, identity of the image, number of the section
_COUNT = Layout("<I")
_NAME = Layout("<32sQ")  # id and size
_PREFIXES = 4096  # buckets in a section
_COUNTS = Layout(f"<{_PREFIXES}I")  # records in each bucket
_SECTIONS = list(product(BlobKind, range(0, 1 << 16, _PREFIXES)))


class IndexImage(NamedTuple):
    """What an image holds.

    Attributes:
        names: ids and sizes of the index files that say the same.
        packs: see `BlobIndex.restore`.
        buckets: likewise.
    """

    names: dict[bytes, int]
    packs: list[bytes]
    buckets: dict[BlobKind, Buckets]


def save(cache: Cache, key: MasterKey, index: BlobIndex, names: Mapping[bytes, int]) -> None:
    """Write what ``index`` holds, which is what the index files with these ids and sizes say."""
    cache.write(FILE, _sealed(key, index, names))


def load(cache: Cache, key: MasterKey) -> IndexImage | None:
    """Return what the image holds; None where there is none. One that is damaged is removed."""
    if cache.read(FILE, 0, 0) is None:
        return None
    try:
        return _parsed(_opened(cache, key))
    except (Damaged, TooShort) as error:
        log.warning("the cached index is read anew: %s", error)
        cache.remove([FILE])
        return None


def _sealed(key: MasterKey, index: BlobIndex, names: Mapping[bytes, int]) -> Iterator[bytes]:
    identity = os.urandom(16)
    for number, plain in enumerate(_sections(index, names)):
        sealed = key.seal(_HEAD.pack(_MAGIC, identity, number) + plain)
        yield _COUNT.pack(len(sealed))
        yield sealed


def _sections(index: BlobIndex, names: Mapping[bytes, int]) -> Iterator[bytes]:
    packs = index.packs()
    yield b"".join(
        (
            _COUNT.pack(len(names)),
            *(_NAME.pack(*name) for name in sorted(names.items())),
            _COUNT.pack(len(packs)),
            *packs,
        )
    )
    for kind, start in _SECTIONS:
        buckets = index.buckets(kind)
        found = [buckets.get(prefix.to_bytes(2, "big"), b"") for prefix in range(start, start + _PREFIXES)]
        yield b"".join((_COUNTS.pack(*(len(bucket) // RECORD.size for bucket in found)), *found))


def _opened(cache: Cache, key: MasterKey) -> Iterator[bytes]:
    """Yield the sections without their heads, which must be those of one image, in order."""
    what = f"{FILE} in {cache.directory}"
    at = 0
    first = b""
    for number in range(1 + len(_SECTIONS)):
        (length,) = _COUNT.unpack(cache.read(FILE, at, _COUNT.size) or b"")
        plain = key.open(cache.read(FILE, at + _COUNT.size, length) or b"", what)
        magic, identity, found = _HEAD.unpack_from(plain)
        first = first or identity
        if (magic, identity, found) != (_MAGIC, first, number):
            raise Damaged(f"{what} is of another version, or put together of several")
        at += _COUNT.size + length
        yield plain[_HEAD.size :]


def _parsed(sections: Iterator[bytes]) -> IndexImage:
    first = next(sections)
    names, at = _listed(first, 0, _NAME.size)
    packs, _ = _listed(first, at, 32)
    buckets: dict[BlobKind, Buckets] = {kind: {} for kind in BlobKind}
    for (kind, start), section in zip(_SECTIONS, sections, strict=True):
        into, at = buckets[kind], _COUNTS.size
        for prefix, count in enumerate(_COUNTS.unpack_from(section), start):
            if count:
                end = at + count * RECORD.size
                into[prefix.to_bytes(2, "big")] = bytearray(section[at:end])
                at = end
    return IndexImage(dict(_NAME.unpack(name) for name in names), packs, buckets)


def _listed(section: bytes, at: int, width: int) -> tuple[list[bytes], int]:
    """Return what is listed from ``at`` on, each ``width`` bytes, and where it ends."""
    (count,) = _COUNT.unpack_from(section, at)
    at += _COUNT.size
    end = at + width * count
    return [section[place : place + width] for place in range(at, end, width)], end
