"""The `zfs` backend over a ZFS in memory: its pool, what is its own there, and what it asks of ZFS."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from msgspec.structs import replace

from snapvol import shell
from snapvol.backends import zfspool
from snapvol.backends.zfs import Zfs
from snapvol.errors import (
    AlreadyExists,
    NoSpace,
    NotReady,
    PoolUnavailable,
    Refused,
    SettingsError,
    UsageError,
)
from snapvol.model import Damage, Snapshot, Volume, new_id, now
from support.fake_zfs import FakeZfs
from support.zfs_pool import PROPERTY, P, Pool

WHEN = datetime(2026, 11, 20, 3, 0, tzinfo=UTC)


def test_a_pool_is_made_once_and_known_again(zfs: FakeZfs, tmp_path: Path) -> None:
    pool = Pool(zfs, tmp_path)
    made = zfs.datasets[P].properties
    assert (made["mountpoint"], made["canmount"]) == ("none", "off")
    assert pool.reopen().open() == pool.id
    with pytest.raises(PoolUnavailable, match="is another pool"):
        pool.fresh().open(expected=new_id())
    del zfs.datasets[P]
    with pytest.raises(PoolUnavailable, match="tank/volumes does not exist, but the pool was in use before"):
        pool.fresh().open(expected=pool.id)
    zfs.run("zfs", "create", P)
    with pytest.raises(PoolUnavailable, match=r"has no org\.snapvol:pool, but the pool was in use before"):
        pool.fresh().open(expected=pool.id)


def test_an_empty_dataset_is_taken_and_somebody_else_s_is_not(zfs: FakeZfs, tmp_path: Path) -> None:
    zfs.run("zfs", "create", P)
    zfs.run("zfs", "create", f"{P}/photos")
    with pytest.raises(PoolUnavailable, match=r"tank/volumes is in use for something else \('photos'\)"):
        Pool(zfs, tmp_path)
    zfs.run("zfs", "destroy", f"{P}/photos")
    pool = Pool(zfs, tmp_path)
    pool.make()
    del zfs.datasets[P].properties["org.snapvol:pool"]
    with pytest.raises(PoolUnavailable, match=r"has volumes but no org\.snapvol:pool; restore it: zfs set"):
        pool.fresh().open()


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "is not understood"), ("{", "is not understood"), ('{"id":"x","version":2}', "this snapvol knows 1")],
)
def test_a_damaged_marker_closes_the_pool(pool: Pool, text: str, message: str) -> None:
    """T41."""
    pool.zfs.datasets[P].properties["org.snapvol:pool"] = text
    with pytest.raises(PoolUnavailable, match=message):
        pool.fresh().open()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "lacks the required field `dataset`"),
        ({"dataset": "-rf"}, "is no dataset; write it like tank/volumes"),
        ({"dataset": "tank/a b"}, "is no dataset"),
        ({"dataset": "tank//x"}, "is no dataset"),
        ({"dataset": "tank/x@y"}, "is no dataset"),
        ({"dataset": f"tank/{'x' * 90}"}, "at most 85 leave room"),
        ({"dataset": "tank", "datset": "x"}, "has no setting 'datset'; did you mean 'dataset'?"),
        ({"dataset": "tank", "reserve": 91}, "<= 90"),
    ],
)
def test_settings_are_refused_by_key(settings: dict[str, object], message: str) -> None:
    """T5, T16."""
    with pytest.raises(SettingsError, match=message):
        Zfs("pool", settings)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (None, "zpool 'tank' is not imported; zpool import tank"),
        ("SUSPENDED", "zpool 'tank' is SUSPENDED; mend its disks, then: zpool clear tank"),
    ],
)
def test_a_zpool_that_does_not_answer_is_not_asked(pool: Pool, state: str | None, message: str) -> None:
    """T40: the kernel says so; no program is started that would hang."""
    web = pool.make()
    pool.backend.volumes()
    place = zfspool._STATES / "tank/state"
    if state is None:
        place.unlink()
    else:
        place.write_text(state)
    pool.zfs.calls.clear()
    calls: list[Callable[[], object]] = [
        pool.backend.volumes,
        pool.backend.trashed,
        lambda: pool.backend.create(replace(web, id=new_id(), name="new")),
        lambda: pool.backend.mount(web),
        lambda: pool.backend.snapshots(web),
        lambda: pool.backend.usage(web),
        lambda: pool.backend.destroy(web),
        lambda: pool.fresh().open(expected=pool.id),
    ]
    for call in calls:
        with pytest.raises(PoolUnavailable, match=message):
            call()
    health = pool.backend.health()
    assert not health.ok
    assert message.partition(";")[0] in str(health.problem)
    assert pool.zfs.calls == []
    place.write_text("ONLINE")
    assert pool.backend.volumes() == [web]


def test_a_zpool_that_has_lost_a_disk_works_and_says_so(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """T40."""
    real = shell.run

    def degraded(program: str, *arguments: str, **options: object) -> str:
        text = real(program, *arguments, **options)  # type: ignore[arg-type]
        return text.replace("ONLINE", "DEGRADED")

    monkeypatch.setattr(shell, "run", degraded)
    health = pool.backend.health()
    assert health.ok
    assert "DEGRADED" in str(health.problem)


def test_a_read_only_zpool_is_told(pool: Pool) -> None:
    """T40."""
    web = pool.make()
    pool.zfs.read_only = True
    assert pool.backend.volumes() == [web]
    assert "imported read-only" in str(pool.backend.health().problem)
    with pytest.raises(PoolUnavailable, match="read-only"):
        pool.make("new")
    with pytest.raises(PoolUnavailable, match="read-only; zpool export tank && zpool import tank"):
        pool.fresh().open()


def test_a_nearly_full_pool_takes_nothing_new(zfs: FakeZfs, tmp_path: Path) -> None:
    """T39."""
    pool = Pool(zfs, tmp_path, reserve=90)
    web = pool.make()
    zfs.datasets[P].properties["available"] = str(100 << 20)
    assert not pool.backend.health().ok
    message = r"'pool' has 100 MiB of 1024 MiB free, less than its reserve of 90 %; free space, or lower `reserve`"
    with pytest.raises(NoSpace, match=message):
        pool.make("new")
    with pytest.raises(NoSpace, match=message):
        pool.snapshot(web, "s1")
    pool.backend.trash(web, WHEN)
    pool.backend.destroy(replace(web, deleted=WHEN))


def test_children_that_inherit_our_properties_are_no_volumes(pool: Pool) -> None:
    """T6."""
    web = pool.make()
    pool.zfs.run("zfs", "create", f"{P}/theirs")
    pool.zfs.run("zfs", "create", f"{P}/web/inner")
    pool.zfs.run("zfs", "snapshot", f"{P}/web@autosnap")
    assert pool.backend.volumes() == [web]
    assert pool.backend.snapshots(web) == []
    before = pool.zfs.names()
    pool.reopen()
    assert pool.zfs.names() == before
    with pytest.raises(AlreadyExists, match=r"'theirs' exists in pool 'pool' already \(tank/volumes/theirs\)"):
        pool.make("theirs")


def test_what_others_have_made_in_a_volume_keeps_it(pool: Pool) -> None:
    """T6."""
    web = pool.make()
    snapshot = pool.snapshot(web, "s1")
    pool.snapshot(web, "s2")
    pool.zfs.run("zfs", "create", f"{P}/web/inner")
    for call in (
        lambda: pool.backend.destroy(web),
        lambda: pool.backend.trash(web, WHEN),
        lambda: pool.backend.rename(web, "new"),
        lambda: pool.backend.rollback(web, snapshot),
    ):
        with pytest.raises(Refused, match="tank/volumes/web/inner is not snapvol's; move it: zfs rename"):
            call()
    pool.zfs.run("zfs", "destroy", f"{P}/web/inner")
    pool.zfs.run("zfs", "snapshot", f"{P}/web@autosnap")
    with pytest.raises(Refused, match="snapshot tank/volumes/web@autosnap is not snapvol's; zfs destroy"):
        pool.backend.destroy(web)
    pool.backend.rollback(web, snapshot)
    assert [name for name in pool.zfs.names() if name.endswith("@autosnap")]
    assert [it.name for it in pool.backend.snapshots(web) if isinstance(it, Snapshot)] == ["s1", "s2"]


DAMAGES = {
    "empty": ("", "org.snapvol:volume is empty"),
    "cut short": ('{"volume": {', "is not understood: Input data was truncated"),
    "lines": ("a\tlocal\nb\t-\tc", "is not understood"),
    "wrong shape": ("[]", "Expected `object`, got `array`"),
    "no name": (
        '{"volume":{"id":"x","name":"../x","created":"2026-11-20T03:00:00Z"}}', "volume name '../x' is not allowed",
    ),
    "no id": ('{"volume":{"id":"-x","name":"x","created":"2026-11-20T03:00:00Z"}}', "'-x' is not allowed"),
    "no zone": ('{"volume":{"id":"x","name":"x","created":"2026-11-20T03:00:00"}}', "a time without a zone"),
    "parts": ("+9:{", "is not understood"),
    "too many parts": ("+999999999:{", "is not understood"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_property_is_told_and_hides_nothing(pool: Pool, damage: str) -> None:
    """T41."""
    text, reason = DAMAGES[damage]
    web, other = pool.make("web"), pool.make("other")
    good = pool.zfs.datasets[f"{P}/web"].properties[PROPERTY]
    pool.zfs.datasets[f"{P}/web"].properties[PROPERTY] = text
    backend = pool.reopen()
    listed, found = backend.volumes()
    assert listed == other
    assert isinstance(found, Damage)
    assert (found.name, found.pool) == ("web", "pool")
    assert reason in found.reason
    with pytest.raises(NotReady, match=r"volume 'web' is damaged: .*; mend its properties"):
        backend.mount(web)
    backend.rename(other, "renamed")
    pool.zfs.datasets[f"{P}/web"].properties[PROPERTY] = good
    assert web in backend.volumes()


def test_a_damaged_snapshot_is_told_and_hides_nothing(pool: Pool) -> None:
    """T41."""
    web = pool.make()
    bad, good = pool.snapshot(web, "bad"), pool.snapshot(web, "good")
    pool.zfs.datasets[f"{P}/web"].points["bad"].properties["org.snapvol:snapshot"] = "{}"
    listed, damage = pool.backend.snapshots(web)
    assert listed == good
    assert isinstance(damage, Damage)
    assert damage.name == "web@bad"
    with pytest.raises(NotReady, match="web@bad' is damaged"), pool.backend.open_snapshot(bad):
        pass
    pool.backend.destroy(web)
    assert pool.zfs.names() == [P]


def test_earlier_contents_are_never_taken_for_damaged_present_ones(pool: Pool) -> None:
    """T41: of a volume that was rolled back, or trashed after that."""
    web = pool.make(text="one")
    first = pool.snapshot(web, "s1")
    pool.snapshot(web, "s2")
    pool.backend.rollback(web, first)
    present = pool.zfs.datasets[f"{P}/web"]
    good, present.properties[PROPERTY] = present.properties[PROPERTY], "{"
    (damage,) = pool.reopen().volumes()
    assert isinstance(damage, Damage)
    with pytest.raises(NotReady):
        pool.backend.mount(web)
    present.properties[PROPERTY] = good
    pool.backend.trash(web, WHEN)
    present.properties[PROPERTY] = "{"
    assert pool.reopen().volumes() == []
    (damage,) = pool.backend.trashed()
    assert isinstance(damage, Damage)


def test_a_copy_of_a_volume_is_not_a_second_one(pool: Pool) -> None:
    """Such as `zfs send -p | zfs receive` makes."""
    web = pool.make()
    pool.zfs.run("zfs", "create", "-o", f"{PROPERTY}={pool.zfs.datasets[f'{P}/web'].properties[PROPERTY]}", f"{P}/copy")
    found = pool.backend.volumes()
    assert web in found
    (damage,) = [it for it in found if isinstance(it, Damage)]
    assert (damage.name, "one is a copy of the other" in damage.reason) == ("copy", True)


def test_long_metadata_goes_on_in_further_properties(pool: Pool) -> None:
    web = pool.make()
    for length in (30_000, 10, 2500):
        web = replace(web, labels={"key": "ü" * length})
        pool.backend.record(web)
        assert pool.fresh().volumes() == [web]
    with pytest.raises(UsageError, match="use fewer or shorter labels"):
        pool.backend.record(replace(web, labels={"key": "x" * 100_000}))
    assert pool.fresh().volumes() == [web]


def test_every_name_has_a_dataset_of_its_own(pool: Pool) -> None:
    """T1, T4."""
    names = ["a", "A", "n" * 255, "n" * 254, "n" * 97, "n" * 96, "x.new", "tmp", "0", "vol1", "vol10"]
    for name in names:
        pool.backend.create(Volume(id=new_id(), name=name, created=now()))
    found = pool.reopen().volumes()
    assert {volume.name for volume in found} == set(names)
    for volume in found:
        assert isinstance(volume, Volume)
        pool.snapshot(volume, "s" * 255)
        pool.snapshot(volume, "s" * 254)
        assert len(pool.backend.snapshots(volume)) == 2
        pool.backend.destroy(volume)
    assert pool.zfs.names() == [P]
