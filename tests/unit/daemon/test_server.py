"""The daemon's life, with a service that starts, fails and ends as a test wants it."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from snapvol.daemon import server
from snapvol.errors import InUse, PoolUnavailable, SettingsError, SnapvolError
from snapvol.settings import Settings, load
from support import raw
from support.process import wait_until


@pytest.fixture
def settings(short_path: Path) -> Settings:
    return load(environment={"SNAPVOL_ROOT": str(short_path / "root")})


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """The log stays pytest's, and a hang does not end the test run."""
    monkeypatch.setattr("snapvol.daemon.logs.begin", lambda level: None)
    monkeypatch.setattr("sys.setswitchinterval", lambda seconds: None)
    monkeypatch.setattr("gc.freeze", lambda: None)

    def ended(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setattr("os._exit", ended)


@pytest.fixture
def service(served: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The fake that the daemon is made to serve."""
    fake = served.service
    fake.start = lambda: fake._noted("start", None)
    fake.close = lambda: fake._noted("close", None)
    monkeypatch.setattr(server, "Service", lambda settings: fake)
    return fake


def during(settings: Settings, work: Callable[[], object]) -> list[BaseException]:
    """Run the daemon in this thread, as it must be, and ``work`` beside it, then SIGTERM; return what went wrong."""
    problems: list[BaseException] = []

    def beside() -> None:
        try:
            work()
        except BaseException as error:
            problems.append(error)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=beside)
    thread.start()
    try:
        server.run(settings)
    finally:
        thread.join()
    return problems


def answers(settings: Settings) -> bool:
    return raw.plugin(settings.daemon.plugin_socket, "/Plugin.Activate").status == 200


def nothing_is_left(settings: Settings) -> bool:
    return not settings.daemon.plugin_socket.exists() and not settings.daemon.api_socket.exists()


def test_it_serves_until_it_is_told_to_stop(service: Any, settings: Settings) -> None:
    def work() -> None:
        wait_until(settings.daemon.plugin_socket.exists)
        assert answers(settings)
        os.kill(os.getpid(), signal.SIGHUP)
        assert answers(settings)
        with pytest.raises(InUse):
            server.run(settings)

    assert during(settings, work) == []
    assert service.named("start") == [("start",)]
    assert service.named("close") == [("close",)]
    assert nothing_is_left(settings)


def test_g12_requests_wait_while_pools_load(service: Any, settings: Settings) -> None:
    service.steps["start"] = lambda: time.sleep(1)
    seen: list[raw.Answer] = []

    def work() -> None:
        wait_until(settings.daemon.plugin_socket.exists)
        seen.append(raw.plugin(settings.daemon.plugin_socket, "List"))

    assert during(settings, work) == []
    assert seen[0].status == 200
    assert seen[0].seconds > 0.5


def test_a_stop_during_the_start_is_a_stop(service: Any, settings: Settings) -> None:
    go = threading.Event()
    service.steps["start"] = lambda: go.wait(20)
    began = time.monotonic()
    with pytest.raises(SystemExit) as ended:
        during(settings, lambda: wait_until(lambda: bool(service.named("start"))))
    go.set()
    assert ended.value.code == 0
    assert time.monotonic() - began < 10
    assert nothing_is_left(settings)


def test_a_stop_ends_streams_and_answers_what_is_in_flight(
    service: Any, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    service.jobs.steps, service.jobs.pause = 10**6, 0.1
    service.steps["create"] = lambda: time.sleep(1)
    service.steps["resize"] = lambda: time.sleep(1)
    service.add("web")
    answers: list[int] = []

    def ask(path: Path, request: bytes) -> None:
        with raw.connect(path) as connection:
            connection.sendall(request)
            answers.append(int(raw.receive(connection).split()[1]))

    asked = [
        threading.Thread(target=ask, args=args)
        for args in (
            (settings.daemon.api_socket, raw.request("/v1/jobs/j1/events", method="GET")),
            (settings.daemon.api_socket, raw.request("/v1/volumes/web/resize", b'{"size":"1G"}')),
            (settings.daemon.plugin_socket, raw.request("/VolumeDriver.Create", b'{"Name":"new"}')),
        )
    ]

    def work() -> None:
        wait_until(settings.daemon.api_socket.exists)
        for thread in asked:
            thread.start()
        wait_until(lambda: bool(service.named("create") and service.named("resize")))

    began = time.monotonic()
    assert during(settings, work) == []
    assert time.monotonic() - began < 8
    for thread in asked:
        thread.join()
    assert answers == [200, 200, 200]
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.parametrize("error", [PoolUnavailable("pool 'p' is not there"), SettingsError("wrong")])
def test_a_start_that_fails_leaves_nothing(service: Any, settings: Settings, error: SnapvolError) -> None:
    def fail() -> None:
        raise error

    service.steps["start"] = fail
    with pytest.raises(type(error), match=error.message):
        server.run(settings)
    assert nothing_is_left(settings)
    service.steps.clear()
    assert during(settings, lambda: wait_until(settings.daemon.plugin_socket.exists)) == []


def test_a_metrics_address_that_is_taken(service: Any, short_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        metrics = {"SNAPVOL_ROOT": str(short_path / "root"), "SNAPVOL_DAEMON__METRICS": f"127.0.0.1:{port}"}
        settings = load(environment=metrics)
        with pytest.raises(SnapvolError, match="cannot be listened on"):
            server.run(settings)
    assert nothing_is_left(settings)
    assert service.named("close") == [("close",)]


def test_what_does_not_end_is_named_and_left(
    service: Any, settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(server, "FINISH_SECONDS", 0.2)
    monkeypatch.setattr(server, "CLOSE_SECONDS", 0.2)
    go = threading.Event()
    service.add("web")
    service.steps["remove"] = lambda: go.wait(20)
    service.steps["close"] = lambda: go.wait(20)

    def work() -> None:
        wait_until(settings.daemon.plugin_socket.exists)
        connection = raw.connect(settings.daemon.plugin_socket)
        connection.sendall(raw.request("/VolumeDriver.Remove", b'{"Name":"web"}'))
        wait_until(lambda: bool(service.named("remove")))
        connection.close()

    with pytest.raises(SystemExit) as ended:
        during(settings, work)
    go.set()
    assert ended.value.code == 0
    assert "ended with work under way: remove web, close" in caplog.text
