from __future__ import annotations

from pathlib import Path

import pytest

from snapvol.repository import locks
from snapvol.stores.local import LocalStore
from snapvol.stores.memory import MemoryStore
from support.repositories import created


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two that lock at once see each other sooner here than across a network."""
    monkeypatch.setattr(locks, "SETTLE", 0.0)


@pytest.fixture
def memory() -> MemoryStore:
    store = MemoryStore()
    created(store).close()
    return store


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "repository"


@pytest.fixture
def local(path: Path) -> LocalStore:
    store = LocalStore(path)
    created(store).close()
    return store
