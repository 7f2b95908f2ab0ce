"""Every test of the contract that asks for `pool` runs on every backend and file system."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from snapvol.model import Snapshot, Volume, new_id
from support import storage
from support.storage import TREES, VARIANTS, Pool


def variants(names: dict[str, storage.Variant]) -> list[object]:
    return [
        pytest.param(variant, id=name, marks=[pytest.mark.root] if variant.filesystem else [])
        for name, variant in names.items()
    ]


@pytest.fixture(scope="session")
def filesystem(place: Path) -> Iterator[Callable[[str], Path]]:
    with storage.mounts(place / "contract") as mounted:
        yield mounted


def opened(variant: storage.Variant, filesystem: Callable[[str], Path]) -> Iterator[Pool]:
    where = filesystem(variant.filesystem) if variant.filesystem else Path("/nonexistent")
    pool = storage.open_pool(variant, where / new_id()[:8])
    yield pool
    pool.reopen()
    assert pool.leaks() == []
    for volume in [*pool.backend.volumes(), *pool.backend.trashed()]:
        if isinstance(volume, Volume):
            for snapshot in pool.backend.snapshots(volume):
                for tag in snapshot.holds if isinstance(snapshot, Snapshot) else ():
                    assert isinstance(snapshot, Snapshot)
                    pool.backend.release(snapshot, tag)
            pool.backend.destroy(volume)
    assert pool.leaks() == []
    assert pool.subvolumes() == []
    pool.backend.close()


@pytest.fixture(params=variants(VARIANTS))
def pool(request: pytest.FixtureRequest, filesystem: Callable[[str], Path]) -> Iterator[Pool]:
    """An empty pool of each kind."""
    yield from opened(request.param, filesystem)


@pytest.fixture(params=variants({name: v for name, v in VARIANTS.items() if "snapshots" not in v.missing}))
def snapshots(request: pytest.FixtureRequest, filesystem: Callable[[str], Path]) -> Iterator[Pool]:
    """An empty pool of each kind that has snapshots; `test_features` shows that the others refuse."""
    yield from opened(request.param, filesystem)


@pytest.fixture(params=variants(TREES))
def tree_pool(request: pytest.FixtureRequest, filesystem: Callable[[str], Path]) -> Iterator[Pool]:
    """An empty pool of each kind that keeps directory trees in a directory of its own."""
    yield from opened(request.param, filesystem)
