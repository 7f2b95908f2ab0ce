"""Backup and restore of one data set, against Debian's restic in the same run, both on a local repository.

The data: one half-compressible file of 1 GiB and 50,000 small files. Both tools work on the same tree, at their
defaults; restic is given no cache directory of its own, as snapvol keeps none.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
from pathlib import Path

from measure import Cost, median, run, table

SNAPVOL = Path(sys.executable).with_name("snapvol")
MIB = 1 << 20


def build(root: Path, large_mib: int, small_files: int) -> None:
    """Fill ``root``: every other KiB of the large file is text, the rest is noise; small files have 1 to 8 KiB."""
    source = random.Random(42)
    line = b"INSERT INTO page VALUES (1, 'the quick brown fox jumps over the lazy dog', 0);\n"
    text = (line * (1024 // len(line) + 1))[:1024]
    with (root / "large.db").open("wb") as large:
        for _ in range(large_mib):
            large.write(b"".join(text + source.randbytes(1024) for _ in range(512)))
    for number in range(small_files):
        folder = root / f"d{number % 250:03d}"
        folder.mkdir(exist_ok=True)
        (folder / f"f{number}").write_bytes(source.randbytes(512) + text * source.randrange(8))


class Rivals:
    """Both tools, each with a repository and a password under ``work``, on the tree at ``data``."""

    def __init__(self, work: Path, data: Path) -> None:
        self.work = work
        self.data = data
        self.password = work / "password"
        self.password.write_text("benchmark\n")
        self.password.chmod(0o600)
        self.round = 0

    def restic(self, *words: str) -> Cost:
        return run(["restic", "-q", "--no-cache", "-r", self.work / "restic", "-p", self.password, *words])

    def snapvol(self, *words: str) -> Cost:
        return run(
            [sys.executable, Path(__file__).with_name("engine.py"), self.work / "snapvol", self.password, *words]
        )

    def fresh(self) -> None:
        for name in ("restic", "snapvol"):
            shutil.rmtree(self.work / name, ignore_errors=True)
        self.restic("init")
        self.snapvol("init")

    def backup(self) -> dict[str, Cost]:
        return {
            "restic": self.restic("backup", str(self.data)),
            "snapvol": self.snapvol("backup", str(self.data)),
        }

    def restore(self) -> dict[str, Cost]:
        costs = {}
        for name, rival in {"restic": self.restic, "snapvol": self.snapvol}.items():
            target = self.work / f"out-{name}"
            shutil.rmtree(target, ignore_errors=True)
            words = ["restore", "latest", "--target", str(target)] if name == "restic" else ["restore", str(target)]
            costs[name] = rival(*words)
            shutil.rmtree(target)
        return costs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--large-mib", type=int, default=1024)
    parser.add_argument("--small-files", type=int, default=50_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="snapvol-bench-") as place:
        data = Path(place, "data")
        data.mkdir()
        build(data, arguments.large_mib, arguments.small_files)
        os.sync()
        rivals = Rivals(Path(place), data)
        cases: dict[str, list[dict[str, Cost]]] = {"first backup": [], "unchanged": [], "restore": []}
        for _ in range(arguments.rounds):
            rivals.fresh()
            cases["first backup"].append(rivals.backup())
            cases["unchanged"].append(rivals.backup())
            cases["restore"].append(rivals.restore())
    rows = []
    for case, rounds in cases.items():
        costs = {name: median([seen[name] for seen in rounds]) for name in ("restic", "snapvol")}
        ratio = costs["restic"].wall / costs["snapvol"].wall
        rows += [
            [case, name, f"{cost.wall:.1f} s", f"{cost.cpu:.1f} s", f"{cost.memory / MIB:.0f} MiB", f"{ratio:.2f}"]
            for name, cost in costs.items()
        ]
    print(table(["case", "tool", "time", "CPU", "peak memory", "restic's time / snapvol's"], rows))


if __name__ == "__main__":
    main()
