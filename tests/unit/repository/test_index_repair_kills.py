"""T28: a repair of indexes that is killed at any moment loses nothing, and the next one finishes it."""

from __future__ import annotations

import sys
from hashlib import sha256
from pathlib import Path

import pytest

from snapvol.repository import BlobKind
from snapvol.repository.packs import PackedBlob
from snapvol.stores.base import Store
from snapvol.stores.local import LocalStore
from snapvol.stores.memory import MemoryStore
from support import needs
from support.damage import damage, objects
from support.indexes import BLOBS, data_pack, problems, readable, repaired
from support.mortal import deaths
from support.process import run
from support.repositories import approved, back_up, backed_up, opened, sample

TESTS = Path(__file__).parents[2]


@pytest.fixture
def store(memory: MemoryStore) -> MemoryStore:
    """Two backups of a file each, in about three packs and an index each."""
    for blobs in BLOBS.values():
        backed_up(memory, blobs)
    return memory


def test_t28_killed_after_every_change(store: MemoryStore) -> None:
    """What could be read before can be read at any moment, nothing undamaged is lost, and the next run finishes."""
    spoilt = {"data": data_pack(store, 1), "gone": data_pack(store, 2)}
    damage(store, spoilt["data"], "flip")
    damage(store, spoilt["gone"], "delete")
    damage(store, objects(store, "index/")[1], "flip")
    with opened(store) as repository, repository.lock() as lock:  # a third, so that an index stays
        repository.load_index()
        back_up(repository, lock, sample(5, seed=3), name="third")
    before = blobs_read(store)
    sound = {name for name in objects(store, "data/", "snapshots/") if name != spoilt["data"]}
    turns = 0
    for left in deaths(store, lambda dying: repaired(dying, read_data=True)):
        turns += 1
        assert sound <= left.objects.keys()
        assert blobs_read(left) >= before
        _assert_that_a_backup_relies_on_nothing_damaged(left)
        repaired(left, read_data=True)
        assert blobs_read(left) >= before
        assert not repaired(left, read_data=True).needed
        for seed, blobs in BLOBS.items():
            with opened(left) as repository, repository.lock() as lock:
                repository.load_index()
                back_up(repository, lock, blobs, name=f"again{seed}")
        assert problems(left) == []
    assert turns > 8


def _assert_that_a_backup_relies_on_nothing_damaged(left: MemoryStore) -> None:
    """A backup straight after the kill uploads what no index names, though the damaged pack may still lie there."""
    store = MemoryStore()
    store.objects = dict(left.objects)
    with opened(store) as repository, repository.lock() as lock:
        named = {blob.id for pack, blob in _indexed(store)}
        repository.load_index()
        for seed, blobs in BLOBS.items():
            back_up(repository, lock, blobs, name=f"again{seed}")
    wanted = {sha256(blob).digest() for blobs in BLOBS.values() for blob in blobs}
    assert blobs_read(store) >= wanted - named


def _indexed(store: Store) -> list[tuple[bytes, PackedBlob]]:
    with opened(store) as repository:
        repository.load_index()  # without a lock, so nothing is taken in
        return list(repository._index.blobs())


def blobs_read(store: Store) -> set[bytes]:
    """Return the ids of all data blobs of the backups that can be read."""
    with opened(store) as repository:
        repository.load_index()
        wanted = [sha256(blob).digest() for blobs in (*BLOBS.values(), sample(5, seed=3)) for blob in blobs]
        return {blob for blob, _ in repository.read_many(BlobKind.DATA, wanted, lambda *_: None)}


PROGRAM = """
import sys
from pathlib import Path
from snapvol.stores.local import LocalStore
from support.faults import Faulty, killer
from support.repositories import opened
path, operation, turn = sys.argv[1:]
with opened(Faulty(LocalStore(Path(path)), after=killer(operation, int(turn)))) as repository:
    repository.repair_index(read_data=True)
"""


@pytest.mark.parametrize(("operation", "turn"), [("put", 2), ("put", 4), ("delete", 1), ("delete", 2), ("delete", 3)])
def test_t28_a_real_kill_and_stock_restic(local: LocalStore, path: Path, operation: str, turn: int) -> None:
    """Whatever it had come to: the next run finishes it, and stock restic finds nothing wrong."""
    needs.program("restic")
    for blobs in BLOBS.values():
        backed_up(local, blobs)
    name = data_pack(local, 1)
    content = bytearray(local.get(name))
    content[-100] ^= 1  # in its header: nothing is lost
    (path / name).chmod(0o600)
    (path / name).write_bytes(content)
    argv = (sys.executable, "-c", PROGRAM, path, operation, str(turn))
    assert run(*argv, env={"PYTHONPATH": str(TESTS)}, check=False).code == -9
    assert readable(local) == {1, 2}
    with opened(local) as repository:
        repository.unlock()
    assert repaired(local, read_data=True).lost_blobs == 0
    assert not repaired(local, read_data=True).needed
    assert readable(local) == {1, 2}
    approved(path)
