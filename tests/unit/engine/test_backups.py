from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from snapvol.engine.backups import Backup, backups, select
from snapvol.errors import Damaged, NotFound, UsageError
from snapvol.model import now
from snapvol.repository import BlobKind, SnapshotDocument
from support.benches import Bench

EMPTY = b'{"nodes":[]}\n'


def made(bench: Bench, when: datetime, volume: str | None, *tags: str) -> str:
    """Write a backup of nothing, made at a time of one's choice."""
    with bench.repository.lock() as lock:
        tree, _ = bench.repository.add(BlobKind.TREE, EMPTY)
        words = [*tags] if volume is None else ["snapvol", f"volume={volume}", f"volume-id=id-{volume}", *tags]
        document = SnapshotDocument(time=when, tree=tree.hex(), paths=["/x"], tags=words or None)
        return bench.repository.commit_snapshot(document, lock)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone()


def test_a_backup_says_what_it_is(bench: Bench, source: Path) -> None:
    (source / "a").write_bytes(b"123")
    result = bench.back_up(source, "web")
    (found,) = backups(bench.repository)
    assert found == Backup(
        id=result.id,
        time=found.time,
        volume="web",
        volume_id="id-of-web",
        host="here",
        tags=("snapvol", "volume=web", "volume-id=id-of-web"),
        paths=("/snapvol/web",),
        size=3,
        files=1,
        added=result.bytes_added,
    )
    assert found.short_id == result.id[:8]


def test_what_others_made_is_foreign_even_if_it_looks_like_a_volume(bench: Bench) -> None:
    made(bench, now(), None)
    made(bench, now(), None, "volume=web")
    assert [(found.foreign, found.volume) for found in backups(bench.repository)] == [(True, None)] * 2
    assert backups(bench.repository, "web") == []
    with pytest.raises(NotFound, match="no backup 'web'"):
        select(bench.repository, "web")


def test_t1_volumes_whose_names_begin_alike(bench: Bench) -> None:
    first = made(bench, at("2026-01-01T00:00"), "vol1")
    tenth = made(bench, at("2026-01-02T00:00"), "vol10")
    assert [found.id for found in backups(bench.repository, "vol1")] == [first]
    assert select(bench.repository, "vol1").id == first
    assert select(bench.repository, "vol10").id == tenth
    with pytest.raises(NotFound, match="no backup 'vol'; did you mean 'vol1"):
        select(bench.repository, "vol")


def test_the_newest_is_meant_complete_or_not(bench: Bench) -> None:
    made(bench, at("2026-01-01T00:00"), "web")
    newest = made(bench, at("2026-01-02T00:00"), "web", "incomplete")
    assert select(bench.repository, "web").id == newest
    assert select(bench.repository, "web").incomplete


def test_t22_a_backup_from_the_future_is_not_the_newest(bench: Bench) -> None:
    future = made(bench, now() + timedelta(days=400), "web")
    assert select(bench.repository, "web").id == future
    present = made(bench, now(), "web")
    assert select(bench.repository, "web").id == present


@pytest.mark.parametrize(
    ("moment", "index"),
    [
        ("2026-11-20T03:00", 1),
        ("2026-11-20T02:59", 0),
        ("2026-11-20T03:00:40", 0),
        ("2026-11-20T03:00:41", 1),
        ("2026-11-20T03:00:41.4", 0),
        ("2026-11-20T03:00:41.5", 1),
        ("2026-11-20 23:59", 2),
        ("2026-11-20", 2),
        ("2026-11-19", 0),
        ("2027-01-01T00:00Z", 2),
        ("2027-01-01Z", 2),
    ],
)
def test_the_newest_not_after_a_time(bench: Bench, moment: str, index: int) -> None:
    ids = [made(bench, at(when), "web") for when in ("2026-11-19T12:00", "2026-11-20T03:00:41.5", "2026-11-20T12:00")]
    assert select(bench.repository, f"web@{moment}").id == ids[index]


def test_times_with_a_zone(bench: Bench) -> None:
    zone = timezone(timedelta(hours=5))
    backup = made(bench, datetime(2026, 11, 20, 3, tzinfo=zone), "web")
    assert select(bench.repository, "web@2026-11-20T03:00+05:00").id == backup
    assert select(bench.repository, "web@2026-11-19T22:00Z").id == backup
    with pytest.raises(NotFound, match=r"volume 'web' has no backup from 2026-11-(19|20)T"):
        select(bench.repository, "web@2026-11-20T02:59+05:00")


@pytest.mark.parametrize("moment", ["", "yesterday", "2026-13-01", "2026-11-20T25:00", "03:00", "2026-11-20T03"])
def test_what_is_no_time(bench: Bench, moment: str) -> None:
    made(bench, now(), "web")
    with pytest.raises(UsageError, match="is not a time"):
        select(bench.repository, f"web@{moment}")


def test_ids_and_their_beginnings(bench: Bench) -> None:
    ids = [made(bench, now() - timedelta(minutes=number), "web") for number in range(17)]
    for identity in ids:
        assert select(bench.repository, identity).id == identity
    first = {identity[0] for identity in ids}
    twice = next(digit for digit in first if sum(identity.startswith(digit) for identity in ids) > 1)
    with pytest.raises(UsageError, match=f"several backups begin with '{twice}': .*\\(web\\), ") as caught:
        select(bench.repository, twice)
    assert sum(identity[:8] in str(caught.value) for identity in ids) > 1
    with pytest.raises(NotFound):
        select(bench.repository, "0123456789abcdef" * 4)


def test_a_volumes_name_goes_before_an_id_that_begins_so(bench: Bench) -> None:
    other = made(bench, now(), "web")
    named = made(bench, now(), other[:4])
    assert select(bench.repository, other[:4]).id == named
    assert select(bench.repository, other).id == other


def test_t30_a_damaged_record_is_said_where_it_is_meant(bench: Bench) -> None:
    backup = made(bench, now(), "web")
    bench.store.delete([f"snapshots/{backup}"])
    bench.store.put(f"snapshots/{backup}", b"\0" * 100)
    bench.reopened()
    assert backups(bench.repository) == []
    with pytest.raises(Damaged):
        select(bench.repository, backup[:12])
    # Which volume it was of is not known: "there is none" would be a guess.
    for text in ("web", "web@2026-11-20"):
        with pytest.raises(Damaged, match="no backup 'web' among those that can be read, and 1 cannot: snapshots/"):
            select(bench.repository, text)
