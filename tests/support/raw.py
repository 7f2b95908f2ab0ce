"""Raw HTTP over a unix socket: exactly the bytes that a test wants to send, exactly those that come back."""

from __future__ import annotations

import json
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Answer:
    """What came back until the connection was closed.

    Attributes:
        status: of the HTTP answer; 0 where there was none.
        headers: with lower-case names.
        body: as it came.
        seconds: from connecting to the close.
    """

    status: int
    headers: dict[str, str]
    body: bytes
    seconds: float

    @property
    def json(self) -> Any:
        """The body as Python data."""
        return json.loads(self.body)

    @property
    def err(self) -> str:
        """The message of a plugin's error."""
        message: str = self.json["Err"]
        return message


NOTHING = 0


def connect(path: Path, seconds: float = 10) -> socket.socket:
    """Return a connection to the socket at ``path``; waits where its backlog is full, as Docker does."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.connect(str(path))
    connection.settimeout(seconds)
    return connection


def exchange(path: Path, data: bytes, seconds: float = 10) -> Answer:
    """Send ``data`` and return all that comes until the other side closes: whoever keeps it open fails the test."""
    began = time.monotonic()
    with connect(path, seconds) as connection:
        with suppress(BrokenPipeError):  # it was refused before we were done: the answer is there
            connection.sendall(data)
        received = receive(connection)
    return parse(received, time.monotonic() - began)


def receive(connection: socket.socket) -> bytes:
    """Return everything until the other side closes."""
    received = bytearray()
    while True:
        try:
            part = connection.recv(65536)
        except ConnectionResetError:
            break
        if not part:
            break
        received += part
    return bytes(received)


def parse(received: bytes, seconds: float = 0) -> Answer:
    """Return the one HTTP answer in ``received``."""
    if not received:
        return Answer(NOTHING, {}, b"", seconds)
    head, _, body = received.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if "content-length" in headers:
        assert len(body) == int(headers["content-length"]), f"{headers['content-length']} bytes announced: {body!r}"
    return Answer(int(first.split()[1]), headers, body, seconds)


def request(target: str, body: bytes = b"", method: str = "POST", headers: tuple[str, ...] = ("Host: ",)) -> bytes:
    """Return the bytes of a request as Docker writes it: no Content-Type, an empty Host."""
    lines = (f"{method} {target} HTTP/1.1", *headers, f"Content-Length: {len(body)}", "", "")
    return "\r\n".join(lines).encode() + body


def plugin(path: Path, endpoint: str, content: Any = None, seconds: float = 10) -> Answer:
    """Send one request of the plugin protocol; ``content`` is bytes as they are, or data to send as JSON."""
    target = endpoint if endpoint.startswith("/") else f"/VolumeDriver.{endpoint}"
    body = content if isinstance(content, bytes) else b"" if content is None else json.dumps(content).encode() + b"\n"
    return exchange(path, request(target, body), seconds)
