from __future__ import annotations

import os
import random
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from snapvol.engine import restorer
from snapvol.engine.progress import Silent
from snapvol.engine.restorer import PartlyRestored, restore
from snapvol.errors import AlreadyExists, Cancelled, Damaged, NoSpace, NotFound, Refused, StorageFailed, UsageError
from snapvol.repository import BlobKind, Repository
from support.benches import Bench
from support.process import run
from support.random_trees import plans
from support.repositories import sample
from support.trees import Entry, Plan, below, differences, directory, fell, file, grow, look, symlink

pytestmark = pytest.mark.root  # trees have files of other owners

NOISE = random.Random(1).randbytes(3 << 20)
PLAN: dict[bytes, Entry] = {
    b"a": file(b"1"),
    b"big": file(NOISE),
    b"d": directory(mode=0o750, mtime=5),
    b"d/b": file(b"22", mtime=6),
    b"d/e": directory(mtime=7),
    b"d/e/link": symlink(b"../../a"),
    b"twin": file(b"333"),
    b"d/twin": Entry("link", target=b"twin"),
}


def exactly(bench: Bench, backup: str, target: Path) -> int:
    return restore(bench.repository, backup, target, exact=True, progress=Silent()).removed


def test_counts_are_of_what_was_done(bench: Bench, source: Path, target: Path) -> None:
    grow(source, PLAN)
    backup = bench.back_up(source)
    result = restore(bench.repository, backup.id[:10], target, progress=Silent())
    assert (result.files, result.dirs, result.removed, result.problems, result.notes) == (6, 3, 0, [], [])
    assert result.bytes_written == backup.bytes_total - 3  # the other name of a file is not written
    assert differences(look(source), look(target)) == []


def test_t35_what_is_not_empty_is_not_touched(bench: Bench, source: Path, target: Path) -> None:
    grow(source, PLAN)
    backup = bench.back_up(source).id
    (target / "precious").write_text("x")
    with pytest.raises(Refused, match="is not empty"):
        bench.restore(backup, target)
    assert look(target).keys() == {b"", b"precious"}


def test_t36_a_target_or_backup_that_does_not_exist(bench: Bench, source: Path, tmp_path: Path) -> None:
    backup = bench.back_up(source).id
    with pytest.raises(NotFound, match=r"directory .*/absent does not exist"):
        restore(bench.repository, backup, tmp_path / "absent", progress=Silent())
    with pytest.raises(NotFound, match="no backup"):
        restore(bench.repository, "f" * 64, tmp_path, progress=Silent())


def test_t36_a_foreign_backup_of_nothing_fails(bench: Bench, target: Path) -> None:
    backup = bench.commit(b'{"nodes":[]}\n')
    with pytest.raises(StorageFailed, match="nothing was restored"):
        bench.restore(backup, target)


# -- a part of it -----------------------------------------------------------------------------------------------------


def part(bench: Bench, backup: str, target: Path, path: bytes, *, exact: bool = False) -> None:
    restore(bench.repository, backup, target, path=path, exact=exact, progress=Silent())


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (b"a", {b"", b"a"}),
        (b"/d/b", {b"", b"d", b"d/b"}),
        (b"d/e/", {b"", b"d", b"d/e", b"d/e/link"}),
        (b"d", {b"", b"d", b"d/b", b"d/e", b"d/e/link", b"d/twin"}),
    ],
)
def test_one_path_comes_with_the_directories_on_the_way(
    bench: Bench, source: Path, target: Path, path: bytes, expected: set[bytes]
) -> None:
    grow(source, PLAN)
    part(bench, bench.back_up(source).id, target, path)
    wanted, found = look(source), look(target)
    assert found.keys() == expected
    for name in expected - {b"", b"d/twin"}:
        assert differences({name: wanted[name]}, {name: found[name]}) == []


@pytest.mark.parametrize("path", [b"absent", b"d/absent", b"a/below-a-file", b"d/e/link/x", b"D"])
def test_t36_a_path_that_the_backup_does_not_have(bench: Bench, source: Path, target: Path, path: bytes) -> None:
    grow(source, PLAN)
    backup = bench.back_up(source).id
    for exact in (False, True):
        with pytest.raises(NotFound, match="the backup has no"):
            part(bench, backup, target, path, exact=exact)
    assert look(target).keys() == {b""}


@pytest.mark.parametrize("path", [b"../x", b"d/../a", b"d//b", b"./a", b"a\0"])
def test_t44_a_path_that_is_none(bench: Bench, source: Path, target: Path, path: bytes) -> None:
    grow(source, PLAN)
    with pytest.raises(UsageError, match="is not allowed"):
        part(bench, bench.back_up(source).id, target, path)


def test_one_path_in_place_touches_nothing_else(bench: Bench, source: Path) -> None:
    grow(source, PLAN)
    wanted = look(source)
    backup = bench.back_up(source).id
    (source / "d/b").write_bytes(b"changed")
    (source / "d/extra").write_bytes(b"stays: it is not below the path")
    (source / "d/e/extra").write_bytes(b"goes")
    os.utime(source / "d", ns=(5, 5))
    with pytest.raises(AlreadyExists, match="'d/b' exists in the target"):
        part(bench, backup, source, b"d/b")
    part(bench, backup, source, b"d/b", exact=True)
    part(bench, backup, source, b"d/e", exact=True)
    found = look(source)
    assert found.keys() - wanted.keys() == {b"d/extra"}
    assert differences({b"d/b": wanted[b"d/b"]}, {b"d/b": found[b"d/b"]}) == []
    assert differences(below(wanted, b"d/e"), below(found, b"d/e")) == []


def test_a_file_or_link_in_the_way_of_a_path_is_not_followed(
    bench: Bench, source: Path, target: Path, tmp_path: Path
) -> None:
    grow(source, PLAN)
    backup = bench.back_up(source).id
    outside = tmp_path / "outside"
    outside.mkdir()
    (target / "d").symlink_to(outside)
    for exact in (False, True):
        with pytest.raises(Refused, match="'d' in the target is not a directory"):
            part(bench, backup, target, b"d/b", exact=exact)
    assert look(outside).keys() == {b""}


# -- in place ---------------------------------------------------------------------------------------------------------


def test_t35_in_place_leaves_nothing_over_and_writes_only_what_differs(bench: Bench, source: Path) -> None:
    grow(source, PLAN)
    wanted = look(source)
    backup = bench.back_up(source).id
    (source / "ib_logfile1").write_bytes(b"stale log")
    grow(source, {b"junk": directory(), b"junk/deep": directory(), b"junk/deep/file": file(b"x")})
    with (source / "big").open("r+b") as out:
        out.seek(1 << 20)
        out.write(b"scribble")
    (source / "a").unlink()
    (source / "a").mkdir()
    result = restore(bench.repository, backup, source, exact=True, progress=Silent())
    assert differences(wanted, look(source)) == []
    assert result.removed == 7  # three are the twins, of which one cannot know whether they still belong together
    assert 1 << 19 <= result.bytes_written <= 6 << 20
    assert result.bytes_written + result.bytes_kept >= 3 << 20


def test_t35_what_is_equal_is_not_written(bench: Bench, source: Path) -> None:
    grow(source, {b"big": file(*sample(2, 3 << 20)), b"hole": file(5 << 20, b"x")})
    backup = bench.back_up(source).id
    result = restore(bench.repository, backup, source, exact=True, progress=Silent())
    assert (result.bytes_written, result.removed, result.files) == (0, 0, 2)


def test_t35_two_names_that_have_become_one_file_are_parted(bench: Bench, source: Path) -> None:
    grow(source, {b"one": file(b"1"), b"other": file(b"2")})
    wanted = look(source)
    backup = bench.back_up(source).id
    (source / "other").unlink()
    os.link(source / "one", source / "other")
    exactly(bench, backup, source)
    assert differences(wanted, look(source)) == []


@pytest.mark.parametrize("size", [512 << 10, 1 << 20, 4 << 20, 8 << 20])
def test_t34_a_file_that_is_one_piece_of_zeros_has_its_size_again(
    bench: Bench, source: Path, target: Path, size: int
) -> None:
    grow(source, {b"hole": file(size), b"zeros": file(bytes(size))})
    restored = bench.restore(bench.back_up(source).id, target)
    assert [(restored / name).stat().st_size for name in ("hole", "zeros")] == [size, size]


def test_t34_holes_come_back_in_place(bench: Bench, source: Path) -> None:
    grow(source, {b"hole": file(16 << 20, b"x")})
    wanted = look(source)
    backup = bench.back_up(source).id
    with (source / "hole").open("r+b") as out:
        out.write(os.urandom(16 << 20))
    exactly(bench, backup, source)
    assert differences(wanted, look(source)) == []


@pytest.mark.root
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
@given(plans(), plans())
def test_t35_any_tree_is_made_equal_to_any_other(
    bench: Bench, place: Path, monkeypatch: pytest.MonkeyPatch, before: Plan, after: Plan
) -> None:
    monkeypatch.setattr(restorer, "sync_filesystem", lambda _: None)  # nothing else differs here
    source, target = place / "exact-source", place / "exact-target"
    for path in (source, target):
        fell(path)
        path.mkdir()
    grow(source, after)
    grow(target, before)
    backup = bench.back_up(source).id
    exactly(bench, backup, target)
    again = restore(bench.repository, backup, target, exact=True, progress=Silent())
    wanted, found = look(source, settled=False), look(target, settled=False)
    for path in (source, target):
        fell(path)
    assert differences(wanted, found, holes=False) == []
    assert again.bytes_written <= sum(seen.size for seen in wanted.values() if seen.links > 1)


@pytest.fixture
def small_disk(target: Path) -> Iterator[Path]:
    path = target / "small-disk"
    path.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=4m,mode=755", "tmpfs", path)
    try:
        yield path
    finally:
        run("umount", path)


@pytest.mark.root
def test_a_full_target_says_so(bench: Bench, source: Path, small_disk: Path) -> None:
    grow(source, {b"one": file(NOISE), b"other": file(NOISE[::-1])})
    backup = bench.back_up(source).id
    with pytest.raises(NoSpace, match="no space left for"):
        bench.restore(backup, small_disk)


@pytest.mark.root
def test_a_mounted_filesystem_can_be_the_target_itself(bench: Bench, source: Path, small_disk: Path) -> None:
    grow(source, {b"a": file(b"1")})
    (small_disk / "extra").write_text("x")
    assert exactly(bench, bench.back_up(source).id, small_disk) == 1
    assert look(small_disk).keys() == {b"", b"a"}


@pytest.mark.root
def test_t9_what_is_mounted_in_the_target_is_not_emptied(
    bench: Bench, source: Path, target: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (small_disk / "precious").write_text("x")
    (target / "extra").write_text("x")
    grow(source, {b"other": file()})
    without = bench.back_up(source).id
    grow(source, {b"small-disk": directory()})
    within = bench.back_up(source).id
    for backup in (without, within):
        with pytest.raises(Refused, match="small-disk is mounted in"):
            exactly(bench, backup, target)
        assert look(target).keys() == {b"", b"extra", b"small-disk", b"small-disk/precious"}
    # A btrfs subvolume is another filesystem that is no mount.
    monkeypatch.setattr(restorer, "mounted_below", lambda _: [])
    for backup in (without, within):
        with pytest.raises(Refused, match="'small-disk' in the target is another filesystem"):
            exactly(bench, backup, target)
        assert (small_disk / "precious").exists()


# -- damage (T30) -----------------------------------------------------------------------------------------------------


def spoil(bench: Bench, backup: str, path: bytes, number: int = 0) -> None:
    """Flip a bit of one blob of a file in the store."""
    from snapvol.engine import reading

    bench.repository.load_index()
    start = reading.root(bench.repository, bench.document(backup))
    content = reading.find(bench.repository, start, path)[-1].content
    assert content
    place = bench.repository.locate(BlobKind.DATA, bytes.fromhex(content[number]))
    name = f"data/{place.pack.hex()[:2]}/{place.pack.hex()}"
    data = bytearray(bench.store.get(name))
    data[place.offset + place.length // 2] ^= 1
    bench.store.delete([name])
    bench.store.put(name, bytes(data))
    bench.reopened()


def test_t30_everything_but_the_damaged_file_is_restored(bench: Bench, source: Path, target: Path) -> None:
    grow(source, PLAN)
    backup = bench.back_up(source).id
    spoil(bench, backup, b"big", -1)
    spoil(bench, backup, b"twin")
    with pytest.raises(PartlyRestored, match=r"not restored: .* and 2 more") as caught:
        bench.restore(backup, target)
    result = caught.value.result
    assert {problem.path for problem in result.problems} == {"big", "twin", "d/twin"}
    assert all("blob" in problem.what for problem in result.problems)
    wanted = {path: seen for path, seen in look(source).items() if path not in (b"big", b"twin", b"d/twin")}
    assert differences(wanted, look(target)) == []


def test_t30_a_lost_directory_is_named_and_its_neighbours_are_restored(
    bench: Bench, source: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grow(source, PLAN)
    backup = bench.back_up(source).id
    bench.repository.load_index()
    from snapvol.engine import reading

    start = reading.root(bench.repository, bench.document(backup))
    lost = reading.find(bench.repository, start, b"d")[-1].subtree
    real = Repository.read

    def read(self: Repository, kind: BlobKind, blob: bytes) -> bytes:
        if blob.hex() == lost:
            raise Damaged("tree blob is altered")
        return real(self, kind, blob)

    monkeypatch.setattr(Repository, "read", read)
    with pytest.raises(PartlyRestored, match="d: what it holds is lost: tree blob is altered"):
        bench.restore(backup, target)
    assert look(target).keys() == {b"", b"a", b"big", b"d", b"twin"}
    (target / "d/keep").write_bytes(b"what the backup cannot know about is not removed")
    with pytest.raises(PartlyRestored):
        exactly(bench, backup, target)
    assert (target / "d/keep").exists()


# -- metadata ---------------------------------------------------------------------------------------------------------


def test_without_root_owners_are_left_out_and_that_is_said(
    bench: Bench, source: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grow(source, PLAN)
    backup = bench.back_up(source).id

    def chown(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "chown", chown)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    result = restore(bench.repository, backup, target, progress=Silent())
    monkeypatch.undo()
    assert result.notes == ["the owner was not set (only root can): 8 entries, the first is 'd/e/link'"]
    assert result.problems == []


def test_attributes_that_the_target_does_not_take_are_noted(
    bench: Bench, source: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grow(source, {b"a": file(b"1", xattrs={"user.x": b"1"})})
    backup = bench.back_up(source).id

    def setxattr(*_: object, **__: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "setxattr", setxattr)
    result = restore(bench.repository, backup, target, progress=Silent())
    assert result.notes == ["attribute user.x was not set (Operation not supported): 'a'"]


def test_a_default_acl_of_the_target_does_not_leak_into_files(bench: Bench, source: Path, target: Path) -> None:
    from support.trees import SAMPLE_ACL

    grow(source, PLAN)
    os.setxattr(target, "system.posix_acl_default", SAMPLE_ACL)
    backup = bench.back_up(source).id
    bench.restore(backup, target)
    assert differences(look(source), look(target)) == []


class Impatient(Silent):
    def __init__(self, calls: int) -> None:
        self.left = calls

    def cancelled(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Cancelled("it was cancelled")


def test_a_restore_can_be_cancelled(bench: Bench, source: Path, target: Path) -> None:
    grow(source, PLAN)
    backup = bench.back_up(source).id
    with pytest.raises(Cancelled):
        restore(bench.repository, backup, target, progress=Impatient(2))


def test_batches_do_not_show(bench: Bench, source: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from snapvol.engine import rebuild, scatter

    monkeypatch.setattr(scatter, "MOST_WANTED", 2)
    monkeypatch.setattr(scatter, "_OPEN", 2)
    monkeypatch.setattr(rebuild, "_MOST_WAITING", 2)
    plan = dict(PLAN)
    for number in range(30):
        plan[b"dir%d" % number] = directory(mtime=number, mode=0o555)
        plan[b"dir%d/file" % number] = file(*sample(2, 300_000, number), mtime=number)
    grow(source, plan)
    backup = bench.back_up(source).id
    bench.restore(backup, target)
    assert differences(look(source), look(target)) == []
    assert stat.S_IMODE((target / "dir1").stat().st_mode) == 0o555
