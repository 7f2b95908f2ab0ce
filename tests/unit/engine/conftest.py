from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from snapvol.repository import locks
from support.benches import Bench


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two that lock at once see each other sooner here than across a network."""
    monkeypatch.setattr(locks, "SETTLE", 0.0)


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.repository.close()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.mkdir()
    return path


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / "target"
    path.mkdir()
    return path
