"""T30: indexes made anew from the packs, damaged packs put out of use, and nothing lost on the way."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest

from snapvol.errors import NotFound, RepositoryLocked, RepositoryUnreachable
from snapvol.repository import BlobKind, keys, unpacked
from snapvol.repository.ids import pack_name
from snapvol.repository.index import BlobIndex, index_file
from snapvol.repository.packs import PackedBlob
from snapvol.repository.writer import Writer
from snapvol.stores.base import Transient
from snapvol.stores.local import LocalStore
from snapvol.stores.memory import MemoryStore
from support import moto_s3, needs
from support.damage import damage, objects
from support.faults import Faulty, nth
from support.indexes import BLOBS, data_pack, problems, readable, repaired
from support.moto_s3 import MotoS3
from support.repositories import PASSWORD, SMALL, approved, back_up, backed_up, created, opened, restic, sample


@pytest.fixture
def store(memory: MemoryStore) -> MemoryStore:
    """Two backups of a file each, in about three packs and an index each."""
    for blobs in BLOBS.values():
        backed_up(memory, blobs)
    return memory


def test_a_sound_repository_is_left_as_it_is(store: MemoryStore) -> None:
    before = dict(store.objects)
    for read_data in (False, True):
        report = repaired(store, read_data=read_data)
        assert not report.needed
        assert bool(report.packs_read) is read_data
    assert store.objects == before


@pytest.mark.parametrize("kind", ["delete", "flip", "truncate", "empty", "lengthen", "duplicate"])
@pytest.mark.parametrize("which", ["one", "all"])
def test_a_damaged_or_lost_index_is_made_anew(store: MemoryStore, kind: str, which: str) -> None:
    indexes = objects(store, "index/")
    hit = indexes[:1] if which == "one" else indexes
    for name in hit:
        damage(store, name, kind)
    left = set(objects(store, "index/")) - set(indexes[len(hit) :])
    planned = repaired(store, dry_run=True)
    report = repaired(store)
    assert report == planned
    assert set(report.replaced_indexes) == (left - set(indexes) if kind == "duplicate" else left)
    assert report.lost_blobs == 0
    assert bool(report.entered_packs) is (kind != "duplicate")
    assert problems(store) == []
    assert readable(store) == {1, 2}
    assert set(indexes[len(hit) :]) <= store.objects.keys(), "what is sound is not written anew"
    assert not repaired(store, read_data=True).needed


def test_a_dry_run_changes_nothing(store: MemoryStore) -> None:
    damage(store, data_pack(store, 2), "flip")
    damage(store, objects(store, "index/")[0], "flip")
    before = dict(store.objects)
    assert repaired(store, read_data=True, dry_run=True).needed
    assert store.objects == before


@pytest.mark.parametrize("kind", ["flip", "truncate", "lengthen"])
@pytest.mark.parametrize("place", [0.2, 0.7])
def test_what_is_whole_in_a_damaged_pack_is_kept(store: MemoryStore, kind: str, place: float) -> None:
    name = data_pack(store, 1)
    damage(store, name, kind, place)
    report = repaired(store, read_data=kind == "flip")
    (found,) = report.damaged_packs
    assert found.name == name
    assert name not in store.objects
    assert found.kept > 0 or kind == "truncate"
    assert report.lost_blobs == found.blobs - found.kept
    assert (report.lost_blobs == 0) is (kind == "lengthen")
    left = problems(store)
    assert all(problem.startswith("data blob ") for problem in left)
    assert len(left) == report.lost_blobs
    assert readable(store) >= {2}
    backed_up(store, BLOBS[1])
    assert problems(store) == []
    assert readable(store) == {1, 2}


def test_a_damaged_header_loses_nothing(store: MemoryStore) -> None:
    """The index says what the pack holds, and every blob proves itself."""
    name = data_pack(store, 1)
    damage(store, name, "flip", 0.99)
    (found,) = repaired(store, read_data=True).damaged_packs
    assert found.kept == found.blobs > 0
    assert problems(store) == []
    assert readable(store) == {1, 2}


def test_a_damaged_header_without_an_index_is_left_alone(store: MemoryStore) -> None:
    name = data_pack(store, 1)
    damage(store, name, "flip", 0.99)
    for index in objects(store, "index/"):
        del store.objects[index]
    report = repaired(store)
    assert [pack.name for pack in report.left_packs] == [name]
    assert name in store.objects
    assert readable(store) == {2}
    assert not repaired(store).needed


def test_missing_packs_are_named_no_more_and_their_blobs_uploaded_again(store: MemoryStore) -> None:
    name = data_pack(store, 2)
    damage(store, name, "delete")
    report = repaired(store)
    assert [pack.name for pack in report.missing_packs] == [name]
    assert report.lost_blobs == report.missing_packs[0].blobs > 0
    assert all("is in no index" not in problem for problem in report.replaced_indexes.values())
    backed_up(store, BLOBS[2])
    assert problems(store) == []
    assert readable(store) == {1, 2}


def test_a_pack_under_another_name_gives_what_it_has_and_goes(store: MemoryStore) -> None:
    """Also the only copy: its blobs are whole, whatever it is called."""
    name = data_pack(store, 1)
    damage(store, name, "duplicate")
    (copy,) = [pack.name for pack in repaired(store, dry_run=True).damaged_packs]
    del store.objects[name]
    report = repaired(store)
    assert report.lost_blobs == 0
    assert copy not in store.objects
    assert problems(store) == []
    assert readable(store) == {1, 2}


def test_an_index_that_invents_is_replaced_by_what_the_pack_says(store: MemoryStore) -> None:
    """T44: a hostile index that is properly sealed."""
    key = next(keys.opened(store, PASSWORD))[1]
    pack = bytes.fromhex(data_pack(store, 1)[-64:])
    invented = PackedBlob(b"\7" * 32, BlobKind.DATA, 0, 2**24, 0)
    unpacked.write(store, key, "index", index_file([(pack, [invented])]))
    report = repaired(store)
    assert [found.name for found in report.entered_packs] == [data_pack(store, 1)]
    assert "is listed otherwise than its header says" in " ".join(report.replaced_indexes.values())
    assert problems(store) == []
    assert readable(store) == {1, 2}


def test_a_pack_that_is_no_plain_object_is_left_as_it_is(local: LocalStore, path: Path) -> None:
    """T44: somebody put a link there."""
    backed_up(local, BLOBS[1])
    name = data_pack(local, 1)
    (path / name).rename(path / "elsewhere")
    (path / name).symlink_to(path / "elsewhere")
    report = repaired(local, read_data=True)
    assert [pack.name for pack in report.left_packs] == [name]
    assert not report.needed
    assert (path / name).is_symlink()


# -- what is no damage ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", ["list", "get", "size"])
@pytest.mark.parametrize("prefix", ["data/", "index/"])
@pytest.mark.parametrize("turn", [1, 2])
def test_t27_an_outage_is_no_damage(store: MemoryStore, operation: str, prefix: str, turn: int) -> None:
    """Whatever does not answer: nothing is removed."""
    damage(store, data_pack(store, 2), "flip")
    damage(store, objects(store, "index/")[0], "flip")
    if operation == "size":
        damage(store, objects(store, "data/")[0], "delete")
    before = {name: data for name, data in store.objects.items() if not name.startswith("locks/")}
    failing = Faulty(store, nth(operation, [turn], Transient("503"), prefix))
    try:
        repaired(failing, read_data=True)
    except RepositoryUnreachable:
        assert before.items() <= store.objects.items()
    else:
        assert sum(call == operation and name.startswith(prefix) for call, name in failing.calls) < turn


def test_t27_a_listing_that_breaks_off_is_no_damage(store: MemoryStore) -> None:
    """It has told all of its entries when it fails: no answer is believed before its end."""
    before = dict(store.objects)
    for prefix in ("data/", "index/"):
        failing = Faulty(store, after=nth("list", [1], Transient("503"), prefix))
        with pytest.raises(RepositoryUnreachable):
            repaired(failing)
    assert store.objects == before


def test_t27_a_disk_that_went_away_is_no_damage(local: LocalStore, path: Path) -> None:
    backed_up(local, BLOBS[1])
    with opened(local) as repository:
        path.rename(path.with_name("away"))
        path.mkdir()
        with pytest.raises(RepositoryUnreachable):
            repository.repair_index()


def test_what_is_altered_on_the_way_is_no_damage(store: MemoryStore) -> None:
    """Each index and pack is read again before it is believed to be damaged."""

    class Liar(Faulty):
        def __init__(self) -> None:
            super().__init__(store)
            self.told: set[str] = set()

        def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
            data = super().get(name, offset, length)
            if name.startswith(("data/", "index/")) and name not in self.told:
                self.told.add(name)
                return data[:30] + bytes((data[30] ^ 1,)) + data[31:]
            return data

    before = dict(store.objects)
    assert not repaired(Liar(), read_data=True).needed
    assert store.objects == before


def test_t27_a_storage_that_contradicts_itself_is_not_believed(store: MemoryStore) -> None:
    before = {name for name in store.objects if not name.startswith("locks/")}
    failing = Faulty(store, nth("get", range(1, 100), NotFound("404"), "data/"))
    with pytest.raises(RepositoryUnreachable, match="is listed in memory, but cannot be read"):
        repaired(failing, read_data=True)
    assert store.objects.keys() == before


def test_t29_nobody_else_may_be_at_work(store: MemoryStore) -> None:
    damage(store, objects(store, "index/")[0], "flip")
    before = dict(store.objects)
    with opened(store) as other, other.lock(), pytest.raises(RepositoryLocked):
        repaired(store)
    assert store.objects == before


def test_without_a_lock_it_only_tells(store: MemoryStore) -> None:
    damage(store, objects(store, "index/")[0], "flip")
    before = dict(store.objects)
    with opened(store) as repository:
        repository.forgo_locks()
        assert repository.repair_index(dry_run=True).needed
        with pytest.raises(RepositoryLocked, match="--no-lock"):
            repository.repair_index()
    assert store.objects == before


def test_t29_a_lock_that_was_taken_away_ends_it_before_anything_is_removed(store: MemoryStore) -> None:
    damage(store, data_pack(store, 1), "flip")
    before = {name for name in store.objects if not name.startswith("locks/")}

    def thief(operation: str, name: str, turn: int) -> None:
        if operation == "put" and name.startswith("index/"):
            for lock in objects(store, "locks/"):
                del store.objects[lock]

    with pytest.raises(RepositoryLocked, match="somebody removed the lock"):
        repaired(Faulty(store, after=thief), read_data=True)
    assert before <= store.objects.keys()


# -- stock restic, S3 -------------------------------------------------------------------------------------------------


def test_restic_finds_nothing_wrong_afterwards(local: LocalStore, path: Path, tmp_path: Path) -> None:
    """A flipped bit, a lost pack, a damaged index: mended, backed up again, and both backups restored by restic."""
    needs.program("restic")
    snapshots = {1: backed_up(local, BLOBS[1])}
    index = next(local.list("index/")).name  # not the one that names the pack which goes
    snapshots[2] = backed_up(local, BLOBS[2])
    gone = data_pack(local, 2)
    for name, place in ((data_pack(local, 1), 500), (index, 50)):
        content = bytearray(local.get(name))
        content[place] ^= 1
        (path / name).chmod(0o600)
        (path / name).write_bytes(content)
    (path / gone).unlink()
    assert restic(path, "check", "--read-data", check=False).code != 0
    report = repaired(local, read_data=True)
    assert report.damaged_packs
    assert report.missing_packs
    for blobs in BLOBS.values():
        backed_up(local, blobs)
    approved(path)
    for seed, snapshot in snapshots.items():
        restic(path, "restore", snapshot, "--target", tmp_path / f"out{seed}")
        assert (tmp_path / f"out{seed}/volume/file").read_bytes() == b"".join(BLOBS[seed])


def test_restics_own_repository_is_mended(path: Path, tmp_path: Path) -> None:
    needs.program("restic")
    restic(path, "init", "--repository-version", "2")
    (tmp_path / "file").write_bytes(b"".join(BLOBS[1]))
    restic(path, "backup", tmp_path / "file")
    store = LocalStore(path)
    for entry in store.list("index/"):
        (path / entry.name).chmod(0o600)
        (path / entry.name).write_bytes(b"")
    assert repaired(store).lost_blobs == 0
    approved(path)


def test_on_s3(tmp_path: Path) -> None:
    with moto_s3.served(tmp_path) as moto:
        _on_s3(moto)


def _on_s3(moto: MotoS3) -> None:
    from snapvol.stores import open_store

    moto.bucket("repairs")
    store = open_store(moto.settings("s3://repairs/vol1"))
    created(store).close()
    for blobs in BLOBS.values():
        backed_up(store, blobs)
    store.delete([data_pack(store, 1), *(entry.name for entry in store.list("index/"))])
    report = repaired(store, read_data=True)
    assert len(report.entered_packs) > 2
    assert readable(store) == {2}
    with opened(store) as repository, repository.lock() as lock:
        repository.load_index()
        back_up(repository, lock, BLOBS[1])
    assert problems(store) == []


def test_T30_copies_in_packs_that_nobody_has_read_do_not_count(store: MemoryStore) -> None:
    """Of two copies one has a flipped bit that only --read-data would find; the other's pack has lost its header."""
    blobs = sample(8, size=3000, seed=77)
    backed_up(store, blobs)
    with opened(store) as repository, repository.lock():
        writer = Writer(store, repository._key, BlobIndex(), SMALL)
        for blob in blobs:
            writer.add(BlobKind.DATA, blob)
        writer.flush()
        writer.close()
    with opened(store) as repository:
        repository.load_index()
        bad, good = repository._index.find(BlobKind.DATA, sha256(blobs[0]).digest())
    content = bytearray(store.objects[pack_name(bad.pack)])
    content[bad.offset + bad.length // 2] ^= 1
    store.objects[pack_name(bad.pack)] = bytes(content)
    store.objects[pack_name(good.pack)] = store.objects[pack_name(good.pack)][:-40]
    repaired(store, read_data=False)
    with opened(store) as repository:
        repository.load_index()
        assert repository.read(BlobKind.DATA, sha256(blobs[0]).digest()) == blobs[0]
