"""What changed in a thin volume: the time to find it, beside thin_delta, with little and with much mapped, in one run.

Runs where the storage is: ``bench/mapping.py VG/THINPOOL``, as root, on a pool of chunks of 64 KiB; in the lab's
guests: ``tests/lab/uml --disk 80G -- …``. A volume gets 4 KiB in each of its chunks, up to so many GiB; after a
snapshot a thousand chunks change: within the first GiB, or all over it. Each time is that of the whole question: a
metadata snapshot is reserved, read and released. Writes no zeros: turn the pool's zeroing off, or wait longer.
"""

from __future__ import annotations

import argparse
import mmap
import os
import random
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from measure import run, table

from snapvol.backends import devicemapper
from snapvol.backends.thinmap import ThinMap

CHUNK = 64 << 10
GIB = (1 << 30) // CHUNK  # chunks
CHANGED = 1000


def write(device: Path, chunks: Iterable[int]) -> None:
    """Write 4 KiB to each chunk, past the page cache."""
    descriptor = os.open(device, os.O_WRONLY | os.O_DIRECT)
    try:
        with mmap.mmap(-1, mmap.PAGESIZE) as page:
            page[:8] = b"snapvol."
            for chunk in chunks:
                os.pwrite(descriptor, page, chunk * CHUNK)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Pool:
    """A thin pool and what is made in it, by LVM's own commands."""

    def __init__(self, group: str, pool: str, scratch: Path) -> None:
        self.group, self.pool = group, pool
        self.metadata = devicemapper.path(devicemapper.name(group, f"{pool}_tmeta"))
        self.made: list[str] = []
        self.scratch = scratch

    def volume(self, gib: int) -> tuple[str, int]:
        """Make a volume that is mapped as a whole; return its name and its number in the pool."""
        name = f"mapping{gib}"
        words = ("--virtualsize", f"{gib}g", "--thinpool", self.pool, "--name", name, self.group)
        found = self._made(name, *words)
        write(self.device(name), range(gib * GIB))
        return name, found

    def snapshot(self, name: str, of: str) -> int:
        """Make a snapshot; return its number in the pool."""
        return self._made(name, "--snapshot", "--name", name, f"{self.group}/{of}")

    def _made(self, name: str, *words: str) -> int:
        run(["lvcreate", "--quiet", "--yes", *words])
        self.made.append(name)
        return len(self.made)  # as LVM numbers them in a pool of their own

    def device(self, name: str) -> Path:
        """Return the device of a volume."""
        return devicemapper.path(devicemapper.name(self.group, name))

    def remove(self) -> None:
        """Remove all that was made."""
        run(["lvremove", "--yes", "--quiet", *(f"{self.group}/{name}" for name in self.made)])

    def ours(self, old: int, new: int) -> int:
        """Return how many chunks differ, as snapvol finds it."""
        thin = devicemapper.name(self.group, self.pool, "tpool")
        found = ThinMap(thin, self.metadata, self.scratch / "lock").differing(old, new, CHUNK, 1 << 50)
        return sum(length for _, length in found) // CHUNK

    def tool(self, old: int, new: int) -> None:
        """Ask thin_delta."""
        thin = devicemapper.name(self.group, self.pool, "tpool")
        devicemapper.message(thin, "reserve_metadata_snap")
        try:
            run(["thin_delta", "--thin1", str(old), "--thin2", str(new), self.metadata, "--metadata-snap"])
        finally:
            devicemapper.message(thin, "release_metadata_snap")


def median(operation: Callable[[], object], rounds: int) -> float:
    """Return the milliseconds that an operation takes."""
    seen = []
    for _ in range(rounds):
        began = time.perf_counter()
        operation()
        seen.append(time.perf_counter() - began)
    return statistics.median(seen) * 1000


def measured(pool: Pool, gib: int, rounds: int) -> list[list[str]]:
    """Return the table's lines for a volume of so many GiB."""
    chance = random.Random(gib)
    name, number = pool.volume(gib)
    lines = []
    for where, chunks in (("nothing", 0), ("within 1 GiB", GIB), ("all over it", gib * GIB)):
        if where == "all over it" and gib == 1:
            continue
        base = pool.snapshot(f"{name}-{len(pool.made)}", name)
        changed = chance.sample(range(chunks), CHANGED) if chunks else []
        write(pool.device(name), changed)
        if (found := pool.ours(base, number)) != len(changed):
            raise RuntimeError(f"{found} chunks differ, not {len(changed)}")
        times = (median(lambda: ask(base, number), rounds) for ask in (pool.ours, pool.tool))  # noqa: B023 (asked at once)
        lines.append([f"{gib} GiB", f"{len(changed)}, {where}" if changed else "0", *(f"{ms:.1f} ms" for ms in times)])
    return lines


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("place", help="VG/THINPOOL, in which nothing is")
    parser.add_argument("--gib", type=int, nargs="+", default=[1, 64], help="how much is mapped")
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args(words)
    with TemporaryDirectory() as scratch:
        group, name = arguments.place.split("/")
        pool = Pool(group, name, Path(scratch))
        try:
            lines = [line for gib in arguments.gib for line in measured(pool, gib, arguments.rounds)]
        finally:
            pool.remove()
    print(table(["mapped", "chunks changed", "snapvol", "thin_delta"], lines))


if __name__ == "__main__":
    main()
