from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapvol.errors import Damaged
from snapvol.repository.sealing import OVERHEAD, MasterKey, masked

KEY = MasterKey.generate()


@given(st.binary(max_size=5000))
def test_what_is_sealed_opens(plain: bytes) -> None:
    sealed = KEY.seal(plain)
    assert len(sealed) == len(plain) + OVERHEAD
    assert KEY.open(sealed, "it") == plain
    assert KEY.open(memoryview(bytearray(sealed)), "it") == plain


@given(st.binary(max_size=200), st.data())
def test_a_flipped_bit_is_found(plain: bytes, data: st.DataObject) -> None:
    """T30."""
    sealed = bytearray(KEY.seal(plain))
    sealed[data.draw(st.integers(0, len(sealed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(Damaged, match="it is altered"):
        KEY.open(sealed, "it")


@given(st.binary(max_size=60))
def test_other_bytes_are_not_opened(junk: bytes) -> None:
    with pytest.raises(Damaged):
        KEY.open(junk, "it")


def test_nothing_is_sealed_the_same_twice() -> None:
    assert KEY.seal(b"abc") != KEY.seal(b"abc")


def test_the_known_answer_of_poly1305_aes() -> None:
    """D. J. Bernstein's third test of Poly1305-AES: a mistake made in both directions would pass all others."""
    k = bytes.fromhex("6acb5f61a7176dd320c5c1eb2edcdc74")
    r = bytes.fromhex("48443d0bb0d21109c89a100b5ce2c208")
    nonce = bytes.fromhex("ae212a55399729595dea458bc621ff0e")
    message = bytes.fromhex("663cea190ffb83d89593f3f476b6bc24d7e679107ea26adb8caf6652d0656136")
    key = MasterKey(bytes(32), k, r)
    assert key._mac(nonce, message).hex() == "0ee1c16bb73f0f4fd19881753c01cdbe"


@given(st.binary(min_size=16, max_size=16))
def test_masking_clears_the_bits_poly1305_ignores(r: bytes) -> None:
    assert all(masked(r)[index] < 16 for index in (3, 7, 11, 15))
    assert all(masked(r)[index] % 4 == 0 for index in (4, 8, 12))
    assert masked(masked(r)) == masked(r)


def test_the_key_is_not_shown() -> None:
    """T42."""
    assert repr(KEY) == "MasterKey(…)"
    assert KEY.encrypt.hex() not in f"{KEY}{KEY!r}"
