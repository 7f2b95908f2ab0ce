"""What only ZFS does: other programs' snapshots and datasets, exports, keys, native properties."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from snapvol.errors import (
    AlreadyExists,
    InUse,
    NotReady,
    PoolUnavailable,
    Protected,
    Refused,
    SettingsError,
    UnknownOption,
    Unsupported,
    UsageError,
)
from snapvol.model import Damage, Snapshot, Volume, new_id
from support.process import run
from support.storage import Pool

pytestmark = pytest.mark.root
PROPERTY = "org.snapvol:volume"


def zfs(*words: str | Path) -> str:
    return run("zfs", *words).stdout


def parent(pool: Pool) -> str:
    return str(pool.settings["dataset"])


def zpool(pool: Pool) -> str:
    return parent(pool).partition("/")[0]


def head(pool: Pool, volume: Volume) -> str:
    (name,) = pool.backend.sources(volume)
    return name


def value(name: str, property: str) -> str:
    return zfs("get", "-Hp", "-o", "value", property, name).strip()


def reimport(pool: Pool, *words: str) -> None:
    run("zpool", "import", "-d", "/dev", *words, zpool(pool), seconds=120)


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.write_bytes(os.urandom(32))
    return path


@pytest.fixture
def foreign(datasets: Pool) -> Iterator[str]:
    """Somebody else's dataset beside our volumes."""
    name = f"{parent(datasets)}/theirs"
    zfs("create", "-o", "mountpoint=none", name)
    datasets.foreign.add(name)
    yield name
    zfs("destroy", "-r", name)
    datasets.foreign.discard(name)


def test_what_other_programs_make_is_not_ours_and_stays(datasets: Pool, foreign: str) -> None:
    """T6: sanoid's recursive snapshots, a dataset by hand; and T18: what is in the way is named."""
    web = datasets.volume("web")
    first = datasets.snapshot(web, "s1")
    datasets.put(web, f="two")
    zfs("snapshot", "-r", f"{parent(datasets)}@autosnap")
    second = datasets.snapshot(web, "s2")
    datasets.reopen()
    assert datasets.backend.volumes() == [web]
    assert datasets.snapshots(web) == [first, second]
    with pytest.raises(AlreadyExists, match="'theirs' exists"):
        datasets.backend.create(datasets.record("theirs"))
    with pytest.raises(AlreadyExists, match="web@autosnap"):
        datasets.snapshot(web, "autosnap")
    for target in (first, second, first):
        datasets.backend.rollback(web, target)
    assert datasets.get(web) == {}
    kept = [name for name in datasets.inventory() if name.endswith("@autosnap") and name.count("/") == 2]
    assert len([name for name in kept if not name.startswith(foreign)]) == 1
    assert datasets.snapshots(web) == [first, second]
    with pytest.raises(Refused, match=r"snapshot \S+@autosnap is not snapvol's; zfs destroy \S+@autosnap"):
        datasets.backend.destroy(web)
    zfs("destroy", "-r", f"{parent(datasets)}@autosnap")
    for name in datasets.inventory():
        if name.endswith("@autosnap"):
            zfs("destroy", name)


def test_holds_and_clones_of_others_are_named(datasets: Pool) -> None:
    """T18."""
    web = datasets.volume("web")
    snapshot = datasets.snapshot(web, "s1")
    point = f"{head(datasets, web)}@s1"
    zfs("hold", "syncoid", point)
    with pytest.raises(Protected, match=r"web@s1 is held \(syncoid, by another program\); zfs release 'syncoid'"):
        datasets.backend.destroy_snapshot(snapshot)
    with pytest.raises(Refused, match="syncoid"):
        datasets.backend.destroy(web)
    zfs("release", "syncoid", point)
    datasets.backend.hold(snapshot, "ours")
    assert "snapvol:1:ours" in zfs("holds", "-H", point)
    run("zfs", "destroy", point, check=False)
    assert [it.id for it in datasets.snapshots(web)] == [snapshot.id]
    datasets.backend.release(snapshot, "ours")
    clone = f"{zpool(datasets)}/test"
    zfs("clone", "-o", "mountpoint=none", point, clone)
    with pytest.raises(Protected, match=rf"{clone} is a clone of web@s1 .*; zfs destroy {clone}; or"):
        datasets.backend.destroy_snapshot(snapshot)
    with pytest.raises(Refused, match=f"zfs promote {clone}"):
        datasets.backend.destroy(web)
    zfs("destroy", clone)


def test_nobody_else_mounts_a_volume(datasets: Pool) -> None:
    """What zfs-mount.service and `zpool import` do at boot."""
    web = datasets.volume("web")
    other = datasets.volume("other")
    datasets.backend.mount(other)
    run("zfs", "mount", "-a")
    assert not datasets.backend.mountpoint(web).exists()
    mounted = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    assert [words[1] for words in mounted if words[0].startswith(f"{parent(datasets)}/")] == [
        str(datasets.backend.mountpoint(other))
    ]
    datasets.backend.unmount(other)
    run("zpool", "export", zpool(datasets))
    reimport(datasets)
    assert parent(datasets) + "/" not in Path("/proc/self/mounts").read_text()


def test_a_volume_mounted_by_hand_is_not_destroyed(datasets: Pool, tmp_path: Path) -> None:
    """T9: whoever mounted it."""
    web = datasets.volume("web")
    snapshot = datasets.snapshot(web, "s1")
    run("mount", "-t", "zfs", head(datasets, web), tmp_path)
    try:
        calls: list[Callable[[], object]] = [
            lambda: datasets.backend.destroy(web),
            lambda: datasets.backend.rollback(web, snapshot),
            lambda: datasets.backend.trash(web, web.created),
        ]
        for call in calls:
            with pytest.raises(InUse, match=f"something is mounted at {tmp_path}; umount {tmp_path}"):
                call()
    finally:
        run("umount", tmp_path)
    assert datasets.snapshots(web) == [snapshot]


def test_a_pool_is_exported_and_imported_while_it_is_open(datasets: Pool) -> None:
    """T40."""
    web = datasets.volume("web")
    datasets.put(web, f="kept")
    run("zpool", "export", zpool(datasets))
    try:
        calls: list[Callable[[], object]] = [
            datasets.backend.volumes,
            lambda: datasets.backend.create(datasets.record("new")),
            lambda: datasets.backend.mount(web),
            lambda: datasets.backend.snapshots(web),
        ]
        for call in calls:
            with pytest.raises(PoolUnavailable, match=f"not imported; zpool import {zpool(datasets)}"):
                call()
        health = datasets.backend.health()
        assert not health.ok
        assert "not imported" in str(health.problem)
        with pytest.raises(PoolUnavailable, match="not imported"):
            datasets.fresh().open(expected=datasets.identity)
    finally:
        reimport(datasets)
    assert datasets.backend.volumes() == [web]
    assert datasets.get(web) == {"f": b"kept"}
    datasets.reopen()


def test_a_pool_imported_read_only_can_be_looked_at(datasets: Pool) -> None:
    """T40."""
    web = datasets.volume("web")
    datasets.put(web, f="kept")
    run("zpool", "export", zpool(datasets))
    reimport(datasets, "-o", "readonly=on")
    try:
        assert datasets.backend.volumes() == [web]
        assert "read-only" in str(datasets.backend.health().problem)
        with pytest.raises(PoolUnavailable, match="read-only"):
            datasets.backend.create(datasets.record("new"))
        with pytest.raises(PoolUnavailable, match="read-only"):
            datasets.snapshot(web, "s1")
        with pytest.raises(PoolUnavailable, match="imported read-only; zpool export"):
            datasets.reopen()
    finally:
        run("zpool", "export", zpool(datasets))
        reimport(datasets)
    datasets.reopen()


def test_a_dataset_that_was_not_the_pool_is_refused(datasets: Pool) -> None:
    """T40: what a fresh zpool of the same name has there."""
    datasets.backend.close()
    away = f"{zpool(datasets)}/away"
    zfs("rename", parent(datasets), away)
    try:
        with pytest.raises(PoolUnavailable, match="does not exist, but the pool was in use before"):
            datasets.fresh().open(expected=datasets.identity)
        zfs("create", "-V", "8M", parent(datasets))
        with pytest.raises(SettingsError, match="is a volume; name a file system"):
            datasets.fresh().open()
        time.sleep(0.5)
        zfs("destroy", parent(datasets))
    finally:
        zfs("rename", away, parent(datasets))
    datasets.reopen()


@pytest.mark.parametrize("text", ["", "{", "a\tb\nc"])
def test_a_damaged_property_is_told_and_hides_nothing(datasets: Pool, text: str) -> None:
    """T41."""
    web, other = datasets.volume("web"), datasets.volume("other")
    dataset = head(datasets, web)
    good = value(dataset, PROPERTY)
    zfs("set", f"{PROPERTY}={text}", dataset)
    datasets.reopen()
    listed, damage = datasets.backend.volumes()
    assert listed == other
    assert isinstance(damage, Damage)
    assert damage.name == "web"
    with pytest.raises(NotReady, match="volume 'web' is damaged"):
        datasets.backend.mount(web)
    zfs("set", f"{PROPERTY}={good}", dataset)
    assert datasets.stored("web") == web


def test_long_labels_are_stored_whole(datasets: Pool) -> None:
    """A property holds 8 KiB, and user properties of one command come together or not at all."""
    web = replace(datasets.volume("web"), labels={"key": "ü\n" * 9000})
    datasets.backend.record(web)
    datasets.reopen()
    assert datasets.stored("web") == web


def test_what_a_power_cut_left_without_its_properties_is_cleaned(datasets: Pool) -> None:
    """`zfs create` and `zfs clone` set properties after the dataset is there: a power cut can come between the two."""
    web = datasets.volume("web")
    datasets.put(web, f="one")
    first = datasets.snapshot(web, "s1")
    datasets.put(web, f="two")
    second = datasets.snapshot(web, "s2")
    before = datasets.inventory()
    was, aside = head(datasets, web), f"{parent(datasets)}/.{web.id}.0"
    datasets.backend.close()
    zfs("rename", was, aside)
    zfs("clone", "-o", "mountpoint=legacy", f"{aside}@s1", f"{parent(datasets)}/.{web.id}.back")
    zfs("create", "-o", "mountpoint=legacy", f"{parent(datasets)}/.{new_id()}.new")
    datasets.reopen()
    assert datasets.backend.volumes() == [web]
    assert datasets.get(web) == {"f": b"two"}
    assert datasets.snapshots(web) == [first, second]
    assert datasets.inventory() == before


def test_native_properties(datasets: Pool) -> None:
    """T16."""
    web = datasets.volume("web", zfs_compression="zstd", zfs_recordsize="16K", zfs_atime="off")
    name = head(datasets, web)
    assert [value(name, it) for it in ("compression", "recordsize", "atime", "mountpoint", "canmount")] == [
        "zstd", "16384", "off", "legacy", "noauto",
    ]  # fmt: skip
    first = datasets.snapshot(web, "s1")
    datasets.snapshot(web, "s2")
    datasets.backend.rollback(web, first)
    assert value(head(datasets, web), "recordsize") == "16384"
    datasets.backend.stage(web)
    datasets.backend.adopt_stage(web)
    assert value(head(datasets, web), "recordsize") == "16384"
    wrong: list[tuple[dict[str, str], type[Exception], str]] = [
        ({"zfs_compresion": "lz4"}, UnknownOption, "did you mean 'zfs.compression'"),
        ({"zfs_compression": "best"}, UsageError, "zfs.compression=best: it must be one of 'on"),
        ({"zfs_recordsize": "3"}, UsageError, "zfs.recordsize=3: it must be power of 2"),
        ({"zfs_mountpoint": "/x"}, Unsupported, "not offered"),
        ({"zfs_used": "1"}, UnknownOption, "no property 'used'"),
    ]
    for options, kind, message in wrong:
        with pytest.raises(kind, match=message):
            datasets.volume("new", **options)
    assert datasets.names() == {"web"}


def test_snapshots_of_several_volumes_are_one_instant(datasets: Pool) -> None:
    volumes = [datasets.volume(name) for name in ("a", "b", "c")]
    made = datasets.backend.snapshot(volumes, "s1")
    assert len({value(f"{head(datasets, volume)}@s1", "createtxg") for volume in volumes}) == 1
    assert [value(f"{head(datasets, volume)}@s1", "guid") for volume in volumes] == [it.id for it in made]


def test_unchanged_files_keep_inode_and_ctime(datasets: Pool) -> None:
    """What `Features.stable_inodes` says, through rollbacks and clones too."""
    web = datasets.volume("web")
    datasets.put(web, same="x")
    first = datasets.snapshot(web, "s1")
    datasets.put(web, other="y")
    second = datasets.snapshot(web, "s2")
    datasets.backend.rollback(web, first)
    datasets.put(web, third="z")
    points = [first, second, datasets.snapshot(web, "s3")]

    def facts(snapshot: Snapshot) -> tuple[int, int, int]:
        with datasets.backend.open_snapshot(snapshot) as tree:
            assert tree.stable_inodes
            found = (tree.root / "same").stat()
            with pytest.raises(OSError, match="Read-only"):
                (tree.root / "new").touch()
        return found.st_ino, found.st_ctime_ns, found.st_mtime_ns

    assert len({facts(point) for point in points}) == 1


def test_an_encrypted_volume_is_locked_without_its_key(datasets: Pool, key: Path) -> None:
    """By an import, as after a boot; with the key in its file Docker's mount loads it."""
    options = {"zfs_encryption": "aes-256-gcm", "zfs_keyformat": "raw", "zfs_keylocation": f"file://{key}"}
    with pytest.raises(UsageError, match="keylocation=file:///PATH"):
        datasets.volume("web", **{**options, "zfs_keylocation": "prompt"})
    with pytest.raises(UsageError, match="cannot be created"):
        datasets.volume("web", **{**options, "zfs_keylocation": "file:///nonexistent"})
    web = datasets.volume("web", **options)
    datasets.put(web, f="secret")
    first = datasets.snapshot(web, "s1")
    datasets.put(web, f="later")
    second = datasets.snapshot(web, "s2")
    datasets.backend.rollback(web, first)
    assert datasets.get(web) == {"f": b"secret"}
    datasets.backend.rollback(web, second)
    assert datasets.get(web) == {"f": b"later"}
    run("zpool", "export", zpool(datasets))
    reimport(datasets)
    away = key.rename(key.with_name("away"))
    datasets.reopen()
    assert datasets.stored("web") == web
    assert [it.id for it in datasets.snapshots(web)] == [first.id, second.id]
    with pytest.raises(NotReady, match=r"web.* is encrypted, and the key of \S+ is not loaded: .*zfs load-key"):
        datasets.backend.mount(web)
    away.rename(key)
    assert datasets.get(web) == {"f": b"later"}
    with datasets.backend.open_snapshot(first) as tree:
        assert (tree.root / "f").read_text() == "secret"
    datasets.backend.create(datasets.record("clone"), source=first)
    clone = datasets.stored("clone")
    datasets.backend.destroy(web)
    assert datasets.get(clone) == {"f": b"secret"}


def test_what_clones_need_is_gone_with_the_last_of_them(datasets: Pool) -> None:
    """T18: snapvol's own clones are in nobody's way, and nothing is left behind them."""
    web = datasets.volume("web")
    datasets.put(web, f="0")
    points = []
    for number in range(3):
        points.append(datasets.snapshot(web, f"s{number}"))
        datasets.put(web, f=str(number + 1))
    datasets.backend.rollback(web, points[1])
    for point in points:
        datasets.backend.create(datasets.record(f"clone-{point.name}"), source=point)
    datasets.backend.destroy_snapshot(points[0])
    again = datasets.snapshot(web, "s0")
    assert {it.id for it in datasets.snapshots(web)} == {points[1].id, points[2].id, again.id}
    datasets.backend.destroy(web)
    datasets.reopen()
    for number in range(3):
        clone = datasets.stored(f"clone-s{number}")
        assert datasets.get(clone) == {"f": str(number).encode()}
        assert datasets.snapshots(clone) == []
        datasets.snapshot(clone, "s0")
        datasets.backend.destroy(clone)
    assert datasets.inventory() == []


def test_a_size_holds_through_everything(datasets: Pool) -> None:
    """T39."""
    size = 16 << 20
    datasets.backend.create(datasets.record("web"), size=size)
    web = datasets.stored("web")
    empty = datasets.snapshot(web, "empty")
    with datasets.mounted(web) as root, pytest.raises(OSError, match="Disk quota exceeded"):
        fill(root, size + (4 << 20))
    full = datasets.snapshot(web, "full")
    datasets.settle()
    assert datasets.backend.usage(web).used > size // 2
    with pytest.raises(Refused, match=r"volume 'web' cannot be resized: \d+ bytes are in use, more than the size of"):
        datasets.backend.resize(web, size // 4)
    with pytest.raises(Refused, match=r"volume 'clone' cannot be created: \d+ bytes are in use in web@full"):
        datasets.backend.create(datasets.record("clone"), size=size // 4, source=full)
    datasets.backend.rollback(web, empty)
    datasets.settle()
    found = datasets.backend.usage(web)
    assert (found.limit, found.used < 1 << 20) == (size, True)
    datasets.backend.resize(web, size // 4)
    with datasets.mounted(web) as root, pytest.raises(OSError, match="Disk quota exceeded"):
        fill(root, size)
    stage = datasets.backend.stage(web)
    with pytest.raises(OSError, match="Disk quota exceeded"):
        fill(stage, size)
    datasets.backend.adopt_stage(web)
    assert datasets.backend.usage(web).limit == size // 4


def fill(root: Path, size: int) -> None:
    with (root / "blob").open("wb") as file:
        for _ in range(size >> 20):
            file.write(os.urandom(1 << 20))
            os.fsync(file.fileno())
