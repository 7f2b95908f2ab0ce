"""Snapshots, clones, rollback, holds, and replacing a volume's contents."""

from __future__ import annotations

import os
from datetime import UTC, datetime

import pytest
from msgspec.structs import replace

from snapvol.errors import AlreadyExists, NotFound, Protected, Refused
from snapvol.model import Volume, now
from support.storage import Pool, contents, record

WHEN = datetime(2026, 11, 20, 3, 0, tzinfo=UTC)


@pytest.fixture
def web(snapshots: Pool) -> Volume:
    volume = snapshots.volume("web")
    snapshots.put(volume, f="one")
    return volume


def test_a_snapshot_keeps_what_was(snapshots: Pool, web: Volume) -> None:
    before = now()
    (snapshot,) = snapshots.backend.snapshot([web], "s1", message="before the upgrade", made_by="backup")
    snapshots.put(web, f="two", g="new")
    assert (snapshot.volume, snapshot.volume_id, snapshot.name) == ("web", web.id, "s1")
    assert (snapshot.message, snapshot.made_by, snapshot.holds) == ("before the upgrade", "backup", ())
    assert before <= snapshot.created <= now()
    assert snapshots.snapshots(web) == [snapshot]
    with snapshots.backend.open_snapshot(snapshot) as tree:
        assert contents(tree.root) == {"f": b"one"}
        assert tree.identity == snapshot.id
        assert tree.stable_inodes == snapshots.backend.features.stable_inodes
    snapshots.reopen()
    assert snapshots.snapshots(web) == [snapshot]
    assert snapshots.get(web) == {"f": b"two", "g": b"new"}


def test_another_process_reads_without_opening(snapshots: Pool, web: Volume) -> None:
    snapshot = snapshots.snapshot(web, "s1")
    worker = snapshots.fresh()
    assert worker.volumes() == [web]
    assert worker.snapshots(web) == [snapshot]
    with worker.open_snapshot(snapshot) as tree:
        assert contents(tree.root) == {"f": b"one"}
    assert worker.changes(snapshot, snapshot) is None or list(worker.changes(snapshot, snapshot) or []) == []


def test_snapshots_are_listed_oldest_first(snapshots: Pool, web: Volume) -> None:
    for name in ("z", "m", "a"):
        snapshots.snapshot(web, name)
    assert [snapshot.name for snapshot in snapshots.snapshots(web)] == ["z", "m", "a"]


def test_a_taken_snapshot_name_is_refused(snapshots: Pool, web: Volume) -> None:
    other = snapshots.volume("other")
    first = snapshots.snapshot(web, "s1")
    with pytest.raises(AlreadyExists, match="web@s1"):
        snapshots.backend.snapshot([other, web], "s1")
    assert snapshots.snapshots(web) == [first]
    assert snapshots.snapshots(other) == []


def test_a_later_snapshot_of_the_same_name_is_another(snapshots: Pool, web: Volume) -> None:
    """T2."""
    first = snapshots.snapshot(web, "s1")
    snapshots.backend.destroy_snapshot(first)
    snapshots.put(web, f="two")
    second = snapshots.snapshot(web, "s1")
    assert first.id != second.id
    for call in (
        lambda: snapshots.backend.destroy_snapshot(first),
        lambda: snapshots.backend.hold(first, "t"),
        lambda: snapshots.backend.release(first, "t"),
        lambda: snapshots.backend.rollback(web, first),
        lambda: snapshots.backend.create(snapshots.record("clone"), source=first),
        lambda: snapshots.backend.open_snapshot(first).__enter__(),
    ):
        with pytest.raises(NotFound, match="s1"):
            call()
    assert snapshots.snapshots(web) == [second]
    assert snapshots.names() == {"web"}


def test_snapshots_of_several_volumes_are_all_or_none(snapshots: Pool, web: Volume) -> None:
    others = [snapshots.volume(f"v{number}") for number in range(3)]
    made = snapshots.backend.snapshot([web, *others], "all")
    assert [snapshot.volume for snapshot in made] == ["web", "v0", "v1", "v2"]
    assert len({snapshot.created for snapshot in made}) == 1
    gone = replace(others[0], id=record("x").id)
    with pytest.raises(NotFound):
        snapshots.backend.snapshot([web, gone], "none")
    assert [len(snapshots.snapshots(volume)) for volume in (web, *others)] == [1, 1, 1, 1]


def test_a_snapshot_called_like_a_volume(snapshots: Pool, web: Volume) -> None:
    """T4."""
    for name in ("web", "data", "snapshot.json", "s" * 255):
        snapshots.snapshot(web, name)
    assert {snapshot.name for snapshot in snapshots.snapshots(web)} == {"web", "data", "snapshot.json", "s" * 255}


def test_snapshots_follow_a_rename_and_the_trash(snapshots: Pool, web: Volume) -> None:
    snapshot = snapshots.snapshot(web, "s1")
    snapshots.put(web, f="two")
    renamed = snapshots.backend.rename(web, "shop")
    assert snapshots.snapshots(renamed) == [replace(snapshot, volume="shop")]
    snapshots.backend.trash(renamed, WHEN)
    trashed = replace(renamed, deleted=WHEN)
    found = snapshots.snapshots(trashed)
    assert [other.id for other in found] == [snapshot.id]
    with snapshots.backend.open_snapshot(found[0]) as tree:
        assert contents(tree.root) == {"f": b"one"}
    back = snapshots.backend.undelete(trashed, "web")
    snapshots.backend.rollback(back, snapshots.snapshots(back)[0])
    assert snapshots.get(back) == {"f": b"one"}


def test_a_clone_is_a_volume_of_its_own(snapshots: Pool, web: Volume) -> None:
    """T11: beside its origin, both in use."""
    snapshot = snapshots.snapshot(web, "s1")
    clone = snapshots.record("clone", policy="none")
    snapshots.backend.create(replace(clone, parent="web@s1"), source=snapshot)
    clone = snapshots.stored("clone")
    assert clone.parent == "web@s1"
    assert snapshots.get(clone) == {"f": b"one"}
    snapshots.put(clone, f="cloned", g="x")
    assert snapshots.get(web) == {"f": b"one"}
    with snapshots.backend.open_snapshot(snapshot) as tree:
        assert contents(tree.root) == {"f": b"one"}
    assert snapshots.snapshots(clone) == []
    snapshots.snapshot(clone, "s1")
    snapshots.backend.destroy(web)
    assert snapshots.get(clone) == {"f": b"cloned", "g": b"x"}


@pytest.mark.root
def test_a_clone_keeps_the_root_s_owner_but_where_options_say_otherwise(snapshots: Pool) -> None:
    if snapshots.variant.backend == "memory":
        return
    web = snapshots.volume("web", uid="999", mode="0700")
    snapshot = snapshots.snapshot(web, "s1")
    snapshots.backend.create(snapshots.record("same"), source=snapshot)
    snapshots.backend.create(snapshots.record("other", uid="5"), source=snapshot)
    with snapshots.mounted(snapshots.stored("same")) as root:
        same = root.stat()
    with snapshots.mounted(snapshots.stored("other")) as root:
        other = root.stat()
    assert (same.st_uid, same.st_mode & 0o7777) == (999, 0o700)
    assert (other.st_uid, other.st_mode & 0o7777) == (5, 0o700)


def test_rollback_is_exact_and_keeps_all_snapshots(snapshots: Pool, web: Volume) -> None:
    first = snapshots.snapshot(web, "s1")
    snapshots.put(web, f="two", stale="ib_logfile0")
    second = snapshots.snapshot(web, "s2")
    snapshots.backend.rollback(web, first)
    assert snapshots.get(web) == {"f": b"one"}
    assert snapshots.stored("web") == web
    assert snapshots.snapshots(web) == [first, second]
    snapshots.backend.rollback(web, second)
    assert snapshots.get(web) == {"f": b"two", "stale": b"ib_logfile0"}
    snapshots.put(web, f="three")
    with snapshots.backend.open_snapshot(second) as tree:
        assert contents(tree.root) == {"f": b"two", "stale": b"ib_logfile0"}


def test_holds_keep_a_snapshot(snapshots: Pool, web: Volume) -> None:
    """T18."""
    snapshot = snapshots.snapshot(web, "s1")
    for tag in ("backup", "audit", "audit"):
        snapshots.backend.hold(snapshot, tag)
    snapshots.reopen()
    assert snapshots.snapshots(web)[0].holds == ("backup", "audit")
    with pytest.raises(Protected, match=r"web@s1.*backup, audit"):
        snapshots.backend.destroy_snapshot(snapshot)
    with pytest.raises(Refused, match=r"web@s1.*backup, audit"):
        snapshots.backend.destroy(web)
    snapshots.backend.release(snapshot, "backup")
    snapshots.backend.release(snapshot, "never held")
    with pytest.raises(Protected, match="audit"):
        snapshots.backend.destroy_snapshot(snapshot)
    snapshots.backend.release(snapshot, "audit")
    snapshots.backend.destroy_snapshot(snapshot)
    assert snapshots.snapshots(web) == []


def test_destroy_takes_the_snapshots_along(snapshots: Pool, web: Volume) -> None:
    for name in ("s1", "s2"):
        snapshots.snapshot(web, name)
    snapshots.backend.destroy(web)
    again = snapshots.volume("web")
    assert snapshots.snapshots(again) == []


def test_staged_contents_take_the_place_of_the_old_ones(pool: Pool) -> None:
    """T35, T38: exact, and until then invisible."""
    volume = pool.volume("web")
    pool.put(volume, f="one", stale="x")
    stage = pool.backend.stage(volume)
    assert os.listdir(stage) == []
    (stage / "f").write_text("restored")
    assert pool.get(volume) == {"f": b"one", "stale": b"x"}
    pool.backend.adopt_stage(volume)
    assert pool.get(volume) == {"f": b"restored"}
    assert pool.stored("web") == volume
    with pytest.raises(NotFound, match="staged"):
        pool.backend.adopt_stage(volume)


def test_a_second_stage_starts_empty_and_a_discarded_one_is_gone(pool: Pool) -> None:
    volume = pool.volume("web")
    pool.put(volume, f="one")
    (pool.backend.stage(volume) / "half").write_text("x")
    assert os.listdir(pool.backend.stage(volume)) == []
    pool.backend.discard_stage(volume)
    pool.backend.discard_stage(volume)
    with pytest.raises(NotFound):
        pool.backend.adopt_stage(volume)
    assert pool.get(volume) == {"f": b"one"}


def test_a_stage_that_nobody_adopted_is_gone_after_a_restart(pool: Pool) -> None:
    volume = pool.volume("web")
    (pool.backend.stage(volume) / "half").write_text("x")
    pool.reopen()
    with pytest.raises(NotFound):
        pool.backend.adopt_stage(volume)
    assert pool.get(volume) == {}


def test_staging_leaves_snapshots_alone(snapshots: Pool, web: Volume) -> None:
    snapshot = snapshots.snapshot(web, "s1")
    (snapshots.backend.stage(web) / "f").write_text("restored")
    snapshots.backend.rollback(web, snapshot)
    snapshots.backend.adopt_stage(web)
    assert snapshots.get(web) == {"f": b"restored"}
    with snapshots.backend.open_snapshot(snapshot) as tree:
        assert contents(tree.root) == {"f": b"one"}
