"""Every test of the contract that asks for `pool` runs on every backend and file system.

In a lab guest (``SNAPVOL_TEST_STORAGE``) that is one kind of storage, and only what concerns it is selected.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from snapvol.model import new_id
from support import storage
from support.disks import drop
from support.storage import TREES, VARIANTS, Pool, Variant, parameters


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    # A plugin's hook sees all items of the session, also those of other folders.
    here = [item for item in items if item.path.is_relative_to(Path(__file__).parent)]
    others = [item for item in here if not concerns(item)]
    config.hook.pytest_deselected(items=others)
    items[:] = [item for item in items if item not in set(others)]


# Where the file system on a block device makes a difference; for the rest, one of them is enough in a slow guest.
_OF_FILESYSTEMS = ("test_contents", "test_image_figures", "test_images", "test_mounts", "test_snapshots")


def concerns(item: pytest.Item) -> bool:
    """Return whether a test is one for the chosen storage."""
    if not storage.STORAGE:
        # A fixture for other storage has no parameters here, and pytest would skip its tests.
        skips = [str(mark.kwargs.get("reason")) for mark in item.iter_markers("skip")]
        return not any(reason.startswith("got empty parameter set") for reason in skips)
    parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
    chosen = [name for name, variant in VARIANTS.items() if variant in parameters or name in parameters]
    if chosen == ["lvm-xfs"] and not storage.THOROUGH:
        return item.path.stem in _OF_FILESYSTEMS
    return bool(chosen)


@pytest.fixture(scope="session")
def filesystem(place: Path) -> Iterator[Callable[[str], Path]]:
    with storage.mounts(place / "contract") as mounted:
        yield mounted


@pytest.fixture(scope="session")
def opening(place: Path, filesystem: Callable[[str], Path]) -> Callable[[Variant], Pool]:
    """Make new pools; on the lab's disks it is the session's, which the test before left empty."""

    def make(variant: Variant) -> Pool:
        if variant.mounts:
            return storage.open_disks(variant, Path(tempfile.mkdtemp(prefix="root-", dir=place)))
        where = filesystem(variant.filesystem) if variant.filesystem else Path("/nonexistent")
        return storage.open_pool(variant, where / new_id()[:8])

    return make


def opened(variant: Variant, opening: Callable[[Variant], Pool]) -> Iterator[Pool]:
    pool = opening(variant)
    try:
        yield pool
        pool.reopen()
        assert pool.leaks() == []
        pool.clear()
        assert pool.leaks() == []
        assert pool.subvolumes() == []
    except BaseException:
        if variant.backend == "zfs":  # so that one failure does not become that of all tests after it
            drop(pool.settings)
        raise
    finally:
        pool.backend.close()


@pytest.fixture(params=parameters(VARIANTS))
def pool(request: pytest.FixtureRequest, opening: Callable[[Variant], Pool]) -> Iterator[Pool]:
    """An empty pool of each kind."""
    yield from opened(request.param, opening)


@pytest.fixture(params=parameters({name: v for name, v in VARIANTS.items() if "snapshots" not in v.missing}))
def snapshots(request: pytest.FixtureRequest, opening: Callable[[Variant], Pool]) -> Iterator[Pool]:
    """An empty pool of each kind that has snapshots; `test_features` shows that the others refuse."""
    yield from opened(request.param, opening)


@pytest.fixture(params=parameters(TREES))
def tree_pool(request: pytest.FixtureRequest, opening: Callable[[Variant], Pool]) -> Iterator[Pool]:
    """An empty pool of each kind that keeps directory trees in a directory of its own."""
    yield from opened(request.param, opening)


@pytest.fixture(params=parameters({name: v for name, v in VARIANTS.items() if v.privileged}))
def lasting(request: pytest.FixtureRequest, opening: Callable[[Variant], Pool]) -> Iterator[Pool]:
    """An empty pool of each kind that outlives its process."""
    yield from opened(request.param, opening)


@pytest.fixture(params=parameters({name: v for name, v in VARIANTS.items() if v.mounts}))
def mounting(request: pytest.FixtureRequest, opening: Callable[[Variant], Pool]) -> Iterator[Pool]:
    """An empty pool of each kind whose volumes have to be mounted to be reached."""
    yield from opened(request.param, opening)


@pytest.fixture(params=parameters({name: v for name, v in VARIANTS.items() if v.backend == "lvm"}))
def blocks(request: pytest.FixtureRequest, opening: Callable[[Variant], Pool]) -> Iterator[Pool]:
    """An empty pool of each kind whose volumes are block devices."""
    yield from opened(request.param, opening)


@pytest.fixture(params=parameters({name: v for name, v in VARIANTS.items() if v.backend == "btrfs"}))
def subvolumes(request: pytest.FixtureRequest, opening: Callable[[Variant], Pool]) -> Iterator[Pool]:
    """An empty pool of each kind whose volumes are subvolumes."""
    yield from opened(request.param, opening)


@pytest.fixture(params=parameters({name: v for name, v in VARIANTS.items() if v.options.get("fs") == "ext4"}))
def ext4_blocks(request: pytest.FixtureRequest, opening: Callable[[Variant], Pool]) -> Iterator[Pool]:
    """An empty pool of block devices with ext4."""
    yield from opened(request.param, opening)


@pytest.fixture(params=parameters({name: v for name, v in VARIANTS.items() if v.backend == "zfs"}))
def datasets(request: pytest.FixtureRequest, opening: Callable[[Variant], Pool]) -> Iterator[Pool]:
    """An empty pool of each kind whose volumes are ZFS datasets."""
    yield from opened(request.param, opening)
