"""How much of something that takes its time tests do, where machines are slow."""

from __future__ import annotations

import os

SCALE = float(os.environ.get("SNAPVOL_TEST_SCALE", "1"))


def scaled(number: int, least: int = 3) -> int:
    """Return ``number`` times ``SNAPVOL_TEST_SCALE`` (default 1), but ``least`` at least."""
    return max(min(number, least), round(number * SCALE))
