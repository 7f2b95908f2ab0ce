"""Which packs are read: parts, amounts, and scrubs that remember."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapvol.errors import Cancelled, RepositoryUnreachable, StorageFailed, UsageError
from snapvol.repository import CheckReport, portions
from snapvol.repository.findings import NoProgress
from snapvol.repository.portions import Amount, Pack, Portion, Scrub, ScrubRecord, amount, subset
from snapvol.service import scrubbing
from snapvol.stores.base import Transient
from snapvol.stores.memory import MemoryStore
from support.faults import Faulty, nth
from support.repositories import SMALL, backed_up, opened, sample

DAY = datetime(2026, 11, 2, 3, tzinfo=UTC)
packs = st.lists(
    st.builds(Pack, id=st.binary(min_size=32, max_size=32), size=st.integers(1, 1000), blobs=st.just(1)),
    max_size=40,
    unique_by=lambda pack: pack.id,
)


@pytest.mark.parametrize("text", ["", "%", "0%", "101%", "-5%", "5 %x", "x", "0G", "0/3", "4/3", "1/257", "1/0", "a/b"])
def test_t16_what_is_no_part_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="write"):
        subset(text)


def test_amounts() -> None:
    assert amount("5%") == Amount(percent=5.0)
    assert amount("0.5%") == Amount(percent=0.5)
    assert amount("10G") == Amount(bytes=10 << 30)
    with pytest.raises(UsageError, match=r"5%, 10G"):
        amount("1/10")


@given(packs, st.integers(1, 256))
def test_the_parts_together_are_everything(all_packs: list[Pack], count: int) -> None:
    parts = [subset(f"{number}/{count}").choose(all_packs) for number in range(1, count + 1)]
    assert sorted(pack for part in parts for pack in part) == sorted(all_packs)


@given(packs, st.one_of(st.builds(Amount, percent=st.floats(0.01, 100)), st.builds(Amount, bytes=st.integers(1, 9999))))
def test_an_amount_is_at_least_a_pack_and_hardly_more_than_asked(all_packs: list[Pack], part: Amount) -> None:
    chosen = portions.Sample(part).choose(all_packs)
    assert len(set(chosen)) == len(chosen) >= min(len(all_packs), 1)
    assert set(chosen) <= set(all_packs)
    if part.percent is not None:
        assert len(chosen) - 1 < len(all_packs) * part.percent / 100 or not all_packs
    elif len(chosen) > 1:
        assert sum(pack.size for pack in chosen) <= part.bytes


@given(packs, st.floats(1, 60), st.data())
def test_scrubs_come_round(all_packs: list[Pack], percent: float, data: st.DataObject) -> None:
    """Whatever is added and removed in between, and however often a run is cut off: all is read in its turn."""
    record = ScrubRecord(repository="r")
    at = DAY
    runs = 0
    while len(record.read) < len(all_packs):
        scrub = Scrub(Amount(percent=percent), record, at)
        before = dict(record.read)
        chosen = scrub.choose(all_packs)
        unread = [pack for pack in all_packs if pack.id.hex() not in before]
        assert set(chosen) <= set(unread) or set(unread) <= set(chosen)
        cut = data.draw(st.integers(1, len(chosen)))
        for pack in chosen[:cut]:
            scrub.noted(pack.id, True)
        at += timedelta(days=1)
        runs += 1
    assert runs <= len(all_packs)
    if all_packs:
        again = Scrub(Amount(bytes=1), record, at).choose(all_packs)
        assert record.read[again[0].id.hex()] == min(record.read.values())


def test_damaged_packs_come_first_then_new_ones_then_the_oldest() -> None:
    made = [Pack(bytes([number]) * 32, 10, 1) for number in range(5)]
    record = ScrubRecord(repository="r")
    first = Scrub(Amount(percent=100), record, DAY)
    first.choose(made[:4])
    for pack in made[:4]:
        first.noted(pack.id, pack is not made[2])
    later = Scrub(Amount(bytes=1), record, DAY + timedelta(days=1))
    assert later.choose(made[:4]) == [made[2]]
    later.noted(made[2].id, False)
    assert Scrub(Amount(percent=100), record, DAY + timedelta(days=2)).choose(made)[:2] == [made[2], made[4]]
    gone = Scrub(Amount(percent=100), record, DAY + timedelta(days=3))
    gone.choose(made[:1])
    assert record.read.keys() == {made[0].id.hex()}
    assert record.damaged == set()


def test_t22_a_time_in_the_future_does_not_keep_a_pack_from_being_read() -> None:
    pack = Pack(b"\1" * 32, 10, 1)
    record = ScrubRecord(repository="r", read={pack.id.hex(): int(DAY.timestamp()) + 10**9})
    scrub = Scrub(Amount(percent=100), record, DAY)
    assert scrub.choose([pack]) == [pack]
    assert scrub.oldest is None


# -- with a repository ------------------------------------------------------------------------------------------------


@pytest.fixture
def store(memory: MemoryStore) -> MemoryStore:
    for seed in range(4):
        backed_up(memory, sample(20, seed=seed))
    return memory


def checked(store: MemoryStore | Faulty, portion: Portion) -> CheckReport:
    with opened(store, SMALL) as repository:
        return repository.check(portion)


def scrubbed(store: MemoryStore | Faulty, place: Path, text: str) -> tuple[CheckReport, scrubbing.Scrubbed]:
    with scrubbing.scrub(place, "r", amount(text)) as scrub:
        report = checked(store, scrub)
    return report, scrub.result(report.packs)


def flip(store: MemoryStore, name: str) -> None:
    data = bytearray(store.objects[name])
    data[40] ^= 1
    store.objects[name] = bytes(data)


def test_runs_of_a_quarter_read_everything_once_in_four(store: MemoryStore, tmp_path: Path) -> None:
    place = tmp_path / "a/b/r.json"
    total = sum(name.startswith("data/") for name in store.objects)
    read = 0
    for run in range(1, 5):
        report, so_far = scrubbed(store, place, "25%")
        read += report.packs_read
        assert report.packs_read == -(-total // 4)
        assert so_far.unread == max(0, total - read), run
    assert so_far.since is not None
    assert place.stat().st_mode & 0o777 == 0o600
    assert os.listdir(place.parent) == ["r.json"]


def test_t30_what_is_damaged_is_found_in_its_turn_and_again(store: MemoryStore, tmp_path: Path) -> None:
    name = max(name for name in store.objects if name.startswith("data/"))
    flip(store, name)
    found = []
    for _ in range(12):
        report, so_far = scrubbed(store, tmp_path / "r.json", "13%")
        found.append([problem.object for problem in report.problems])
        assert so_far.since is None
    assert found[-1] == [name]
    assert found.count([name]) >= 2
    assert found == sorted(found, key=len)  # once found, found each time


def test_t27_an_outage_is_not_damage_and_what_was_read_is_remembered(store: MemoryStore, tmp_path: Path) -> None:
    place = tmp_path / "r.json"
    whole = sum(name.startswith("data/") for name in store.objects)
    failing = Faulty(store, nth("get", range(3, 100), Transient("503"), "data/"))
    with pytest.raises(RepositoryUnreachable):
        scrubbed(failing, place, "100%")
    report, so_far = scrubbed(store, place, "1%")
    assert report.problems == []
    assert so_far.unread == whole - 3  # two before the outage, one now


def test_a_cancelled_scrub_goes_on(store: MemoryStore, tmp_path: Path) -> None:
    class Impatient(NoProgress):
        def cancelled(self) -> None:
            raise Cancelled("enough")

    def run() -> None:
        with scrubbing.scrub(tmp_path / "r.json", "r", amount("100%")) as scrub, opened(store) as repository:
            repository.check(scrub, Impatient())

    with pytest.raises(Cancelled):
        run()
    with scrubbing.scrub(tmp_path / "r.json", "r", amount("1%")) as scrub:
        assert len(scrub.record.read) == 1


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b'{"repository":"other","read":{"00":1}}', b"[]"])
def test_t41_a_record_that_is_damaged_or_anothers_begins_anew(tmp_path: Path, content: bytes) -> None:
    place = tmp_path / "r.json"
    place.write_bytes(content)
    with scrubbing.scrub(place, "r", amount("1%")) as scrub:
        assert scrub.record == ScrubRecord(repository="r")


def test_a_place_that_cannot_be_written_to_is_told_before_reading(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageFailed, match=r"cannot be (read|written)"):
        scrubbing.scrub(tmp_path / "file/r.json", "r", amount("1%")).__enter__()


def test_a_full_read_reads_what_the_subsets_read(store: MemoryStore) -> None:
    parts = [checked(store, subset(f"{number}/3")) for number in (1, 2, 3)]
    with opened(store) as repository:
        whole = repository.check(True)
    assert sum(part.packs_read for part in parts) == whole.packs_read == whole.packs
    assert sum(part.bytes_read for part in parts) == whole.bytes_read


def test_a_bare_number_is_refused() -> None:
    with pytest.raises(UsageError, match=r"'20' says no amount; write a percentage or a size"):
        amount("20")
