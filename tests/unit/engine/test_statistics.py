"""What a repository's space goes to."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from snapvol.backend import Tree
from snapvol.engine.archiver import back_up
from snapvol.engine.manifest import VolumeMeta
from snapvol.engine.progress import Silent
from snapvol.engine.statistics import Statistics, statistics
from snapvol.errors import Damaged
from snapvol.model import now
from snapvol.repository import BlobKind
from snapvol.repository.plan import Limits
from snapvol.stores.base import Store
from snapvol.stores.local import LocalStore
from snapvol.stores.memory import MemoryStore
from support import needs
from support.repositories import created, opened, restic


def backed_up(store: Store, source: Path, name: str, identity: str = "") -> str:
    meta = VolumeMeta(id=identity or f"id-of-{name}", name=name, created=now(), taken=now())
    with opened(store) as repository:
        tree = Tree(root=source, identity="1", stable_inodes=True)
        return back_up(repository, tree, meta, parent=None, progress=Silent(), host="here").id


def counted(store: Store) -> Statistics:
    with opened(store) as repository, repository.lock():
        return statistics(repository, Silent())


@pytest.fixture
def store() -> MemoryStore:
    made = MemoryStore()
    created(made).close()
    return made


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """1,000 bytes that vol1 and vol10 share, 50,000 of vol1, 20,000 of vol10: none compressible."""
    shared = os.urandom(1000)
    for name, size in (("vol1", 50_000), ("vol10", 20_000)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "shared").write_bytes(shared)
        (tmp_path / name / "own").write_bytes(os.urandom(size))
    return tmp_path


def test_an_empty_repository(store: MemoryStore) -> None:
    found = counted(store)
    assert (found.backups, found.stored, found.compression, found.deduplication) == (0, 0, 0.0, 0.0)
    assert found.volumes == []
    assert found.growth == []


def test_each_volume_by_itself(store: MemoryStore, source: Path) -> None:
    """T1: vol1 and vol10 are two."""
    made = [backed_up(store, source / name, name) for name in ("vol1", "vol10", "vol1")]
    found = counted(store)
    one, ten = found.volumes
    assert [(it.volume, it.backups, it.size) for it in (one, ten)] == [("vol1", 2, 51_000), ("vol10", 1, 21_000)]
    assert 51_000 < one.stored < 54_000
    assert 21_000 < ten.stored < 24_000
    assert one.stored - one.unique == ten.stored - ten.unique == pytest.approx(1000, abs=60)
    assert found.logical == 51_000 + 21_000 + 51_000
    assert found.stored == sum(len(data) for name, data in store.objects.items() if name.startswith("data/"))
    assert found.deduplication == pytest.approx(found.logical / found.stored, abs=0.001)
    assert found.unneeded == 0
    assert [it.id for it in found.growth] == made
    assert [it.volume for it in found.growth] == ["vol1", "vol10", "vol1"]
    assert (found.growth[0].added or 0) > 50_000 > 20_000 > (found.growth[2].added or 0)


def test_volumes_of_one_name_and_two_identities_are_two(store: MemoryStore, source: Path) -> None:
    """T2."""
    backed_up(store, source / "vol1", "vol1", "a")
    backed_up(store, source / "vol10", "vol1", "b")
    assert [(it.volume_id, it.size) for it in counted(store).volumes] == [("a", 51_000), ("b", 21_000)]


def test_what_is_not_needed_is_what_a_prune_frees(store: MemoryStore, source: Path) -> None:
    doomed = backed_up(store, source / "vol1", "vol1")
    backed_up(store, source / "vol10", "vol10")
    with opened(store) as repository:
        for _ in range(20):
            repository.add(BlobKind.DATA, os.urandom(5000))  # a killed run
        repository.forget([doomed])
    said = counted(store).unneeded
    with opened(store) as repository:
        freed = repository.prune(Limits(unused_share=0.0), dry_run=False).bytes_freed
    assert said == pytest.approx(freed, abs=500)
    assert counted(store).unneeded == 0


def test_compression(store: MemoryStore, tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"".join(os.urandom(16).hex().encode() for _ in range(5000)))
    backed_up(store, tmp_path, "vol")
    assert 1.5 < counted(store).compression < 2.2


def test_what_stock_restic_made(tmp_path: Path, source: Path) -> None:
    """Without our tags and, before its version 0.17, without figures: the trees are asked."""
    needs.program("restic")
    path = tmp_path / "repository"
    local = LocalStore(path)
    created(local).close()
    for _ in range(2):
        restic(path, "backup", "--host", "other", source / "vol1")
    backed_up(local, source / "vol10", "vol10")
    theirs, ours = counted(local).volumes
    assert (theirs.volume, theirs.host, theirs.paths) == (None, "other", (str(source / "vol1"),))
    assert (theirs.backups, theirs.size, ours.size) == (2, 51_000, 21_000)
    assert counted(local).logical == 2 * 51_000 + 21_000
    assert theirs.unique > 50_000


@pytest.mark.parametrize("prefix", ["index/", "data/"])
def test_damage_is_no_zero(store: MemoryStore, source: Path, prefix: str) -> None:
    backed_up(store, source / "vol1", "vol1")
    for name in [name for name in store.objects if name.startswith(prefix)]:
        store.objects[name] = store.objects[name][:40] + b"x" + store.objects[name][41:]
    with pytest.raises(Damaged):
        counted(store)


def test_a_backup_that_cannot_be_read_is_not_counted(store: MemoryStore, source: Path) -> None:
    backed_up(store, source / "vol1", "vol1")
    damaged = backed_up(store, source / "vol10", "vol10")
    store.objects[f"snapshots/{damaged}"] = b"x" * 100
    with opened(store) as repository, repository.lock():
        assert statistics(repository, Silent()).backups == 1
        assert [name for name, _ in repository.damaged_snapshots] == [damaged]
