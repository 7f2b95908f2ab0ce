"""A pool's directory: made once, known again, never mistaken, never shared; and damage stays with what is damaged."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from snapvol.errors import NotFound, NotReady, PoolUnavailable, Refused, SettingsError, SnapvolError, StorageFailed
from snapvol.model import Damage, new_id, now
from support import storage
from support.process import run
from support.storage import Pool, contents, record

pytestmark = pytest.mark.root
MARKER = ".snapvol-pool.json"
LOCK = ".snapvol-pool.lock"


def test_only_its_owner_may_enter_a_pool(tree_pool: Pool) -> None:
    """So that nobody reads or changes snapshots, or runs what a container left there with the set-user-id bit."""
    assert stat.S_IMODE(tree_pool.tree.stat().st_mode) == 0o700


def test_opening_again_finds_the_same_pool(lasting: Pool) -> None:
    volume = lasting.volume("web")
    assert lasting.backend.open() == lasting.identity
    assert lasting.backend.open(expected=lasting.identity) == lasting.identity
    lasting.backend.close()
    lasting.backend.close()
    other = lasting.fresh()
    assert other.open() == lasting.identity
    other.close()
    assert lasting.stored("web") == volume


def test_a_second_daemon_is_kept_out(lasting: Pool) -> None:
    with pytest.raises(PoolUnavailable, match="open in another daemon"):
        lasting.fresh().open()
    assert lasting.backend.health().ok


def test_a_pool_that_was_there_before_is_not_made_anew(tree_pool: Pool) -> None:
    """T40: what its disk is mounted on is an empty directory."""
    path = tree_pool.tree
    away = path.with_name(path.name + "-away")
    tree_pool.backend.close()
    os.rename(path, away)
    try:
        with pytest.raises(PoolUnavailable, match="does not exist, but the pool was in use before; mount its storage"):
            tree_pool.fresh().open(expected=tree_pool.identity)
        assert not path.exists()
        path.mkdir()
        with pytest.raises(PoolUnavailable, match=f"has no {MARKER}, but the pool was in use before"):
            tree_pool.fresh().open(expected=tree_pool.identity)
        assert os.listdir(path) == []
        path.rmdir()
    finally:
        os.rename(away, path)


def test_another_pool_in_its_place_is_refused(lasting: Pool) -> None:
    lasting.backend.close()
    with pytest.raises(PoolUnavailable, match="is another pool"):
        lasting.fresh().open(expected=new_id())


def test_a_pool_unmounted_while_open_is_not_written_below(tree_pool: Pool) -> None:
    """T40: nothing is created, and nothing is taken for empty."""
    volume = tree_pool.volume("web")
    path = tree_pool.tree
    away = path.with_name(path.name + "-away")
    os.rename(path, away)
    path.mkdir()
    try:
        health = tree_pool.backend.health()
        assert not health.ok
        assert "mount its storage" in str(health.problem)
        for call in (
            tree_pool.backend.volumes,
            tree_pool.backend.trashed,
            lambda: tree_pool.backend.create(record("new")),
            lambda: tree_pool.backend.snapshots(volume),
            lambda: tree_pool.backend.mount(volume),
            lambda: tree_pool.backend.usage(volume),
        ):
            with pytest.raises(PoolUnavailable):
                call()
        assert os.listdir(path) == []
    finally:
        path.rmdir()
        os.rename(away, path)
    assert tree_pool.names() == {"web"}


@pytest.mark.parametrize(
    ("inside", "message"),
    [
        (("volumes",), "has volumes but no"),
        (("precious",), r"in use for something else \('precious'\)"),
        (("lost+found", "x"), r"in use for something else \('x'\)"),
    ],
)
def test_a_directory_of_somebody_else_is_not_taken(
    filesystem: Callable[[str], Path], inside: tuple[str, ...], message: str
) -> None:
    path = filesystem("btrfs") / new_id()[:8]
    for name in inside:
        (path / name).mkdir(parents=True)
    for kind in ("directory-btrfs", "btrfs"):
        with pytest.raises(PoolUnavailable, match=message):
            storage.make(storage.EVERYTHING[kind], path).open()
    assert sorted(os.listdir(path)) == sorted(inside)


def test_a_fresh_file_system_and_what_a_kill_left_count_as_empty(filesystem: Callable[[str], Path]) -> None:
    path = filesystem("ext4") / new_id()[:8]
    (path / "lost+found").mkdir(parents=True)
    (path / f"{MARKER}.new").write_text("{")
    backend = storage.make(storage.EVERYTHING["directory-ext4"], path)
    backend.open()
    assert backend.volumes() == []
    backend.close()


@pytest.mark.parametrize("kind", ["directory-ext4", "btrfs"])
def test_a_missing_parent_is_not_made(filesystem: Callable[[str], Path], kind: str) -> None:
    variant = storage.EVERYTHING[kind]
    assert variant.filesystem
    path = filesystem(variant.filesystem) / "not" / "there"
    with pytest.raises(PoolUnavailable, match=f"{path.parent} does not exist; mount its storage, or mkdir"):
        storage.make(variant, path).open()
    assert not path.parent.exists()


def test_btrfs_on_another_file_system_is_refused(filesystem: Callable[[str], Path]) -> None:
    path = filesystem("ext4") / "pool"
    with pytest.raises(SettingsError, match=r"^\[pools.pool\] path: .* is not on btrfs; mount a btrfs there"):
        storage.make(storage.EVERYTHING["btrfs"], path).open()
    with pytest.raises(PoolUnavailable, match="not on btrfs, but the pool was in use before"):
        storage.make(storage.EVERYTHING["btrfs"], path).open(expected=new_id())
    assert not path.exists()


@pytest.mark.parametrize("text", ["", "{", '{"id": "x"}', '{"id": 5, "version": 1}', '{"id": "x", "version": 2}'])
def test_a_damaged_marker_closes_the_pool(tree_pool: Pool, text: str) -> None:
    marker = tree_pool.tree / MARKER
    good = marker.read_text()
    tree_pool.backend.close()
    marker.write_text(text)
    with pytest.raises(PoolUnavailable):
        tree_pool.fresh().open()
    assert not tree_pool.fresh().health().ok
    marker.write_text(good)


def test_a_read_only_file_system(filesystem: Callable[[str], Path], tree_pool: Pool) -> None:
    """T40."""
    assert tree_pool.variant.filesystem
    volume = tree_pool.volume("web")
    mount = filesystem(tree_pool.variant.filesystem)
    run("mount", "-o", "remount,ro", mount)
    try:
        health = tree_pool.backend.health()
        assert not health.ok
        assert "read-only" in str(health.problem)
        assert tree_pool.backend.volumes() == [volume]
        with pytest.raises(SnapvolError):
            tree_pool.backend.create(record("new"))
        with pytest.raises(PoolUnavailable, match=r"[Rr]ead-only"):
            tree_pool.reopen()
    finally:
        run("mount", "-o", "remount,rw", mount)


DAMAGES = {
    "empty": ("", "volume.json is empty"),
    "cut short": ('{"id": "', "volume.json is not understood: Input data was truncated"),
    "garbage": ("\x00\x01\x02", "volume.json is not understood"),
    "wrong type": ('{"id": 5, "name": "web", "created": "2026-11-20T03:00:00Z"}', "Expected `str`, got `int`"),
    "wrong shape": ("[]", "Expected `object`, got `array`"),
    "no zone": ('{"id": "x", "name": "web", "created": "2026-11-20T03:00:00"}', "a time without a zone"),
    "no calendar": ('{"id": "x", "name": "web", "created": "9999-12-31T23:59:59-12:00"}', "a time in the year 9999"),
    "no size": (
        '{"id": "x", "name": "web", "created": "2026-11-20T03:00:00Z", "options": {"size": "banana"}}',
        "'banana' is not a size",
    ),
    "no id": ('{"id": "../x", "name": "web", "created": "2026-11-20T03:00:00Z"}', "volume name '../x' is not allowed"),
    "other name": ('{"id": "x", "name": "shop", "created": "2026-11-20T03:00:00Z"}', "is that of volume 'shop'"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_sidecar_is_told_and_hides_nothing(tree_pool: Pool, damage: str) -> None:
    """T41."""
    text, reason = DAMAGES[damage]
    web, other = tree_pool.volume("web"), tree_pool.volume("other")
    sidecar = tree_pool.tree / "volumes/web/volume.json"
    good = sidecar.read_text()
    sidecar.write_text(text)
    tree_pool.reopen()
    found, listed = sorted(tree_pool.backend.volumes(), key=lambda volume: volume.name, reverse=True)
    assert isinstance(found, Damage)
    assert (found.name, found.pool, found.path) == ("web", "pool", sidecar.parent)
    assert reason in found.reason
    assert listed == other
    with pytest.raises(NotReady, match="volume 'web' is damaged: "):
        tree_pool.backend.mount(web)
    tree_pool.backend.rename(other, "renamed")
    sidecar.write_text(good)
    assert tree_pool.stored("web") == web


@pytest.mark.parametrize("deleted", ["2026-11-20T03:00:00", "9999-12-31T23:59:59-12:00"])
def test_a_time_of_removal_that_nobody_can_count_from_is_told_and_hides_nothing(tree_pool: Pool, deleted: str) -> None:
    """T41."""
    bad, good = tree_pool.volume("bad"), tree_pool.volume("good")
    for volume in (bad, good):
        tree_pool.backend.trash(volume, now())
    sidecar = tree_pool.tree / "trash" / bad.id / "volume.json"
    whole = sidecar.read_text()
    sidecar.write_text(json.dumps({**json.loads(whole), "deleted": deleted}))
    tree_pool.reopen()
    found = {volume.name: volume for volume in tree_pool.backend.trashed()}
    damaged = found[bad.id]
    assert isinstance(damaged, Damage)
    assert "a time " in damaged.reason
    assert found["good"].name == "good"
    sidecar.write_text(whole)


def test_a_volume_without_contents_is_damaged(tree_pool: Pool) -> None:
    tree_pool.volume("web")
    data = tree_pool.tree / "volumes/web/data"
    os.rename(data, data.with_name("elsewhere"))
    (found,) = tree_pool.backend.volumes()
    assert isinstance(found, Damage)
    assert found.reason == "its contents (data) are missing"
    os.rename(data.with_name("elsewhere"), data)


def test_a_copied_volume_directory_is_not_a_second_volume(tree_pool: Pool) -> None:
    tree_pool.volume("web")
    copy = tree_pool.tree / "volumes/copy"
    copy.mkdir()
    (copy / "volume.json").write_bytes((tree_pool.tree / "volumes/web/volume.json").read_bytes())
    (copy / "data").mkdir()
    found = {volume.name: volume for volume in tree_pool.backend.volumes()}
    assert isinstance(found["copy"], Damage)
    assert not isinstance(found["web"], Damage)


def test_a_pipe_instead_of_a_sidecar_keeps_nobody_waiting(tree_pool: Pool) -> None:
    sidecar = tree_pool.tree / "volumes/web/volume.json"
    sidecar.parent.mkdir()
    os.mkfifo(sidecar)
    (found,) = tree_pool.backend.volumes()
    assert isinstance(found, Damage)
    assert found.reason == "volume.json is not a file"


def test_a_damaged_snapshot_is_told_and_hides_nothing(snapshots: Pool) -> None:
    """T41."""
    if snapshots.variant.filesystem is None:
        return
    web = snapshots.volume("web")
    bad, good = snapshots.snapshot(web, "bad"), snapshots.snapshot(web, "good")
    (snapshots.tree / "volumes/web/snapshots/bad/snapshot.json").write_text("{}")
    listed, damage = snapshots.backend.snapshots(web)
    assert listed == good
    assert isinstance(damage, Damage)
    assert damage.name == "web@bad"
    with pytest.raises(NotReady, match="web@bad' is damaged"), snapshots.backend.open_snapshot(bad):
        pass
    snapshots.backend.destroy(web)
    assert snapshots.names() == set()


def test_what_others_put_into_a_pool_is_left_alone(tree_pool: Pool) -> None:
    """T6."""
    pool = tree_pool.tree
    web = tree_pool.volume("web")
    for parent in ("volumes", "trash"):
        (pool / parent / "theirs").mkdir()
        (pool / parent / "theirs/f").write_text("precious")
        (pool / parent / "file").write_text("precious")
        (pool / parent / "link").symlink_to(pool / "volumes/web")
    if tree_pool.variant.backend == "btrfs":
        run("btrfs", "subvolume", "create", pool / "volumes/subvolume")
    (pool / "notes").write_text("precious")
    before = {str(path): path.lstat().st_mtime_ns for path in pool.rglob("*") if "web" not in str(path)}
    tree_pool.reopen()
    assert tree_pool.backend.volumes() == [web]
    assert tree_pool.backend.trashed() == []
    for taken in ("theirs", "file", "link"):
        with pytest.raises(SnapvolError, match=f"'{taken}' exists"):
            tree_pool.backend.create(record(taken))
        with pytest.raises(NotFound):
            tree_pool.backend.mount(record(taken))
    unmoved = {name for name in before if not name.endswith(("/volumes", "/tmp", MARKER, LOCK))}
    after = {str(path): path.lstat().st_mtime_ns for path in pool.rglob("*")}
    assert {name: before[name] for name in unmoved} == {name: after[name] for name in unmoved}
    if tree_pool.variant.backend == "btrfs":
        run("btrfs", "subvolume", "delete", pool / "volumes/subvolume")


def test_a_volume_into_which_others_put_things_is_not_destroyed(tree_pool: Pool) -> None:
    """T6: they would go with it, so somebody has to move them first."""
    web = tree_pool.volume("web")
    for foreign in ("snapshots/autosnap", "backup.tar"):
        path = tree_pool.tree / "volumes/web" / foreign
        path.mkdir()
        assert list(tree_pool.backend.snapshots(web)) == []
        with pytest.raises(Refused, match=f"{path} is not snapvol's; move"):
            tree_pool.backend.destroy(web)
        assert path.is_dir()
        path.rmdir()
    assert tree_pool.stored("web") == web


def test_nothing_is_removed_through_a_mountpoint(tree_pool: Pool) -> None:
    """T9: also where what is mounted has the same device number."""
    web = tree_pool.volume("web")
    point = tree_pool.backend.mount(web) / "mnt"
    point.mkdir()
    elsewhere = tree_pool.tree / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "f").write_text("precious")
    (tree_pool.backend.stage(web) / "f").write_text("new")
    run("mount", "--bind", elsewhere, point)
    try:
        for call in (tree_pool.backend.destroy, tree_pool.backend.adopt_stage):
            with pytest.raises(Refused, match=f"something is mounted at {point}; umount"):
                call(web)
        assert contents(point) == {"f": b"precious"}
        assert tree_pool.stored("web") == web
    finally:
        run("umount", point)
    tree_pool.backend.destroy(web)
    assert contents(elsewhere) == {"f": b"precious"}


def test_records_are_json_that_people_can_read(tree_pool: Pool) -> None:
    volume = tree_pool.volume("web", policy="standard")
    stored = json.loads((tree_pool.tree / "volumes/web/volume.json").read_text())
    assert (stored["id"], stored["name"], stored["options"]) == (volume.id, "web", {"policy": "standard"})
    assert datetime.fromisoformat(stored["created"]).tzinfo is not None
    assert "\n" in (tree_pool.tree / "volumes/web/volume.json").read_text().strip()


def test_a_full_pool_takes_nothing_new(filesystem: Callable[[str], Path]) -> None:
    """T39: refused at a mark, with the numbers, before anything fails half way."""
    path = filesystem("ext4") / new_id()[:8]
    variant = storage.Variant("directory", "ext4", {"full_copies": True, "reserve": 90})
    pool = storage.open_pool(variant, path)
    filler = path.parent / "filler"
    pool.volume("web")
    run("fallocate", "-l", "20M", filler)
    try:
        with pytest.raises(StorageFailed, match=r"'pool' has \d+ MiB of \d+ MiB free, less than its reserve of 90 %"):
            pool.backend.create(record("new"))
        with pytest.raises(StorageFailed, match="lower `reserve`"):
            pool.snapshot(pool.stored("web"), "s1")
        health = pool.backend.health()
        assert not health.ok
        assert "reserve" in str(health.problem)
        pool.backend.rename(pool.stored("web"), "still")
        pool.backend.destroy(pool.stored("still"))
    finally:
        filler.unlink()
        pool.backend.close()
