from __future__ import annotations

import errno
import os
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from snapvol.engine import image_layout
from snapvol.engine.base import BaseBackup, base_backup
from snapvol.engine.image_archiver import back_up_image
from snapvol.engine.image_restorer import restore_image
from snapvol.engine.manifest import BackupKind
from snapvol.engine.progress import Silent
from snapvol.engine.reading import root
from snapvol.errors import BaseMismatch, Cancelled, RepositoryUnreachable, StorageFailed, UsageError
from snapvol.model import now
from snapvol.repository import BlobKind
from snapvol.stores.local import LocalStore
from support import needs
from support.benches import Bench
from support.faults import Faulty, nth
from support.filesystems import mounted
from support.images import META, Backups, Disk, Steps
from support.process import run
from support.repositories import PASSWORD, approved, created, opened, restic

K, M, G = 1 << 10, 1 << 20, 1 << 30
NOISE = random.Random(3).randbytes(8 * M)


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, int]]]:
    """See every read of a device: its offset and length."""
    seen: list[tuple[int, int]] = []
    real = os.preadv

    def watched(fd: int, buffers: list[memoryview], offset: int) -> int:
        got = real(fd, buffers, offset)
        seen.append((offset, got))
        return got

    with monkeypatch.context() as patch:
        patch.setattr(os, "preadv", watched)
        yield seen


def restored(bench: Bench, backup: str, path: Path) -> bytes:
    path.unlink(missing_ok=True)
    restore_image(bench.repository, backup, path, progress=Silent())
    return path.read_bytes()


# -- against a model --------------------------------------------------------------------------------------------------

SPANS = st.tuples(st.integers(0, 900 * K), st.integers(1, 300 * K)).map(
    lambda span: (span[0] // 4096 * 4096, span[1] // 4096 * 4096 or 4096) if span[0] % 3 else span
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), SPANS),
        st.tuples(st.just("zeros"), SPANS),
        st.tuples(st.just("discard"), SPANS),
        st.tuples(st.just("grow"), st.integers(1, 200 * K)),
        st.tuples(st.just("shrink"), st.integers(1, 200 * K)),
        st.tuples(st.just("back up"), st.sampled_from([64 * K, 64 * K, 64 * K, 128 * K])),
        st.tuples(st.just("back up, knowing nothing"), st.just(64 * K)),
    ),
    min_size=1,
    max_size=14,
)


def clipped(disk: Disk, span: tuple[int, int]) -> tuple[int, int]:
    offset = min(span[0], disk.size - 1)
    return offset, min(span[1], disk.size - offset)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(size=st.integers(1, 1000 * K), steps=STEPS, small=st.booleans())
def test_t31_every_backup_restores_what_the_disk_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, steps: list[tuple[str, object]], small: bool
) -> None:
    """Whatever is written, discarded, grown and shrunk between them; also cut into segments."""
    if small:
        monkeypatch.setattr(image_layout, "ONE_FILE", 256 * K)
    else:
        monkeypatch.setattr(image_layout, "ONE_FILE", 8 * G)
    monkeypatch.setattr(image_layout, "SEGMENT", 128 * K)
    monkeypatch.setattr(image_layout, "GROUP", 3)
    bench = Bench()
    (tmp_path / "disk").unlink(missing_ok=True)
    disk, kept = Disk(tmp_path / "disk", size), []
    backups = Backups(bench.repository, disk)
    for number, (action, what) in enumerate([*steps, ("back up", 64 * K)]):
        if action in ("write", "zeros"):
            offset, length = clipped(disk, what)  # type: ignore[arg-type]
            disk.write(offset, NOISE[number : number + length] if action == "write" else bytes(length))
        elif action == "discard":
            disk.discard(*clipped(disk, what))  # type: ignore[arg-type]
        elif action == "grow":
            disk.grow(disk.size + int(str(what)))
        elif action == "shrink":
            disk.shrink(max(1, disk.size - int(str(what))))
        else:
            steps_seen = Steps()
            result = backups.run(chunk=int(str(what)), known=action == "back up", progress=steps_seen)
            assert steps_seen.wanted == steps_seen.bytes == result.bytes_read
            kept.append((result.id, disk.contents))
    for backup, contents in kept:
        assert restored(bench, backup, tmp_path / "out") == contents
    bench.repository.close()


# -- what is read -----------------------------------------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    """40 MiB with three spots of data; the rest would spoil the image if it were read."""
    disk = Disk(tmp_path / "disk", 40 * M)
    disk.write(0, NOISE[: 2 * M])
    disk.write(10 * M + 64 * K, NOISE[3 * M : 3 * M + 128 * K])
    disk.write(30 * M, bytes(M))
    return disk


def test_t31_only_what_is_mapped_is_read(
    bench: Bench, disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with counted(monkeypatch) as reads:
        result = Backups(bench.repository, disk).run()
    assert sorted(disk.mapped) == [(0, 2 * M), (10 * M + 64 * K, 128 * K), (30 * M, M)]
    for offset, length in reads:
        assert any(start <= offset and offset + length <= start + size for start, size in disk.mapped)
    assert sum(length for _, length in reads) == result.bytes_read == 3 * M + 128 * K
    assert (result.bytes_total, result.files, result.new) == (40 * M, 1, 1)
    assert result.bytes_added == 4 * M  # two whole pieces, one with little in it, and that of zeros once
    assert restored(bench, result.id, tmp_path / "out") == disk.contents


def test_an_incremental_reads_what_changed_and_a_sample(
    bench: Bench, disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk.write(20 * M, NOISE[:M])
    backups = Backups(bench.repository, disk)
    first = backups.run()
    disk.write(M + 5, b"changed")
    disk.write(35 * M + 1, b"new")
    disk.discard(10 * M, M)
    with counted(monkeypatch) as reads:
        second = backups.run()
    assert second.base == first.id
    assert second.bytes_checked == 3 * M  # all that is mapped and the same: there is less than a sample's 16 pieces
    assert second.bytes_read == second.bytes_checked + M + 3
    assert not any(offset + length > 10 * M and offset < 20 * M for offset, length in reads)
    assert second.bytes_added == 2 * M
    assert (second.new, second.changed, second.unmodified, second.notes) == (0, 1, 0, [])
    assert restored(bench, second.id, tmp_path / "out") == disk.contents


def test_a_sample_is_small(bench: Bench, tmp_path: Path) -> None:
    disk = Disk(tmp_path / "disk", 40 * M, garbage=False)
    disk.write(0, NOISE * 5)
    backups = Backups(bench.repository, disk)
    backups.run(chunk=64 * K)
    chosen = [backups.run(chunk=64 * K) for _ in range(2)]
    assert [result.bytes_read for result in chosen] == [16 * 64 * K] * 2
    assert [result.bytes_checked for result in chosen] == [16 * 64 * K] * 2
    assert [result.unmodified for result in chosen] == [1, 1]
    assert chosen[1].bytes_added == 0


def test_what_is_known_of_changes_needs_no_backup_to_compare_with(bench: Bench, disk: Disk, tmp_path: Path) -> None:
    result = back_up_image(bench.repository, disk.image(), META, base=None, changed=[], progress=Silent())
    assert (result.base, result.notes) == (None, [])
    assert restored(bench, result.id, tmp_path / "out") == disk.contents


@pytest.mark.root
def test_the_page_cache_is_left_to_others(bench: Bench, tmp_path: Path) -> None:
    with mounted("ext4", tmp_path, 64 * M) as place:
        disk = Disk(place / "disk", 24 * M + 512, garbage=False)
        disk.write(0, NOISE * 3)
        disk.write(24 * M, b"x" * 512)  # no whole block: that is read through the cache
        with disk.path.open("rb+") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        assert Backups(bench.repository, disk).run().bytes_read == 24 * M + 512
        assert int(run("fincore", "--bytes", "--noheadings", "--output", "RES", disk.path).stdout) == 0


# -- what the storage says is wrong -----------------------------------------------------------------------------------


def test_an_unreported_change_fails_the_backup_and_the_next_reads_all(bench: Bench, disk: Disk, tmp_path: Path) -> None:
    backups = Backups(bench.repository, disk)
    first = backups.run()
    disk.write(M + 77, b"x")
    with pytest.raises(BaseMismatch, match=rf"'disk': its bytes from {M} on differ from backup {first.id[:8]}"):
        backups.run(changed=[])
    assert [identity for identity, _ in bench.repository.snapshots()] == [first.id]
    backups.base = None
    assert restored(bench, backups.run().id, tmp_path / "out") == disk.contents


def test_an_unreported_discard_fails_the_backup_without_reading(bench: Bench, disk: Disk) -> None:
    backups = Backups(bench.repository, disk)
    backups.run()
    disk.discard(10 * M, M)
    with pytest.raises(BaseMismatch, match=f"from {10 * M} on differ"):
        backups.run(changed=[])


# -- bases ------------------------------------------------------------------------------------------------------------


def test_t2_a_base_is_found_by_the_identity_of_its_snapshot(bench: Bench, disk: Disk) -> None:
    def base(source: str, volume: str = META.id, host: str | None = None) -> str | None:
        found = base_backup(bench.repository, volume, source, BackupKind.IMAGE, host=host)
        return found.id if found is not None else None

    backups = Backups(bench.repository, disk)
    first, second = backups.run().id, backups.run().id
    assert [base("thin/1"), base("thin/2"), base("thin/3"), base("thin/")] == [first, second, None, None]
    assert base("thin/1", "id-of-another") is None
    assert [base("thin/1", host="here"), base("thin/1", host="there")] == [first, None]
    image = msgspec.structs.replace(disk.image(), identity="thin/1")
    later = msgspec.structs.replace(META, taken=now())
    again = back_up_image(bench.repository, image, later, base=None, changed=None, progress=Silent(), host="here")
    assert base("thin/1") == again.id
    bench.repository.forget([again.id])
    assert base("thin/1") == first


def test_bases_that_do_not_fit_cost_time_only(bench: Bench, disk: Disk, tmp_path: Path, source: Path) -> None:
    backups = Backups(bench.repository, disk)
    first = backups.base = BaseBackup(id=backups.run().id, source="thin/1")
    bases = {
        "it is of another snapshot": BaseBackup(id=first.id, source="thin/9"),
        "it is gone or damaged": BaseBackup(id="f" * 64, source="thin/1"),
        "it is not an image": BaseBackup(id=bench.back_up(source).id, source="1"),
    }
    for why, backups.base in bases.items():
        result = backups.run(changed=[])
        assert result.base is None
        assert why in result.notes[0]
        assert (result.bytes_read, result.bytes_added) == (3 * M + 128 * K, 0)
        assert restored(bench, result.id, tmp_path / "out") == disk.contents


def test_t31_a_grown_volume_is_read_whole_and_stored_in_part(bench: Bench, disk: Disk, tmp_path: Path) -> None:
    backups = Backups(bench.repository, disk)
    backups.run()
    disk.grow(41 * M)
    disk.write(40 * M, NOISE[:K])
    result = backups.run(changed=[(40 * M, K)])
    assert f"it has {40 * M} bytes, and the volume {41 * M}" in result.notes[0]
    assert (result.bytes_read, result.bytes_added) == (3 * M + 128 * K + K, M)
    assert restored(bench, result.id, tmp_path / "out") == disk.contents


def test_other_pieces_than_the_base_has_mean_reading_all(bench: Bench, disk: Disk, tmp_path: Path) -> None:
    backups = Backups(bench.repository, disk)
    backups.run()
    result = backups.run(chunk=256 * K)
    assert f"its pieces have {M} bytes, and the new ones {256 * K}" in result.notes[0]
    assert result.bytes_read == 3 * M + 128 * K
    assert restored(bench, result.id, tmp_path / "out") == disk.contents


def test_t30_what_the_base_lost_is_read_again(bench: Bench, disk: Disk, tmp_path: Path) -> None:
    backups = Backups(bench.repository, disk)
    backups.run()
    lost = [entry.name for entry in bench.store.list("data/") if entry.size > 500 * K]
    assert len(lost) == 2
    bench.store.delete(lost[:1])
    bench.reopened()
    backups = Backups(bench.repository, disk)
    backups.base = base_backup(bench.repository, META.id, "thin/1", BackupKind.IMAGE)
    result = backups.run(changed=[])
    assert result.base is not None
    assert result.bytes_added in (M, 2 * M)  # the piece of zeros may lie in the same pack
    assert restored(bench, result.id, tmp_path / "out") == disk.contents


@pytest.mark.parametrize("chunk", [0, 32 * K, 96 * K, 3 * M, 8 * M, -M])
def test_t16_pieces_have_sizes_that_make_sense(bench: Bench, disk: Disk, chunk: int) -> None:
    with pytest.raises(UsageError, match="power of two from 64K to 4M"):
        Backups(bench.repository, disk).run(chunk=chunk)


# -- devices that fail ------------------------------------------------------------------------------------------------


def test_t26_a_bad_sector_fails_the_backup_and_is_named(
    bench: Bench, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, real = M + 300 * K, os.preadv

    def failing(fd: int, buffers: list[memoryview], offset: int) -> int:
        if offset <= bad < offset + len(buffers[0]):
            raise OSError(errno.EIO, "Input/output error")
        return real(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", failing)
    with pytest.raises(StorageFailed, match=f"cannot be read at byte {bad}: Input/output error"):
        Backups(bench.repository, disk).run()
    assert bench.repository.snapshots() == []


def test_t26_a_device_of_another_size_is_not_taken(bench: Bench, disk: Disk) -> None:
    for size in (40 * M - 1, 40 * M + 1):
        os.truncate(disk.path, size)
        with pytest.raises(StorageFailed, match=rf"has {size} bytes, but the storage says {40 * M}"):
            Backups(bench.repository, disk).run()
    disk.path.unlink()
    with pytest.raises(StorageFailed, match="cannot be opened: No such file"):
        Backups(bench.repository, disk).run()


def test_t26_a_device_that_ends_while_it_is_read(bench: Bench, disk: Disk) -> None:
    class Cutting(Silent):
        def total(self, files: int, bytes: int) -> None:
            os.truncate(disk.path, 10 * M)

    with pytest.raises(StorageFailed, match=rf"ends at byte {10 * M + 64 * K}"):
        Backups(bench.repository, disk).run(progress=Cutting())


def test_a_device_that_takes_no_direct_reads_is_read_through_the_cache(
    bench: Bench, disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def without(path: Path, flags: int, *rest: int) -> int:
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(path, flags, *rest)

    monkeypatch.setattr(os, "open", without)
    result = Backups(bench.repository, disk).run()
    monkeypatch.undo()
    assert restored(bench, result.id, tmp_path / "out") == disk.contents


# -- the repository, and its judge ------------------------------------------------------------------------------------


def test_t28_after_a_failure_at_any_object_the_next_run_finishes(disk: Disk, tmp_path: Path) -> None:
    count = Bench()
    with opened(faulty := Faulty(count.store)) as repository:
        Backups(repository, disk).run(chunk=64 * K)
    count.repository.close()
    total = faulty.count("put")
    assert total > 6
    for turn in range(1, total + 1):
        bench = Bench()
        fault = nth("put", [turn], RepositoryUnreachable("gone"))
        with opened(Faulty(bench.store, before=fault)) as broken, pytest.raises(RepositoryUnreachable):
            Backups(broken, disk).run(chunk=64 * K)
        bench.reopened()
        assert bench.repository.snapshots() == []
        bench.repository.unlock(remove_all=True)
        result = Backups(bench.repository, disk).run(chunk=64 * K)
        assert bench.repository.check(read_data=True).problems == []
        assert restored(bench, result.id, tmp_path / "out") == disk.contents
        bench.repository.close()


def test_a_cancelled_backup_leaves_no_snapshot(bench: Bench, disk: Disk) -> None:
    steps = Steps()
    steps.stop_after, steps.error = M, Cancelled("it was cancelled")
    with pytest.raises(Cancelled):
        Backups(bench.repository, disk).run(progress=steps)
    assert bench.repository.snapshots() == []


@pytest.mark.parametrize("segmented", [False, True])
def test_stock_restic_checks_it_and_gives_it_back(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch, segmented: bool
) -> None:
    """By the very commands of docs/recovery.md."""
    if segmented:
        monkeypatch.setattr(image_layout, "ONE_FILE", 8 * M)
        monkeypatch.setattr(image_layout, "SEGMENT", M)
        monkeypatch.setattr(image_layout, "GROUP", 12)  # 40 segments: three groups and a part of one
    needs.program("restic")
    place = tmp_path / "repository"
    with created(LocalStore(place)) as repository:
        backups = Backups(repository, disk)
        backups.run()
        disk.write(25 * M, b"later")
        result = backups.run()
    assert (result.files, result.changed, result.unmodified) == ((40, 1, 39) if segmented else (1, 1, 0))
    approved(place)
    out = tmp_path / "out"
    restic(place, "restore", result.id, "--target", out)
    if segmented:
        assert sorted(os.listdir(out / "volume/image")) == ["0000", "0001", "0002", "0003"]
        run("sh", "-c", "cat volume/image/*/*/segment.img | cp --sparse=always /dev/stdin image.img", cwd=out)
    else:
        (out / "volume/image.img").rename(out / "image.img")
    assert (out / "image.img").read_bytes() == disk.contents
    password = out / "password"
    password.write_text(PASSWORD)
    env = {"RESTIC_REPOSITORY": str(place), "RESTIC_PASSWORD_FILE": str(password)}
    dump = "restic --no-cache dump latest --tag volume=disk /volume | tar -xO | cp --sparse=always /dev/stdin disk.img"
    run("bash", "-o", "pipefail", "-c", dump, cwd=out, env=env)
    assert (out / "disk.img").read_bytes() == disk.contents
    assert (out / "disk.img").stat().st_blocks * 512 < 4 * M


def test_an_incremental_lists_anew_only_what_changed(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(tmp_path / "disk", 250 * G, garbage=False)
    for at in (0, 120 * G, 249 * G):
        disk.write(at, NOISE[:M])
    backups = Backups(bench.repository, disk)
    first = backups.run()
    assert (first.files, first.new, first.bytes_read, first.bytes_total) == (250, 250, 3 * M, 250 * G)
    disk.write(120 * G + 500 * M, b"x")
    added: list[bytes] = []
    real = bench.repository.add

    def watched(kind: BlobKind, data: bytes) -> tuple[bytes, bool]:
        blob, new = real(kind, data)
        if new and kind is BlobKind.TREE:
            added.append(data)
        return blob, new

    monkeypatch.setattr(bench.repository, "add", watched)
    second = backups.run()
    assert (second.changed, second.unmodified, second.new) == (1, 249, 0)
    assert len(added) == 5  # a segment, its group, all groups, /volume, and the top
    _, document = bench.repository.find_snapshot(second.id)
    meta = root(bench.repository, document).meta
    assert meta is not None
    assert meta.image is not None
    assert (meta.kind, meta.source, meta.base, meta.image.size) == ("image", "thin/2", first.id, 250 * G)


def test_a_tebibyte_of_holes_takes_little_memory(tmp_path: Path) -> None:
    script = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from pathlib import Path
from support.images import Backups, Disk
from support.process import run
from support.repositories import created
from snapvol.repository import Tuning
from snapvol.stores.local import LocalStore
disk = Disk(Path({str(tmp_path)!r}) / "disk", 1 << 40, garbage=False)
for number in range(512):
    disk.write(number << 31, number.to_bytes(2, "big") * (1 << 18))
with created(LocalStore(Path({str(tmp_path)!r}) / "repository"), Tuning()) as repository:
    backups = Backups(repository, disk)
    first = backups.run()
    disk.write(5, b"x")
    second = backups.run()
assert first.bytes_read == 1 << 28, first.bytes_read
assert second.changed == 1, second
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""
    peak = int(run(sys.executable, "-c", script, seconds=300).stdout) << 10
    assert peak < 300 * M
