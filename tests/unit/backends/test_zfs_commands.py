"""Which commands the `zfs` backend runs, and what it makes of those that fail."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from msgspec.structs import replace

from snapvol import shell
from snapvol.errors import (
    NotFound,
    NotReady,
    SnapvolError,
    StorageFailed,
    ToolFailed,
    UsageError,
)
from snapvol.model import Snapshot, Volume, new_id, now
from support.zfs_pool import P, Pool

WHEN = datetime(2026, 11, 20, 3, 0, tzinfo=UTC)


def test_operations_take_few_commands(pool: Pool) -> None:
    pool.make("first")
    commands = pool.commands
    assert commands(lambda: pool.make("web")) == ["zfs create", "zfs rename"]
    web = next(it for it in pool.backend.volumes() if it.name == "web")
    assert isinstance(web, Volume)
    backend = pool.backend
    assert commands(lambda: backend.snapshot([web], "s1")) == ["zfs snapshot", "zfs get"]
    (first,) = backend.snapshots(web)
    assert isinstance(first, Snapshot)
    pool.snapshot(web, "s2")
    clone = Volume(id=new_id(), name="clone", created=now())
    assert commands(lambda: backend.create(clone, source=first)) == ["zfs get", "zfs clone", "zfs rename"]
    assert commands(lambda: backend.rollback(web, first)) == [
        "zfs get", "zfs get", "zfs rename", "zfs clone", "zfs rename", "zfs promote",
    ]  # fmt: skip
    assert commands(lambda: backend.snapshot([web], "s3")) == ["zfs get", "zfs snapshot", "zfs get"]
    assert commands(lambda: backend.trash(web, WHEN)) == ["zfs get", "zfs rename", "zfs set"]
    assert commands(lambda: backend.mount(replace(clone, pool="pool"))) == ["zfs get"]


def test_a_dataset_that_somebody_has_put_in_a_volume_s_place_is_not_snapshotted(pool: Pool) -> None:
    """T6."""
    web, other = pool.make("web"), pool.make("other")
    for property in ({}, dict(pool.zfs.datasets[f"{P}/other"].properties)):
        pool.zfs.datasets[f"{P}/web"].properties = property
        with pytest.raises((NotFound, NotReady), match="volume 'web'"):
            pool.backend.snapshot([other, web], "s1")
        assert [name for name in pool.zfs.names() if "@" in name] == []


def test_hundreds_of_volumes_are_listed_by_two_commands(pool: Pool) -> None:
    for number in range(300):
        pool.snapshot(pool.make(f"v{number}"), "s1")
    pool.reopen()
    pool.zfs.calls.clear()
    found = pool.backend.volumes()
    assert len(found) == 300
    assert all(len(pool.backend.snapshots(volume)) == 1 for volume in found if isinstance(volume, Volume))
    assert len(pool.zfs.calls) == 2


def test_a_failed_listing_is_not_taken_for_an_empty_one(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    web = pool.make()

    def fail(program: str, *arguments: str, **_: object) -> str:
        raise ToolFailed([program, *arguments], 1, "cannot open 'tank/volumes': I/O error")

    monkeypatch.setattr(shell, "run", fail)
    for call in (pool.backend.volumes, pool.backend.trashed, lambda: pool.backend.snapshots(web)):
        with pytest.raises(SnapvolError, match="cannot be listed: cannot open"):
            call()


def test_going_back_to_more_than_the_size_is_possible(pool: Pool) -> None:
    """T39: ZFS lets a volume grow a little beyond its size, and refuses to make a clone of that with that size."""
    web = pool.make(text="one")
    first = pool.snapshot(web, "s1")
    pool.snapshot(web, "s2")
    pool.zfs.datasets[f"{P}/web"].properties["refquota"] = "24000"
    pool.backend.rollback(web, first)
    assert pool.backend.usage(web).limit == 24576


@pytest.mark.parametrize("message", ["\n" * 1000, "ü" * 1000, "\U0001f600" * 1000, '"' * 1000])
def test_a_long_message_is_kept(pool: Pool, message: str) -> None:
    web = pool.make()
    made = pool.backend.snapshot([web], "s1", message=message)
    assert pool.fresh().snapshots(web) == list(made)
    with pytest.raises(UsageError, match="shorten it"):
        pool.backend.snapshot([web], "s2", message="x" * 9000)


def test_what_fails_to_be_read_is_not_taken_for_gone(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as a listing during which another program destroys its own snapshots."""
    web = pool.make()
    snapshot = pool.snapshot(web, "s1")
    real = shell.run

    def fail(program: str, *arguments: str, **options: object) -> str:
        if "filesystem,volume,snapshot" in arguments:
            raise ToolFailed([program, *arguments], 1, "cannot iterate filesystems: I/O error")
        return real(program, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(shell, "run", fail)
    calls: list[Callable[[], object]] = [
        lambda: pool.backend.snapshots(web),
        lambda: pool.backend.usage(web),
        lambda: pool.backend.destroy(web),
        lambda: pool.backend.destroy_snapshot(snapshot),
    ]
    for call in calls:
        with pytest.raises(StorageFailed, match="pool 'pool' cannot be read: cannot iterate"):
            call()
