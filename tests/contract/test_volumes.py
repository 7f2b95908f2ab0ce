"""Volumes: create, list, record, rename, destroy, trash."""

from __future__ import annotations

import os
import stat
from datetime import UTC, datetime

import pytest
from msgspec.structs import replace

from snapvol.errors import AlreadyExists, InvalidName, NotFound, SnapvolError
from snapvol.model import State, Volume, new_id
from support.scale import scaled
from support.storage import Pool

NAMES = [
    "a",
    "7x",
    "config",
    "snapshots",
    "volume.json",
    "data",
    "data.new",
    "x.tmp",
    "tmp",
    "pvmove",
    "a_tdata",
    "s1",
    "Web",
    "web",
    "lost-found",
    "dash-",
    "dot.",
    "A_b.C-9",
    "0" * 64,
    "n" * 255,
]
WHEN = datetime(2026, 11, 20, 3, 0, tzinfo=UTC)


def test_a_new_pool_is_empty_and_well(pool: Pool) -> None:
    assert pool.backend.volumes() == []
    assert pool.backend.trashed() == []
    health = pool.backend.health()
    assert health.ok, health
    assert 0 < health.free <= health.size


def test_a_fresh_root_is_empty_and_where_the_mountpoint_says(pool: Pool) -> None:
    """G15, G16: nothing in it, not even lost+found; the path is the same before and after."""
    volume = pool.record("web")
    before = pool.backend.mountpoint(volume)
    pool.backend.create(volume)
    assert pool.backend.mount(volume) == pool.backend.mountpoint(volume) == before
    assert before.is_absolute()
    assert os.listdir(before) == []
    assert stat.S_IMODE(before.stat().st_mode) == 0o755
    pool.backend.mount(volume)
    pool.backend.unmount(volume)
    pool.backend.unmount(volume)


def test_metadata_is_stored_whole(pool: Pool) -> None:
    volume = Volume(
        id=new_id(),
        name="web",
        created=WHEN,
        options={"policy": "standard", "snapshot.keep": "7d"},
        labels={"com.docker.compose.volume": "wéb\n"},
        parent="old@before",
        state=State.RESTORING,
        job="17",
        error='a "line"',
    )
    pool.backend.create(volume)
    assert pool.stored("web") == replace(volume, pool="pool")
    pool.reopen()
    assert pool.stored("web") == replace(volume, pool="pool")
    changed = replace(volume, state=State.READY, job=None, error=None, options={})
    pool.backend.record(changed)
    assert pool.stored("web") == replace(changed, pool="pool")


def test_recording_another_volume_under_a_name_is_refused(pool: Pool) -> None:
    volume = pool.volume("web")
    with pytest.raises(NotFound):
        pool.backend.record(replace(volume, id=new_id()))
    with pytest.raises(NotFound):
        pool.backend.record(replace(volume, name="other"))
    assert pool.stored("web") == volume


@pytest.mark.root
def test_owner_and_mode_of_the_root(pool: Pool) -> None:
    volume = pool.volume("web", uid="999", gid="998", mode="2770")
    with pool.mounted(volume) as root:
        facts = root.stat()
    assert (facts.st_uid, facts.st_gid, stat.S_IMODE(facts.st_mode)) == (999, 998, 0o2770)


def test_every_name_that_docker_allows(pool: Pool) -> None:
    """T4, G9."""
    for name in NAMES:
        pool.put(pool.volume(name), name=name)
    assert pool.names() == set(NAMES)
    for volume in pool.backend.volumes():
        assert isinstance(volume, Volume)
        assert pool.get(volume) == {"name": volume.name.encode()}


@pytest.mark.parametrize(
    "name", ["../x", "x/y", "-rf", "x\ny", "x\0y", "@x", "#x", "%x", "", ".", "..", "é", "n" * 256]
)
def test_a_name_that_is_no_name_makes_nothing(pool: Pool, name: str) -> None:
    """T5: names are checked where they enter; a backend does not trust that."""
    volume = pool.volume("web")
    with pytest.raises(InvalidName):
        pool.backend.create(pool.record(name))
    with pytest.raises(InvalidName):
        pool.backend.rename(volume, name)
    if pool.backend.features.snapshots:
        with pytest.raises(InvalidName):
            pool.backend.snapshot([volume], name)
    assert pool.names() == {"web"}


def test_names_that_begin_alike_are_different_volumes(pool: Pool) -> None:
    """T1."""
    for name in ("vol1", "vol10", "vol1.x", "vol"):
        pool.put(pool.volume(name), name=name)
    pool.backend.destroy(pool.stored("vol1"))
    assert pool.names() == {"vol10", "vol1.x", "vol"}
    assert pool.get(pool.stored("vol10")) == {"name": b"vol10"}


def test_a_taken_name_is_refused_and_nothing_changes(pool: Pool) -> None:
    volume = pool.volume("web")
    other = pool.volume("other")
    pool.put(volume, f="kept")
    with pytest.raises(AlreadyExists, match="'web' exists"):
        pool.backend.create(pool.record("web"))
    with pytest.raises(AlreadyExists, match="'web' exists"):
        pool.backend.rename(other, "web")
    pool.backend.trash(other, WHEN)
    with pytest.raises(AlreadyExists, match="'web' exists"):
        pool.backend.undelete(pool.backend.trashed()[0], "web")  # type: ignore[arg-type]
    assert pool.names() == {"web"}
    assert len(pool.backend.trashed()) == 1
    assert pool.get(volume) == {"f": b"kept"}


def test_what_is_gone_is_not_found(pool: Pool) -> None:
    volume = pool.volume("web")
    pool.backend.destroy(volume)
    assert pool.names() == set()
    for call in (
        lambda: pool.backend.destroy(volume),
        lambda: pool.backend.record(volume),
        lambda: pool.backend.rename(volume, "new"),
        lambda: pool.backend.usage(volume),
        lambda: pool.backend.mount(volume),
        lambda: pool.backend.trash(volume, WHEN),
        lambda: pool.backend.snapshots(volume),
        lambda: pool.backend.stage(volume),
        lambda: pool.backend.adopt_stage(volume),
        lambda: pool.backend.discard_stage(volume),
    ):
        with pytest.raises(NotFound, match="web"):
            call()


def test_a_later_volume_of_the_same_name_is_another(pool: Pool) -> None:
    """T2."""
    first = pool.volume("web")
    pool.backend.destroy(first)
    second = pool.volume("web")
    with pytest.raises(NotFound):
        pool.backend.destroy(first)
    assert pool.stored("web") == second


def test_rename_keeps_contents_identity_and_metadata(pool: Pool) -> None:
    volume = pool.volume("web", policy="standard")
    pool.put(volume, f="x")
    renamed = pool.backend.rename(volume, "shop")
    assert renamed == replace(volume, name="shop")
    assert pool.names() == {"shop"}
    pool.reopen()
    assert pool.stored("shop") == renamed
    assert pool.get(renamed) == {"f": b"x"}
    with pytest.raises(NotFound):
        pool.backend.mount(volume)


def test_usage_counts_what_is_written(pool: Pool) -> None:
    volume = pool.volume("web")
    with pool.mounted(volume) as root:
        before = pool.backend.usage(volume)
        with open(root / "f", "wb") as file:
            file.write(os.urandom(3 << 20))
            os.fsync(file.fileno())
        with open(root / "hole", "wb") as file:
            file.truncate(1 << 30)
        os.link(root / "f", root / "again")
        pool.settle()
        grown = pool.backend.usage(volume).used - before.used
    assert 3 << 20 <= grown < 4 << 20 or pool.variant.backend == "memory"
    assert before.limit is None or pool.variant.backend == "lvm", "a block device has a size"


def test_trash_frees_the_name_at_once_and_gives_everything_back(pool: Pool) -> None:
    """T17."""
    volume = pool.volume("web", policy="standard")
    pool.put(volume, f="first")
    pool.backend.trash(volume, WHEN)
    assert pool.names() == set()
    second = pool.volume("web")
    assert pool.get(second) == {}
    pool.backend.trash(second, WHEN)
    pool.reopen()
    trashed = pool.backend.trashed()
    assert {found.id: found for found in trashed if isinstance(found, Volume)} == {
        volume.id: replace(volume, deleted=WHEN),
        second.id: replace(second, deleted=WHEN),
    }
    back = pool.backend.undelete(replace(volume, deleted=WHEN), "again")
    assert back == replace(volume, name="again")
    assert pool.stored("again") == back
    assert pool.get(back) == {"f": b"first"}
    pool.backend.destroy(replace(second, deleted=WHEN))
    assert pool.backend.trashed() == []


def test_a_volume_of_that_id_is_in_the_trash_or_not(pool: Pool) -> None:
    volume = pool.volume("web")
    with pytest.raises(NotFound):
        pool.backend.undelete(replace(volume, deleted=WHEN), "back")
    pool.backend.trash(volume, WHEN)
    with pytest.raises(NotFound):
        pool.backend.destroy(volume)
    assert len(pool.backend.trashed()) == 1


@pytest.mark.parametrize(
    "option", [{"uid": "root"}, {"gid": "-1"}, {"mode": "0999"}, {"mode": "77777"}, {"uid": "4294967295"}]
)
def test_ownership_that_cannot_be_makes_nothing(pool: Pool, option: dict[str, str]) -> None:
    if not pool.variant.privileged:
        return
    with pytest.raises(SnapvolError, match=f"{next(iter(option))} = "):
        pool.backend.create(pool.record("web", **option))
    assert pool.names() == set()
    assert pool.leaks() == []


def test_many_volumes_are_listed_whole(pool: Pool) -> None:
    names = {f"v{number}" for number in range(scaled(60))}
    for name in names:
        pool.backend.create(pool.record(name))
    assert pool.names() == names
