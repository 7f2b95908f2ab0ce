"""Sizes where the storage has quotas, and the options that only btrfs knows."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from snapvol.errors import Refused, UsageError
from snapvol.model import Volume
from support import storage
from support.process import run
from support.storage import Pool, contents, record

pytestmark = pytest.mark.root
SIZE = 16 << 20


@pytest.fixture
def btrfs(filesystem: Callable[[str], Path]) -> Iterator[Pool]:
    pool = storage.open_pool(storage.EVERYTHING["btrfs"], filesystem("btrfs") / "sizes")
    yield pool
    for volume in [*pool.backend.volumes(), *pool.backend.trashed()]:
        assert isinstance(volume, Volume)
        pool.backend.destroy(volume)
    assert pool.leaks() == []
    assert pool.subvolumes() == []
    pool.backend.close()
    run("rm", "-r", pool.tree)


def sized(pool: Pool, name: str = "web", size: int = SIZE) -> Volume:
    pool.backend.create(record(name), size=size)
    return pool.stored(name)


def write(root: Path, size: int) -> None:
    with open(root / "blob", "wb") as file:
        file.write(os.urandom(size))
        os.fsync(file.fileno())


def assert_limited(pool: Pool, volume: Volume, size: int = SIZE, root: Path | None = None) -> None:
    """A volume of ``size`` takes less than that and no more."""
    if root is None:
        assert pool.backend.usage(volume).limit == size
    root = root or pool.backend.mount(volume)
    write(root, size // 2)
    with pytest.raises(OSError, match="Disk quota exceeded") as full:
        write(root, size + (1 << 20))
    assert full.value.errno == errno.EDQUOT
    (root / "blob").unlink()
    run("sync", "-f", root)


def test_a_size_limits_what_is_written(btrfs: Pool) -> None:
    assert_limited(btrfs, sized(btrfs))
    unlimited = btrfs.volume("other")
    write(btrfs.backend.mount(unlimited), 2 * SIZE)
    assert btrfs.backend.usage(unlimited).limit is None


def test_a_limit_stays_through_rename_rollback_restore_and_trash(btrfs: Pool) -> None:
    web = sized(btrfs)
    snapshot = btrfs.snapshot(web, "s1")
    btrfs.backend.rollback(web, snapshot)
    assert_limited(btrfs, web)
    stage = btrfs.backend.stage(web)
    assert_limited(btrfs, web, root=stage)
    btrfs.backend.adopt_stage(web)
    assert_limited(btrfs, web)
    web = btrfs.backend.rename(web, "shop")
    assert_limited(btrfs, web)
    btrfs.backend.trash(web, web.created)
    (trashed,) = btrfs.backend.trashed()
    assert isinstance(trashed, Volume)
    assert_limited(btrfs, btrfs.backend.undelete(trashed, "web"))


def test_snapshots_count_for_nothing_but_themselves(btrfs: Pool) -> None:
    """What a volume no longer refers to does not count against its size."""
    web = sized(btrfs)
    for number in range(4):
        write(btrfs.backend.mount(web), SIZE // 2)
        btrfs.snapshot(web, f"s{number}")
        (btrfs.backend.mount(web) / "blob").unlink()
    run("sync", "-f", btrfs.tree)
    assert btrfs.backend.usage(web).used < SIZE // 4


def test_resize(btrfs: Pool) -> None:
    web = sized(btrfs)
    btrfs.backend.resize(web, 2 * SIZE)
    assert_limited(btrfs, web, 2 * SIZE)
    write(btrfs.backend.mount(web), SIZE)
    with pytest.raises(Refused, match=r"volume 'web' cannot be resized: \d+ bytes are in use, more than the size of"):
        btrfs.backend.resize(web, SIZE // 2)
    assert btrfs.backend.usage(web).limit == 2 * SIZE
    (btrfs.backend.mount(web) / "blob").unlink()
    btrfs.backend.resize(web, SIZE)
    assert_limited(btrfs, web)
    other = btrfs.volume("other")
    btrfs.backend.resize(other, SIZE)
    assert_limited(btrfs, other)


def test_usage_counts_what_is_shared_and_what_is_not(btrfs: Pool) -> None:
    web = sized(btrfs)
    write(btrfs.backend.mount(web), SIZE // 2)
    run("sync", "-f", btrfs.tree)
    alone = btrfs.backend.usage(web)
    assert alone.exclusive == alone.used >= SIZE // 2
    btrfs.snapshot(web, "s1")
    shared = btrfs.backend.usage(web)
    assert shared.used == alone.used
    assert shared.exclusive is not None
    assert shared.exclusive < 1 << 20


def test_a_clone_larger_than_its_size_is_refused(btrfs: Pool) -> None:
    web = btrfs.volume("web")
    write(btrfs.backend.mount(web), SIZE)
    snapshot = btrfs.snapshot(web, "s1")
    with pytest.raises(Refused, match=r"volume 'clone' cannot be created: \d+ bytes are in use"):
        btrfs.backend.create(record("clone"), size=SIZE // 2, source=snapshot)
    assert btrfs.names() == {"web"}
    btrfs.backend.create(record("clone"), size=2 * SIZE, source=snapshot)
    clone = btrfs.stored("clone")
    assert btrfs.backend.usage(clone).limit == 2 * SIZE
    with pytest.raises(OSError, match="Disk quota exceeded"):
        write(btrfs.backend.mount(clone), 2 * SIZE + (1 << 20))


def test_a_volume_over_its_quota_can_be_snapshotted_rolled_back_and_removed(btrfs: Pool) -> None:
    """T39."""
    web = sized(btrfs)
    empty = btrfs.snapshot(web, "empty")
    with pytest.raises(OSError, match="Disk quota exceeded"):
        write(btrfs.backend.mount(web), 2 * SIZE)
    full = btrfs.snapshot(web, "full")
    with btrfs.backend.open_snapshot(full) as tree:
        assert set(contents(tree.root)) == {"blob"}
    btrfs.backend.hold(full, "t")
    btrfs.backend.release(full, "t")
    btrfs.backend.rollback(web, empty)
    assert contents(btrfs.backend.mount(web)) == {}


def test_quotas_of_removed_volumes_do_not_pile_up(btrfs: Pool) -> None:
    def groups() -> set[str]:
        run("btrfs", "subvolume", "sync", btrfs.tree.parent)
        return {path.name for path in Path("/sys/fs/btrfs").glob("*/qgroups/0_*")}

    sized(btrfs, "keep")
    before = groups()
    for _ in range(3):
        web = sized(btrfs)
        btrfs.snapshot(web, "s1")
        btrfs.backend.destroy(web)
    assert groups() == before


@pytest.mark.parametrize("value", ["zstd", "lzo", "zlib"])
def test_compression(btrfs: Pool, value: str) -> None:
    volume = btrfs.volume("web", btrfs_compression=value)
    root = btrfs.backend.mount(volume)
    (root / "f").write_bytes(bytes(8 << 20))
    run("sync", "-f", root)
    assert os.getxattr(root / "f", "btrfs.compression") == value.encode()
    assert btrfs.backend.usage(volume).used < 4 << 20 or btrfs.backend.usage(volume).exclusive is None
    (btrfs.backend.stage(volume) / "f").write_text("x")
    btrfs.backend.adopt_stage(volume)
    assert os.getxattr(root / "f", "btrfs.compression") == value.encode()


def test_compression_none_and_nodatacow_false_change_nothing(btrfs: Pool) -> None:
    volume = btrfs.volume("web", btrfs_compression="none", btrfs_nodatacow="false")
    assert "C" not in run("lsattr", "-d", btrfs.backend.mount(volume)).stdout.split()[0]


def test_nodatacow(btrfs: Pool) -> None:
    volume = btrfs.volume("db", btrfs_nodatacow="true")
    root = btrfs.backend.mount(volume)
    (root / "f").write_text("x")
    snapshot = btrfs.snapshot(volume, "s1")
    for _ in range(2):
        assert "C" in run("lsattr", root / "f").stdout.split()[0]
        btrfs.backend.rollback(volume, snapshot)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"btrfs_compression": "gzip"}, "btrfs.compression = 'gzip' is not valid; valid: lzo, none, zlib, zstd"),
        ({"btrfs_nodatacow": "yes"}, "btrfs.nodatacow = 'yes' is not valid; valid: false, true"),
        ({"btrfs_nodatacow": "true", "btrfs_compression": "zstd"}, "btrfs cannot compress \\(zstd\\) what it writes"),
    ],
)
def test_options_that_cannot_be_served_make_nothing(btrfs: Pool, options: dict[str, str], message: str) -> None:
    """T16."""
    with pytest.raises(UsageError, match=f"volume 'web': {message}"):
        btrfs.backend.create(record("web", **options))
    assert btrfs.names() == set()
