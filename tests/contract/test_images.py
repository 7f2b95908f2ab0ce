"""Volumes that are block devices: the image of a snapshot, what changed between two, and volumes made from images."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from itertools import zip_longest
from pathlib import Path

import pytest
from msgspec.structs import replace

from snapvol.backend import Image, Range
from snapvol.errors import NotFound, Refused, SnapvolError
from snapvol.model import Snapshot, State, Volume
from support import disks
from support.process import run
from support.storage import Pool, contents

pytestmark = pytest.mark.root
MIB = 1 << 20
PIECE = 1 << 18
ZEROS = bytes(MIB)


@pytest.fixture
def web(blocks: Pool) -> Volume:
    blocks.backend.create(blocks.record("web"), size=2 * blocks.variant.size)
    return blocks.stored("web")


def write(pool: Pool, volume: Volume, name: str, data: bytes, at: int = 0) -> None:
    with pool.mounted(volume) as root:
        descriptor = os.open(root / name, os.O_CREAT | os.O_WRONLY)
        os.pwrite(descriptor, data, at)
        os.fsync(descriptor)
        os.close(descriptor)


def within(ranges: Sequence[Range], offset: int, length: int) -> bool:
    """Return whether a piece touches one of the ranges."""
    return any(start < offset + length and offset < start + size for start, size in ranges)


def read(device: Path) -> Iterator[bytes]:
    """Yield a device's MiBs: all at once take more memory than a slow guest can touch soon."""
    with device.open("rb") as file:
        while piece := file.read(MIB):
            yield piece


def digest(device: Path) -> tuple[int, bytes]:
    """Return a device's length and what tells its contents from others."""
    found, length = sha256(), 0
    for piece in read(device):
        found.update(piece)
        length += len(piece)
    return length, found.digest()


def well_formed(ranges: Sequence[Range], size: int) -> None:
    """Ascending, apart from each other, inside the device."""
    end = 0
    for offset, length in ranges:
        assert length > 0
        assert offset >= end
        end = offset + length
    assert end <= size


def assert_zero_elsewhere(image: Image) -> None:
    end = 0
    with image.device.open("rb", buffering=0) as file:
        for offset, length in (*image.mapped, (image.size, 0)):
            while end < offset:
                piece = os.pread(file.fileno(), min(MIB, offset - end), end)
                assert piece
                assert piece == ZEROS[: len(piece)], f"data after {end}, where nothing is mapped"
                end += len(piece)
            end = offset + length


def test_an_image_is_the_device(blocks: Pool, web: Volume) -> None:
    write(blocks, web, "f", random.Random(1).randbytes(5 * MIB))
    snapshot = blocks.snapshot(web, "s1")
    with blocks.backend.open_image(snapshot) as image:
        assert (image.identity, image.size) == (snapshot.id, 2 * blocks.variant.size)
        assert image.filesystem == blocks.variant.options["fs"]
        assert image.device.is_block_device()
        was = digest(image.device)
        assert was[0] == image.size
        well_formed(image.mapped, image.size)
        assert_zero_elsewhere(image)
        assert sum(length for _, length in image.mapped) < image.size // 2
        with (
            pytest.raises(OSError, match=r"[Rr]ead-only|Operation not permitted"),
            image.device.open("r+b", buffering=0) as file,
        ):
            file.write(b"x")
    write(blocks, web, "f", b"later")
    with blocks.backend.open_image(snapshot) as image:
        assert digest(image.device) == was, "a snapshot does not change"
    assert blocks.leaks() == []


def test_an_image_is_a_file_system_that_any_machine_mounts(blocks: Pool, web: Volume) -> None:
    write(blocks, web, "f", b"one")
    snapshot = blocks.snapshot(web, "s1")
    copy, point = blocks.root / "copy.img", blocks.root / "copy"
    point.mkdir()
    with blocks.backend.open_image(snapshot) as image, copy.open("wb") as file:
        for number, piece in enumerate(read(image.device)):
            if piece != ZEROS:
                file.seek(number * MIB)
                file.write(piece)
        file.truncate(image.size)
    blocks.backend.destroy(web)
    run("mount", "-o", "loop,ro", copy, point)
    try:
        assert contents(point) == {"f": b"one"}
    finally:
        run("umount", point)


def test_an_image_that_is_gone_is_not_found(blocks: Pool, web: Volume) -> None:
    """T2."""
    first = blocks.snapshot(web, "s1")
    blocks.backend.destroy_snapshot(first)
    second = blocks.snapshot(web, "s1")
    with pytest.raises(NotFound, match="s1"):
        blocks.backend.open_image(first).__enter__()
    with pytest.raises(NotFound, match="s1"):
        blocks.backend.image_changes(first, second)


def test_what_is_trimmed_is_a_hole(blocks: Pool, web: Volume) -> None:
    """T31."""
    write(blocks, web, "large", random.Random(2).randbytes(16 * MIB))
    full = blocks.snapshot(web, "full")
    with blocks.mounted(web) as root:
        (root / "large").unlink()
        run("sync", "-f", root)
        run("fstrim", root)
    empty = blocks.snapshot(web, "empty")
    sizes = {}
    for snapshot in (full, empty):
        with blocks.backend.open_image(snapshot) as image:
            sizes[snapshot.name] = sum(length for _, length in image.mapped)
            assert_zero_elsewhere(image)
    assert sizes["full"] - sizes["empty"] >= 15 * MIB
    changed = blocks.backend.image_changes(full, empty)
    assert changed is not None
    assert sum(length for _, length in changed) >= 15 * MIB, "what became unmapped has changed"


def differing(pool: Pool, base: Snapshot, snapshot: Snapshot) -> tuple[list[int], Sequence[Range], Image]:
    """Return the pieces whose bytes differ, what the backend says has changed, and the later image."""
    found = []
    with pool.backend.open_image(base) as one, pool.backend.open_image(snapshot) as image:
        for number, (before, after) in enumerate(zip_longest(read(one.device), read(image.device), fillvalue=b"")):
            if before != after:
                places = range(0, MIB, 4096)
                found += [number * MIB + at for at in places if before[at : at + 4096] != after[at : at + 4096]]
    changed = pool.backend.image_changes(base, snapshot)
    assert changed is not None
    well_formed(changed, max(one.size, image.size))
    return found, changed, image


def test_changes_are_what_differs(blocks: Pool, web: Volume) -> None:
    chance = random.Random(3)
    write(blocks, web, "f", chance.randbytes(20 * MIB))
    base = blocks.snapshot(web, "s1")
    assert blocks.backend.image_changes(base, base) == []
    for turn in range(3):
        for _ in range(5):
            write(blocks, web, "f", chance.randbytes(chance.randrange(1, 9000)), chance.randrange(20 * MIB))
        if turn == 2:
            with blocks.mounted(web) as root:
                run("fallocate", "--punch-hole", "--offset", str(4 * MIB), "--length", str(2 * MIB), root / "f")
                run("sync", "-f", root)
                run("fstrim", root)
        snapshot = blocks.snapshot(web, f"t{turn}")
        found, changed, image = differing(blocks, base, snapshot)
        assert found
        missed = [offset for offset in found if not within(changed, offset, 4096)]
        assert missed == [], "a change that is not told is lost from the backup"
        assert sum(length for _, length in changed) < image.size // 2
        base = snapshot


def test_changes_skip_snapshots_between_and_go_back(blocks: Pool, web: Volume) -> None:
    first = blocks.snapshot(web, "s1")
    write(blocks, web, "a", b"x" * MIB)
    blocks.snapshot(web, "s2")
    write(blocks, web, "b", b"y" * MIB)
    last = blocks.snapshot(web, "s3")
    for base, later in ((first, last), (last, first)):
        found, changed, _ = differing(blocks, base, later)
        assert all(within(changed, offset, 4096) for offset in found)


def test_changes_from_before_a_rollback_or_a_restore_are_whole_or_unknown(blocks: Pool, web: Volume) -> None:
    """The contents then come from another device; what is not known is read."""
    write(blocks, web, "f", b"one" * 1000)
    base = blocks.snapshot(web, "s1")
    write(blocks, web, "f", b"two" * 1000)
    blocks.snapshot(web, "s2")
    blocks.backend.rollback(web, base)
    write(blocks, web, "g", b"three" * 1000)
    later = blocks.snapshot(web, "s3")
    (blocks.backend.stage(web) / "new").write_text("four")
    blocks.backend.adopt_stage(web)
    last = blocks.snapshot(web, "s4")
    for one, other in ((base, later), (later, last), (base, last)):
        if blocks.backend.image_changes(one, other) is not None:
            found, changed, _ = differing(blocks, one, other)
            assert [offset for offset in found if not within(changed, offset, 4096)] == []


def test_changes_of_another_size_or_volume_are_unknown(blocks: Pool, web: Volume) -> None:
    """T31."""
    base = blocks.snapshot(web, "s1")
    blocks.backend.resize(web, 3 * blocks.variant.size)
    grown = blocks.snapshot(web, "s2")
    assert blocks.backend.image_changes(base, grown) is None
    other = blocks.snapshot(blocks.volume("other"), "s1")
    assert blocks.backend.image_changes(other, grown) is None


def test_a_metadata_snapshot_that_a_kill_left_is_in_nobody_s_way(blocks: Pool, web: Volume) -> None:
    base = blocks.snapshot(web, "s1")
    write(blocks, web, "f", b"x")
    later = blocks.snapshot(web, "s2")
    device = f"{disks.GROUP}-{disks.POOL}-tpool"
    run("dmsetup", "message", device, "0", "reserve_metadata_snap")
    try:
        blocks.reopen()
        changed = blocks.backend.image_changes(base, later)
        assert changed
        blocks.reopen()
        held = run("dmsetup", "status", device).stdout.split()[6]
        assert held == "-", "the kernel's status names the metadata snapshot that is held"
    finally:
        run("dmsetup", "message", device, "0", "release_metadata_snap", check=False)


def test_what_a_killed_reader_of_an_image_had_open_is_let_go_of(blocks: Pool, web: Volume) -> None:
    snapshot = blocks.snapshot(web, "s1")
    child = os.fork()
    if child == 0:
        blocks.fresh().open_image(snapshot).__enter__()
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    blocks.reopen()
    assert blocks.leaks() == []
    blocks.backend.destroy_snapshot(snapshot)


# -- volumes from images ----------------------------------------------------------------------------------------


def staged_copy(pool: Pool, snapshot: Snapshot, target: Volume, extra: int = 0) -> None:
    """Fill a stage of ``target`` with the image of a snapshot, as a restore does: zeros are not written."""
    with pool.backend.open_image(snapshot) as image:
        device = pool.backend.stage_image(target, image.size + extra)
        assert device.is_block_device()
        with image.device.open("rb") as source, device.open("r+b") as copy:
            assert not copy.read(PIECE).strip(b"\0")
            for offset, length in image.mapped:
                source.seek(offset)
                copy.seek(offset)
                copy.write(source.read(length))
            copy.flush()
            os.fsync(copy.fileno())


def test_a_volume_takes_the_contents_of_an_image(blocks: Pool, web: Volume) -> None:
    """T11, T35: beside the volume that the image is of, and exact."""
    write(blocks, web, "f", b"one")
    snapshot = blocks.snapshot(web, "s1")
    other = blocks.volume("other")
    blocks.put(other, stale="x")
    staged_copy(blocks, snapshot, other)
    assert blocks.get(other) == {"stale": b"x"}
    blocks.backend.adopt_stage(other)
    with blocks.mounted(web) as one, blocks.mounted(other) as two:
        assert contents(one) == contents(two) == {"f": b"one"}
    assert blocks.stored("other") == other
    with pytest.raises(NotFound, match="staged"):
        blocks.backend.adopt_stage(other)
    assert blocks.leaks() == []


def test_a_smaller_image_grows_to_the_volumes_size(blocks: Pool, web: Volume) -> None:
    write(blocks, web, "f", b"one")
    snapshot = blocks.snapshot(web, "s1")
    large = blocks.record("large", size=str(4 * blocks.variant.size))
    blocks.backend.create(large, size=4 * blocks.variant.size)
    staged_copy(blocks, snapshot, blocks.stored("large"))
    blocks.backend.adopt_stage(blocks.stored("large"))
    with blocks.mounted(blocks.stored("large")) as root:
        assert contents(root) == {"f": b"one"}
        facts = os.statvfs(root)
        assert facts.f_blocks * facts.f_frsize > 3 * blocks.variant.size
    assert blocks.backend.usage(blocks.stored("large")).limit == 4 * blocks.variant.size


def test_T37_a_volume_that_is_restored_gets_its_size_though_it_began_larger(blocks: Pool, web: Volume) -> None:
    write(blocks, web, "f", b"one")
    snapshot = blocks.snapshot(web, "s1")
    large = blocks.record("large", size=str(2 * blocks.variant.size))
    blocks.backend.create(large, size=4 * blocks.variant.size)
    restored = replace(blocks.stored("large"), state=State.RESTORING)
    blocks.backend.record(restored)
    with pytest.raises(Refused, match="large"):
        blocks.backend.stage_image(restored, 3 * blocks.variant.size)
    blocks.backend.stage(restored)
    blocks.backend.adopt_stage(restored)
    assert blocks.backend.usage(restored).limit == 2 * blocks.variant.size
    staged_copy(blocks, snapshot, restored)
    blocks.backend.adopt_stage(restored)
    assert blocks.backend.usage(restored).limit == 2 * blocks.variant.size
    assert blocks.get(restored) == {"f": b"one"}
    assert blocks.leaks() == []


def test_an_image_that_is_larger_than_its_volume_is_refused(blocks: Pool, web: Volume) -> None:
    small = blocks.record("small", size=str(blocks.variant.size))
    blocks.backend.create(small, size=blocks.variant.size)
    with pytest.raises(Refused, match="small"):
        blocks.backend.stage_image(blocks.stored("small"), 2 * blocks.variant.size)
    assert blocks.leaks() == []


@pytest.mark.parametrize("garbage", ["nothing", "noise", "half"])
def test_what_is_no_file_system_is_not_adopted(blocks: Pool, web: Volume, garbage: str) -> None:
    """T38: the old contents stay."""
    write(blocks, web, "f", b"one")
    snapshot = blocks.snapshot(web, "s1")
    with blocks.backend.open_image(snapshot) as image:
        data = next(read(image.device)) if garbage == "half" else random.Random(4).randbytes(MIB)
        device = blocks.backend.stage_image(web, image.size)
    if garbage != "nothing":
        with device.open("r+b", buffering=0) as file:
            file.write(data if garbage == "noise" else data[: 64 << 10])
    with pytest.raises(SnapvolError, match="web"):
        blocks.backend.adopt_stage(web)
    assert blocks.get(web) == {"f": b"one"}
    blocks.backend.discard_stage(web)
    assert blocks.leaks() == []


def test_a_staged_image_that_nobody_adopted_is_gone(blocks: Pool, web: Volume) -> None:
    """T38."""
    discard: list[Callable[[], object]] = [
        lambda: blocks.backend.discard_stage(web),
        blocks.reopen,
        lambda: (blocks.backend.stage(web), blocks.backend.discard_stage(web)),
    ]
    for end in discard:
        blocks.backend.stage_image(web, blocks.variant.size)
        end()
        assert blocks.leaks() == []
        with pytest.raises(NotFound):
            blocks.backend.adopt_stage(web)
