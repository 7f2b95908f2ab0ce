"""A daemon on a temporary root, and calls to its plugin socket."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

SNAPVOL = Path(sys.executable).with_name("snapvol")


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


@contextmanager
def running() -> Iterator[Path]:
    """Give the root of a daemon with a repository; its pool is on this file system, its sockets where /run would be."""
    with (
        TemporaryDirectory(prefix="snapvol-bench-") as root,
        TemporaryDirectory(dir="/dev/shm") as run,
    ):
        os.environ["SNAPVOL_ROOT"] = root
        os.environ["SNAPVOL_DAEMON__RUNTIME"] = run
        finish(spawn(SNAPVOL, "repo", "init"))
        daemon = spawn(SNAPVOL, "daemon")
        try:
            deadline = time.monotonic() + 30
            while not plugin(Path(root)).exists() and time.monotonic() < deadline:
                time.sleep(0.05)
            yield Path(root)
        finally:
            os.kill(daemon, signal.SIGTERM)
            os.waitpid(daemon, 0)


def plugin(root: Path) -> Path:
    """Return where Docker would call it."""
    return root / "run/plugin.sock"
