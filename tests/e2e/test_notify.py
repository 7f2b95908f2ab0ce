"""The daemon as a process tells a server of this machine what is wrong, and what is right again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.process import wait_until
from support.receiver import Receiver, receiver
from support.servers import Snapvol, password_file


@pytest.fixture
def server() -> Iterator[Receiver]:
    with receiver() as made:
        yield made


@pytest.fixture
def host(place: Path, server: Receiver, request: pytest.FixtureRequest) -> Iterator[Snapvol]:
    """A daemon that tells everything to ``server``, at once, and pings it."""
    directory = place / f"notify-{request.node.name[:20]}"
    directory.mkdir()
    for name, url in (("chat", server.url("chat")), ("ping", server.url("ping", "http"))):
        file = directory / f"{name}.url"
        file.touch(mode=0o600)
        file.write_text(url)
    daemon = Snapvol(
        directory,
        {
            "repositories": {
                "default": {"url": directory / "repository", "password_file": password_file(directory)},
            },
            "notify": {"chat": {"url_file": directory / "chat.url", "group": "0"}},
            "ping": {"url_file": directory / "ping.url", "every": "60s"},
        },
    )
    yield daemon
    daemon.stop()


def told(server: Receiver, what: str) -> bool:
    return any(what in title for title in (it.json["title"] for it in server.requests if it.path == "/chat"))


def test_a_broken_repository_is_told_and_so_is_its_mending_across_restarts(host: Snapvol, server: Receiver) -> None:
    host.cli("repo", "init")
    host.cli("repo", "key", "confirm")
    host.start()
    wait_until(lambda: any(it.method == "GET" and it.path == "/ping" for it in server.requests), 60)
    config = host.place / "repository/config"
    whole = config.read_bytes()
    config.unlink()
    assert host.cli("doctor", check=False).code == 1  # which asks the repository
    wait_until(lambda: told(server, "warning: repository 'default'"), 60)
    (message,) = [it.json for it in server.requests if it.path == "/chat"]
    assert "snapvol repo init" in message["message"]

    host.kill_9()
    before = len(server.requests)
    host.start()
    host.cli("doctor", check=False)
    results = host.json("notify", "test")
    assert results == [{"target": "chat", "accepted": True, "problem": None}]
    config.write_bytes(whole)
    host.cli("doctor", check=False)
    wait_until(lambda: told(server, "recovered: repository 'default'"), 60)
    assert [it.json["title"].partition(": ")[2] for it in server.requests[before:] if it.path == "/chat"] == [
        "this is a test",
        "recovered: repository 'default'",
    ]


def test_a_service_that_is_down_is_in_the_status_and_its_url_nowhere(host: Snapvol, server: Receiver) -> None:
    host.cli("repo", "init")  # nobody has confirmed its recovery key: something to tell
    server.status = 500
    host.start()
    wait_until(lambda: "notification target 'chat'" in host.cli("status", check=False).stdout, 60)
    wait_until(lambda: any(it.path == "/ping/fail" for it in server.requests), 90)
    test = host.cli("notify", "test", "chat", check=False)
    assert (test.code, "not accepted" in test.stdout) == (1, True)
    listed = host.cli("notify", "ls")
    assert "json" in listed.stdout
    shown = [test, listed, host.cli("status", check=False), host.cli("config"), host.cli("doctor", check=False)]
    assert f":{server.port}" not in "".join(str(it) for it in shown) + host.server.output()
    server.status = 200
    assert host.cli("notify", "test").code == 0
    wait_until(lambda: "notification target" not in host.cli("status", check=False).stdout, 30)
    wait_until(lambda: told(server, "warning: repository 'default'"), 90)
    assert host.cli("notify", "test", "nobody", check=False).code == 3
