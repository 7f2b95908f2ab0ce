"""What is asked of Docker, against a server that answers as Docker does, late, wrongly, or not at all."""

from __future__ import annotations

import json
import socketserver
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from snapvol import docker
from snapvol.docker import Docker


class Engine(socketserver.ThreadingUnixStreamServer):
    """Docker's API as far as it is asked."""

    daemon_threads = True

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), Handler)
        self.volumes: dict[str, dict[str, Any]] = {}
        self.delay = 0.0
        self.broken = False
        self.asked: list[tuple[str, str]] = []

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that does not wait is what the tests want."""


class Handler(BaseHTTPRequestHandler):
    server: Engine

    def address_string(self) -> str:
        return "unix"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def _answer(self, body: bytes) -> None:
        engine = self.server
        path = self.path.partition("?")[0]
        path = path[path.index("/", 1) :] if path.startswith("/v1.") else path
        engine.asked.append((self.command, path))
        time.sleep(engine.delay)
        if engine.broken:
            return self._send(200, b"<html>")
        if path == "/version":
            return self._send(200, json.dumps({"Version": "27.5.1", "ApiVersion": "1.47"}).encode())
        if path == "/volumes/create":
            wanted = json.loads(body)
            made = engine.volumes.setdefault(wanted["Name"], wanted)  # Docker keeps what it has, labels too
            return self._send(201, json.dumps(made).encode())
        name = path.removeprefix("/volumes/")
        if name in engine.volumes:
            return self._send(200, json.dumps(engine.volumes[name]).encode())
        return self._send(404, json.dumps({"message": f"get {name}: no such volume"}).encode())

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def engine(place: Path, request: pytest.FixtureRequest) -> Iterator[Engine]:
    path = place / f"docker-{abs(hash(request.node.name)) % 10**8}.sock"
    with Engine(path) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()
    path.unlink()


@pytest.fixture
def ours(engine: Engine) -> Docker:
    return Docker(str(engine.server_address), "snapvol")


def test_the_version_tells_that_it_answers(ours: Docker) -> None:
    assert ours.version() == "27.5.1"


def test_T37_labels_of_a_volume_of_ours(engine: Engine, ours: Docker) -> None:
    engine.volumes["web"] = {"Name": "web", "Driver": "snapvol", "Labels": {"project": "shop"}}
    engine.volumes["bare"] = {"Name": "bare", "Driver": "snapvol", "Labels": {}}
    assert ours.labels("web") == {"project": "shop"}
    assert ours.labels("bare") == {}


def test_what_is_not_known_is_not_no_labels(engine: Engine, ours: Docker) -> None:
    engine.volumes["theirs"] = {"Name": "theirs", "Driver": "local", "Labels": {"project": "shop"}}
    engine.volumes["found"] = {"Name": "found", "Driver": "snapvol", "Labels": None}
    assert ours.labels("theirs") is None
    assert ours.labels("found") is None
    assert ours.labels("unknown") is None
    engine.broken = True
    engine.volumes["web"] = {"Name": "web", "Driver": "snapvol", "Labels": {"project": "shop"}}
    assert ours.labels("web") is None


def test_T37_a_volume_is_given_to_docker_with_its_labels(engine: Engine, ours: Docker) -> None:
    assert ours.adopt("web", {"project": "shop"}, {"size": "1G"}) is True
    assert engine.volumes["web"] == {
        "Name": "web", "Driver": "snapvol", "Labels": {"project": "shop"}, "DriverOpts": {"size": "1G"},
    }  # fmt: skip
    assert ours.adopt("web", {"project": "another"}, {}) is False
    assert engine.volumes["web"]["Labels"] == {"project": "shop"}


def test_T19_a_docker_that_does_not_answer_is_not_waited_for(
    engine: Engine, ours: Docker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docker, "LIMIT", 0.2)
    engine.delay = 1.0
    began = time.monotonic()
    assert ours.labels("web") is None
    assert time.monotonic() - began < 0.9


def test_no_docker_is_no_error(tmp_path: Path) -> None:
    for socket in ("", str(tmp_path / "absent.sock"), str(tmp_path)):
        assert Docker(socket, "snapvol").labels("web") is None
        assert Docker(socket, "snapvol").adopt("web", {"a": "b"}, {}) is None
        assert Docker(socket, "snapvol").version() is None
