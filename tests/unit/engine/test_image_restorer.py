from __future__ import annotations

import errno
import json
import os
import random
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from snapvol.engine import image_layout, node, reading, sparse
from snapvol.engine.backups import select
from snapvol.engine.image_restorer import restore_image
from snapvol.engine.node import Kind, Node
from snapvol.engine.progress import Silent
from snapvol.engine.restorer import PartlyRestored, restore
from snapvol.engine.verifier import verify
from snapvol.errors import (
    AlreadyExists,
    Cancelled,
    Damaged,
    NoSpace,
    NotFound,
    Refused,
    SnapvolError,
    StorageFailed,
)
from snapvol.repository import BlobKind
from support import needs
from support.benches import Bench
from support.images import Backups, Disk, Steps
from support.process import run

K, M, G = 1 << 10, 1 << 20, 1 << 30
NOISE = random.Random(5).randbytes(8 * M)


@pytest.fixture(params=["one file", "segments"])
def disk(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    """20 MiB, stored as one file or as twenty in three groups."""
    if request.param == "segments":
        monkeypatch.setattr(image_layout, "ONE_FILE", 8 * M)
        monkeypatch.setattr(image_layout, "SEGMENT", M)
        monkeypatch.setattr(image_layout, "GROUP", 8)
    disk = Disk(tmp_path / "disk", 20 * M)
    disk.write(M, NOISE[: 3 * M])
    disk.write(9 * M + 12345, NOISE[4 * M : 4 * M + 100_000])
    disk.write(19 * M + 64 * K, b"\0" * 64 * K + b"x")
    return disk


@pytest.fixture
def backup(bench: Bench, disk: Disk) -> str:
    """Pieces of 256 KiB."""
    return Backups(bench.repository, disk).run(chunk=256 * K).id


def into(bench: Bench, backup: str, target: Path) -> None:
    restore_image(bench.repository, backup, target, progress=Silent())


# -- files ------------------------------------------------------------------------------------------------------------


def test_t31_a_file_has_the_holes_that_the_image_has(bench: Bench, disk: Disk, backup: str, tmp_path: Path) -> None:
    out, steps = tmp_path / "out", Steps()
    result = restore_image(bench.repository, backup[:10], out, progress=steps)
    assert out.read_bytes() == disk.contents
    found = out.stat()
    assert found.st_size == 20 * M
    assert found.st_blocks * 512 <= 3 * M + 100_000 + 4 * 4096
    assert 3 * M + 100_000 < result.bytes_written <= 3 * M + 100_000 + 4 * 4096
    assert stat.S_IMODE(found.st_mode) == 0o600
    assert (result.files, result.problems, result.notes) == (1, [], [])
    assert (steps.wanted, steps.bytes, steps.files) == (20 * M, 20 * M, 1)


def test_t36_what_is_there_is_not_touched(bench: Bench, backup: str, tmp_path: Path) -> None:
    file, link = tmp_path / "precious", tmp_path / "link"
    file.write_text("x")
    link.symlink_to(tmp_path / "elsewhere")
    for target in (file, link, tmp_path):
        with pytest.raises(AlreadyExists, match="exists"):
            into(bench, backup, target)
    assert file.read_text() == "x"
    assert not (tmp_path / "elsewhere").exists()
    with pytest.raises(NotFound, match=r"directory .*/absent does not exist"):
        into(bench, backup, tmp_path / "absent/out")
    with pytest.raises(NotFound, match="no backup"):
        into(bench, "f" * 64, tmp_path / "out")


def test_t36_files_are_no_image_and_an_image_no_files(bench: Bench, backup: str, source: Path, target: Path) -> None:
    files = bench.back_up(source).id
    with pytest.raises(Refused, match="is not an image"):
        into(bench, files, target / "out")
    with pytest.raises(Refused, match="is the image of a block device"):
        bench.restore(backup, target)
    assert list(target.iterdir()) == []


def test_t38_a_cancelled_restore_leaves_no_file(bench: Bench, backup: str, tmp_path: Path) -> None:
    steps = Steps()
    steps.stop_after, steps.error = 2 * M, Cancelled("it was cancelled")
    with pytest.raises(Cancelled):
        restore_image(bench.repository, backup, tmp_path / "out", progress=steps)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("code", "kind"), [(errno.ENOSPC, NoSpace), (errno.EIO, StorageFailed)])
def test_t39_a_target_that_fails_leaves_no_file(
    bench: Bench, backup: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, kind: type[SnapvolError]
) -> None:
    def failing(fd: int, data: bytes, offset: int) -> tuple[int, bool]:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(sparse, "write", failing)
    with pytest.raises(kind, match=os.strerror(code)):
        into(bench, backup, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# -- block devices ----------------------------------------------------------------------------------------------------


@contextmanager
def loop(file: Path, size: int) -> Iterator[Path]:
    """Give a block device of ``size`` bytes, all zeros."""
    with file.open("xb") as made:
        os.truncate(made.fileno(), size)
    device = Path(run("losetup", "--find", "--show", file).stdout.strip())
    try:
        yield device
    finally:
        run("losetup", "--detach", device)


@pytest.mark.root
@pytest.mark.parametrize("size", [20 * M, 24 * M])
def test_t31_a_device_keeps_its_holes(bench: Bench, disk: Disk, backup: str, tmp_path: Path, size: int) -> None:
    with loop(tmp_path / "backing", size) as device:
        into(bench, backup, device)
        assert device.read_bytes() == disk.contents + bytes(size - 20 * M)
    assert (tmp_path / "backing").stat().st_blocks * 512 < 4 * M


@pytest.mark.root
def test_t35_a_device_that_is_too_small_or_in_use_is_not_touched(bench: Bench, backup: str, tmp_path: Path) -> None:
    with loop(tmp_path / "small", 20 * M - 512) as device:
        with pytest.raises(Refused, match=f"has {20 * M} bytes, but device {device} only {20 * M - 512}"):
            into(bench, backup, device)
        assert not any(device.read_bytes())
    with loop(tmp_path / "used", 32 * M) as device:
        run("mkfs.ext4", "-q", device)
        (tmp_path / "mounted").mkdir()
        run("mount", device, tmp_path / "mounted")
        try:
            with pytest.raises(Refused, match=f"device {device} is in use"):
                into(bench, backup, device)
            assert os.listdir(tmp_path / "mounted") == ["lost+found"]
        finally:
            run("umount", tmp_path / "mounted")


@pytest.mark.root
@pytest.mark.parametrize("filesystem", ["ext4", "xfs"])
def test_a_file_system_goes_from_device_to_device(bench: Bench, tmp_path: Path, filesystem: str) -> None:
    """Whose size is no multiple of a block, nor of a piece."""
    size = (300 if filesystem == "xfs" else 16) * M + 7 * 512
    needs.program(f"mkfs.{filesystem}", what=filesystem)
    with loop(tmp_path / "one", size) as device, loop(tmp_path / "other", size) as other:
        run(f"mkfs.{filesystem}", "-q", device)
        disk = Disk(tmp_path / "unused", size, garbage=False)
        disk.path, disk.mapped = device, {(0, size)}
        into(bench, Backups(bench.repository, disk).run().id, other)
        run("fsck.ext4" if filesystem == "ext4" else "xfs_repair", "-n", other)
        assert device.read_bytes() == other.read_bytes()


# -- damage -----------------------------------------------------------------------------------------------------------


def lose(bench: Bench, wanted: Callable[[bytes], bool], kind: BlobKind) -> int:
    """Flip a bit in the stored blobs whose contents are wanted; return how many."""
    bench.repository.load_index()
    count = 0
    for entry in list(bench.store.list("data/")):
        pack = bench.store.get(entry.name)
        for blob, place in _blobs(bench, kind, bytes.fromhex(entry.name[-64:])):
            if wanted(bench.repository.read(kind, blob)):
                at = place.offset + 20
                pack = pack[:at] + bytes([pack[at] ^ 1]) + pack[at + 1 :]
                count += 1
        bench.store.delete([entry.name])
        bench.store.put(entry.name, pack)
    bench.reopened()
    return count


def _blobs(bench: Bench, kind: BlobKind, pack: bytes) -> list[Any]:
    waiting, found = [bench.repository.snapshots()[-1][1].tree], set()
    while waiting:
        tree = waiting.pop()
        found.add((BlobKind.TREE, tree))
        for entry in reading.load_tree(bench.repository, tree):
            found |= {(BlobKind.DATA, blob) for blob in entry.content or ()}
            waiting += [entry.subtree] if entry.subtree is not None else []
    ids = [bytes.fromhex(blob) for of, blob in found if of is kind]
    places = [(blob, bench.repository.locate(kind, blob)) for blob in ids]
    return [(blob, place) for blob, place in places if place.pack == pack]


def test_t30_lost_pieces_are_named_by_their_bytes(bench: Bench, disk: Disk, backup: str, tmp_path: Path) -> None:
    pieces = {NOISE[256 * K : 512 * K], NOISE[512 * K : 768 * K]}
    assert lose(bench, lambda data: data in pieces, BlobKind.DATA) == 2
    start, end = M + 256 * K, M + 768 * K
    with pytest.raises(PartlyRestored, match="with zeros in their place") as caught:
        into(bench, backup, tmp_path / "out")
    (problem,) = caught.value.result.problems
    assert str(problem).startswith(f"image.img: bytes {start} to {end - 1} are lost: data blob")
    expected = disk.contents[:start] + bytes(end - start) + disk.contents[end:]
    assert (tmp_path / "out").read_bytes() == expected
    (problem,) = verify(bench.repository, backup, Silent()).problems
    assert problem.path == "/volume/image.img"
    assert problem.what.startswith(f"bytes {start} to {end - 1} are lost")
    with pytest.raises(Damaged, match=r"altered|cannot"):
        list(reading.cat(bench.repository, backup, b"image.img"))


def test_t30_a_lost_list_of_pieces_costs_its_segment(bench: Bench, disk: Disk, backup: str, tmp_path: Path) -> None:
    first = bench.repository.add(BlobKind.DATA, NOISE[256 * K : 512 * K])[0].hex().encode()
    assert lose(bench, lambda data: first in data, BlobKind.TREE) == 1
    if image_layout.ONE_FILE > 8 * M:
        with pytest.raises(Damaged):
            into(bench, backup, tmp_path / "out")
        return
    with pytest.raises(PartlyRestored, match=rf"bytes {M} to {2 * M - 1} are lost: tree blob"):
        into(bench, backup, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == disk.contents[:M] + bytes(M) + disk.contents[2 * M :]
    problems = [str(problem) for problem in verify(bench.repository, backup, Silent()).problems]
    assert any(f"/volume/image.img: bytes {M} to {2 * M - 1} are lost" in problem for problem in problems)


def test_t30_an_image_without_its_manifest_is_whole(bench: Bench, disk: Disk, backup: str, tmp_path: Path) -> None:
    assert lose(bench, lambda data: b'"labels"' in data, BlobKind.DATA) == 1
    result = restore_image(bench.repository, backup, tmp_path / "out", progress=Silent())
    assert (tmp_path / "out").read_bytes() == disk.contents
    assert "what the backup says of its volume (options, labels) is lost" in result.notes[0]
    assert b"".join(reading.cat(bench.repository, backup, b"image.img")) == disk.contents
    (problem,) = verify(bench.repository, backup, Silent()).problems
    assert problem.path == "/snapvol.json"


def test_t30_files_without_their_manifest_are_whole(bench: Bench, source: Path, target: Path) -> None:
    (source / "file").write_text("contents")
    backup = bench.back_up(source).id
    assert lose(bench, lambda data: b'"labels"' in data, BlobKind.DATA) == 1
    result = restore(bench.repository, backup, target, progress=Silent())
    assert (target / "file").read_text() == "contents"
    assert any("is lost" in note for note in result.notes)
    again = bench.back_up(source, parent=backup)  # a parent like that costs time only
    assert not again.incomplete


# -- looking into it --------------------------------------------------------------------------------------------------


def test_an_image_is_one_file_however_it_is_stored(bench: Bench, disk: Disk, backup: str) -> None:
    for path in (b"", b"/", b"image.img", b"/image.img"):
        ((name, entry),) = reading.entries(bench.repository, backup, path, recursive=True)
        assert (name, entry.name, entry.type, entry.size) == (b"image.img", b"image.img", "file", 20 * M)
    assert b"".join(reading.cat(bench.repository, backup, b"/image.img")) == disk.contents
    for path in (b"etc/passwd", b"image", b"image/0000/00/segment.img"):
        with pytest.raises(NotFound, match="it is the image of a block device"):
            list(reading.entries(bench.repository, backup, path))
        with pytest.raises(NotFound, match="it is the image of a block device"):
            list(reading.cat(bench.repository, backup, path))
    assert select(bench.repository, "disk").kind == "image"
    result = verify(bench.repository, backup, Silent())
    assert result.ok
    assert (result.files, result.dirs, result.bytes) == (1, 0, 20 * M)


# -- T44: made to do harm ---------------------------------------------------------------------------------------------

ZERO = image_layout.zero_id


class Forger:
    """Makes image backups as somebody else could."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        for length in (64 * K, M, 4 * M):
            bench.repository.add(BlobKind.DATA, bytes(length))

    def tree(self, *nodes: Node) -> str:
        return self._bench.repository.add(BlobKind.TREE, node.encode_tree(map(node.encode, nodes)))[0].hex()

    @staticmethod
    def file(name: str, size: int, content: list[str], kind: str = Kind.FILE) -> Node:
        return Node(quoted=name, type=kind, size=size, content=content)

    @staticmethod
    def directory(name: str, tree: str | None) -> Node:
        return Node(quoted=name, type=Kind.DIRECTORY, subtree=tree)

    def segment(self, size: int = G, pieces: int = 1024, name: str = "segment.img") -> str:
        return self.tree(self.file(name, size, [ZERO(M)] * pieces))

    def group(self, segments: list[str], names: list[str] | None = None) -> str:
        listed = names or [f"{number:02d}" for number in range(len(segments))]
        return self.tree(*map(self.directory, listed, segments))

    def image(self, groups: list[str], names: list[str] | None = None) -> Node:
        listed = names or [f"{number:04d}" for number in range(len(groups))]
        return self.directory("image", self.tree(*map(self.directory, listed, groups)))

    def commit(self, *volume: Node, meta: dict[str, Any] | None = None) -> str:
        written = {"id": "1", "name": "v", "created": "2026-01-01T00:00:00Z", "taken": "2026-01-01T00:00:00Z"}
        text = json.dumps(written | {"kind": "image"} | (meta or {})).encode()
        manifest = self.file("snapvol.json", len(text), [self._bench.repository.add(BlobKind.DATA, text)[0].hex()])
        top = node.encode_tree(map(node.encode, [manifest, self.directory("volume", self.tree(*volume))]))
        return self._bench.commit(top, tags=["snapvol", "volume=v", "image"])


def layouts(forger: Forger) -> dict[str, tuple[Node, ...]]:
    """Return what is no image, with what is said of it."""
    whole = forger.segment()
    full = forger.group([whole] * 100)
    mebibyte = forger.file("image.img", M, [ZERO(M)])
    return {
        "a directory of it has 0 entries": (),
        "a directory of it has 2 entries": (forger.file("extra", 0, []), mebibyte),
        r"/volume holds '\.\./image\.img'": (forger.file("../image.img", M, [ZERO(M)]),),
        "/volume holds 'image.img'": (forger.file("image.img", M, [ZERO(M)], Kind.SYMLINK),),
        "it is empty": (forger.file("image.img", 0, []),),
        "'image' lists nothing": (forger.directory("image", None),),
        "it has '0001' where the directory '0000' should be": (forger.image([full], ["0001"]),),
        "it has '02' where the directory '01' should be": (forger.image([forger.group([whole] * 2, ["00", "02"])]),),
        "it has '..' where the directory '00' should be": (forger.image([forger.group([whole], [".."])]),),
        "segments are missing after 99 GiB": (forger.image([forger.group([whole] * 99), full]),),
        "its last segment has 1099511627776 bytes": (forger.image([forger.group([whole, forger.segment(1 << 40)])]),),
        "its last segment has 0 bytes": (forger.image([forger.group([whole, forger.segment(0, 0)])]),),
        "a directory of it has 101 entries": (
            forger.image([forger.group([whole] * 101, [f"{number:02d}" for number in range(101)])]),
        ),
    }


def test_t44_what_is_not_laid_out_as_an_image_is_refused(bench: Bench, tmp_path: Path) -> None:
    forger = Forger(bench)
    for said, volume in layouts(forger).items():
        backup = forger.commit(*volume)
        for attempt in (
            lambda chosen=backup: into(bench, chosen, tmp_path / "out"),
            lambda chosen=backup: list(reading.cat(bench.repository, chosen, b"image.img")),
            lambda chosen=backup: list(reading.entries(bench.repository, chosen)),
        ):
            with pytest.raises(Damaged, match=f"is not laid out as an image is: {said}"):
                attempt()
        assert not (tmp_path / "out").exists()
        assert not verify(bench.repository, backup, Silent()).ok


def test_t44_a_size_that_the_manifest_does_not_have(bench: Bench, tmp_path: Path) -> None:
    forger = Forger(bench)
    claimed = {"image": {"size": M + 1, "filesystem": "ext4", "chunk": M}}
    backup = forger.commit(forger.file("image.img", M, [ZERO(M)]), meta=claimed)
    with pytest.raises(Damaged, match=f"it has {M} bytes, but its manifest says {M + 1}"):
        into(bench, backup, tmp_path / "out")


@pytest.mark.parametrize("size", [G, 5, 1 << 62])
def test_t44_pieces_that_are_too_many_too_few_or_of_other_sizes(bench: Bench, tmp_path: Path, size: int) -> None:
    forger = Forger(bench)
    backup = forger.commit(forger.file("image.img", size, [ZERO(64 * K)] * 3))
    with pytest.raises((PartlyRestored, StorageFailed)) as caught:
        into(bench, backup, tmp_path / "out")
    if isinstance(caught.value, PartlyRestored):
        assert f"{size} bytes in 3 pieces are no file of an image" in caught.value.message
    backup = forger.commit(forger.file("image.img", 3 * M, [ZERO(64 * K)] * 3))
    with pytest.raises(PartlyRestored, match=f"a piece has {64 * K} bytes instead of {M}"):
        into(bench, backup, tmp_path / "second")


def test_t44_a_pebibyte_of_nothing_costs_nothing(bench: Bench, tmp_path: Path) -> None:
    """Equal directories are one: what fits in a few kilobytes claims 10^15 bytes. Nothing counts them all at once."""
    forger = Forger(bench)
    full = forger.group([forger.segment()] * 100)
    backup = forger.commit(forger.image([full] * 10_000))
    ((_, entry),) = reading.entries(bench.repository, backup)
    assert entry.size == 10**6 * G
    steps = Steps()
    steps.stop_after, steps.error = 300 * G, Cancelled("enough")
    with pytest.raises((Cancelled, StorageFailed)):
        restore_image(bench.repository, backup, tmp_path / "out", progress=steps)
    assert not (tmp_path / "out").exists()
