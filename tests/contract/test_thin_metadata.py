"""What is read from a living thin pool's metadata is what the pool's own tools say of it (T31)."""

from __future__ import annotations

import itertools
import os
import random
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from snapvol.backend import Range
from snapvol.backends.thinmap import ThinMap
from support import disks, thin_tools
from support.process import run
from support.storage import VARIANTS

pytestmark = pytest.mark.root
CHUNK = 65536
CHUNKS = 40_000  # of a volume: 2.4 GiB
SIZE = CHUNKS * CHUNK
THIN = [name for name in ("lvm-ext4",) if name in VARIANTS]


@pytest.fixture(params=THIN)
def settings(request: pytest.FixtureRequest) -> Iterator[Mapping[str, object]]:
    """A pool of its own, in which nothing is."""
    found = disks.another("lvm", "3G")
    try:
        yield found
    finally:
        disks.drop(found)


class Volumes:
    """Thin volumes without file systems, by their numbers in the pool."""

    def __init__(self, settings: Mapping[str, object], chance: random.Random) -> None:
        self.group, self.pool = str(settings["volume_group"]), str(settings["thin_pool"])
        self.chance = chance
        self.names = ["v1"]
        run("lvcreate", "--quiet", "--virtualsize", f"{SIZE}b", "--thin", "--name", "v1", f"{self.group}/{self.pool}")

    def device(self, volume: int) -> Path:
        return Path(f"/dev/mapper/{self.group}-{self.names[volume - 1]}")

    def snapshot(self, volume: int) -> int:
        """Make a snapshot that can be written to, and return its number."""
        name = f"v{len(self.names) + 1}"
        source = f"{self.group}/{self.names[volume - 1]}"
        run("lvcreate", "--quiet", "--snapshot", "--setactivationskip", "n", "--name", name, source)
        self.names.append(name)
        return len(self.names)

    def write(self, volume: int, chunks: Sequence[int]) -> None:
        """Write a little to each chunk."""
        descriptor = os.open(self.device(volume), os.O_WRONLY)
        try:
            for chunk in chunks:
                os.pwrite(descriptor, self.chance.randbytes(4096), chunk * CHUNK + 4096 * self.chance.randrange(16))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def discard(self, volume: int, first: int, count: int) -> None:
        run("blkdiscard", "--offset", str(first * CHUNK), "--length", str(count * CHUNK), self.device(volume))

    def scattered(self, count: int) -> list[int]:
        return [self.chance.randrange(CHUNKS) for _ in range(count)]


def chunks(ranges: Sequence[Range]) -> list[int]:
    return [chunk for begin, length in ranges for chunk in range(begin // CHUNK, (begin + length) // CHUNK)]


def test_it_is_what_thin_dump_and_thin_delta_say(settings: Mapping[str, object], tmp_path: Path) -> None:
    """After writes, discards and snapshots of snapshots, between all that there are."""
    volumes = Volumes(settings, random.Random(7))
    volumes.write(1, range(3000))
    volumes.write(1, volumes.scattered(800))
    for turn in range(4):
        source = volumes.chance.randint(1, len(volumes.names))
        copy = volumes.snapshot(source)
        for volume in {source, copy}:
            volumes.write(volume, volumes.scattered(100 * turn))
            first = volumes.chance.randrange(3000)
            volumes.write(volume, range(first, first + 60))
            volumes.discard(volume, volumes.chance.randrange(3000), 200 * turn + 1)
    volumes.snapshot(1)
    volumes.discard(volumes.snapshot(1), 0, CHUNKS)

    device = thin_tools.metadata(settings)
    ours = ThinMap(f"{thin_tools.called(settings)}-tpool", device, tmp_path / "lock")
    numbers = range(1, len(volumes.names) + 1)
    assert ours.volumes() == set(numbers)
    for volume in numbers:
        found = chunks(ours.mapped(volume, CHUNK, SIZE))
        with thin_tools.reserved(settings):
            assert found == thin_tools.mapped(device, volume, "--metadata-snap")
    seen = set()
    for old, new in itertools.permutations(numbers, 2):
        found = chunks(ours.differing(old, new, CHUNK, SIZE))
        with thin_tools.reserved(settings):
            assert found == thin_tools.differing(device, old, new, "--metadata-snap")
        seen.add(len(found))
    assert min(seen) == 0, "one snapshot was never changed"
    assert max(seen) > 3000, "one is empty"


def test_it_is_right_while_somebody_writes(settings: Mapping[str, object], tmp_path: Path) -> None:
    """The metadata snapshot is of one instant: what was written before is in it, and nothing contradicts itself."""
    volumes = Volumes(settings, random.Random(9))
    volumes.write(1, range(0, 2000, 3))
    base = volumes.snapshot(1)
    ours = ThinMap(f"{thin_tools.called(settings)}-tpool", thin_tools.metadata(settings), tmp_path / "lock")
    written: list[int] = []
    enough = threading.Event()

    def write() -> None:
        while not enough.is_set():
            some = volumes.scattered(20)
            volumes.write(1, some)
            written.extend(some)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(20):
            known = set(written)
            assert known <= set(chunks(ours.differing(base, 1, CHUNK, SIZE)))
            assert known <= set(chunks(ours.mapped(1, CHUNK, SIZE)))
            assert chunks(ours.mapped(base, CHUNK, SIZE)) == list(range(0, 2000, 3))
    finally:
        enough.set()
        writer.join()
    assert set(chunks(ours.differing(base, 1, CHUNK, SIZE))) == set(written)
