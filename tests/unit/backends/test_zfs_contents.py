"""The `zfs` backend over a ZFS in memory: going back, clones, holds, and what a kill between two commands leaves."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from msgspec.structs import replace

from snapvol.backends import zfstool
from snapvol.errors import (
    InUse,
    NotFound,
    Protected,
    Refused,
    UsageError,
)
from snapvol.model import Snapshot, Volume, new_id, now
from support.fake_zfs import FakeZfs, Killed
from support.zfs_pool import P, Pool

WHEN = datetime(2026, 11, 20, 3, 0, tzinfo=UTC)


def test_going_back_keeps_everything_however_often(pool: Pool) -> None:
    """T6: what others have snapshotted, too."""
    web = pool.make(text="0")
    made = {}
    for number in range(4):
        made[number] = pool.snapshot(web, f"s{number}")
        pool.zfs.run("zfs", "snapshot", f"{P}/web@theirs{number}")
        pool.zfs.write(f"{P}/web", str(number + 1))
    for target in (2, 0, 3, 3, 1, 0, 2):
        pool.backend.rollback(web, made[target])
        assert pool.contents(web) == str(target)
        state = pool.state()["web"]
        assert isinstance(state, tuple)
        assert state[2] == {f"s{number}": (made[number].id, str(number), ()) for number in made}
        theirs = [name for name in pool.zfs.names() if "@theirs" in name]
        assert sorted(name.partition("@")[2] for name in theirs) == [f"theirs{number}" for number in range(4)]
    assert pool.backend.sources(web) == (f"{P}/web",)


def test_what_was_set_by_hand_stays_through_going_back(pool: Pool) -> None:
    web = pool.make(zfs_compression="lz4")
    first = pool.snapshot(web, "s1")
    pool.snapshot(web, "s2")
    pool.backend.resize(web, 1 << 30)
    pool.zfs.run("zfs", "set", "recordsize=16384", "com.sun:auto-snapshot=false", f"{P}/web")
    pool.backend.rollback(web, first)
    now_set = pool.zfs.datasets[f"{P}/web"].properties
    expected = {"compression": "lz4", "recordsize": "16384", "com.sun:auto-snapshot": "false", "refquota": str(1 << 30)}
    assert expected.items() <= now_set.items()


def test_nothing_is_left_of_a_volume_that_was_rolled_back_cloned_and_destroyed(pool: Pool) -> None:
    web = pool.make(text="0")
    points = []
    for number in range(3):
        points.append(pool.snapshot(web, f"s{number}"))
        pool.zfs.write(f"{P}/web", str(number + 1))
    for point in (points[1], points[2], points[0]):
        pool.backend.rollback(web, point)
        clone = Volume(id=new_id(), name=f"clone-{point.name}", created=now())
        pool.backend.create(clone, source=point)
    clones = [it for it in pool.backend.volumes() if isinstance(it, Volume) and it.name != "web"]
    pool.backend.destroy(web)
    assert {volume.name: pool.contents(volume) for volume in clones} == {f"clone-s{n}": str(n) for n in range(3)}
    for clone in clones:
        assert pool.backend.snapshots(clone) == []
        pool.snapshot(clone, "s1")
        pool.backend.destroy(clone)
    assert pool.zfs.names() == [P]


def test_a_snapshot_that_a_clone_needs_goes_with_it_and_its_name_is_free_at_once(pool: Pool) -> None:
    """T18, T2."""
    web = pool.make(text="one")
    snapshot = pool.snapshot(web, "s1")
    clone = Volume(id=new_id(), name="clone", created=now())
    pool.backend.create(clone, source=snapshot)
    pool.backend.destroy_snapshot(snapshot)
    assert pool.backend.snapshots(web) == []
    with pytest.raises(NotFound):
        pool.backend.destroy_snapshot(snapshot)
    again = pool.snapshot(web, "s1")
    assert again.id != snapshot.id
    pool.backend.destroy(replace(clone, pool="pool"))
    assert pool.zfs.names() == [P, f"{P}/web", f"{P}/web@s1"]


def test_a_foreign_clone_or_hold_in_the_way_is_named(pool: Pool) -> None:
    """T18."""
    web = pool.make()
    snapshot = pool.snapshot(web, "s1")
    pool.zfs.run("zfs", "clone", f"{P}/web@s1", "tank/test")
    message = r"tank/test is a clone of web@s1 .*; zfs destroy tank/test; or, to keep it: zfs promote tank/test"
    with pytest.raises(Protected, match=message):
        pool.backend.destroy_snapshot(snapshot)
    with pytest.raises(Refused, match=message):
        pool.backend.destroy(web)
    pool.zfs.run("zfs", "destroy", "tank/test")
    pool.zfs.run("zfs", "hold", "syncoid", f"{P}/web@s1")
    message = "web@s1 is held .syncoid, by another program.; zfs release 'syncoid' tank/volumes/web@s1"
    with pytest.raises(Protected, match=message):
        pool.backend.destroy_snapshot(snapshot)
    with pytest.raises(Refused, match=message):
        pool.backend.destroy(web)
    pool.backend.hold(snapshot, "audit")
    with pytest.raises(Protected, match=r"is held \(audit, syncoid, by another program\); snapvol release web@s1"):
        pool.backend.destroy_snapshot(snapshot)
    assert pool.backend.snapshots(web) == [replace(snapshot, holds=("audit",))]


def test_holds_are_listed_as_they_came(pool: Pool) -> None:
    snapshot = pool.snapshot(pool.make(), "s1")
    tags = ("z", "backup-1", "a b", "-f", "t:1:x")
    for tag in (*tags, "z"):
        pool.backend.hold(snapshot, tag)
    (found,) = pool.fresh().snapshots(pool.backend.volumes()[0])  # type: ignore[arg-type]
    assert isinstance(found, Snapshot)
    assert found.holds == tags
    with pytest.raises(UsageError, match="240 bytes"):
        pool.backend.hold(snapshot, "x" * 250)
    for tag in tags:
        pool.backend.release(snapshot, tag)
    pool.backend.destroy_snapshot(snapshot)


def test_what_something_still_has_open_is_destroyed_later_and_its_name_is_free(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zfstool, "_PAUSES", (0.0, 0.0))
    web, other = pool.make("web"), pool.make("other")
    pool.snapshot(web, "s1")
    pool.zfs.busy |= {f"{P}/web", f"{P}/other"}
    with pytest.raises(InUse, match=r"volume 'other' cannot be removed: .*is busy"):
        pool.backend.destroy(other)
    pool.backend.destroy(web)
    assert pool.backend.volumes() == [other]
    again = pool.make("web")
    pool.zfs.busy.clear()
    assert pool.reopen().volumes() == [other, again]
    assert pool.zfs.names() == [P, f"{P}/other", f"{P}/web"]


def restored(pool: Pool, web: Volume) -> None:
    pool.backend.stage(web)
    pool.zfs.write(f"{P}/.{web.id}.new", "restored")
    pool.backend.adopt_stage(web)


NEW = "0c9f2f0e-8f5b-4b53-9b6e-5a3b1e9d2c47"


def clone_of(snapshot: Snapshot) -> Volume:
    return Volume(id=NEW, name="clone", created=WHEN, options={"uid": "5"})


OPERATIONS: dict[str, Callable[[Pool, Volume, Snapshot], object]] = {
    "create": lambda pool, web, s: pool.backend.create(Volume(id=NEW, name="n", created=WHEN, options={"uid": "5"})),
    "clone": lambda pool, web, s: pool.backend.create(clone_of(s), source=s),
    "rename": lambda pool, web, s: pool.backend.rename(web, "shop"),
    "trash": lambda pool, web, s: pool.backend.trash(web, WHEN),
    "rollback": lambda pool, web, s: pool.backend.rollback(web, s),
    "restore": lambda pool, web, s: restored(pool, web),
    "destroy": lambda pool, web, s: pool.backend.destroy(web),
    "destroy snapshot": lambda pool, web, s: pool.backend.destroy_snapshot(s),
    "hold": lambda pool, web, s: pool.backend.hold(s, "audit"),
}


@pytest.mark.parametrize("history", ["fresh", "rolled back", "cloned"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_killed_between_any_two_commands_it_is_done_or_not_begun(
    zfs: FakeZfs, tmp_path: Path, operation: str, history: str
) -> None:
    """T14, also for what workers see before the next daemon has tidied up."""
    outcomes = []
    for limit in range(30):
        zfs.__init__()  # type: ignore[misc]
        pool = Pool(zfs, tmp_path)
        web = pool.make(text="one")
        snapshot = pool.snapshot(web, "s1")
        zfs.write(f"{P}/web", "two")
        later = pool.snapshot(web, "s2")
        if history == "rolled back":
            pool.backend.rollback(web, snapshot)
            pool.backend.rollback(web, later)
        if history == "cloned":
            pool.backend.create(Volume(id="c", name="c", created=WHEN), source=snapshot)
        undone = pool.state()
        zfs.limit = limit
        try:
            OPERATIONS[operation](pool, web, snapshot)
        except Killed:
            ended = False
        else:
            ended = True
        zfs.limit = None
        seen = pool.state()
        pool.reopen()
        assert pool.state() == seen
        assert_accounted(pool)
        outcomes.append(seen != undone)
        if ended:
            break
    assert outcomes == sorted(outcomes)
    assert (outcomes[0], outcomes[-1]) == (False, True)
    for volume in [*pool.backend.volumes(), *pool.backend.trashed()]:
        assert isinstance(volume, Volume)
        for found in pool.backend.snapshots(volume):
            assert isinstance(found, Snapshot)
            pool.backend.release(found, "audit")
        pool.backend.destroy(volume)
    assert zfs.names() == [P]


def assert_accounted(pool: Pool) -> None:
    """Check that each dataset has its place, and is there for its contents or for a snapshot."""
    survey = pool.backend._survey(points=True)
    assert not survey.unfinished
    known = set()
    for family in survey.families.values():
        assert not family.gone
        assert family.head.leaf == family.place
        assert all(dataset.needed for dataset in family.history)
        known |= {dataset.name for dataset in family.datasets}
    assert {name for name in pool.zfs.datasets if name.startswith(f"{P}/")} == known
