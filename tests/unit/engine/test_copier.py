"""Backups copied to a second repository: whole or not at all, each once, and only what is new there."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from threading import Event

import pytest

from snapvol.engine.backup_repair import repair_backups
from snapvol.engine.base import base_backup
from snapvol.engine.copier import CopyResult, copy
from snapvol.engine.image_restorer import restore_image
from snapvol.engine.manifest import BackupKind
from snapvol.engine.progress import Silent
from snapvol.engine.restorer import restore
from snapvol.errors import Cancelled, RepositoryLocked, RepositoryUnreachable, SnapvolError, UsageError
from snapvol.model import now
from snapvol.repository import BlobKind, Repository
from snapvol.stores import open_store
from snapvol.stores.base import Store, Transient
from snapvol.stores.local import LocalStore
from snapvol.stores.memory import MemoryStore
from support import moto_s3, needs
from support.benches import Bench
from support.damage import damage, objects
from support.faults import Faulty, nth
from support.images import Backups, Disk
from support.mortal import deaths
from support.process import run
from support.repositories import SMALL, approved, back_up, backed_up, created, document, opened, restic, sample, tree
from support.trees import directory, file, grow

M = 1 << 20
NOISE = random.Random(11).randbytes(4 * M)
TESTS = Path(__file__).parents[2]


@pytest.fixture
def target() -> MemoryStore:
    store = MemoryStore()
    store.location = "there"
    created(store).close()
    return store


@pytest.fixture
def memory() -> MemoryStore:
    store = MemoryStore()
    created(store).close()
    return store


@pytest.fixture
def three(bench: Bench, source: Path) -> list[str]:
    """Two backups of ``wiki``, which share most, and one of ``db``, which shares all with the second."""
    grow(
        source,
        {b"d": directory(), b"d/big": file(NOISE), b"d/small": file(b"small" * 300), b"gone": file(b"gone" * 99)},
    )
    ids = [bench.back_up(source, "wiki", taken=now() - timedelta(days=3)).id]
    (source / "gone").unlink()
    (source / "new").write_bytes(b"new" * 500)
    ids.append(bench.back_up(source, "wiki", taken=now() - timedelta(days=2)).id)
    ids.append(bench.back_up(source, "db", taken=now() - timedelta(days=1)).id)
    return ids


def copied(source: Store, target: Store, chosen: list[str] | None = None, *, dry_run: bool = False) -> CopyResult:
    with opened(source) as one, opened(target) as other:
        return copy(one, other, chosen=chosen, dry_run=dry_run, progress=Silent())


def files(store: Store, backup: str, place: Path) -> dict[str, bytes]:
    place.mkdir()
    with opened(store) as repository:
        restore(repository, backup, place, progress=Silent())
    return {str(path.relative_to(place)): path.read_bytes() for path in place.rglob("*") if path.is_file()}


def problems(store: Store) -> list[str]:
    with opened(store) as repository:
        return [f"{found.object} {found.what}" for found in repository.check(True).problems]


def size(store: MemoryStore) -> int:
    return sum(len(data) for name, data in store.objects.items() if name.startswith("data/"))


def originals(store: Store) -> list[str | None]:
    with opened(store) as repository:
        return [document.original for _, document in repository.snapshots()]


def test_everything_and_then_nothing(bench: Bench, target: MemoryStore, three: list[str], tmp_path: Path) -> None:
    planned = copied(bench.store, target, dry_run=True)
    assert objects(target, "data/", "index/", "snapshots/") == []
    result = copied(bench.store, target)
    assert [item.backup.id for item in result.backups] == three
    assert [(item.pieces, item.bytes) for item in planned.backups] == [
        (item.pieces, item.bytes) for item in result.backups
    ]
    assert result.backups[0].bytes > 4 * M
    assert result.backups[2].bytes < 10_000, "nothing but what is said of the volume"
    assert originals(target) == three
    assert problems(target) == []
    assert size(target) < size(bench.store) * 1.01 + 10_000
    for number, item in enumerate(result.backups):
        assert item.new is not None
        wanted = files(bench.store, item.backup.id, tmp_path / f"a{number}")
        assert files(target, item.new, tmp_path / f"b{number}") == wanted
    with opened(target) as repository:
        for (_, made), (_, origin) in zip(repository.snapshots(), bench.repository.snapshots(), strict=True):
            assert (made.time, made.tags, made.tree, made.parent) == (origin.time, origin.tags, origin.tree, None)
    before = dict(target.objects)
    again = copied(bench.store, target)
    assert (again.backups, again.present) == ([], 3)
    assert target.objects == before


def test_named_ones_only(bench: Bench, target: MemoryStore, three: list[str]) -> None:
    result = copied(bench.store, target, [three[1]])
    assert [item.backup.id for item in result.backups] == [three[1]]
    rest = copied(bench.store, target)
    assert (len(rest.backups), rest.present) == (2, 1)
    assert rest.backups[0].bytes < 20_000


def test_a_copy_of_a_copy_is_known(bench: Bench, target: MemoryStore, three: list[str]) -> None:
    """Back to where it came from, and by way of a third repository."""
    copied(bench.store, target)
    assert copied(target, bench.store).backups == []
    third = MemoryStore()
    created(third).close()
    copied(target, third)
    assert originals(third) == three
    assert copied(bench.store, third).backups == []
    assert copied(third, bench.store).present == 3


def test_what_the_target_has_of_its_own_is_used_and_left(
    bench: Bench, target: MemoryStore, three: list[str], source: Path
) -> None:
    own = Bench()
    own.store.objects = target.objects
    own.repository = opened(target)
    own.back_up(source, "other")
    own.repository.close()
    before = dict(target.objects)
    result = copied(bench.store, target)
    assert sum(item.bytes for item in result.backups) < 30_000
    assert before.items() <= target.objects.items()
    assert problems(target) == []


def test_an_image_and_the_base_of_the_next(bench: Bench, target: MemoryStore, tmp_path: Path) -> None:
    disk = Disk(tmp_path / "disk", 12 * M)
    disk.write(M, NOISE[: 2 * M])
    backup = Backups(bench.repository, disk).run()
    (item,) = copied(bench.store, target).backups
    with opened(target) as repository:
        restore_image(repository, str(item.new), tmp_path / "out", progress=Silent())
        base = base_backup(repository, "id-of-disk", "thin/1", BackupKind.IMAGE)
    assert (tmp_path / "out").read_bytes() == disk.contents
    assert base is not None
    assert base.id == item.new
    assert backup.id == item.backup.id


# -- damage, outages, others ------------------------------------------------------------------------------------------


def test_t30_what_is_damaged_is_not_copied_and_the_rest_is(bench: Bench, target: MemoryStore, three: list[str]) -> None:
    with opened(bench.store) as repository:
        repository.load_index()
        gone = {blob for blob, data in _small(repository) if data == b"gone" * 99}
        (place,) = (repository.locate(BlobKind.DATA, blob) for blob in gone)
    name = f"data/{place.pack.hex()[:2]}/{place.pack.hex()}"
    content = bytearray(bench.store.objects[name])
    content[place.offset + 20] ^= 1
    bench.store.objects[name] = bytes(content)
    damage(bench.store, f"snapshots/{three[2]}", "flip")
    result = copied(bench.store, target)
    assert [(item.backup.id, item.new is None) for item in result.backups] == [(three[0], True), (three[1], False)]
    assert "is altered" in str(result.backups[0].failed)
    assert result.unreadable == [f"snapshots/{three[2]}"]
    assert originals(target) == [three[1]]
    assert problems(target) == []


def _small(repository: Repository) -> list[tuple[bytes, bytes]]:
    wanted = [blob.id for _, blob in repository._index.blobs() if blob.kind is BlobKind.DATA and blob.plain_length < M]
    return list(repository.read_many(BlobKind.DATA, wanted))


def test_t30_a_tree_that_a_failed_copy_had_seen_is_looked_into_again(memory: MemoryStore, target: MemoryStore) -> None:
    """The first backup fails below a directory that the second shares: what is below must come with the second."""
    with opened(memory) as repository, repository.lock() as lock:
        deep = repository.add(BlobKind.TREE, tree({"file": [repository.add(BlobKind.DATA, b"deep" * 99)[0]]}))[0]
        shared = repository.add(BlobKind.TREE, tree({}, {"deep": deep}))[0]
        broken = repository.add(BlobKind.TREE, tree({"lost": [b"\1" * 32]}))[0]
        bad = repository.add(BlobKind.TREE, tree({}, {"a": shared, "b": broken}))[0]
        good = repository.add(BlobKind.TREE, tree({}, {"a": shared}))[0]
        first = repository.commit_snapshot(document(bad), lock)
        second = repository.commit_snapshot(document(good), lock)
    result = copied(memory, target)
    assert {item.backup.id: item.failed is None for item in result.backups} == {first: False, second: True}
    assert problems(target) == []


@pytest.mark.parametrize("side", ["source", "target"])
@pytest.mark.parametrize("operation", ["list", "get", "size", "put"])
def test_t27_an_outage_at_any_call(
    bench: Bench, target: MemoryStore, three: list[str], side: str, operation: str
) -> None:
    """Never a backup that is not whole, and the next run completes."""
    turn = 0
    while True:
        turn += 1
        stores = {"source": MemoryStore(), "target": MemoryStore()}
        stores["source"].objects, stores["target"].objects = dict(bench.store.objects), dict(target.objects)
        failing: dict[str, Store] = {**stores, side: Faulty(stores[side], nth(operation, [turn], Transient("503")))}
        try:
            copied(failing["source"], failing["target"], three[:1])
        except RepositoryUnreachable:
            assert problems(stores["target"]) == []
            result = copied(stores["source"], stores["target"], three[:1])
            assert len(result.backups) + result.present == 1
            assert originals(stores["target"]) == three[:1]
        else:
            break
    assert turn > 1


@pytest.mark.parametrize("side", [0, 1])
def test_t29_nobody_may_delete_meanwhile(bench: Bench, target: MemoryStore, three: list[str], side: int) -> None:
    with opened((bench.store, target)[side]) as other, other.lock(exclusive=True), pytest.raises(RepositoryLocked):
        copied(bench.store, target)
    assert originals(target) == []


def test_others_may_back_up_meanwhile(bench: Bench, target: MemoryStore, three: list[str]) -> None:
    with opened(bench.store) as one, opened(target) as other, one.lock(), other.lock():
        assert len(copied(bench.store, target).backups) == 3


def test_onto_itself_is_refused(bench: Bench, three: list[str]) -> None:
    with pytest.raises(UsageError, match="are the same repository"):
        copied(bench.store, bench.store)


def test_a_cancelled_copy_leaves_no_half_backup(bench: Bench, target: MemoryStore, three: list[str]) -> None:
    class Impatient(Silent):
        bytes = 0

        def advance(self, bytes: int, files: int) -> None:
            self.bytes += bytes

        def cancelled(self) -> None:
            if self.bytes > M:
                raise Cancelled("enough")

    with opened(bench.store) as one, opened(target) as other, pytest.raises(Cancelled):
        copy(one, other, dry_run=False, progress=Impatient())
    assert originals(target) == []
    assert problems(target) == []
    copied(bench.store, target)
    assert originals(target) == three


def test_a_cancelled_copy_stores_nothing_once_it_has_ended(
    bench: Bench, target: MemoryStore, three: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """T28: its locks are gone then, and somebody may delete what nobody needs yet."""

    class Impatient(Silent):
        def advance(self, bytes: int, files: int) -> None:
            if large:
                assert begun.wait(60)
                raise Cancelled("enough")

    begun, ended = Event(), Event()
    large: list[bytes] = []  # pieces of the one file that has several
    with opened(bench.store) as one, opened(target) as other:
        add = other.add

        def slow(kind: BlobKind, data: bytes) -> tuple[bytes, bool]:
            if len(data) > 200_000:
                large.append(data)
            if len(large) < 2 or begun.is_set():
                return add(kind, data)
            begun.set()
            time.sleep(0.5)  # in which a copy that does not wait for it has long ended
            try:
                return add(kind, data)
            finally:
                ended.set()

        monkeypatch.setattr(other, "add", slow)
        with pytest.raises(Cancelled):
            copy(one, other, dry_run=False, progress=Impatient())
        assert ended.is_set()


# -- kills ------------------------------------------------------------------------------------------------------------


def test_t28_killed_after_every_change_on_the_target(memory: MemoryStore, target: MemoryStore) -> None:
    """A whole repository at any moment, and what was uploaded is used by the next run."""
    wanted = [backed_up(memory, sample(60, seed=seed)) for seed in (1, 2)]
    clean = MemoryStore()
    clean.objects = dict(target.objects)
    copied(memory, clean)
    turns = 0
    for left in deaths(target, lambda dying: copied(memory, dying)):
        turns += 1
        assert problems(left) == []
        uploaded = set(objects(left, "data/"))
        copied(memory, left)
        assert problems(left) == []
        assert sorted(map(str, originals(left))) == sorted(wanted)
        assert uploaded <= left.objects.keys()
        assert size(left) < size(clean) * 1.05 + 3 * SMALL.pack_size
    assert turns > 12


def test_t28_killed_after_every_change_on_the_source(memory: MemoryStore, target: MemoryStore) -> None:
    wanted = [backed_up(memory, sample(20, seed=seed)) for seed in (1, 2)]
    before = {name: data for name, data in memory.objects.items() if not name.startswith("locks/")}
    for left in deaths(memory, _into(target)):
        assert left.objects == before
        target.delete([entry.name for entry in target.list("locks/")])
        assert problems(target) == []
    assert sorted(map(str, originals(target))) == sorted(wanted)


def _into(target: MemoryStore) -> Callable[[Store], object]:
    return lambda dying: copied(dying, target)


PROGRAM = """
import sys
from pathlib import Path
from snapvol.engine.copier import copy
from snapvol.engine.progress import Silent
from snapvol.repository import Tuning
from snapvol.stores.local import LocalStore
from support.faults import Faulty, killer
from support.repositories import opened
source, target, turn = sys.argv[1:]
store = Faulty(LocalStore(Path(target)), after=killer("put", int(turn)))
with opened(LocalStore(Path(source))) as one, opened(store, Tuning(pack_size=40 << 10, index_after_packs=2)) as other:
    copy(one, other, dry_run=False, progress=Silent())
"""


def test_t28_a_real_kill_and_stock_restic(tmp_path: Path) -> None:
    needs.program("restic")
    source, path = LocalStore(tmp_path / "source"), tmp_path / "target"
    created(source).close()
    backed_up(source, sample(40))
    target = LocalStore(path)
    created(target).close()
    kills = 0
    for turn in (2, 3, 5):
        done = run(
            sys.executable, "-c", PROGRAM, tmp_path / "source", path, str(turn),
            env={"PYTHONPATH": str(TESTS)}, check=False,
        )  # fmt: skip
        assert done.code in (0, -9), done
        kills += done.code == -9
        with opened(target) as repository:
            repository.unlock()
        approved(path)
    assert kills >= 2
    copied(source, target)
    approved(path)
    assert len(originals(target)) == 1


# -- stock restic, S3 -------------------------------------------------------------------------------------------------


def test_restic_restores_copies_also_of_its_own(tmp_path: Path, source: Path) -> None:
    """And is told of when the two repositories' polynomials differ."""
    needs.program("restic")
    one, path = tmp_path / "one", tmp_path / "other"
    store, target = LocalStore(one), LocalStore(path)
    created(store).close()
    created(target).close()
    (source / "d").mkdir()
    (source / "d/big").write_bytes(NOISE)
    restic(one, "backup", source)
    backed_up(store, sample(10))
    result = copied(store, target)
    assert [item.failed for item in result.backups] == [None, None]
    assert "stock restic cuts files differently" in result.notes[0]
    approved(path)
    theirs = next(item for item in result.backups if item.backup.foreign)
    restic(path, "restore", str(theirs.new), "--target", tmp_path / "out")
    assert (tmp_path / "out" / str(source).lstrip("/") / "d/big").read_bytes() == NOISE
    ours = next(item for item in result.backups if not item.backup.foreign)
    restic(path, "restore", str(ours.new), "--target", tmp_path / "out2")
    assert (tmp_path / "out2/volume/file").read_bytes() == b"".join(sample(10))


def test_to_s3_and_back_(tmp_path: Path, memory: MemoryStore) -> None:
    backed_up(memory, sample(60))
    with moto_s3.served(tmp_path) as moto:
        moto.bucket("copies")
        target = open_store(moto.settings("s3://copies/vol1"))
        created(target).close()
        assert len(copied(memory, target).backups) == 1
        assert problems(target) == []
        back = MemoryStore()
        created(back).close()
        assert len(copied(target, back).backups) == 1
    with opened(back) as repository, repository.lock() as lock:
        repository.load_index()
        back_up(repository, lock, sample(60))
    assert problems(back) == []


def test_a_full_target_is_told(bench: Bench, target: MemoryStore, three: list[str]) -> None:
    """T39: and nothing is left there that counts."""
    from snapvol.errors import NoSpace

    full = Faulty(target, nth("put", range(3, 100), NoSpace("there is full", "free space there")))
    with pytest.raises(SnapvolError, match="full"):
        copied(bench.store, full)
    assert originals(target) == []
    copied(bench.store, target)
    assert originals(target) == three


def test_t30_what_a_repair_left_of_a_backup_is_not_copied_beside_the_whole_one(
    bench: Bench, target: MemoryStore, three: list[str]
) -> None:
    copied(bench.store, target)
    before = dict(target.objects)
    pack = max(objects(bench.store, "data/"), key=lambda name: len(bench.store.objects[name]))
    damage(bench.store, pack, "delete")
    with opened(bench.store) as repository:
        repository.repair_index()
    with opened(bench.store) as repository:
        made = repair_backups(repository, forget=True, dry_run=False, progress=Silent()).backups
    assert made
    assert all(item.new for item in made)
    result = copied(bench.store, target)
    assert (result.backups, result.present) == ([], 3)
    assert target.objects == before
