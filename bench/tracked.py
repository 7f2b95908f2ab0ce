"""Backups of a btrfs volume after little has changed, against Debian's restic in the same run, on a local repository.

The data: one half-compressible file and many small ones, on a btrfs of its own. snapvol takes a snapshot, asks btrfs
what has changed since the last one, and backs that up; restic looks at the volume itself. Needs root.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from backup import MIB, build
from measure import Cost, median, run, table

if TYPE_CHECKING:
    from snapvol.backends.btrfs import Btrfs
    from snapvol.model import Snapshot, Volume
    from snapvol.repository import Repository

VOLUME = "benchmark"
CASES = ("first backup", "unchanged", "4 KiB changed", "one small file changed")


def engine(verb: str, url: str, password_file: str, pool: str) -> None:
    """Do snapvol's part: make the volume, or snapshot it and back up what has changed."""
    from snapvol.backends.btrfs import Btrfs
    from snapvol.model import Snapshot, Volume, new_id, now
    from snapvol.repository import Repository
    from snapvol.settings import RepositorySettings
    from snapvol.stores import open_store

    store = open_store(RepositorySettings(url=url))
    password = Path(password_file).read_text().splitlines()[0]
    backend = Btrfs("bench", {"path": pool})
    backend.open()
    if verb == "init":
        Repository.create(store, password)
        backend.create(Volume(id=new_id(), name=VOLUME, created=now()))
        return
    (volume,) = backend.volumes()
    assert isinstance(volume, Volume)
    earlier = backend.snapshots(volume)
    base = earlier[-1] if earlier else None
    assert base is None or isinstance(base, Snapshot)
    (snapshot,) = backend.snapshot([volume], f"s{now():%H%M%S%f}")
    with Repository.open(store, password) as repository:
        _back_up(repository, backend, volume, base, snapshot, Path(password_file).with_name("read"))
    if base is not None:
        backend.destroy_snapshot(base)


def _back_up(
    repository: Repository, backend: Btrfs, volume: Volume, base: Snapshot | None, snapshot: Snapshot, read: Path
) -> None:
    from snapvol.engine.archiver import back_up
    from snapvol.engine.base import base_backup
    from snapvol.engine.manifest import BackupKind, VolumeMeta
    from snapvol.engine.progress import Silent

    meta = VolumeMeta(id=volume.id, name=VOLUME, created=volume.created, taken=snapshot.created, source=snapshot.id)
    with backend.open_snapshot(snapshot) as tree:
        result = back_up(
            repository,
            tree,
            meta,
            parent=None,
            progress=Silent(),
            base=base_backup(repository, volume.id, base.id, BackupKind.FILES) if base is not None else None,
            changes=backend.changes(base, snapshot) if base is not None else None,
        )
    assert not result.notes, result.notes
    read.write_text(f"{result.bytes_read} {result.bytes_checked}")


@contextmanager
def btrfs(work: Path, size: int) -> Iterator[Path]:
    """Give the mount point of a new btrfs."""
    image, point = work / "btrfs.img", work / "btrfs"
    point.mkdir()
    with image.open("xb") as file:
        os.truncate(file.fileno(), size)
    run(["mkfs.btrfs", "-q", image])
    run(["mount", "-o", "loop", image, point])
    try:
        yield point
    finally:
        run(["umount", point])


class Rivals:
    """Both tools, each with a repository and a password under ``work``, on the volume in ``pool``."""

    def __init__(self, work: Path, pool: Path) -> None:
        self.work = work
        self.pool = pool
        self.data = pool / "volumes" / VOLUME / "data"
        self.password = work / "password"
        self.password.write_text("benchmark\n")
        self.password.chmod(0o600)
        self.restic("init")
        self.snapvol("init")

    def restic(self, *words: str | Path) -> Cost:
        return run(["restic", "-q", "--no-cache", "-r", self.work / "restic", "-p", self.password, *words])

    def snapvol(self, verb: str) -> Cost:
        return run([sys.executable, __file__, "--engine", verb, self.work / "snapvol", self.password, self.pool])

    def backup(self) -> dict[str, Cost]:
        return {"restic": self.restic("backup", self.data), "snapvol": self.snapvol("backup")}


def change(data: Path, case: str, number: int) -> None:
    """Do to the volume what the case is called after."""
    if case == "4 KiB changed":
        with (data / "large.db").open("r+b") as file:
            file.seek(number * 7919 * 4096 % file.seek(0, os.SEEK_END))
            file.write(os.urandom(4096))
    elif case == "one small file changed":
        (data / "d007" / "f7").write_bytes(os.urandom(3000))
    os.sync()


def main() -> None:
    if sys.argv[1:2] == ["--engine"]:
        return engine(*sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--large-mib", type=int, default=2048)
    parser.add_argument("--small-files", type=int, default=25_000)
    parser.add_argument("--work", default=None, help="a directory with room for three times the data")
    arguments = parser.parse_args()
    seen: dict[str, list[tuple[dict[str, Cost], str]]] = {case: [] for case in CASES}
    with tempfile.TemporaryDirectory(prefix="snapvol-bench-", dir=arguments.work) as place:
        work = Path(place)
        with btrfs(work, (arguments.large_mib * 2 + 2048) * MIB) as point:
            rivals = Rivals(work, point / "pool")
            build(rivals.data, arguments.large_mib, arguments.small_files)
            for number in range(arguments.rounds):
                for case in CASES if number == 0 else CASES[1:]:
                    change(rivals.data, case, number + 1)
                    seen[case].append((rivals.backup(), (work / "read").read_text()))
        shutil.rmtree(work / "restic")
    _print(seen)
    return None


def _print(seen: dict[str, list[tuple[dict[str, Cost], str]]]) -> None:
    rows = []
    for case, rounds in seen.items():
        costs = {name: median([cost[name] for cost, _ in rounds]) for name in ("restic", "snapvol")}
        ratio = costs["restic"].wall / costs["snapvol"].wall
        read, checked = map(int, rounds[-1][1].split())
        for name, cost in costs.items():
            shown = f"{read / MIB:.1f} MiB, {checked / MIB:.1f} of them as proof" if name == "snapvol" else "-"
            figures = [f"{cost.wall:.2f} s", f"{cost.cpu:.2f} s", f"{cost.memory / MIB:.0f} MiB", shown]
            rows.append([case, name, *figures, f"{ratio:.1f}"])
    print(table(["case", "tool", "time", "CPU", "peak memory", "read", "restic's time / snapvol's"], rows))


if __name__ == "__main__":
    main()
