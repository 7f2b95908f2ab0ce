"""Backups of what storage says has changed, held against backups of everything: they must be the very same."""

from __future__ import annotations

import os
import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from snapvol.backend import Change, ChangeKind
from snapvol.engine import reading
from snapvol.engine.archiver import BackupResult, back_up
from snapvol.engine.base import BaseBackup, base_backup
from snapvol.engine.manifest import BackupKind, VolumeMeta
from snapvol.engine.node import Node
from snapvol.engine.progress import Silent
from snapvol.engine.restorer import restore
from snapvol.engine.sample import Sample
from snapvol.engine.verifier import verify
from snapvol.errors import BaseMismatch
from snapvol.model import Snapshot, Volume
from snapvol.repository import BlobKind, Repository
from snapvol.stores.local import LocalStore
from support import edits
from support.process import run
from support.repositories import approved, created, opened
from support.storage import Pool
from support.trees import differences, look

pytestmark = pytest.mark.root
MIB = 1 << 20


class Backups:
    """A volume's backups in a repository of its own.

    Attributes:
        base: the last one that was built on changes, and its snapshot.
    """

    def __init__(self, repository: Repository, pool: Pool, volume: Volume) -> None:
        self.repository = repository
        self.pool = pool
        self.volume = volume
        self.base: tuple[BackupResult, Snapshot] | None = None
        self._count = 0

    @property
    def data(self) -> Path:
        return self.pool.backend.mountpoint(self.volume)

    def snapshot(self) -> Snapshot:
        self._count += 1
        return self.pool.snapshot(self.volume, f"s{self._count}")

    def run(self, snapshot: Snapshot, changes: Iterable[Change] | None = None) -> BackupResult:
        """Back a snapshot up: from ``changes`` since the base, or else everything."""
        meta = VolumeMeta(
            id=self.volume.id,
            name=self.volume.name,
            created=self.volume.created,
            taken=snapshot.created,
            source=snapshot.id,
        )
        base = None
        if changes is not None and self.base is not None:
            base = BaseBackup(id=self.base[0].id, source=self.base[1].id)
        with self.pool.backend.open_snapshot(snapshot) as tree:
            return back_up(
                self.repository, tree, meta, parent=None, progress=Silent(), host="here", base=base, changes=changes
            )

    def tracked(self) -> tuple[BackupResult, Snapshot]:
        """Snapshot the volume and back up what has changed since the base; the first time, everything."""
        snapshot = self.snapshot()
        changes = None
        if self.base is not None:
            changes = self.pool.backend.changes(self.base[1], snapshot)
            assert changes is not None
        result = self.run(snapshot, changes)
        assert result.notes == []
        assert (result.base is None) is (self.base is None)
        self.base = (result, snapshot)
        return result, snapshot

    def compared(self) -> BackupResult:
        """Do as `tracked`, and hold the backup against one of everything."""
        result, snapshot = self.tracked()
        whole = self.run(snapshot)
        assert self.root(result) == self.root(whole), "another tree"
        for figure in ("files", "dirs", "bytes_total", "incomplete"):
            assert getattr(result, figure) == getattr(whole, figure), figure
        assert result.new + result.changed + result.unmodified == whole.new
        return result

    def root(self, result: BackupResult) -> Node:
        self.repository.load_index()
        root = reading.root(self.repository, self.repository.find_snapshot(result.id)[1]).node
        assert root is not None
        return root


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Repository]:
    store = LocalStore(tmp_path / "repository")
    created(store).close()
    with opened(store) as repository:
        yield repository


@pytest.fixture
def web(subvolumes: Pool, repository: Repository) -> Backups:
    return Backups(repository, subvolumes, subvolumes.volume("web"))


_numbers = iter(range(10**9))


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(script=edits.edits(), more=edits.edits(6))
def test_the_backup_of_what_changed_is_the_backup_of_everything(
    subvolumes: Pool, repository: Repository, script: Sequence[edits.Edit], more: Sequence[edits.Edit]
) -> None:
    web = Backups(repository, subvolumes, subvolumes.volume(f"web{next(_numbers)}"))
    edits.grown(web.data, 1)
    web.compared()
    for edit in (script, more, ()):
        edits.apply(web.data, edit)
        result = web.compared()
    assert result.bytes_read == result.bytes_checked
    assert (result.new, result.changed) == (0, 0)
    subvolumes.backend.destroy(web.volume)


def test_stock_restic_finds_nothing_wrong_and_all_comes_back(web: Backups, tmp_path: Path) -> None:
    chance = random.Random(1)
    edits.grown(web.data, 1)
    (web.data / "database").write_bytes(chance.randbytes(12 * MIB))
    web.tracked()
    for _ in range(3):
        with (web.data / "database").open("r+b") as file:
            file.seek(chance.randrange(12 * MIB))
            file.write(chance.randbytes(3000))
        (web.data / "deep" / "new").write_bytes(chance.randbytes(20))
        result, _ = web.tracked()
    approved(tmp_path / "repository")
    target = tmp_path / "restored"
    target.mkdir()
    restore(web.repository, result.id, target, progress=Silent())
    assert differences(look(web.data), look(target)) == []


def test_what_is_read_is_in_proportion_to_what_changed(web: Backups) -> None:
    noise = random.Random(1).randbytes(48 * MIB)
    (web.data / "database").write_bytes(noise)
    for number in range(200):
        (web.data / f"d{number}").mkdir()
        (web.data / f"d{number}" / "f").write_bytes(noise[number : number + 2000])
    web.tracked()
    with (web.data / "database").open("r+b") as file:
        file.seek(20 * MIB)
        file.write(b"4 KiB" * 800)
    result = web.compared()
    assert result.bytes_read - result.bytes_checked < 9 * MIB
    assert result.bytes_checked <= 16 * MIB
    assert (result.new, result.changed, result.unmodified, result.dirs) == (0, 1, 200, 201)
    with (web.data / "database").open("ab") as file:
        file.write(b"more" * 1000)
    assert web.compared().bytes_read < 26 * MIB
    os.truncate(web.data / "database", 30 * MIB)
    assert web.compared().bytes_read < 26 * MIB


@pytest.mark.parametrize(
    "meddle",
    [
        pytest.param(lambda data: (data / "d" / "f").write_bytes(b"x" * 5000), id="contents"),
        pytest.param(lambda data: (data / "d" / "f").chmod(0o700), id="mode"),
        pytest.param(lambda data: (data / "d" / "new").write_bytes(b""), id="entries"),
        pytest.param(lambda data: (data / "d" / "f").unlink(), id="gone"),
        pytest.param(lambda data: os.utime(data / "d"), id="times"),
    ],
)
def test_a_wrong_answer_is_found_by_the_sample(web: Backups, meddle: object) -> None:
    """With so few files, all of them are looked at again."""
    (web.data / "d").mkdir()
    (web.data / "d" / "f").write_bytes(random.Random(1).randbytes(5000))
    web.tracked()
    assert callable(meddle)
    meddle(web.data)
    before = len(web.repository.snapshots())
    with pytest.raises(BaseMismatch, match=r"volume 'web': 'd.*though the storage says that nothing has changed"):
        web.run(web.snapshot(), [])
    assert len(web.repository.snapshots()) == before


def test_a_wrong_answer_about_ranges_is_found_by_the_sample(web: Backups) -> None:
    noise = random.Random(1).randbytes(12 * MIB)
    (web.data / "database").write_bytes(noise)
    web.tracked()
    (web.data / "database").write_bytes(noise[: 3 * MIB] + noise[: 3 * MIB : -1])
    lie = [Change(path=b"database", kind=ChangeKind.MODIFIED, ranges=((0, 4096),))]
    with pytest.raises(BaseMismatch, match=r"'database' from byte \d+ on differs from backup"):
        web.run(web.snapshot(), lie)


def test_a_nested_subvolume_is_no_wrong_answer(web: Backups) -> None:
    (web.data / "d").mkdir()
    run("btrfs", "subvolume", "create", web.data / "d" / "nested")
    web.tracked()
    for _ in range(3):
        result, _ = web.tracked()
        assert result.dirs == 3
    run("btrfs", "subvolume", "delete", web.data / "d" / "nested")


def test_what_the_repository_has_lost_is_stored_again(
    web: Backups, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """T30: also where it lies in a directory in which nothing has changed."""
    monkeypatch.setattr(Sample, "check", lambda *_: None)  # not by luck
    edits.grown(web.data, 1)
    first, _ = web.tracked()
    web.repository.load_index()
    ((_, victim),) = reading.entries(web.repository, first.id, b"deep/er/x")
    assert victim.content
    pack = web.repository.locate(BlobKind.DATA, bytes.fromhex(victim.content[-1])).pack.hex()
    (tmp_path / "repository" / "data" / pack[:2] / pack).unlink()
    web.repository = opened(LocalStore(tmp_path / "repository"))
    (web.data / "deep" / "new").write_bytes(b"")
    snapshot = web.snapshot()
    assert web.base is not None
    result = web.run(snapshot, web.pool.backend.changes(web.base[1], snapshot))
    assert verify(web.repository, result.id, Silent()).problems == []
    assert web.root(result) == web.root(web.run(snapshot))


def test_a_base_is_found_by_the_identity_of_its_snapshot(web: Backups) -> None:
    """T2."""
    (web.data / "f").write_bytes(b"x")
    result, snapshot = web.tracked()

    def found(source: str, kind: BackupKind = BackupKind.FILES, host: str = "here") -> str | None:
        base = base_backup(web.repository, web.volume.id, source, kind, host=host)
        return base.id if base is not None else None

    assert found(snapshot.id) == result.id
    assert found("another") is None
    assert found(snapshot.id, BackupKind.IMAGE) is None
    assert found(snapshot.id, host="elsewhere") is None


def test_a_base_that_does_not_fit_costs_a_look_and_is_said(web: Backups) -> None:
    (web.data / "f").write_bytes(b"x")
    first, snapshot = web.tracked()
    for why, base in {
        "it is of another snapshot": BaseBackup(id=first.id, source="another"),
        "it is gone or damaged": BaseBackup(id="f" * 64, source=snapshot.id),
    }.items():
        meta = VolumeMeta(id=web.volume.id, name="web", created=web.volume.created, taken=snapshot.created)
        with web.pool.backend.open_snapshot(snapshot) as tree:
            result = back_up(
                web.repository, tree, meta, parent=None, progress=Silent(), host="here", base=base, changes=[]
            )
        (note,) = result.notes
        assert note.startswith(f"everything is read: backup {base.id[:8]} is no base any more, {why}")
        assert web.root(result) == web.root(first)
