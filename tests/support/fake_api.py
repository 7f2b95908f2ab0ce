"""A daemon that answers as a test says, and the command line in the test's process."""

from __future__ import annotations

import json
import shutil
import socketserver
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import msgspec
import pytest

from snapvol.api import JobInfo, JobProgress, JobState, VolumeInfo
from snapvol.model import State

CREATED = datetime(2026, 11, 20, 3, 0, tzinfo=UTC)


def volume(name: str, **fields: Any) -> VolumeInfo:
    given = {"id": f"id-{name}", "pool": "default", "backend": "directory", "state": State.READY, **fields}
    return VolumeInfo(name=name, mountpoint=f"/pool/volumes/{name}/data", created=CREATED, **given)


def job(id: str = "1a2b3c4d", state: JobState = JobState.DONE, **fields: Any) -> JobInfo:
    given = {"kind": "backup", "object": "wiki", "created": CREATED, "progress": JobProgress(), **fields}
    return JobInfo(id=id, state=state, **given)


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    body: Any


@dataclass
class Reply:
    """An answer: JSON of ``value``, lines of JSON where ``lines`` is set, or ``raw`` bytes on the wire.

    With ``hold`` there is none until the client leaves.
    """

    value: Any = None
    status: int = 200
    lines: list[Any] | None = None
    raw: bytes | None = None
    hold: bool = False


@dataclass
class Api:
    """A daemon with prepared answers; a request without one fails the test."""

    path: Path
    replies: dict[tuple[str, str], list[Reply]] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)

    def on(self, method: str, path: str, value: Any = None, **reply: Any) -> None:
        """Answer ``path`` (its query included) with ``value``; several answers are given in turn, the last for ever."""
        self.replies.setdefault((method, path), []).append(Reply(value, **reply))

    def refuse(self, method: str, path: str, kind: str, message: str, hint: str | None, status: int) -> None:
        self.on(method, path, {"error": {"kind": kind, "message": message, "hint": hint}}, status=status)

    def take(self, request: Request) -> Reply:
        self.requests.append(request)
        replies = self.replies.get((request.method, request.path))
        if not replies:
            self.unexpected.append(f"{request.method} {request.path}")
            return Reply({"error": {"kind": "SnapvolError", "message": "unexpected", "hint": None}}, status=500)
        return replies.pop(0) if len(replies) > 1 else replies[0]

    @property
    def said(self) -> list[tuple[str, str, Any]]:
        """What was asked: method, path, body."""
        return [(request.method, request.path, request.body) for request in self.requests]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    api: Api

    def answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        target = urlsplit(self.path)
        path = unquote(target.path) + (f"?{target.query}" if target.query else "")
        reply = self.api.take(Request(self.command, path, body))
        self.close_connection = True
        if reply.hold:
            self.rfile.read(1)
            return
        if reply.raw is not None:
            self.wfile.write(reply.raw)
            return
        lines = reply.lines if reply.lines is not None else [reply.value]
        content = b"".join(msgspec.json.encode(line) + b"\n" for line in lines)
        self.send_response(reply.status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_DELETE = do_PATCH = answer

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def as_terminal(patch: pytest.MonkeyPatch) -> None:
    """Let standard input, output and error look like a terminal of 100 columns."""
    patch.setenv("COLUMNS", "100")
    patch.setenv("TERM", "dumb")
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        patch.setattr(stream, "isatty", lambda: True)


@contextmanager
def serving() -> Iterator[Api]:
    """Serve; at the end nothing unforeseen may have been asked."""
    place = Path(tempfile.mkdtemp(prefix="snapvol-cli-", dir="/tmp"))  # a socket's path must be short
    made = Api(place / "api.sock")
    handler = type("Handler", (_Handler,), {"api": made})
    try:
        with _Server(str(made.path), handler) as server:
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            try:
                yield made
            finally:
                server.shutdown()
                thread.join()
    finally:
        shutil.rmtree(place)
    assert not made.unexpected
