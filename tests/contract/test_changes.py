"""What storage says has changed between two snapshots, held against both: nothing that differs may be missing."""

from __future__ import annotations

import mmap
import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from snapvol import shell
from snapvol.backend import Change, ChangeKind
from snapvol.backends import sendchanges, sendstream, subvolume
from snapvol.errors import StorageFailed
from snapvol.model import Snapshot, Volume
from support import edits
from support.process import run
from support.storage import Pool

pytestmark = pytest.mark.root
MIB = 1 << 20
ADDED, REMOVED, MODIFIED = ChangeKind.ADDED, ChangeKind.REMOVED, ChangeKind.MODIFIED


@pytest.fixture
def pool(subvolumes: Pool) -> Pool:
    return subvolumes


@pytest.fixture
def web(pool: Pool) -> Volume:
    return pool.volume("web")


def data(pool: Pool, volume: Volume) -> Path:
    return pool.backend.mountpoint(volume)


def root(pool: Pool, snapshot: Snapshot) -> Path:
    with pool.backend.open_snapshot(snapshot) as tree:
        return tree.root


def told(pool: Pool, base: Snapshot, snapshot: Snapshot) -> dict[bytes, Change]:
    found = pool.backend.changes(base, snapshot)
    assert found is not None
    listed = list(found)
    assert len({change.path for change in listed}) == len(listed)
    return {change.path: change for change in listed}


def facts(path: bytes) -> tuple[object, ...]:
    found = os.lstat(path)
    kind = stat.S_IFMT(found.st_mode)
    names = os.listxattr(path, follow_symlinks=False)
    attributes = {name: os.getxattr(path, name, follow_symlinks=False) for name in names}
    target = os.readlink(path) if kind == stat.S_IFLNK else b""
    contents = Path(os.fsdecode(path)).read_bytes() if kind == stat.S_IFREG else b""
    links = found.st_nlink if kind != stat.S_IFDIR else 0
    return (
        *(found.st_ino, found.st_mode, found.st_uid, found.st_gid, found.st_rdev, links),
        *(found.st_mtime_ns, found.st_ctime_ns, attributes, target, contents),
    )


def everything(root: Path) -> dict[bytes, tuple[object, ...]]:
    top = os.fsencode(root)
    found = {b"": facts(top)}
    for above, directories, files in os.walk(top):
        for name in (*directories, *files):
            path = os.path.join(above, name)
            found[os.path.relpath(path, top)] = facts(path)
    return found


def covers(changes: dict[bytes, Change], path: bytes, kind: ChangeKind) -> bool:
    """Return whether a path, or a directory that it is in, is named as ``kind``."""
    while path:
        if path in changes and changes[path].kind is kind:
            return True
        path = path.rpartition(b"/")[0]
    return False


def assert_true(pool: Pool, base: Snapshot, snapshot: Snapshot) -> dict[bytes, Change]:
    changes = told(pool, base, snapshot)
    before, after = everything(root(pool, base)), everything(root(pool, snapshot))
    for path in before.keys() - after.keys():
        assert covers(changes, path, REMOVED) or covers(changes, path, ADDED), path  # replaced by something else
    for path in after:
        if covers(changes, path, ADDED):
            continue
        assert path in before, path
        if before[path] != after[path]:
            assert path in changes, (path, before[path][:-1], after[path][:-1])
            assert_ranges(changes[path], before[path][-1], after[path][-1])
    for path, change in changes.items():
        assert (path in after) is (change.kind is not REMOVED)
        if change.kind is MODIFIED:
            assert before[path][0] == after[path][0]
            assert (change.ranges is not None) is stat.S_ISREG(int(str(after[path][1])))
    return changes


def assert_ranges(change: Change, before: object, after: object) -> None:
    assert isinstance(before, bytes)
    assert isinstance(after, bytes)
    masked = [bytearray(before), bytearray(after)]
    for offset, length in change.ranges or ():
        for contents in masked:
            end = min(offset + length, len(contents))
            contents[offset:end] = bytes(max(0, end - offset))
    size = min(len(before), len(after))
    assert masked[0][:size] == masked[1][:size], "a change that is not told is lost from the backup"
    assert len(before) == len(after) or any(offset + length >= size for offset, length in change.ranges or ())


_numbers = iter(range(10**9))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(script=edits.edits(), more=edits.edits(6))
def test_nothing_that_differs_is_missing(pool: Pool, script: Sequence[edits.Edit], more: Sequence[edits.Edit]) -> None:
    web = pool.volume(f"web{next(_numbers)}")
    edits.grown(data(pool, web), 1)
    first = pool.snapshot(web, "s1")
    edits.apply(data(pool, web), script)
    second = pool.snapshot(web, "s2")
    edits.apply(data(pool, web), more)
    third = pool.snapshot(web, "s3")
    for base, snapshot in ((first, second), (second, third), (first, third), (third, first)):
        assert_true(pool, base, snapshot)
    assert told(pool, third, third) == {}
    pool.backend.destroy(web)


def test_names_of_any_bytes_swapped_names_and_what_lies_below_a_moved_directory(pool: Pool, web: Volume) -> None:
    """T34."""
    top = data(pool, web)
    odd = os.fsdecode(b"\xff\n\\ \x01")
    for directory in ("one", "two", "old", odd):
        (top / directory).mkdir()
        (top / directory / "f").write_text(directory.encode("utf-8", "backslashreplace").decode())
    base = pool.snapshot(web, "s1")
    (top / "one").rename(top / "three")
    (top / "two").rename(top / "one")
    (top / "three").rename(top / "two")
    (top / "old" / "f").write_text("changed")
    (top / "old").rename(top / "new")
    (top / odd / "f").write_text("also")
    changes = assert_true(pool, base, pool.snapshot(web, "s2"))
    kinds = {path: change.kind for path, change in changes.items()}
    assert kinds == {
        b"": MODIFIED,
        b"one": ADDED,
        b"two": ADDED,
        b"old": REMOVED,
        b"new": ADDED,
        os.fsencode(odd) + b"/f": MODIFIED,
    }


def test_every_name_of_a_file_is_told_when_one_of_them_changes(pool: Pool, web: Volume) -> None:
    top = data(pool, web)
    (top / "d").mkdir()
    (top / "f").write_bytes(b"one" * 5000)
    for number in range(300):  # more than its inode has room for
        os.link(top / "f", top / "d" / f"{number:0250}")
    base = pool.snapshot(web, "s1")
    with (top / "f").open("r+b") as file:
        file.write(b"two")
    written = assert_true(pool, base, pool.snapshot(web, "s2"))
    assert len(written) == 301
    assert {change.ranges for change in written.values()} == {((0, 4096),)}
    (top / "f").unlink()
    assert len(assert_true(pool, base, pool.snapshot(web, "s3"))) == 302  # and the root


def test_writes_in_place_through_a_mapping_around_the_cache_and_into_holes_are_told(pool: Pool) -> None:
    web = pool.volume("web", btrfs_nodatacow="true")
    path = data(pool, web) / "db"
    path.write_bytes(os.urandom(4 * MIB))
    base = pool.snapshot(web, "s1")
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        mapped[MIB] ^= 1
        mapped.flush()
    for _ in range(2):  # the second lies where the first was written
        fd = os.open(path, os.O_RDWR | os.O_DIRECT)
        with mmap.mmap(-1, 4096) as block:
            block[0:6] = os.urandom(6)
            os.pwrite(fd, block, 2 * MIB)
        os.close(fd)
    run("fallocate", "-p", "-o", str(3 * MIB), "-l", "8192", path)
    changes = assert_true(pool, base, pool.snapshot(web, "s2"))
    assert changes[b"db"].ranges == ((MIB, 4096), (2 * MIB, 4096), (3 * MIB, 8192))


def test_compressed_and_inline_files_are_told(pool: Pool) -> None:
    web = pool.volume("web", btrfs_compression="zstd")
    top = data(pool, web)
    (top / "large").write_bytes(b"compressible " * 100_000)
    (top / "small").write_bytes(b"inline")
    base = pool.snapshot(web, "s1")
    with (top / "large").open("r+b") as file:
        file.seek(600_000)
        file.write(b"x")
    (top / "small").write_bytes(b"inside")
    os.truncate(top / "small", 5)
    os.truncate(top / "small", 6)
    changes = assert_true(pool, base, pool.snapshot(web, "s2"))
    assert sum(length for _, length in changes[b"large"].ranges or ()) <= 128 << 10


def test_a_subvolume_inside_is_no_change_of_what_is_below(pool: Pool, web: Volume) -> None:
    base = pool.snapshot(web, "s1")
    run("btrfs", "subvolume", "create", data(pool, web) / "nested")
    (data(pool, web) / "nested" / "f").write_text("left out")
    snapshot = pool.snapshot(web, "s2")
    assert set(told(pool, base, snapshot)) == {b""}
    run("btrfs", "subvolume", "delete", data(pool, web) / "nested")


# -- where it is not known --------------------------------------------------------------------------------------------


def test_a_base_that_was_written_to_is_refused(pool: Pool, web: Volume, caplog: pytest.LogCaptureFixture) -> None:
    base = pool.snapshot(web, "s1")
    later = pool.snapshot(web, "s2")
    place = root(pool, base)
    run("btrfs", "property", "set", place, "ro", "false")
    assert pool.backend.changes(base, later) is None
    (place / "f").write_text("after the backup")
    os.sync()
    run("btrfs", "property", "set", place, "ro", "true")
    assert pool.backend.changes(base, later) is None
    assert "has been written to since it was made" in caplog.text


def test_another_volume_and_contents_that_were_replaced_are_unknown(pool: Pool, web: Volume) -> None:
    base = pool.snapshot(web, "s1")
    other = pool.snapshot(pool.volume("other"), "s1")
    assert pool.backend.changes(base, other) is None
    pool.backend.rollback(web, base)
    assert pool.backend.changes(base, pool.snapshot(web, "s2")) is None


def test_a_stream_that_ends_early_or_is_altered_is_an_error(
    pool: Pool, web: Volume, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    base = pool.snapshot(web, "s1")
    (data(pool, web) / "f").write_text("x" * 10)
    later = pool.snapshot(web, "s2")
    run("btrfs", "send", "-q", "--no-data", "-p", root(pool, base), "-f", tmp_path / "s", root(pool, later))
    whole = (tmp_path / "s").read_bytes()

    def follow(stream: bytes) -> None:
        (tmp_path / "s").write_bytes(stream)
        with (tmp_path / "s").open("rb") as file:
            sendchanges.Names(later.id, base.id).follow(sendstream.commands(file))

    follow(whole)
    for end in range(len(whole)):
        with pytest.raises(StorageFailed, match="ends early"):
            follow(whole[:end])
    with pytest.raises(StorageFailed, match="goes on after its end"):
        follow(whole + b"x")
    for at in range(17, len(whole), 7):
        with pytest.raises(StorageFailed, match=r"damaged|ends early|bytes"):
            follow(whole[:at] + bytes([whole[at] ^ 0x40]) + whole[at + 1 :])
    assert subvolume.info(root(pool, base)).read_only

    monkeypatch.setattr(shell, "start", _failing(shell.start))
    with pytest.raises(StorageFailed, match=r"web@s1.*btrfs send failed \(exit 1\)"):
        pool.backend.changes(base, later)


def test_a_producer_that_nobody_reads_from_any_more_is_not_waited_for(
    pool: Pool, web: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, later = pool.snapshot(web, "s1"), pool.snapshot(web, "s2")
    start = shell.start
    monkeypatch.setattr(shell, "start", lambda *_: start("sh", "-c", "printf nonsense; yes; sleep 100"))
    with pytest.raises(StorageFailed, match="is no stream of changes"):
        pool.backend.changes(base, later)
    monkeypatch.setattr(shell, "start", lambda *_: start("sh", "-c", "echo no such thing >&2; exit 3"))
    with pytest.raises(StorageFailed, match=r"btrfs send failed \(exit 3\): no such thing"):
        pool.backend.changes(base, later)


def _failing(start: Callable[..., object]) -> Callable[..., object]:
    """The stream comes whole, and its producer fails nevertheless."""
    return lambda program, *words: start("sh", "-c", '"$@" && exit 1', "sh", program, *words)
