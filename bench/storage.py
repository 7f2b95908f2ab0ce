"""Create, snapshot, clone, roll back and remove: snapvol's time beside that of the raw commands, in one run.

Runs where the storage is: ``bench/storage.py lvm VG/THINPOOL`` or ``bench/storage.py zfs DATASET``, as root; in the
lab's guests: ``tests/lab/uml .venv/bin/python bench/storage.py lvm …``. snapvol is the whole way through the daemon's
admin socket: locks, checks, history and metadata included. The raw commands are those that a person would type for
the same result, one process each; both take turns.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from daemon import running
from measure import run, table

from snapvol.client import Client

SIZE = "1G"


@dataclass(frozen=True)
class Lvm:
    """The raw commands on a thin pool."""

    group: str
    pool: str

    @property
    def settings(self) -> dict[str, str]:
        return {"BACKEND": "lvm", "VOLUME_GROUP": self.group, "THIN_POOL": self.pool}

    def create(self, name: str, scratch: Path) -> None:
        self._lvcreate("--virtualsize", SIZE, "--thinpool", self.pool, "--name", name, self.group)
        run(["mkfs.ext4", "-q", "-O", "metadata_csum_seed", "-E", "nodiscard", self._device(name)])
        run(["mount", self._device(name), scratch])
        (scratch / "lost+found").rmdir()
        run(["umount", scratch])

    def snapshot(self, name: str, snapshot: str) -> None:
        self._lvcreate("--snapshot", "--name", f"{name}-{snapshot}", f"{self.group}/{name}")

    def clone(self, name: str, snapshot: str, to: str) -> None:
        source = f"{self.group}/{name}-{snapshot}"
        self._lvcreate("--snapshot", "--setactivationskip", "n", "--name", to, source)
        run(["tune2fs", "-f", "-U", "random", self._device(to)])

    def rollback(self, name: str, snapshot: str, saved: str) -> None:
        self.snapshot(name, saved)
        source = f"{self.group}/{name}-{snapshot}"
        self._lvcreate("--snapshot", "--setactivationskip", "n", "--name", f"{name}.new", source)
        run(["lvremove", "--yes", "--quiet", f"{self.group}/{name}"])
        run(["lvrename", "--quiet", self.group, f"{name}.new", name])

    def remove(self, name: str) -> None:
        run(["lvremove", "--yes", "--quiet", f"{self.group}/{name}"])

    def _lvcreate(self, *words: str) -> None:
        run(["lvcreate", "--quiet", "--yes", *words])

    def _device(self, name: str) -> str:
        return f"/dev/{self.group}/{name}"


@dataclass(frozen=True)
class Zfs:
    """The raw commands below a dataset."""

    dataset: str

    @property
    def settings(self) -> dict[str, str]:
        return {"BACKEND": "zfs", "DATASET": f"{self.dataset}/snapvol"}

    def create(self, name: str, scratch: Path) -> None:
        where = ["-o", f"refquota={SIZE}", "-o", "canmount=noauto", "-o", "mountpoint=legacy"]
        run(["zfs", "create", "-p", *where, self._path(name)])

    def snapshot(self, name: str, snapshot: str) -> None:
        run(["zfs", "snapshot", f"{self._path(name)}@{snapshot}"])

    def clone(self, name: str, snapshot: str, to: str) -> None:
        run(["zfs", "clone", f"{self._path(name)}@{snapshot}", self._path(to)])

    def rollback(self, name: str, snapshot: str, saved: str) -> None:
        self.snapshot(name, saved)
        self.clone(name, snapshot, f"{name}.new")
        run(["zfs", "rename", self._path(name), self._path(f"{name}.old")])
        run(["zfs", "rename", self._path(f"{name}.new"), self._path(name)])

    def remove(self, name: str) -> None:
        run(["zfs", "destroy", "-r", self._path(name)])

    def _path(self, name: str) -> str:
        return f"{self.dataset}/raw-{name}"


def timed(operation: Callable[[], object]) -> float:
    """Return the seconds that ``operation`` takes."""
    started = time.perf_counter()
    operation()
    return time.perf_counter() - started


def one_round(raw: Lvm | Zfs, client: Client, number: int, scratch: Path) -> dict[str, tuple[float, float]]:
    """Return for each operation the seconds of the raw commands and of snapvol."""
    name, copy, source = f"bench{number}", f"copy{number}", {"snapshot": f"bench{number}@s"}
    ways: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "create": (lambda: raw.create(name, scratch), lambda: client.create(name, {"size": SIZE}, {})),
        "snapshot": (lambda: raw.snapshot(name, "s"), lambda: client.snapshot([name], "s", "")),
        "clone": (lambda: raw.clone(name, "s", copy), lambda: client.create(copy, source, {})),
        "remove": (lambda: raw.remove(copy), lambda: client.remove(copy, permanent=True)),
        "rollback": (lambda: raw.rollback(name, "s", "before"), lambda: client.rollback(name, "s")),
    }
    return {operation: (timed(by_hand), timed(ours)) for operation, (by_hand, ours) in ways.items()}


def rows(seen: Sequence[dict[str, tuple[float, float]]]) -> list[list[str]]:
    """Return the table's lines: medians in milliseconds."""
    lines = []
    for operation in seen[0]:
        raw, ours = (statistics.median(one[operation][side] for one in seen) * 1000 for side in (0, 1))
        lines.append([operation, f"{raw:.0f} ms", f"{ours:.0f} ms", f"{ours - raw:+.0f} ms", f"{ours / raw:.2f}"])
    return lines


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=("lvm", "zfs"))
    parser.add_argument("place", help="VG/THINPOOL or DATASET")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args(words)
    raw = Lvm(*arguments.place.split("/")) if arguments.kind == "lvm" else Zfs(arguments.place)
    for key, value in raw.settings.items():
        os.environ[f"SNAPVOL_POOLS__DEFAULT__{key}"] = value
    with running() as root, tempfile.TemporaryDirectory() as scratch:
        client = Client(root / "run/api.sock")
        seen = [one_round(raw, client, number, Path(scratch)) for number in range(arguments.rounds)]
    print(table(["operation", "raw commands", "snapvol", "difference", "ratio"], rows(seen)))


if __name__ == "__main__":
    main()
