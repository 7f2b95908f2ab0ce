"""The metrics over TCP, where the settings give an address: nothing but them is served there."""

from __future__ import annotations

import asyncio

from aiohttp import web
from aiohttp.web import BaseRequest, StreamResponse

from snapvol.daemon.http import Edge
from snapvol.daemon.metrics import TEXT, Metrics
from snapvol.errors import SettingsError


def metrics_address(text: str) -> tuple[str, int] | None:
    """Return host and port of ``ADDRESS:PORT`` (``[::1]:9100`` for IPv6), or None for an empty text.

    Raises:
        SettingsError: it is neither.
    """
    if not text:
        return None
    host, colon, port = text.rpartition(":")
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not colon or not host or not port.isascii() or not port.isdecimal() or int(port) > 65535:
        raise SettingsError(f"daemon.metrics: {text!r} is not ADDRESS:PORT", "write 127.0.0.1:9590, or leave it empty")
    return host, int(port)


class Exposition:
    """The server for Prometheus."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self.edge = Edge(self.answer, 0.05)

    async def listen(self, address: str) -> int | None:
        """Begin, and return the port; does nothing for an empty address."""
        parsed = metrics_address(address)
        return await self.edge.listen_tcp(*parsed) if parsed else None

    async def answer(self, request: BaseRequest) -> StreamResponse:
        """Answer ``GET /metrics``."""
        found = request.method == "GET" and request.path == "/metrics"
        response = web.Response(
            body=await asyncio.to_thread(self._metrics.text) if found else b"only GET /metrics\n",
            status=200 if found else 404,
            headers={"Content-Type": TEXT if found else "text/plain"},
        )
        response.force_close()
        return response
