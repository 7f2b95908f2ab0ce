"""What a test needs from the machine.

A missing program skips the tests that need it, unless ``SNAPVOL_TEST_REQUIRE`` names it or is ``all``: then they fail.
"""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest


def required(what: str) -> bool:
    """Return whether ``SNAPVOL_TEST_REQUIRE`` forbids going on without ``what``."""
    words = os.environ.get("SNAPVOL_TEST_REQUIRE", "").replace(",", " ").split()
    return "all" in words or what in words


def missing(what: str, why: str) -> NoReturn:
    """Skip the test for want of ``what``, or fail it where that is required."""
    if required(what):
        pytest.fail(f"{what} is required: {why}", pytrace=False)
    pytest.skip(f"{what}: {why}")


def program(*names: str, what: str | None = None) -> None:
    """Need programs on the search path; ``what`` is the environment they make up."""
    for name in names:
        if shutil.which(name) is None:
            missing(what or name, f"{name} is not installed (make test installs it)")


def root(what: str = "root") -> None:
    """Need root."""
    if os.getuid() != 0:
        missing(what, "needs root")
