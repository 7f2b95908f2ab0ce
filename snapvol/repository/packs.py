"""Packs: blobs of one kind, back to back, then a sealed header that lists them, then the header's length."""

from __future__ import annotations

from hashlib import sha256
from struct import Struct as Layout

from msgspec import Struct

from snapvol.errors import Damaged
from snapvol.repository.ids import BlobKind
from snapvol.repository.sealing import OVERHEAD, MasterKey
from snapvol.stores.base import Buffer

TARGET = 32 << 20  # bytes; stock restic takes 4 to 128 MiB
MOST_BLOBS = 32_768  # keeps a pack's part of an index well below the 8 MiB that an index may have
LARGEST_HEADER = 64 << 20
LARGEST_DATA = 32 << 20  # plain bytes; stock clients make at most 8 MiB
LARGEST_TREE = 256 << 20  # a directory of a million names

_PLAIN = Layout("<BI32s")
_COMPRESSED = Layout("<BII32s")
_LENGTH = Layout("<I")
SMALLEST = OVERHEAD + _LENGTH.size  # bytes of a pack without blobs
_TYPES = {0: BlobKind.DATA, 1: BlobKind.TREE, 2: BlobKind.DATA, 3: BlobKind.TREE}


class PackedBlob(Struct, frozen=True, gc=False):
    """Where a blob lies in its pack.

    Attributes:
        id: SHA-256 of the plain bytes.
        kind: data or tree.
        offset: first byte in the pack.
        length: stored bytes.
        plain: bytes before compression; 0 where it is stored uncompressed, as in the format.
    """

    id: bytes
    kind: BlobKind
    offset: int
    length: int
    plain: int

    @property
    def plain_length(self) -> int:
        """Bytes of the blob itself."""
        return self.plain or self.length - OVERHEAD


def largest(kind: BlobKind) -> int:
    """Return how many plain bytes a blob of ``kind`` may have: what reading one may take of memory."""
    return LARGEST_TREE if kind is BlobKind.TREE else LARGEST_DATA


def is_sensible(blob: PackedBlob) -> bool:
    """Say whether there can be such a blob: what others wrote must not make us ask for absurd amounts of memory."""
    limit = largest(blob.kind)
    stored = OVERHEAD <= blob.length <= limit + (limit >> 6) + OVERHEAD  # zstd makes what it cannot compress larger
    return stored and 0 <= blob.plain <= limit and 0 <= blob.offset < 1 << 32


class Packer:
    """A pack in the making."""

    def __init__(self, kind: BlobKind) -> None:
        self.kind = kind
        self.blobs: list[PackedBlob] = []
        self._bytes = bytearray()

    def add(self, blob: bytes, sealed: Buffer, plain: int) -> None:
        """Append a sealed blob; ``plain`` as in `PackedBlob`."""
        self.blobs.append(PackedBlob(blob, self.kind, len(self._bytes), len(sealed), plain))
        self._bytes += sealed

    def full(self, target: int) -> bool:
        """Say whether the pack has reached ``target`` bytes, or all the blobs that it may have."""
        return len(self._bytes) >= target or len(self.blobs) >= MOST_BLOBS

    def finish(self, key: MasterKey) -> tuple[bytes, bytearray]:
        """Return the pack's id and its bytes; the packer is of no use afterwards."""
        header = key.seal(b"".join(_header_entry(blob) for blob in self.blobs))
        self._bytes += header
        self._bytes += _LENGTH.pack(len(header))
        return sha256(self._bytes).digest(), self._bytes


def _header_entry(blob: PackedBlob) -> bytes:
    tree = blob.kind is BlobKind.TREE
    if blob.plain:
        return _COMPRESSED.pack(3 if tree else 2, blob.length, blob.plain, blob.id)
    return _PLAIN.pack(1 if tree else 0, blob.length, blob.id)


def entry_size(plain: int) -> int:
    """Return the bytes of a blob's entry in the header; ``plain`` as in `PackedBlob`."""
    return _COMPRESSED.size if plain else _PLAIN.size


def header_length(tail: Buffer, pack_size: int, what: str) -> int:
    """Return how long the sealed header is, from the last four bytes of a pack.

    Raises:
        Damaged: no pack of ``pack_size`` bytes has such a header.
    """
    if len(tail) < _LENGTH.size:
        raise Damaged(f"{what} has {pack_size} bytes, too few for a pack")
    (length,) = _LENGTH.unpack(tail[-_LENGTH.size :])
    if not OVERHEAD < length <= min(pack_size - _LENGTH.size, LARGEST_HEADER):
        raise Damaged(f"{what} has {pack_size} bytes and cannot have a header of {length}")
    return int(length)


def parse_header(plain: bytes, body: int, what: str) -> list[PackedBlob]:
    """Return the blobs that an opened header lists.

    Args:
        plain: the opened header.
        body: bytes of the pack before the header, which the blobs must fill exactly.
        what: names the pack in errors.

    Raises:
        Damaged: it is not a header, or not of this pack.
    """
    blobs: list[PackedBlob] = []
    at = offset = 0
    while at < len(plain):
        kind = _TYPES.get(plain[at])
        layout = _COMPRESSED if plain[at] > 1 else _PLAIN
        if kind is None or at + layout.size > len(plain):
            raise Damaged(f"{what} has a header that cannot be read at byte {at}")
        _, length, *sizes, blob = layout.unpack_from(plain, at)
        packed = PackedBlob(blob, kind, offset, length, sizes[0] if sizes else 0)
        if not is_sensible(packed):
            raise Damaged(f"{what} has a header with a size that no blob has")
        blobs.append(packed)
        at += layout.size
        offset += length
    if offset != body:
        raise Damaged(f"{what} holds {body} bytes of blobs, but its header lists {offset}")
    return blobs
