"""What Docker waits for: plugin calls with 500 volumes, idle and while a 4 GiB backup runs.

Starts a daemon of its own on a temporary root, speaks the plugin protocol to it over its socket, one connection per
call as dockerd's clients do after a restart, and prints the median and the 99th percentile of each call.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path

from measure import percentiles, table

SNAPVOL = Path(sys.executable).with_name("snapvol")
MIB = 1 << 20


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("plugin", timeout=60)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(os.fspath(self.path))


def call(plugin: Path, endpoint: str, body: dict[str, object]) -> float:
    """Make one call and return its seconds; anything but success ends the benchmark."""
    started = time.perf_counter()
    connection = UnixConnection(plugin)
    connection.request("POST", f"/VolumeDriver.{endpoint}", json.dumps(body))
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    if answer.status != 200:
        raise RuntimeError(f"{endpoint}: {text!r}")
    return time.perf_counter() - started


def spawn(*words: str | Path) -> int:
    argv = [os.fspath(word) for word in words]
    silent = [(os.POSIX_SPAWN_OPEN, number, "/dev/null", os.O_WRONLY, 0) for number in (1, 2)]
    return os.posix_spawn(argv[0], argv, os.environ, file_actions=silent)


def finish(pid: int) -> None:
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
        raise RuntimeError(f"process {pid} failed")


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
    with tempfile.TemporaryDirectory(prefix="snapvol-bench-") as root:
        os.environ["SNAPVOL_ROOT"] = root
        plugin = Path(root, "run/plugin.sock")
        finish(spawn(SNAPVOL, "repo", "init"))
        daemon = spawn(SNAPVOL, "daemon")
        try:
            rows = phases(Path(root), plugin, arguments)
        finally:
            os.kill(daemon, signal.SIGTERM)
            os.waitpid(daemon, 0)
    print(table(["call", "phase", "calls", "p50", "p99"], rows))


def phases(root: Path, plugin: Path, arguments: argparse.Namespace) -> list[list[str]]:
    deadline = time.monotonic() + 30
    while not plugin.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    for number in range(arguments.volumes):
        call(plugin, "Create", {"Name": f"v{number}"})
    idle = measure(plugin, arguments.rounds, "idle")
    call(plugin, "Create", {"Name": "big"})
    data = root / "pool/volumes/big/data/large.db"
    with data.open("wb") as large:
        for _ in range(arguments.backup_mib):
            large.write(os.urandom(MIB // 2) + bytes(MIB // 2))
    backup = spawn(SNAPVOL, "backup", "big")
    waiting = threading.Thread(target=finish, args=[backup], daemon=True)
    waiting.start()
    busy: dict[str, list[float]] = {}
    number = 0
    while waiting.is_alive():
        for name, seconds in measure(plugin, 1, f"busy{number}x").items():
            busy.setdefault(name, []).extend(seconds)
        number += 1
    return [
        [name, phase, str(len(seconds)), *(f"{value * 1000:.1f} ms" for value in percentiles(seconds))]
        for phase, seen in (("idle", idle), ("during a backup", busy))
        for name, seconds in seen.items()
    ]


if __name__ == "__main__":
    main()
