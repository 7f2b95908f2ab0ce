"""A web server of this machine that takes what is sent to it and remembers it: a chat service, a pager, a watchdog."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple


class Request(NamedTuple):
    """One request that came."""

    method: str
    path: str
    body: bytes

    @property
    def json(self) -> Any:
        """The body, read."""
        return json.loads(self.body)


class Receiver:
    """The server.

    Attributes:
        requests: what came, oldest first.
        status: what it answers; 500 refuses.
    """

    def __init__(self, port: int = 0) -> None:
        self.requests: list[Request] = []
        self.status = 200
        self.hold = threading.Event()
        self.hold.set()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                outer.requests.append(Request(self.command, self.path, body))
                outer.hold.wait(60)
                self.send_response(outer.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_POST = do_GET

            def log_message(self, format: str, *arguments: object) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def url(self, path: str, scheme: str = "json") -> str:
        """Return Apprise's URL for it, or with ``http`` its own."""
        return f"{scheme}://127.0.0.1:{self.port}/{path}"

    @property
    def titles(self) -> list[str]:
        """The titles of Apprise's JSON messages that came."""
        return [request.json["title"] for request in self.requests if request.method == "POST"]

    def stop(self) -> None:
        """Answer nothing more; the port is free."""
        self.hold.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextmanager
def receiver(port: int = 0) -> Iterator[Receiver]:
    """A receiver for the length of a ``with``."""
    made = Receiver(port)
    try:
        yield made
    finally:
        made.stop()
