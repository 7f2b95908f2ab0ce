"""Image backup and restore of one sparse block device, against Debian's restic on the same raw file, in one run.

The device is a file of 4 GiB with 512 MiB of half-compressible data in pieces of 4 MiB; then 40 MiB of it change, a MiB
here and there. snapvol is told what is mapped and what has changed, as the thin pool tells it; restic, which nobody can
tell, reads it all. Both at their defaults, on a local repository; restic is given no cache directory.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
from pathlib import Path

from measure import Cost, median, run, table

MIB = 1 << 20
PIECE = 4 * MIB
VOLUME = "benchmark"


def engine(url: str, password_file: str, verb: str, *words: str) -> None:
    """Do one piece of work as the daemon's worker does it: ``init``, ``backup DEVICE CHANGED`` or ``restore FILE``."""
    from snapvol.backend import Image
    from snapvol.engine.base import base_backup
    from snapvol.engine.image_archiver import back_up_image
    from snapvol.engine.image_restorer import restore_image
    from snapvol.engine.manifest import BackupKind, VolumeMeta
    from snapvol.engine.progress import Silent
    from snapvol.model import now
    from snapvol.repository import Repository
    from snapvol.settings import RepositorySettings
    from snapvol.stores import open_store

    store, password = open_store(RepositorySettings(url=url)), Path(password_file).read_text().splitlines()[0]
    if verb == "init":
        Repository.create(store, password)
        return
    with Repository.open(store, password) as repository:
        if verb == "restore":
            restore_image(repository, repository.snapshots()[-1][0], Path(words[0]), progress=Silent())
            return
        device, changed = Path(words[0]), json.loads(words[1])
        count = len(repository.snapshots())
        image = Image(
            device=device,
            size=device.stat().st_size,
            identity=str(count),
            filesystem="ext4",
            mapped=tuple(_mapped(device)),
        )
        result = back_up_image(
            repository,
            image,
            VolumeMeta(id=VOLUME, name=VOLUME, created=now(), taken=now()),
            base=base_backup(repository, VOLUME, str(count - 1), BackupKind.IMAGE),
            changed=changed,
            progress=Silent(),
        )
    Path(password_file).with_name("read").write_text(str(result.bytes_read))


def _mapped(path: Path) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    end = 0
    with path.open("rb") as file:
        while True:
            try:
                start = os.lseek(file.fileno(), end, os.SEEK_DATA)
            except OSError:
                return found
            end = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            found.append((start, end - start))


class Device:
    """The file, and what of it has changed since it was last looked at."""

    def __init__(self, path: Path, size: int, data: int) -> None:
        self.path = path
        self._chance = random.Random(42)
        line = b"INSERT INTO page VALUES (1, 'the quick brown fox jumps over the lazy dog', 0);\n"
        self._text = (line * (1024 // len(line) + 1))[:1024]
        self._places = sorted(self._chance.sample(range(0, size, PIECE), data // PIECE))
        with path.open("wb") as file:
            os.truncate(file.fileno(), size)
            for place in self._places:
                os.pwrite(file.fileno(), self._noise(PIECE), place)
            os.fsync(file.fileno())

    def _noise(self, length: int) -> bytes:
        return b"".join(self._text + self._chance.randbytes(1024) for _ in range(length // 2048))

    def change(self, count: int) -> list[tuple[int, int]]:
        """Write ``count`` MiB anew; return where."""
        ranges = [(place + MIB, MIB) for place in sorted(self._chance.sample(self._places, count))]
        with self.path.open("rb+") as file:
            for offset, length in ranges:
                os.pwrite(file.fileno(), self._noise(length), offset)
            os.fsync(file.fileno())
        return ranges


class Rivals:
    """Both tools, each with a repository and a password under ``work``."""

    def __init__(self, work: Path, device: Device) -> None:
        self.work = work
        self.device = device
        self.password = work / "password"
        self.password.write_text("benchmark\n")
        self.password.chmod(0o600)

    def restic(self, *words: str | Path) -> Cost:
        return run(["restic", "-q", "--no-cache", "-r", self.work / "restic", "-p", self.password, *words])

    def snapvol(self, *words: str | Path) -> Cost:
        return run([sys.executable, __file__, "--engine", self.work / "snapvol", self.password, *words])

    def fresh(self) -> None:
        for name in ("restic", "snapvol"):
            shutil.rmtree(self.work / name, ignore_errors=True)
        self.restic("init")
        self.snapvol("init")

    def backup(self, changed: list[tuple[int, int]]) -> dict[str, Cost]:
        return {
            "restic": self.restic("backup", self.device.path),
            "snapvol": self.snapvol("backup", self.device.path, json.dumps(changed)),
        }

    def restore(self) -> dict[str, Cost]:
        out = self.work / "out"
        out.mkdir()
        costs = {
            "restic": self.restic("restore", "latest", "--target", out / "restic"),
            "snapvol": self.snapvol("restore", out / "image"),
        }
        run(["cmp", self.device.path, out / "image"])  # fails where they differ
        shutil.rmtree(out)
        return costs

    def bytes_read(self) -> int:
        return int((self.work / "read").read_text())


def main() -> None:
    if sys.argv[1:2] == ["--engine"]:
        return engine(*sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size-gib", type=int, default=4)
    parser.add_argument("--data-mib", type=int, default=512)
    parser.add_argument("--changed-mib", type=int, default=40)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="snapvol-bench-") as place:
        device = Device(Path(place, "device"), arguments.size_gib << 30, arguments.data_mib * MIB)
        rivals = Rivals(Path(place), device)
        changed = f"{arguments.changed_mib} MiB changed"
        cases: dict[str, list[dict[str, Cost]]] = {"first backup": [], changed: [], "restore": []}
        read = {}
        for _ in range(arguments.rounds):
            rivals.fresh()
            cases["first backup"].append(rivals.backup([]))
            read["first backup"] = rivals.bytes_read()
            cases[changed].append(rivals.backup(device.change(arguments.changed_mib)))
            read[changed] = rivals.bytes_read()
            cases["restore"].append(rivals.restore())
    _print(cases, read, arguments.size_gib << 30)
    return None


def _print(cases: dict[str, list[dict[str, Cost]]], read: dict[str, int], size: int) -> None:
    rows = []
    for case, rounds in cases.items():
        costs = {name: median([seen[name] for seen in rounds]) for name in ("restic", "snapvol")}
        ratio = costs["restic"].wall / costs["snapvol"].wall
        for name, cost in costs.items():
            bytes_read = (size if name == "restic" else read[case]) if case in read else None
            shown = f"{bytes_read / MIB:,.0f} MiB" if bytes_read is not None else "-"
            figures = [f"{cost.wall:.1f} s", f"{cost.cpu:.1f} s", f"{cost.memory / MIB:.0f} MiB", shown]
            rows.append([case, name, *figures, f"{ratio:.1f}"])
    print(table(["case", "tool", "time", "CPU", "peak memory", "read", "restic's time / snapvol's"], rows))


if __name__ == "__main__":
    main()
