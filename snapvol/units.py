"""Sizes as people write them."""

from __future__ import annotations

import re

from snapvol.errors import UsageError

_SIZE = re.compile(r"([1-9][0-9]{0,24})\s*([KMGTP]?)(i?B?)\Z", re.IGNORECASE)
_POWER = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4, "P": 5}
LARGEST = 2**60


def size(text: str) -> int:
    """Return the bytes of ``10G``, ``512M`` or ``1048576``: binary units, whole numbers.

    Raises:
        UsageError: it is not a size, is zero or is above 1 EiB.
    """
    match = _SIZE.match(text.strip())
    if match is None:
        raise UsageError(f"{text!r} is not a size", "write a whole number and K, M, G or T: 10G, 512M")
    number: int = int(match[1]) * 1024 ** _POWER[match[2].upper()]
    if number > LARGEST:
        raise UsageError(f"{text!r} is more than 1 EiB", "write a smaller size")
    return number


def spelled(size: int) -> str:
    """Return bytes as `size` reads them, in the largest unit that divides them: ``10G``, ``1536M``."""
    for unit in ("", "K", "M", "G", "T"):
        if size % 1024:
            return f"{size}{unit}"
        size //= 1024
    return f"{size}P"
