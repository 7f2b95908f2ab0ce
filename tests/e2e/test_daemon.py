"""The daemon as a process: hostile clients, second daemons, orderly stops, kills, and what systemd hears."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from support import raw
from support.breaks import frozen
from support.process import Server, run, wait_until
from support.protocol import ID, ask, done, info, listed, plain_daemon
from support.servers import Snapvol

pytestmark = pytest.mark.root
Hosts = Callable[..., Snapvol]


@pytest.fixture(scope="module")
def host(place: Path) -> Iterator[Snapvol]:
    """One daemon for all tests that need no client."""
    with plain_daemon(place / "daemon") as daemon:
        yield daemon


def test_t45_ten_thousand_connections_cost_no_other_client_its_service(host: Snapvol) -> None:
    volume = "web"
    done(ask(host, "Create", volume))
    flood = """
import resource, socket, sys
most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
held = []
for number in range(min(10_000, most - 100)):
    held.append(socket.socket(socket.AF_UNIX))
    held[-1].connect(sys.argv[1 + number % 2])
print("connected", flush=True)
sys.stdin.read()
"""
    reading, writing = os.pipe()
    flooding = Server(
        [sys.executable, "-c", flood, host.plugin_socket, host.api_socket], host.place / "flood.log", stdin=reading
    )
    try:
        wait_until(lambda: "connected" in flooding.output(), 60)
        for _ in range(100):
            assert ask(host, "Get", volume).seconds < 2
        assert info(host, volume)["name"] == volume
        with ExitStack() as bodies:
            for _ in range(50):
                slow = bodies.enter_context(raw.connect(host.plugin_socket))
                slow.sendall(b"POST /VolumeDriver.Create HTTP/1.1\r\nHost: \r\nContent-Length: 100\r\n\r\n{")
            done(ask(host, "Mount", volume, ID=ID))
            done(ask(host, "Unmount", volume, ID=ID))
    finally:
        flooding.stop()
        os.close(reading)
        os.close(writing)
    wait_until(lambda: len(os.listdir(f"/proc/{host.server.pid}/fd")) < 200, 20, "the connections to be let go")


def test_a_second_daemon_is_refused_and_harms_nothing(host: Snapvol, tmp_path: Path) -> None:
    same = host.cli("daemon", check=False)
    assert (same.code, "another daemon serves" in same.stderr) == (4, True)
    other = {"SNAPVOL_CONFIG": "", "SNAPVOL_ROOT": str(tmp_path / "root")}
    taken = {**other, "SNAPVOL_DAEMON__PLUGIN_SOCKET": str(host.plugin_socket)}
    answer = run(sys.executable, "-m", "snapvol", "daemon", env=taken, check=False)
    assert (answer.code, "another daemon answers" in answer.stderr) == (4, True)
    assert "Traceback" not in same.stderr + answer.stderr
    assert host.answers()


def test_t10_t12_a_stop_is_orderly_and_a_kill_leaves_nothing_in_the_way(place: Path) -> None:
    directory = place / "lifecycle"
    directory.mkdir()
    daemon = Snapvol(directory, {"repositories": {"default": {"url": directory / "repository"}}}).start()
    done(ask(daemon, "Create", "web"))
    done(ask(daemon, "Mount", "web", ID=ID))
    daemon.kill_9()
    assert daemon.plugin_socket.exists()
    daemon.start()
    assert info(daemon, "web")["holders"] == 1
    done(ask(daemon, "Unmount", "web", ID=ID))
    daemon.server.signal(signal.SIGHUP)
    assert daemon.answers()
    assert daemon.stop() == 0
    assert not daemon.plugin_socket.exists()
    assert not daemon.api_socket.exists()
    assert "Traceback" not in daemon.server.output()


def test_systemd_hears_when_docker_may_start(place: Path) -> None:
    directory = place / "notified"
    directory.mkdir()
    ear = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    ear.bind(str(directory / "notify"))
    ear.settimeout(30)
    daemon = Snapvol(
        directory,
        {"repositories": {"default": {"url": directory / "repository"}}},
        env={"NOTIFY_SOCKET": str(directory / "notify")},
    )
    with ear:
        daemon.start()
        assert ear.recv(100) == b"READY=1"
        daemon.stop()
        assert ear.recv(100) == b"STOPPING=1"


def test_requests_in_flight_are_answered_before_the_end(
    snapvol: Hosts, filesystem: Callable[..., Path], place: Path
) -> None:
    disk = filesystem("xfs")
    host = snapvol({"backend": "directory", "path": disk / "pool"}, sockets=place)
    with frozen(disk) as thaw, ThreadPoolExecutor(1) as pool:
        creating = pool.submit(ask, host, "Create", "web")
        time.sleep(0.5)
        host.server.signal(signal.SIGTERM)
        time.sleep(0.5)
        assert not host.plugin_socket.exists()
        thaw()
        assert done(creating.result()) == {"Err": ""}
    assert host.server.wait(20) == 0
    host.start()
    assert listed(host) == {"web"}
