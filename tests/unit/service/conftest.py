"""Services for the tests of what is built on backends."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from snapvol.service.service import Service
from support.service import FakeKernel, directory_service, memory_service


@pytest.fixture
def kernel() -> FakeKernel:
    return FakeKernel()


@pytest.fixture
def service(tmp_path: Path, kernel: FakeKernel) -> Iterator[Service]:
    """A service whose one pool is in memory."""
    made = memory_service(tmp_path, kernel)
    yield made
    made.close()


@pytest.fixture
def on_disk(tmp_path: Path, kernel: FakeKernel) -> Iterator[Service]:
    """A service over directories in ``tmp_path``."""
    made = directory_service(tmp_path, kernel)
    yield made
    made.close()
