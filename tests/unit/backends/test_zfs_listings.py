"""The `zfs` backend over a ZFS in memory: what it remembers of where volumes are, and what that must not cost."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from snapvol import shell
from snapvol.backends import zfsrecords
from snapvol.errors import NotFound, NotReady, StorageFailed, ToolFailed
from snapvol.model import Damage, Snapshot, Volume
from support.fake_zfs import Killed
from support.zfs_pool import P, Pool

SECONDS = 10.0


def list_slowly(
    pool: Pool, monkeypatch: pytest.MonkeyPatch, verb: str, change: Callable[[], object], kinds: str = "filesystem"
) -> None:
    """Make a change, and beside it a listing that sees what is there before ``verb`` and is read after the change.

    Args:
        pool: where.
        monkeypatch: puts the two in step.
        verb: the command of the change before which the listing looks.
        change: is made.
        kinds: what of the listing is that old: its file systems or its snapshots.
    """
    seen, changed = threading.Event(), threading.Event()

    def run(program: str, *words: str | Path, **others: object) -> str:
        text = pool.zfs.run(program, *words, **others)
        if threading.current_thread() is lister and "-d" in words and kinds in str(words[words.index("-t") + 1]):
            seen.set()
            assert changed.wait(SECONDS)
        return text

    def act(program: str, *words: str | Path, **others: object) -> str:
        if words[0] == verb and not lister.is_alive() and not seen.is_set():
            lister.start()
            assert seen.wait(SECONDS)
        return run(program, *words, **others)

    lister = threading.Thread(target=pool.backend.volumes, daemon=True)
    monkeypatch.setattr(shell, "run", act)
    change()
    changed.set()
    lister.join(SECONDS)
    assert seen.is_set()
    assert not lister.is_alive()
    monkeypatch.setattr(shell, "run", pool.zfs.run)


def leaves(pool: Pool) -> list[str]:
    return [name.removeprefix(f"{P}/") for name in pool.zfs.names() if name.startswith(f"{P}/")]


@pytest.mark.parametrize("verb", ["rename", "clone", "promote"])
def test_a_listing_beside_a_rollback_shows_nobody_the_old_contents(
    pool: Pool, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    web = pool.make(text="old")
    first = pool.snapshot(web, "s1")
    pool.zfs.write(f"{P}/web", "new")
    pool.snapshot(web, "s2")
    list_slowly(pool, monkeypatch, verb, lambda: pool.backend.rollback(web, first))
    assert pool.contents(web) == "old"
    taken = pool.snapshot(web, "s3")
    assert pool.zfs.read(pool.backend._find_point(taken)[2].name) == "old"
    found = pool.backend.snapshots(web)
    assert [it.name for it in found if isinstance(it, Snapshot)] == ["s1", "s2", "s3"]
    pool.backend.destroy(web)
    assert leaves(pool) == []


@pytest.mark.parametrize("verb", ["set", "destroy"])
def test_a_listing_beside_a_removal_keeps_no_name_taken(pool: Pool, monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    web = pool.make()
    pool.snapshot(web, "s1")
    list_slowly(pool, monkeypatch, verb, lambda: pool.backend.destroy(web))
    again = pool.make()
    assert pool.backend.volumes() == [again]


def test_a_listing_beside_a_snapshot_is_not_taken_for_later(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    web = pool.make()
    list_slowly(pool, monkeypatch, "snapshot", lambda: pool.snapshot(web, "s1"), "snapshot")
    assert [it.name for it in pool.backend.snapshots(web)] == ["s1"]


def test_earlier_contents_that_could_not_be_removed_go_with_the_volume(pool: Pool) -> None:
    """Else the volume would be back, with what it was before a restore."""
    web = pool.make(text="old")
    pool.backend.stage(web)
    pool.zfs.write(f"{P}/.{web.id}.new", "restored")
    pool.zfs.busy.add(f"{P}/.{web.id}.0")
    pool.backend.adopt_stage(web)
    assert pool.contents(web) == "restored"
    assert leaves(pool) == [f".{web.id}.0", "web"]
    pool.zfs.busy.clear()
    pool.backend.destroy(web)
    assert pool.backend.volumes() == []
    assert leaves(pool) == []


def test_earlier_contents_whose_key_a_clone_needs_go_with_the_volume(pool: Pool) -> None:
    web = pool.make(text="old")
    pool.zfs.datasets[f"{P}/web"].properties |= {"encryption": "aes-256-gcm", "encryptionroot": f"{P}/web"}
    first = pool.snapshot(web, "s1")
    second = pool.snapshot(web, "s2")
    pool.backend.rollback(web, first)
    pool.backend.destroy_snapshot(second)
    pool.backend.destroy_snapshot(first)
    pool.backend.destroy(web)
    assert pool.backend.volumes() == []


def test_a_volume_whose_destruction_was_cut_twice_stays_gone(pool: Pool) -> None:
    """The first cut was in the middle of the command that marks its datasets, the second while they were removed."""
    web = pool.make(text="old")
    pool.snapshot(web, "s1")
    pool.backend.stage(web)
    pool.backend.adopt_stage(web)
    family = pool.backend._find(web)
    gone = zfsrecords.properties(zfsrecords.Record(volume=web, generation=1, role=zfsrecords.Role.GONE))
    pool.zfs.datasets[family.head.name].properties |= gone
    for cut in range(1, 4):
        pool.zfs.limit = cut
        with suppress(Killed):
            pool.fresh().open(expected=pool.id)
        pool.zfs.limit = None
        assert pool.fresh().volumes() == []
    pool.reopen()
    assert leaves(pool) == []


def test_what_has_lost_its_property_hides_no_older_contents_behind_its_name(pool: Pool) -> None:
    """T41: nobody may get what the volume was before somebody went back in it."""
    web = pool.make(text="old")
    first = pool.snapshot(web, "s1")
    pool.snapshot(web, "s2")
    pool.backend.rollback(web, first)
    del pool.zfs.datasets[f"{P}/web"].properties[zfsrecords.VOLUME]
    backend = pool.reopen()
    (damage,) = backend.volumes()
    assert isinstance(damage, Damage)
    assert (damage.name, "org.snapvol:volume" in damage.reason) == ("web", True)
    with pytest.raises((NotFound, NotReady)):
        backend.mount(web)


@pytest.mark.parametrize("suffix", ["new", "back"])
@pytest.mark.parametrize("properties", ["none", "a later generation's", "damaged"])
def test_what_was_in_the_making_does_not_count(pool: Pool, suffix: str, properties: str) -> None:
    """A power cut can take the properties away that `zfs create` and `zfs clone` were given, or leave them."""
    web = pool.make(text="now")
    first = pool.snapshot(web, "s1")
    later = zfsrecords.properties(zfsrecords.Record(volume=web, generation=1))
    texts = {"none": {}, "a later generation's": later, "damaged": {zfsrecords.VOLUME: "{"}}
    pool.zfs.run("zfs", "rename", f"{P}/web", f"{P}/.{web.id}.0")
    pool.zfs.run("zfs", "clone", f"{P}/.{web.id}.0@s1", f"{P}/.{web.id}.{suffix}")
    pool.zfs.datasets[f"{P}/.{web.id}.{suffix}"].properties |= texts[properties]
    assert pool.fresh().volumes() == [web]
    assert pool.reopen().volumes() == [web]
    assert pool.contents(web) == "now"
    assert pool.backend.snapshots(web) == [first]
    assert leaves(pool) == ["web", "web@s1"]


def test_what_only_looks_like_being_made_stays(pool: Pool) -> None:
    """T6, T41: somebody else's datasets, and one of ours that somebody has given such a name, with its snapshots."""
    web, db = pool.make("web"), pool.make("db")
    pool.snapshot(web, "s1")
    pool.zfs.run("zfs", "create", f"{P}/.old.new")
    pool.zfs.run("zfs", "rename", f"{P}/web", f"{P}/.{web.id}.back")
    pool.zfs.run("zfs", "rename", f"{P}/db", f"{P}/.{db.id}.new")
    pool.zfs.run("zfs", "create", f"{P}/.{db.id}.new/theirs")
    before = pool.zfs.names()
    del pool.zfs.datasets[f"{P}/.{web.id}.back"].properties[zfsrecords.VOLUME]
    del pool.zfs.datasets[f"{P}/.{db.id}.new"].properties[zfsrecords.VOLUME]
    pool.reopen()
    assert pool.zfs.names() == before


OPERATIONS: dict[str, Callable[[Pool, Volume, Snapshot], object]] = {
    "create": lambda pool, web, first: pool.make("new"),
    "rollback": lambda pool, web, first: pool.backend.rollback(web, first),
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_what_cannot_take_its_place_goes(pool: Pool, monkeypatch: pytest.MonkeyPatch, operation: str) -> None:
    web = pool.make(text="now")
    first = pool.snapshot(web, "s1")
    pool.snapshot(web, "s2")
    before = pool.zfs.names()

    def run(program: str, *words: str | Path, **others: object) -> str:
        if words[0] == "rename" and str(words[1]).endswith((".new", ".back")):
            raise ToolFailed(["zfs"], 1, "cannot rename: I/O error")
        return pool.zfs.run(program, *words, **others)

    monkeypatch.setattr(shell, "run", run)
    with pytest.raises(StorageFailed, match="I/O error"):
        OPERATIONS[operation](pool, web, first)
    assert pool.zfs.names() == before
    assert pool.contents(web) == "now"


def test_going_back_mounts_nothing_by_itself_in_a_pool_that_was_received(pool: Pool) -> None:
    """`zfs receive -R` brings properties whose source is ``received``; what they keep away must stay away."""
    web = pool.make()
    first = pool.snapshot(web, "s1")
    pool.snapshot(web, "s2")
    dataset = pool.zfs.datasets[f"{P}/web"]
    for name in ("canmount", "mountpoint", "snapdir"):
        del dataset.properties[name]
    pool.backend.rollback(web, first)
    ours = {"canmount": "noauto", "mountpoint": "legacy", "snapdir": "hidden"}
    assert ours.items() <= pool.zfs.datasets[f"{P}/web"].properties.items()


def test_a_volume_not_seen_yet_is_known_to_the_kernel_by_its_name(pool: Pool) -> None:
    web = pool.make()
    assert pool.fresh().sources(web) == (f"{P}/web",)
