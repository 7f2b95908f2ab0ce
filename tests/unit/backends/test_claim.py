"""One process has a pool open; one that was killed does not keep the next out."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from snapvol.backends.claim import Claim
from snapvol.errors import PoolUnavailable


def test_one_at_a_time(tmp_path: Path) -> None:
    first, second = (Claim("fast", "vg0-pool", tmp_path / "locks") for _ in range(2))
    first.take()
    first.take()
    with pytest.raises(PoolUnavailable, match=rf"^pool 'fast' is open in another daemon \(process {os.getpid()}\)"):
        second.take()
    Claim("other", "vg0-other", tmp_path / "locks").take()
    first.release()
    first.release()
    second.take()
    second.release()


def test_a_killed_daemon_lets_go_once_what_it_started_has_ended(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    daemon = os.fork()
    if daemon == 0:
        Claim("fast", "key", tmp_path).take()
        if os.fork() == 0:  # a program that it started, with its descriptor
            time.sleep(0.5)
            os._exit(0)
        os.write(writer, b"x")
        time.sleep(60)
        os._exit(1)
    os.read(reader, 1)
    os.kill(daemon, signal.SIGKILL)
    os.waitpid(daemon, 0)
    began = time.monotonic()
    claim = Claim("fast", "key", tmp_path)
    claim.take()
    assert time.monotonic() - began > 0.2
    claim.release()
    os.close(reader)
    os.close(writer)
