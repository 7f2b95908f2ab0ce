"""What systemd hears of us, and what programs that we start do not."""

from __future__ import annotations

import asyncio
import configparser
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from snapvol.daemon.housekeeping import NOTIFY_SECONDS
from snapvol.daemon.systemd import Notifier
from snapvol.service.pulse import ALIVE_SECONDS

UNIT = Path(__file__).parents[3] / "packaging/systemd/snapvol.service"


@pytest.fixture
def ear(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        made.bind(str(short_path / "notify"))
        made.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(short_path / "notify"))
        yield made


def heard(ear: socket.socket) -> list[bytes]:
    found = []
    while True:
        try:
            found.append(ear.recv(100))
        except BlockingIOError:
            return found


def beat(notifier: Notifier, answers: list[bool]) -> None:
    """Let the watchdog be told as long as there are answers to whether we live."""

    async def main() -> None:
        asked = asyncio.Event()

        def alive() -> bool:
            if len(answers) == 1:
                asked.set()
            return answers.pop(0)

        beating = asyncio.create_task(notifier.beat(alive))
        await asyncio.wait_for(asked.wait(), 20)
        beating.cancel()

    asyncio.run(main())


def test_the_watchdog_hears_only_of_a_daemon_that_lives(ear: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "20000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    beat(Notifier(), [False, True, True, False, False])
    assert heard(ear) == [b"WATCHDOG=1"] * 2
    assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} & set(os.environ)


@pytest.mark.parametrize(("microseconds", "pid"), [("", ""), ("many", ""), ("20000", "1")])
def test_without_a_watchdog_nothing_is_told(
    ear: socket.socket, monkeypatch: pytest.MonkeyPatch, microseconds: str, pid: str
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", microseconds)
    monkeypatch.setenv("WATCHDOG_PID", pid)
    asyncio.run(asyncio.wait_for(Notifier().beat(lambda: True), 5))
    assert heard(ear) == []


def test_the_unit_waits_longer_than_a_healthy_daemon_is_silent() -> None:
    unit = configparser.RawConfigParser(strict=False, interpolation=None)
    unit.read_string(UNIT.read_text())
    assert float(unit["Service"]["WatchdogSec"]) >= 1.5 * ALIVE_SECONDS
    assert ALIVE_SECONDS >= 6 * NOTIFY_SECONDS
    assert unit["Service"]["Restart"] == "on-failure"  # a watchdog's kill is one
