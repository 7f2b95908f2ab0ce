"""Servers that tests talk to: the snapvol daemon, and S3 from rclone beside the RGW of `lab.rgw`."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lab.rgw import Credentials, free_port, listens
from support import needs
from support.process import Result, Server, run
from support.scale import patient

PASSWORD = "correct horse battery staple"


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path, seconds: float = 60) -> None:
        super().__init__("localhost", timeout=patient(seconds))
        self._path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def call(
    path: Path, method: str, target: str, body: Any = None, headers: Mapping[str, str] | None = None
) -> tuple[int, Any]:
    """Send one request over a unix socket.

    Args:
        path: the socket.
        method: GET, POST …
        target: path and query.
        body: bytes as they are, None for an empty body, anything else as JSON.
        headers: added.

    Returns:
        The status, and the body as Python data where it is JSON, else as bytes.
    """
    connection = UnixConnection(path)
    try:
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection.request(method, target, body=data, headers=dict(headers or {}))
        answer = connection.getresponse()
        content = answer.read()
    finally:
        connection.close()
    try:
        return answer.status, json.loads(content)
    except ValueError:
        return answer.status, content


def toml(table: Mapping[str, Any], prefix: str = "") -> str:
    """Write nested tables of strings, numbers, booleans, paths and lists of them as TOML."""
    plain = {key: value for key, value in table.items() if not isinstance(value, Mapping)}
    nested = {key: value for key, value in table.items() if isinstance(value, Mapping)}
    text = f"[{prefix}]\n" if prefix and (plain or not nested) else ""
    # Strings, numbers, booleans and lists are written the same way in JSON and TOML.
    text += "".join(f"{json.dumps(key)} = {json.dumps(value, default=str)}\n" for key, value in plain.items())
    return text + "".join(toml(value, f"{prefix}.{key}" if prefix else key) for key, value in nested.items())


class Snapvol:
    """The real daemon as a process, and the real CLI against it.

    Args:
        place: an existing directory for its state, sockets and log.
        settings: sections of the settings file; ``daemon`` is filled up with paths below ``place``.
        plugin_socket: Docker's side; below ``place`` where None.
        env: added to the environment of the daemon and the CLI.
    """

    def __init__(
        self,
        place: Path,
        settings: Mapping[str, Any],
        plugin_socket: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.place = place
        self.plugin_socket = plugin_socket or place / "plugin.sock"
        self.api_socket = place / "run/api.sock"
        self.config = place / "config.toml"
        self.log = place / "daemon.log"
        self.env = {"SNAPVOL_CONFIG": str(self.config), **(env or {})}
        self.settings: dict[str, Any] = {
            **settings,
            "daemon": {
                "root": place / "state",
                "runtime": place / "run",
                "plugin_socket": self.plugin_socket,
                "api_socket": self.api_socket,
                "socket_group": "",
                "docker_socket": "",
                **settings.get("daemon", {}),
            },
        }
        self.configure()
        self._server: Server | None = None

    def configure(self) -> None:
        """Write the settings file from ``settings``; takes effect at the next start."""
        self.config.write_text(toml(self.settings), encoding="utf-8")

    @property
    def server(self) -> Server:
        """The daemon's process: the running one, or the last."""
        assert self._server is not None, "the daemon was never started"
        return self._server

    @property
    def command(self) -> list[str]:
        """What starts the daemon."""
        return [sys.executable, "-m", "snapvol", "--config", str(self.config), "daemon"]

    def start(self, seconds: float = 30) -> Snapvol:
        """Start the daemon and wait until both sockets answer."""
        self._server = Server(self.command, log=self.log, env=self.env)
        self._server.ready(self.answers, seconds)
        return self

    def answers(self) -> bool:
        """Whether both sockets serve."""
        with suppress(OSError, http.client.HTTPException):
            activated = call(self.plugin_socket, "POST", "/Plugin.Activate")[0] == 200
            return activated and call(self.api_socket, "GET", "/v1/volumes")[0] == 200
        return False

    def cli(self, *argv: str, check: bool = True, seconds: float = 120, stdin: str = "") -> Result:
        """Run ``snapvol ARGV``."""
        return run(sys.executable, "-m", "snapvol", *argv, env=self.env, check=check, seconds=seconds, stdin=stdin)

    def out(self, *argv: str, seconds: float = 120) -> str:
        """Run ``snapvol ARGV`` and return what it printed, without the last newline."""
        return self.cli(*argv, seconds=seconds).stdout.strip()

    def json(self, *argv: str, seconds: float = 120) -> Any:
        """Run ``snapvol ARGV --json`` and return the answer as Python data."""
        return json.loads(self.out(*argv, "--json", seconds=seconds))

    def plugin(self, endpoint: str, body: Any = None) -> tuple[int, Any]:
        """Send Docker's request ``/VolumeDriver.ENDPOINT``."""
        return call(self.plugin_socket, "POST", f"/VolumeDriver.{endpoint}", body)

    def api(self, method: str, target: str, body: Any = None) -> tuple[int, Any]:
        """Send a request of the admin API: ``api("GET", "/v1/volumes")``."""
        return call(self.api_socket, method, target, body)

    def kill_9(self) -> None:
        """Kill the daemon at once; its workers may go on."""
        self.server.kill_9()

    def stop(self) -> int:
        """Stop the daemon in an orderly way and return its exit status."""
        return self.server.stop(30) if self._server is not None else 0

    def restart(self) -> None:
        """Stop it in an orderly way and start it again."""
        self.stop()
        self.start()


def password_file(place: Path) -> Path:
    """Return a file with the password of every test repository, readable by its owner only."""
    file = place / "repository.password"
    if not file.exists():
        file.touch(mode=0o600)
        file.write_text(PASSWORD + "\n")
    return file


def credentials_file(place: Path, credentials: Credentials) -> Path:
    """Return an AWS credentials file for the user."""
    file = place / f"{credentials.user}.credentials"
    file.touch(mode=0o600)
    file.write_text(f"[default]\naws_access_key_id = {credentials.key}\naws_secret_access_key = {credentials.secret}\n")
    return file


def s3_client(endpoint: str, credentials: Credentials) -> Any:
    """Return a boto3 client for a server of this machine."""
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=credentials.key,
        aws_secret_access_key=credentials.secret,
        region_name="us-east-1",
        # rclone sends the whole object's checksum with a part of it.
        config=Config(
            s3={"addressing_style": "path"},
            retries={"max_attempts": 2},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )


def _rclone() -> Path | None:
    beside = Path(sys.executable).with_name("rclone")
    found = str(beside) if os.access(beside, os.X_OK) else shutil.which("rclone")
    return Path(found) if found else None


class Rclone:
    """``rclone serve s3``: a server that ignores ``If-None-Match``; a bucket is a directory below ``files``."""

    def __init__(self, place: Path) -> None:
        program = _rclone()
        if program is None:
            needs.missing("rclone", "rclone is not installed (make test installs it)")
        self.files = place / "files"
        self.files.mkdir(parents=True)
        self.port = free_port()
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self.credentials = Credentials("rclone", "rclone-key", "rclone-secret")
        self.server = Server(
            [
                *(program, "serve", "s3", "--addr", f"127.0.0.1:{self.port}"),
                *("--auth-key", f"{self.credentials.key},{self.credentials.secret}", self.files),
            ],
            log=place / "rclone.log",
            env={"RCLONE_CONFIG": os.devnull, "HOME": str(place), "XDG_CACHE_HOME": str(place)},
        )

    def pause(self) -> None:
        """Let it accept connections, and answer none."""
        self.server.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self.server.signal(signal.SIGCONT)

    def stop(self) -> None:
        """End it."""
        self.resume()
        self.server.stop(10)


@contextmanager
def rclone(place: Path) -> Iterator[Rclone]:
    """An rclone S3 server for the length of a ``with``."""
    server = Rclone(place)
    try:
        server.server.ready(lambda: listens(server.port))
        yield server
    finally:
        server.stop()
