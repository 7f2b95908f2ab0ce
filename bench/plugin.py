"""What Docker waits for: plugin calls with 500 volumes, idle and while a 4 GiB backup runs.

Starts a daemon of its own on a temporary root, speaks the plugin protocol to it over its socket, one connection per
call as dockerd's clients do after a restart, and prints the median and the 99th percentile of each call.
"""

from __future__ import annotations

import argparse
import os
import threading
import time
from pathlib import Path

from daemon import SNAPVOL, call, finish, plugin, running, spawn
from measure import percentiles, table

MIB = 1 << 20


def measure(plugin: Path, rounds: int, label: str) -> dict[str, list[float]]:
    """Time every call ``rounds`` times on volumes named after ``label``; Create leaves its volumes."""
    seen: dict[str, list[float]] = {name: [] for name in ("Create", "Mount", "Get", "List", "Unmount")}
    for number in range(rounds):
        name = f"{label}{number}"
        seen["Create"].append(call(plugin, "Create", {"Name": name}))
        seen["Mount"].append(call(plugin, "Mount", {"Name": name, "ID": "a" * 64}))
        seen["Get"].append(call(plugin, "Get", {"Name": name}))
        seen["List"].append(call(plugin, "List", {}))
        seen["Unmount"].append(call(plugin, "Unmount", {"Name": name, "ID": "a" * 64}))
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--volumes", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--backup-mib", type=int, default=4096)
    arguments = parser.parse_args()
    with running() as root:
        rows = phases(root, arguments)
    print(table(["call", "phase", "calls", "p50", "p99"], rows))


def fill(root: Path, size_mib: int) -> None:
    """Make the volume `big` and a snapshot of it, so that what follows is the backup alone."""
    call(plugin(root), "Create", {"Name": "big"})
    with (root / "pool/volumes/big/data/large.db").open("wb") as large:
        for _ in range(size_mib):
            large.write(os.urandom(MIB // 2) + bytes(MIB // 2))
    finish(spawn(SNAPVOL, "snapshot", "big", "-n", "point"))
    os.sync()


def phases(root: Path, arguments: argparse.Namespace) -> list[list[str]]:
    socket = plugin(root)
    for number in range(arguments.volumes):
        call(socket, "Create", {"Name": f"v{number}"})
    fill(root, arguments.backup_mib)
    idle = measure(socket, arguments.rounds, "idle")
    waiting = threading.Thread(target=finish, args=[spawn(SNAPVOL, "backup", "big@point")], daemon=True)
    waiting.start()
    busy: dict[str, list[float]] = {}
    number = 0
    while waiting.is_alive():
        for name, seconds in measure(socket, 1, f"busy{number}x").items():
            busy.setdefault(name, []).extend(seconds)
        number += 1
        time.sleep(0.01)
    return [
        [name, phase, str(len(seconds)), *(f"{value * 1000:.1f} ms" for value in percentiles(seconds))]
        for phase, seen in (("idle", idle), ("during a backup", busy))
        for name, seconds in seen.items()
    ]


if __name__ == "__main__":
    main()
