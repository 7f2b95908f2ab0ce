from __future__ import annotations

from hashlib import sha256
from struct import pack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapvol.errors import Damaged
from snapvol.repository.ids import BlobKind
from snapvol.repository.packs import (
    LARGEST_DATA,
    MOST_BLOBS,
    SMALLEST,
    Packer,
    entry_size,
    header_length,
    parse_header,
)
from snapvol.repository.sealing import MasterKey

KEY = MasterKey.generate()
contents = st.lists(st.tuples(st.binary(max_size=300), st.integers(0, 5000)), min_size=1, max_size=20)


def packed(kind: BlobKind, blobs: list[tuple[bytes, int]], spare: bytearray | None) -> tuple[Packer, bytes, bytearray]:
    packer = Packer(kind, spare)
    for plain, size in blobs:
        packer.add(sha256(plain).digest(), KEY.seal(plain), size)
    return packer, *packer.finish(KEY)


@given(st.sampled_from(BlobKind), contents, st.none() | st.binary(max_size=9000).map(bytearray))
def test_a_pack_says_what_it_holds(kind: BlobKind, blobs: list[tuple[bytes, int]], spare: bytearray | None) -> None:
    """Whatever was in the buffer before."""
    packer, identity, data = packed(kind, blobs, spare)
    assert sha256(data).digest() == identity
    length = header_length(data[-4:], len(data), "it")
    body = len(data) - 4 - length
    found = parse_header(KEY.open(data[body:-4], "it"), body, "it")
    assert found == packer.blobs
    assert [KEY.open(data[blob.offset : blob.offset + blob.length], "it") for blob in found] == [b for b, _ in blobs]
    assert len(data) == SMALLEST + sum(blob.length + entry_size(blob.plain) for blob in found)


def test_packs_end_at_their_size_or_number() -> None:
    packer = Packer(BlobKind.DATA)
    packer.add(bytes(32), bytes(999), 0)
    assert not packer.full(1000)
    packer.add(bytes(32), bytes(1), 0)
    assert packer.full(1000)
    many = Packer(BlobKind.DATA)
    for _ in range(MOST_BLOBS):
        many.add(bytes(32), b"", 0)
    assert many.full(1 << 40)


@pytest.mark.parametrize("length", [0, 32, 997, 1000, 0xFFFFFFFF])
def test_absurd_header_lengths_are_refused(length: int) -> None:
    """T44."""
    with pytest.raises(Damaged, match="it has 1000 bytes and cannot have a header"):
        header_length(pack("<I", length), 1000, "it")


def test_a_pack_of_three_bytes_is_refused() -> None:
    """T30: an object cut short, or empty."""
    for size in range(4):
        with pytest.raises(Damaged, match="too few for a pack"):
            header_length(bytes(size), size, "it")


@pytest.mark.parametrize(
    "header",
    [
        b"\x04" + bytes(40),  # no such type
        b"\xff",
        b"\x00" + bytes(20),  # cut short
        b"\x02" + bytes(39),
        b"\x00" + pack("<I", 100) + bytes(32) + b"\x01",
        b"\x00" + pack("<I", 31) + bytes(32),  # too short to be sealed
        b"\x00" + pack("<I", 0xFFFFFFFF) + bytes(32),
        b"\x02" + pack("<II", 100, LARGEST_DATA + 1) + bytes(32),  # a bomb
        b"\x03" + pack("<II", 100, 0xFFFFFFFF) + bytes(32),
        b"\x00" + pack("<I", 99) + bytes(32),  # other blobs than the pack has
    ],
)
def test_hostile_headers_are_refused(header: bytes) -> None:
    """T44."""
    with pytest.raises(Damaged, match="it "):
        parse_header(header, 100, "it")


@given(st.binary(max_size=400), st.integers(0, 2000))
def test_any_bytes_are_a_header_or_damaged(header: bytes, body: int) -> None:
    """T44."""
    try:
        blobs = parse_header(header, body, "it")
    except Damaged:
        return
    assert sum(blob.length for blob in blobs) == body
