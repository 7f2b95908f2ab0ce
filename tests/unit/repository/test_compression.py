"""zstd: what is made of it comes back, whichever way the encoder takes."""

from __future__ import annotations

import random
import threading

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from snapvol.repository import compression
from snapvol.repository.compression import LARGE, compress, compress_large, decompress


def pages(noise: int) -> bytes:
    """Return pages of which ``noise`` of 8 KiB is random and the rest a few words."""
    chance = random.Random(noise)
    words = [chance.randbytes(6).hex().encode() for _ in range(500)]
    text = b" ".join(chance.choices(words, k=30_000))
    return b"".join(text[at : at + 8192 - noise] + chance.randbytes(noise) for at in range(0, 2 * LARGE, 8192))


PIECES = [pages(0), pages(5000), pages(8192), bytes(LARGE), pages(5000)[: LARGE - 1], b"", b"x"]


@given(st.lists(st.sampled_from(PIECES), max_size=8), st.sampled_from([1, 3]))
def test_any_sequence_of_pieces_comes_back(pieces: list[bytes], level: int) -> None:
    for piece in pieces:
        frame = compress_large(piece, level)
        assert zstandard.frame_content_size(frame) == len(piece)
        assert decompress(frame, len(piece), "it") == piece


def frames(pieces: list[bytes], level: int = 1) -> list[bytes]:
    """Compress in a thread of its own, which has seen nothing before."""
    found: list[bytes] = []
    thread = threading.Thread(target=lambda: found.extend(compress_large(piece, level) for piece in pieces))
    thread.start()
    thread.join()
    return found


def test_after_a_piece_with_little_to_gain_less_is_looked_for() -> None:
    """And no longer after one with much; small pieces and higher levels are left alone."""
    text, dense = pages(0), pages(5000)
    assert len(compress(dense, 1)) > compression.DENSE * len(dense)
    found = frames([dense, dense, text, text])
    assert found[0] == compress(dense, 1)
    assert found[1] != compress(dense, 1)
    assert found[2] != compress(text, 1)
    assert found[3] == compress(text, 1)
    assert frames([dense, dense[: LARGE - 1]])[1] == compress(dense[: LARGE - 1], 1)
    assert frames([dense, dense], 3)[1] == compress(dense, 3)


@pytest.mark.parametrize("noise", [4500, 6000])
def test_that_loses_next_to_nothing(noise: int) -> None:
    dense = pages(noise)
    usual, skimmed = frames([dense, dense])
    assert len(skimmed) < 1.03 * len(usual)
