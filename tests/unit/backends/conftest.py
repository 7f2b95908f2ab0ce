"""A ZFS in memory, and a pool on it, for the tests of the zfs backend."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.fake_zfs import FakeZfs
from support.zfs_pool import Pool, install


@pytest.fixture
def zfs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeZfs:
    """What the backend takes for ZFS."""
    return install(monkeypatch, tmp_path)


@pytest.fixture
def pool(zfs: FakeZfs, tmp_path: Path) -> Pool:
    """An open pool."""
    return Pool(zfs, tmp_path)
