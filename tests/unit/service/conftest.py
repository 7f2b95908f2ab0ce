"""Services for the tests of what is built on backends."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from snapvol.service.service import Service
from support.quick import initialise
from support.service import FakeKernel, directory_service, imaged_service, memory_service


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


@pytest.fixture
def imaged(tmp_path: Path, kernel: FakeKernel) -> Iterator[Service]:
    """A service over volumes that are block devices, with a repository, and a pool ``trees`` of directories."""
    made = imaged_service(tmp_path / "root", kernel)
    initialise(made.settings, "default")
    yield made
    made.close()
