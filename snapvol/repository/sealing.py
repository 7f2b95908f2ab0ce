"""The encryption of the repository format: AES-256-CTR, authenticated by Poly1305-AES."""

from __future__ import annotations

import os
from hmac import compare_digest

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.poly1305 import Poly1305

from snapvol.errors import Damaged
from snapvol.stores.base import Buffer

OVERHEAD = 32  # bytes that sealing adds: the IV before, the MAC after
_IV = 16
_MAC = 16
_BLOCK = 16  # bytes that the cipher wants to have free behind what it writes


class MasterKey:
    """Seals and opens; never shows its key.

    Args:
        encrypt: 32 bytes.
        k: 16 bytes, the AES key of the MAC.
        r: 16 bytes, the multiplier of the MAC; bits that Poly1305 does not use are cleared.
    """

    def __init__(self, encrypt: bytes, k: bytes, r: bytes) -> None:
        if (len(encrypt), len(k), len(r)) != (32, 16, 16):
            raise Damaged("a key of the repository has the wrong length")
        self.encrypt = encrypt
        self.k = k
        self.r = masked(r)
        self._cipher = algorithms.AES(encrypt)
        self._nonce_cipher = Cipher(algorithms.AES(k), modes.ECB())  # one block at a time

    @classmethod
    def generate(cls) -> MasterKey:
        """Return a new random key."""
        return cls(os.urandom(32), os.urandom(16), os.urandom(16))

    def __repr__(self) -> str:
        return "MasterKey(…)"

    def seal(self, plain: Buffer) -> bytes:
        """Return ``IV ‖ ciphertext ‖ MAC``: 32 bytes longer than ``plain``."""
        return bytes(self.seal_large(plain))

    def seal_large(self, plain: Buffer) -> bytearray:
        """Return the same as `seal`, without the copy that makes it unchangeable."""
        iv = os.urandom(_IV)
        sealed = bytearray(len(plain) + OVERHEAD)
        sealed[:_IV] = iv
        # Written in its place: copies cost five times as much as the encryption.
        with memoryview(sealed) as view:
            Cipher(self._cipher, modes.CTR(iv)).encryptor().update_into(plain, view[_IV:])
            view[-_MAC:] = self._mac(iv, view[_IV:-_MAC])
        return sealed

    def open(self, sealed: Buffer, what: str) -> bytes:
        """Return what was sealed.

        Args:
            sealed: what `seal` returned.
            what: names the object in errors.

        Raises:
            Damaged: it was cut short, altered, or sealed with another key.
        """
        view = memoryview(sealed)
        if len(view) < OVERHEAD:
            raise Damaged(f"{what} has {len(view)} bytes, too few to be sealed")
        iv = bytes(view[:_IV])
        encrypted = view[_IV:-_MAC]
        if not compare_digest(self._mac(iv, encrypted), bytes(view[-_MAC:])):
            raise Damaged(f"{what} is altered: its authentication code does not match")
        plain = bytearray(len(encrypted) + _BLOCK)
        Cipher(self._cipher, modes.CTR(iv)).decryptor().update_into(encrypted, plain)
        return bytes(memoryview(plain)[: len(encrypted)])

    def _mac(self, iv: bytes, encrypted: Buffer) -> bytes:
        return Poly1305.generate_tag(self.r + self._nonce_cipher.encryptor().update(iv), encrypted)


def masked(r: bytes) -> bytes:
    """Return ``r`` without the bits that Poly1305 ignores: stock restic refuses keys that have them."""
    clear = bytearray(r)
    for index in (3, 7, 11, 15):
        clear[index] &= 15
    for index in (4, 8, 12):
        clear[index] &= 252
    return bytes(clear)
