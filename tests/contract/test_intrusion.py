"""Hands other than ours in a volume group or zpool: damage, absence, strangers; none of it spreads (T6, T40, T41)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from msgspec.structs import replace

from snapvol.errors import NotFound, NotReady, PoolUnavailable, SnapvolError
from snapvol.model import Damage
from support import disks
from support.disks import GROUP, POOL
from support.process import run
from support.storage import Pool

pytestmark = pytest.mark.root


def made(pool: Pool, make: Callable[[], object]) -> str:
    """Return what the storage calls the one thing that ``make`` makes."""
    before = set(pool.inventory())
    make()
    (name,) = set(pool.inventory()) - before
    return name


def tags(pool: Pool, name: str) -> list[str]:
    """Return the tags, or the user properties, that are on a thing itself."""
    if pool.variant.backend == "lvm":
        (found,) = (volume for volume in disks.logical_volumes() if volume.name == name)
        return list(found.tags)
    lines = run("zfs", "get", "-Hp", "-s", "local", "-o", "property,value", "all", name).stdout.splitlines()
    return [line.replace("\t", "=") for line in lines if ":" in line.partition("\t")[0]]


def retag(pool: Pool, name: str, old: list[str], new: list[str]) -> None:
    """Replace tags, or user properties."""
    if pool.variant.backend == "lvm":
        words = [word for tag in old for word in ("--deltag", tag)] + [
            word for tag in new for word in ("--addtag", tag)
        ]
        run("lvchange", *words, f"{GROUP}/{name}")
        return
    for tag in old:
        run("zfs", "inherit", tag.partition("=")[0], name)
    for tag in new:
        run("zfs", "set", tag, name)


def cut(tag: str) -> str:
    """Return a tag, or property, that lost the end of its value."""
    key, equals, value = tag.partition("=")
    return f"{key}{equals}{value[: len(value) // 2]}" if value else tag[: max(4, len(tag) * 2 // 3)]


@pytest.mark.parametrize("how", ["cut short", "garbage", "one removed"])
def test_damaged_metadata_is_told_and_hides_nothing(mounting: Pool, how: str) -> None:
    """T41: shown as damaged, or not shown as ours at all where nothing says so any more; never taken for whole."""
    other = mounting.volume("other")
    name = made(mounting, lambda: mounting.volume("web"))
    web = mounting.stored("web")
    mounting.put(web, f="precious")
    good = tags(mounting, name)
    assert good
    for position, tag in enumerate(good):
        if how == "cut short":
            bad = [cut(tag)]
        elif how == "garbage":
            bad = [f"{tag.partition('=')[0]}={'zz' * 10}"] if "=" in tag else [tag[:-3] + "zzz"]
        else:
            bad = []
        if bad == [tag]:
            continue
        retag(mounting, name, [tag], bad)
        try:
            mounting.reopen()
            found = list(mounting.backend.volumes())
            assert other in found, f"{tag} as {bad} hides another volume"
            mounting.put(other, f=str(position))
            for volume in found:
                if isinstance(volume, Damage):
                    assert volume.reason
                    assert "\n" not in volume.reason
            if web not in found:
                with pytest.raises((NotReady, NotFound)):
                    mounting.backend.mount(web)
        finally:
            retag(mounting, name, bad, [tag])
    mounting.reopen()
    assert mounting.stored("web") == web
    assert mounting.get(web) == {"f": b"precious"}


def test_damaged_metadata_of_a_snapshot_hides_no_other(mounting: Pool) -> None:
    """T41."""
    web = mounting.volume("web")
    mounting.put(web, f="one")
    name = made(mounting, lambda: mounting.snapshot(web, "bad"))
    good = mounting.snapshot(web, "good")
    whole = mounting.snapshots(web)
    kept = tags(mounting, name)
    for tag in kept:
        bad = cut(tag)
        if bad == tag:
            continue
        retag(mounting, name, [tag], [bad])
        try:
            mounting.reopen()
            assert good in mounting.backend.snapshots(web), f"{tag} as {bad} hides another snapshot"
            assert mounting.stored("web") == web
        finally:
            retag(mounting, name, [bad], [tag])
    mounting.reopen()
    assert mounting.snapshots(web) == whole


# -- strangers --------------------------------------------------------------------------------------------------


@contextmanager
def strangers(pool: Pool, name: str) -> Iterator[list[str]]:
    """Put a volume of somebody else's into the pool, and a snapshot of our volume ``name``."""
    if pool.variant.backend == "lvm":
        theirs = ["theirs", "handmade"]
        run("lvcreate", "--virtualsize", "32M", "--thinpool", f"{GROUP}/{POOL}", "--name", "theirs")
        run("lvcreate", "--snapshot", "--name", "handmade", f"{GROUP}/{name}")
        remove = ["lvremove", "--yes"]
        names = [f"{GROUP}/{entry}" for entry in theirs]
    else:
        dataset = str(pool.settings["dataset"])
        theirs = names = [f"{dataset}/theirs", f"{name}@autosnap_2026-11-20_hourly"]
        run("zfs", "create", "-o", "canmount=noauto", names[0])
        run("zfs", "snapshot", names[1])
        remove = ["zfs", "destroy"]
    pool.foreign |= set(theirs)
    try:
        yield theirs
    finally:
        for entry in located(pool, names):
            run(*remove, entry)
        pool.foreign -= set(theirs)


def test_what_others_made_is_not_ours(mounting: Pool) -> None:
    """T6: not listed, not touched, not in the way."""
    name = made(mounting, lambda: mounting.volume("web"))
    web = mounting.stored("web")
    mounting.put(web, f="one")
    ours = mounting.snapshot(web, "s1")
    with strangers(mounting, name) as theirs:
        before = [tags(mounting, entry) for entry in theirs]
        mounting.reopen()
        assert mounting.backend.volumes() == [web]
        assert mounting.snapshots(web) == [ours]
        mounting.volume("theirs2")
        try:
            mounting.volume("theirs")
        except SnapvolError as error:
            assert "theirs" in str(error)  # noqa: PT017 (a storage that maps all names may make it)
        mounting.put(web, f="two")
        mounting.backend.rollback(web, ours)
        assert mounting.get(web) == {"f": b"one"}
        shop = mounting.backend.rename(web, "shop")
        mounting.reopen()
        assert mounting.snapshots(shop) == [replace(ours, volume="shop")]
        assert [tags(mounting, entry) for entry in located(mounting, theirs)] == before
        mounting.backend.rename(shop, "web")


def located(pool: Pool, names: list[str]) -> list[str]:
    """Return what the storage calls somebody's things now: a snapshot follows its dataset's name."""
    if pool.variant.backend == "lvm":
        return names
    everything = disks.datasets(str(pool.settings["dataset"]), "filesystem,snapshot")
    last = {name.rpartition("@")[2]: name for name in everything}
    return [last[name.rpartition("@")[2]] for name in names]


def test_a_volume_with_somebody_else_s_snapshot_is_not_destroyed_with_it(mounting: Pool) -> None:
    """T6: where the snapshot would go too, we refuse and name it; where it lives by itself, it stays."""
    name = made(mounting, lambda: mounting.volume("web"))
    web = mounting.stored("web")
    mounting.put(web, f="one")
    with strangers(mounting, name) as theirs:
        try:
            mounting.backend.destroy(web)
        except SnapvolError as error:
            assert "autosnap_2026-11-20_hourly" in str(error)  # noqa: PT017
            assert mounting.get(web) == {"f": b"one"}
        mounting.foreign.clear()
        assert set(theirs) <= set(mounting.inventory())
        mounting.foreign |= set(theirs)


def test_volumes_and_snapshots_removed_behind_our_back_are_gone_and_no_more(mounting: Pool) -> None:
    other = mounting.volume("other")
    name = made(mounting, lambda: mounting.volume("web"))
    web = mounting.stored("web")
    taken = made(mounting, lambda: mounting.snapshot(web, "s1"))
    kept = mounting.snapshot(web, "s2")
    gone = next(snapshot for snapshot in mounting.snapshots(web) if snapshot.name == "s1")
    remove(mounting, taken)
    assert mounting.backend.snapshots(web) == [kept]
    for call in (
        lambda: mounting.backend.destroy_snapshot(gone),
        lambda: mounting.backend.rollback(web, gone),
        lambda: mounting.backend.open_snapshot(gone).__enter__(),
    ):
        with pytest.raises(NotFound, match="s1"):
            call()
    mounting.backend.destroy_snapshot(kept)
    remove(mounting, name)
    found = mounting.backend.volumes()
    assert other in found
    assert web not in found
    with pytest.raises(SnapvolError, match="web"):
        mounting.backend.mount(web)
    mounting.reopen()
    mounting.put(other, f="x")
    for volume in mounting.backend.volumes():
        if volume != other:
            assert isinstance(volume, Damage)


def remove(pool: Pool, name: str) -> None:
    if pool.variant.backend == "lvm":
        run("lvremove", "--yes", f"{GROUP}/{name}")
    else:
        run("zfs", "destroy", "-r" if "@" not in name else "-d", name)


# -- absence ----------------------------------------------------------------------------------------------------


def test_a_pool_that_is_away_is_missed_and_comes_back(mounting: Pool) -> None:
    """T40: while it is open, and at the start; nothing is taken for empty, and all is there when it is back."""
    web = mounting.volume("web")
    mounting.put(web, f="one")
    snapshot = mounting.snapshot(web, "s1")
    with disks.away(mounting.settings):
        health = mounting.backend.health()
        assert not health.ok
        assert health.problem
        assert "\n" not in health.problem
        for call in (
            mounting.backend.volumes,
            mounting.backend.trashed,
            lambda: mounting.backend.create(mounting.record("new")),
            lambda: mounting.backend.snapshots(web),
            lambda: mounting.backend.snapshot([web], "s2"),
            lambda: mounting.backend.mount(web),
            lambda: mounting.backend.usage(web),
        ):
            with pytest.raises(PoolUnavailable):
                call()
        mounting.backend.close()
        with pytest.raises(PoolUnavailable, match="pool 'pool'"):
            mounting.fresh().open(expected=mounting.identity)
    mounting.reopen()
    assert mounting.backend.health().ok
    assert mounting.stored("web") == web
    assert mounting.snapshots(web) == [snapshot]
    assert mounting.get(web) == {"f": b"one"}


def test_a_pool_that_comes_back_while_it_is_open_works_again(mounting: Pool) -> None:
    """T40."""
    web = mounting.volume("web")
    mounting.put(web, f="one")
    with disks.away(mounting.settings), pytest.raises(PoolUnavailable):
        mounting.backend.volumes()
    mounting.backend.open(expected=mounting.identity)
    assert mounting.stored("web") == web
    assert mounting.get(web) == {"f": b"one"}


def test_what_does_not_exist_is_not_made(mounting: Pool) -> None:
    """T40: a misspelt name is said, not created."""
    wrong = {**mounting.settings, **({"volume_group": "nogroup"} if "volume_group" in mounting.settings else {})}
    if "dataset" in wrong:
        wrong["dataset"] = "notank/volumes"
    backend = type(mounting.backend)("other", wrong, root=mounting.root)
    with pytest.raises(SnapvolError, match=r"nogroup|notank"):
        backend.open()
    health = backend.health()
    assert not health.ok
    assert health.problem


def test_health_counts_what_is_there(mounting: Pool) -> None:
    before = mounting.backend.health()
    assert before.ok, before
    web = mounting.volume("web")
    with mounting.mounted(web) as root:
        (root / "f").write_bytes(os.urandom(24 << 20))
        mounting.settle()
        wait = mounting.backend.health()
    assert before.free - wait.free > 16 << 20
    assert wait.size == before.size
    if mounting.variant.backend == "lvm":
        assert wait.metadata_size
        assert wait.metadata_free
        assert 0 < wait.metadata_free < wait.metadata_size
