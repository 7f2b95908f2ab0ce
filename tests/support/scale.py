"""What tests make of slow machines: less of what takes its time, and more patience."""

from __future__ import annotations

import os

SCALE = float(os.environ.get("SNAPVOL_TEST_SCALE", "1"))
PATIENCE = float(os.environ.get("SNAPVOL_TEST_PATIENCE", "1"))


def scaled(number: int, least: int = 3) -> int:
    """Return ``number`` times ``SNAPVOL_TEST_SCALE`` (default 1), but ``least`` at least."""
    return max(min(number, least), round(number * SCALE))


def patient(seconds: float) -> float:
    """Return a time limit: ``seconds`` times ``SNAPVOL_TEST_PATIENCE`` (default 1)."""
    return seconds * PATIENCE
