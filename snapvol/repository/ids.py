"""Identities: 32 bytes of SHA-256, in memory as bytes, in names and JSON as 64 hexadecimal digits."""

from __future__ import annotations

import re
from enum import StrEnum

from snapvol.errors import Damaged

_ID = re.compile(r"[0-9a-f]{64}")


class BlobKind(StrEnum):
    """What a blob holds: a piece of a file, or a directory's listing."""

    DATA = "data"
    TREE = "tree"


def parse_id(text: str, where: str) -> bytes:
    """Return the 32 bytes of an id found in ``where``.

    Raises:
        Damaged: it is not an id.
    """
    if not _ID.fullmatch(text):
        raise Damaged(f"{where} names an object {text[:80]!r}, which is not an id")
    return bytes.fromhex(text)


def pack_name(pack: bytes) -> str:
    """Return the name of a pack in the store."""
    text = pack.hex()
    return f"data/{text[:2]}/{text}"
