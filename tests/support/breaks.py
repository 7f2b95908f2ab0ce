"""Faults that real machines have: a connection that breaks in the middle of a request, a file system that stops."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from support import raw
from support.process import run


class Breaking:
    """A socket in front of another that reads the first request of a kind and breaks the connection."""

    def __init__(self, path: Path, behind: Path, verb: str) -> None:
        self.broken = 0
        self._behind, self._verb = behind, f"/VolumeDriver.{verb} ".encode()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(64)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=self._pass, args=(self._listener.accept()[0],), daemon=True).start()

    def _pass(self, client: socket.socket) -> None:
        with client:
            request = b""
            while b"\r\n\r\n" not in request:
                request += client.recv(65536)
            head, _, body = request.partition(b"\r\n\r\n")
            length = int(
                next(line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")).split()[1]
            )
            while len(body) < length:
                body += client.recv(65536)
            if self._verb in request and not self.broken:
                self.broken += 1
                return
            with raw.connect(self._behind) as server:
                server.sendall(head + b"\r\n\r\n" + body)
                client.sendall(raw.receive(server))

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@contextmanager
def frozen(mountpoint: Path) -> Iterator[Callable[[], None]]:
    """Stop a file system: everything that writes there waits until the returned function, or the end, thaws it."""
    run("fsfreeze", "--freeze", mountpoint)
    thawed = False

    def thaw() -> None:
        nonlocal thawed
        if not thawed:
            run("fsfreeze", "--unfreeze", mountpoint)
            thawed = True

    try:
        yield thaw
    finally:
        thaw()
