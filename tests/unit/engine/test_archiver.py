from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from snapvol.backend import Tree
from snapvol.engine import manifest, reading
from snapvol.engine.archiver import back_up, latest_parent
from snapvol.engine.contents import Cutter
from snapvol.engine.descent import Descent
from snapvol.engine.files import Files
from snapvol.engine.manifest import VolumeMeta
from snapvol.engine.progress import Silent
from snapvol.engine.restorer import restore
from snapvol.errors import Cancelled, RepositoryUnreachable, StorageFailed
from snapvol.model import now
from snapvol.repository import Repository
from support.benches import Bench
from support.faults import Faulty, nth
from support.repositories import PASSWORD, SMALL, opened, sample
from support.trees import differences, directory, file, grow, look, symlink

pytestmark = pytest.mark.root  # trees have files of other owners

LATER = now() + timedelta(minutes=10)  # so that files made just now count as settled


def listing(bench: Bench, backup: str) -> dict[bytes, str]:
    bench.repository.load_index()
    return {path: entry.type for path, entry in reading.entries(bench.repository, backup, recursive=True)}


def test_a_backup_is_laid_out_as_the_design_says(bench: Bench, source: Path) -> None:
    grow(source, {b"a": file(b"1"), b"d": directory(), b"d/b": file(b"22"), b"l": symlink(b"a")})
    result = bench.back_up(source, "web")
    document = bench.document(result.id)
    top = reading.load_tree(bench.repository, document.tree)
    assert [entry.quoted for entry in top] == ["snapvol.json", "volume"]
    assert document.tags == ["snapvol", "volume=web", "volume-id=id-of-web"]
    assert (document.paths, document.hostname) == (["/snapvol/web"], "here")
    assert (result.files, result.dirs, result.bytes_total, result.new) == (3, 2, 3, 2)
    meta = reading.root(bench.repository, document).meta
    assert meta is not None
    assert (meta.id, meta.name, meta.problems) == ("id-of-web", "web", [])
    assert listing(bench, result.id) == {b"a": "file", b"d": "dir", b"d/b": "file", b"l": "symlink"}


def test_an_empty_volume_is_a_backup(bench: Bench, source: Path, target: Path) -> None:
    result = bench.back_up(source)
    assert (result.files, result.dirs, result.incomplete) == (0, 1, False)
    assert differences(look(source), look(bench.restore(result.id, target))) == []


# -- what is taken from the parent ------------------------------------------------------------------------------------


def test_unchanged_files_are_not_read_again(bench: Bench, source: Path, target: Path) -> None:
    grow(source, {b"same": file(b"1"), b"touched": file(b"2"), b"rewritten": file(b"3"), b"moved": file(b"4")})
    first = bench.back_up(source, taken=LATER)
    os.utime(source / "touched")
    (source / "rewritten").write_bytes(b"5")
    (source / "moved").rename(source / "renamed")
    (source / "new").write_bytes(b"6")
    second = bench.back_up(source, parent=first.id)
    assert (second.unmodified, second.changed, second.new) == (1, 2, 2)
    assert second.bytes_read == 4
    assert bench.document(second.id).parent == first.id
    assert differences(look(source), look(bench.restore(second.id, target))) == []


def test_a_file_written_twice_within_a_tick_is_read_again(bench: Bench, source: Path) -> None:
    """The kernel's clock stands still for milliseconds: size, mtime and ctime may all stay while contents change."""
    grow(source, {b"just-written": file(b"1")})
    first = bench.back_up(source)
    second = bench.back_up(source, parent=first.id)
    assert (second.unmodified, second.bytes_read) == (0, 1)


def test_copies_are_read_again_and_make_the_same_trees(bench: Bench, source: Path, tmp_path: Path) -> None:
    """A snapshot that is a copy has other inodes and change times: they prove nothing, and are left out."""
    plan = {b"a": file(b"1"), b"d": directory(), b"d/b": file(b"2")}
    grow(source, plan)
    copy = tmp_path / "copy"
    copy.mkdir()
    grow(copy, plan)
    first = bench.back_up(source, stable=False, taken=LATER)
    second = bench.back_up(copy, parent=first.id, stable=False)
    assert (second.unmodified, second.bytes_read, second.bytes_added) == (0, 2, 0)
    trees = [
        [
            entry.subtree
            for entry in reading.load_tree(bench.repository, reading.root(bench.repository, document).subtree)
        ]
        for document in (bench.document(first.id), bench.document(second.id))
    ]
    assert trees[0] == trees[1]


def test_a_file_whose_blobs_are_gone_is_read_again(bench: Bench, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grow(source, {b"a": file(b"1")})
    first = bench.back_up(source, taken=LATER)
    monkeypatch.setattr(Repository, "has", lambda *_: False)
    second = bench.back_up(source, parent=first.id)
    assert (second.unmodified, second.bytes_read) == (0, 1)


def test_a_parent_whose_data_is_lost_costs_time_only(bench: Bench, source: Path, target: Path) -> None:
    grow(source, {b"a": file(b"1"), b"d": directory(), b"d/b": file(b"2")})
    first = bench.back_up(source, taken=LATER)
    bench.store.delete([entry.name for prefix in ("index/", "data/") for entry in bench.store.list(prefix)])
    bench.reopened()
    second = bench.back_up(source, parent=first.id)
    assert (second.unmodified, second.bytes_read) == (0, 2)
    assert differences(look(source), look(bench.restore(second.id, target))) == []


def test_a_forgotten_parent_costs_time_only(bench: Bench, source: Path) -> None:
    grow(source, {b"a": file(b"1")})
    first = bench.back_up(source)
    bench.repository.forget([first.id])
    second = bench.back_up(source, parent=first.id)
    assert (second.new, second.problems) == (1, [])
    assert bench.document(second.id).parent is None


def test_t2_another_volume_of_the_same_name_is_no_parent(bench: Bench, source: Path) -> None:
    first = bench.back_up(source, "vol1")
    other = bench.back_up(source, "vol10")
    assert latest_parent(bench.repository, "id-of-vol1", "here") == first.id
    assert latest_parent(bench.repository, "id-of-vol10") == other.id
    assert latest_parent(bench.repository, "id-of-vol") is None
    assert latest_parent(bench.repository, "id-of-vol1", "elsewhere") is None


def test_t2_what_was_made_again_under_its_name_is_backed_up_anew(bench: Bench, source: Path, target: Path) -> None:
    grow(source, {b"file": file(b"of s1")})
    first = bench.back_up(source)
    (source / "file").unlink()
    grow(source, {b"file": file(b"of s2")})
    second = bench.back_up(source, parent=first.id)
    assert (bench.restore(second.id, target) / "file").read_bytes() == b"of s2"


# -- what goes wrong while it is read (T26) ---------------------------------------------------------------------------


def meddle(monkeypatch: pytest.MonkeyPatch, victim: bytes, act: Callable[[], None]) -> None:
    """Let something happen between the look at a file and its opening."""
    real = Files._open

    def opened_late(self: Files, place: Descent, name: bytes) -> int:
        if name == victim:
            act()
        return real(self, place, name)

    monkeypatch.setattr(Files, "_open", opened_late)


def replace_by_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def replace_by_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def replace_by_another(path: Path) -> None:
    path.rename(path.with_name("kept"))
    path.write_bytes(b"another")


def forbid(path: Path) -> None:
    raise PermissionError(13, "Permission denied")


def fail(path: Path) -> None:
    raise OSError(5, "Input/output error")


@pytest.mark.parametrize(
    ("act", "said", "kept"),
    [
        (Path.unlink, "it vanished while the backup was running", False),
        (replace_by_directory, "replaced by something else", False),
        (replace_by_fifo, "replaced by something else", False),
        (replace_by_another, "replaced by something else", False),
        (lambda path: path.write_bytes(b"longer than before"), "it changed while it was being read", True),
        (lambda path: path.write_bytes(b""), "it changed while it was being read", True),
        (lambda path: path.write_bytes(b"OTHER"), "it changed while it was being read", True),
        (forbid, "it cannot be read: Permission denied", False),
        (fail, "it cannot be read: Input/output error", False),
    ],
)
def test_t26_a_file_that_cannot_be_read_as_it_was_makes_the_backup_incomplete(
    bench: Bench,
    source: Path,
    target: Path,
    monkeypatch: pytest.MonkeyPatch,
    act: Callable[[Path], None],
    said: str,
    kept: bool,
) -> None:
    grow(source, {b"before": file(b"1"), b"victim": file(b"thing"), b"zz": file(b"2")})
    meddle(monkeypatch, b"victim", lambda: act(source / "victim"))
    result = bench.back_up(source)
    (problem,) = result.problems
    assert (problem.path, result.incomplete) == ("victim", True)
    assert said in problem.what
    document = bench.document(result.id)
    assert document.tags is not None
    assert "incomplete" in document.tags
    meta = reading.root(bench.repository, document).meta
    assert meta is not None
    assert meta.problems == [str(problem)]
    restored = bench.restore(result.id, target)
    assert {b"before", b"zz"} <= look(restored).keys()
    assert (b"victim" in look(restored)) == kept


def test_t26_a_large_file_that_shrinks_while_read(
    bench: Bench, source: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grow(source, {b"large": file(b"".join(sample(1, 6 << 20)))})
    real = Cutter.cut

    def cut(self: Cutter, fd: int, found: os.stat_result, *more: Any) -> object:
        os.truncate(source / "large", 1 << 20)
        return real(self, fd, found, *more)

    monkeypatch.setattr(Cutter, "cut", cut)
    result = bench.back_up(source)
    assert [str(problem) for problem in result.problems] == ["large: it changed while it was being read"]
    assert (bench.restore(result.id, target) / "large").stat().st_size == 1 << 20


def test_t26_a_directory_that_cannot_be_entered(bench: Bench, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grow(
        source,
        {b"closed": directory(mode=0o700), b"closed/in": file(b"1"), b"open": directory(), b"open/in": file(b"2")},
    )
    real = os.open

    def refuse(path: bytes, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if path == b"closed":
            raise PermissionError(13, "Permission denied")
        return real(path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", refuse)
    result = bench.back_up(source)
    monkeypatch.undo()
    assert [str(problem) for problem in result.problems] == ["closed: it cannot be read: Permission denied"]
    assert listing(bench, result.id) == {b"closed": "dir", b"open": "dir", b"open/in": "file"}


def test_t26_an_unlistable_root_is_an_error(bench: Bench, tmp_path: Path) -> None:
    with pytest.raises(StorageFailed, match="cannot be read: No such file"):
        bench.back_up(tmp_path / "absent")
    assert bench.repository.snapshots() == []


def test_names_in_problems_cannot_play_with_terminals(
    bench: Bench, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grow(source, {b"\x1b[31m\xff": file(b"1")})
    meddle(monkeypatch, b"\x1b[31m\xff", lambda: fail(source))
    assert bench.back_up(source).problems[0].path == "\\x1b[31m\\xff"


# -- the repository fails ---------------------------------------------------------------------------------------------


def test_t28_after_a_failure_at_any_object_the_next_run_finishes(bench: Bench, source: Path, target: Path) -> None:
    grow(source, {b"%03d" % number: file(data) for number, data in enumerate(sample(60, 9000))})
    count = Faulty(bench.store)
    with opened(count) as repository:
        bench.back_up(source, repository=repository)
    total = count.count("put")
    assert total > 6
    for turn in range(1, total + 1):
        bench.repository.close()
        fresh = Bench()
        fault = nth("put", [turn], RepositoryUnreachable("gone"))
        broken = Repository.open(Faulty(fresh.store, before=fault), PASSWORD, tuning=SMALL)
        with broken, pytest.raises(RepositoryUnreachable):
            bench.back_up(source, repository=broken)
        fresh.reopened()
        assert fresh.repository.snapshots() == []
        fresh.repository.unlock(remove_all=True)
        done = fresh.back_up(source)
        assert fresh.repository.check(read_data=True).problems == []
        place = target / str(turn)
        assert differences(look(source), look(fresh.restore(done.id, place))) == []
        fresh.repository.close()


def test_a_failing_upload_ends_the_backup_of_large_files(bench: Bench, source: Path) -> None:
    grow(source, {b"%d" % number: file(data) for number, data in enumerate(sample(30, 1 << 20))})
    broken = opened(Faulty(bench.store, before=nth("put", [5], RepositoryUnreachable("gone"))))
    with broken, pytest.raises(RepositoryUnreachable, match="gone"):
        bench.back_up(source, repository=broken)


class Impatient(Silent):
    def __init__(self, calls: int) -> None:
        self.left = calls

    def cancelled(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Cancelled("it was cancelled")


def test_a_cancelled_backup_leaves_no_snapshot(bench: Bench, source: Path) -> None:
    grow(source, {b"d%d" % number: directory() for number in range(9)})
    meta = VolumeMeta(id="1", name="v", created=now(), taken=now())
    tree = Tree(root=source, identity="1", stable_inodes=True)
    with pytest.raises(Cancelled):
        back_up(bench.repository, tree, meta, parent=None, progress=Impatient(5))
    assert bench.repository.snapshots() == []


class Counter(Silent):
    def __init__(self) -> None:
        self.totals: list[tuple[int, int]] = []
        self.done = [0, 0]

    def total(self, files: int, bytes: int) -> None:
        self.totals.append((files, bytes))

    def advance(self, bytes: int, files: int) -> None:
        self.done[0] += files
        self.done[1] += bytes


def test_progress_ends_where_it_said_it_would(bench: Bench, source: Path, target: Path) -> None:
    grow(source, {b"a": file(b"123"), b"d": directory(), b"d/b": file(5 << 20, b"x"), b"l": symlink(b"a")})
    counters = [Counter() for _ in range(3)]
    tree = Tree(root=source, identity="1", stable_inodes=True)
    meta = VolumeMeta(id="1", name="v", created=now(), taken=LATER)
    first = back_up(bench.repository, tree, meta, parent=None, progress=counters[0])
    second = back_up(bench.repository, tree, meta, parent=first.id, progress=counters[1])
    restore(bench.repository, second.id, target, progress=counters[2])
    assert second.unmodified == 2
    for counter in counters:
        assert counter.totals == [(3, (5 << 20) + 4)]
        assert counter.done == [3, (5 << 20) + 4]


# -- odds and ends ----------------------------------------------------------------------------------------------------


def test_t34_zeros_are_stored_once(bench: Bench, source: Path) -> None:
    grow(source, {b"hole": file(1 << 40), b"zeros": file(bytes(20 << 20))})
    result = bench.back_up(source)
    assert result.bytes_added <= 32 << 20
    assert sum(entry.size for entry in bench.store.list("data/")) < 100_000


def test_hard_links_are_read_once(bench: Bench, source: Path) -> None:
    grow(source, {b"one": file(b"12345")})
    for number in range(5):
        os.link(source / "one", source / f"link{number}")
    result = bench.back_up(source)
    assert (result.bytes_read, result.files, result.bytes_total) == (5, 6, 30)


def test_the_manifest_comes_back_and_later_fields_do_not_hurt() -> None:
    meta = VolumeMeta(
        id="1", name="v", created=now(), taken=now() - timedelta(hours=1), options={"size": "1G"}, labels={"a": "b"}
    )
    assert manifest.decode(manifest.encode(meta)) == meta
    later = msgspec.json.decode(manifest.encode(meta)) | {"invented": [1]}
    assert manifest.decode(msgspec.json.encode(later)) == meta
