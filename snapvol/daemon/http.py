"""The HTTP servers' common ground: limits for hostile and slow clients, and whole requests or none.

Every connection has a time limit until its request is complete, every body a size limit, and every socket its share
of the process's file descriptors, so that no client costs another one its service (T45).
"""

from __future__ import annotations

import asyncio
import logging
import resource
from collections.abc import Awaitable, Callable

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from snapvol.daemon.sockets import BACKLOG, Listener
from snapvol.errors import SnapvolError

log = logging.getLogger(__name__)
LARGEST_BODY = 1024**2  # bytes
READ_SECONDS = 30.0  # for the headers, and again for the body
FINISH_SECONDS = 10.0  # for requests in flight when we stop
_ACCEPTED_AT_ONCE = 32
_LINGER_SECONDS = 2.0  # a body that we refuse is read away for so long, so that its sender can read why
Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class BadRequest(Exception):
    """The request cannot be read; ``status`` is the answer's."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


async def body(request: web.BaseRequest) -> bytes:
    """Return the whole body.

    Raises:
        BadRequest: it is too large or comes too slowly.
    """
    too_large = BadRequest(413, f"the request is larger than {LARGEST_BODY} bytes")
    if (request.content_length or 0) > LARGEST_BODY:
        raise too_large
    try:
        async with asyncio.timeout(READ_SECONDS):
            return await request.read()
    except web.HTTPRequestEntityTooLarge:
        raise too_large from None
    except TimeoutError:
        raise BadRequest(408, f"the request did not arrive within {READ_SECONDS:.0f} s") from None
    except web.RequestPayloadError as error:
        raise BadRequest(400, f"the request's body cannot be read: {error}") from None


def drop(request: web.BaseRequest) -> web.StreamResponse:
    """Close the connection without an answer; what is returned is never sent."""
    request.protocol.force_close()
    return web.Response()


def raise_file_limit() -> int:
    """Allow this process as many open files as the system grants, and return how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


class _Server(web.Server):
    """A server that, where it has its share of connections, gives up those that wait longest without a request."""

    def __init__(self, handler: Handler, most: int) -> None:
        super().__init__(
            self._begin,
            keepalive_timeout=READ_SECONDS,  # also the limit for a first request to arrive
            lingering_time=_LINGER_SECONDS,
            auto_decompress=False,  # nobody sends compressed requests, but bombs
            access_log=None,
            logger=_protocol_log,
        )
        self._answer = handler
        self.most = most
        self._count = 0
        self._waiting: dict[web.RequestHandler, None] = {}

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        self._count += 1
        self._waiting[handler] = None
        if self._count > self.most:
            oldest = next(iter(self._waiting))
            log.debug("too many connections: one without a request is closed")
            del self._waiting[oldest]
            oldest.force_close()

    def connection_lost(self, handler: web.RequestHandler, exc: BaseException | None = None) -> None:
        self._count -= 1
        self._waiting.pop(handler, None)
        super().connection_lost(handler, exc)

    async def _begin(self, request: web.BaseRequest) -> web.StreamResponse:
        self._waiting.pop(request.protocol, None)
        return await self._answer(request)


class _Quiet(logging.Filter):
    """Keeps the tracebacks of unreadable requests out of the log: they are the client's fault."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, HttpProcessingError):
            record.exc_info = None
            record.msg, record.args = "a request cannot be read: %s", (" ".join(error.message.split())[:200],)
            record.levelno, record.levelname = logging.INFO, "INFO"
        return True


_protocol_log = logging.getLogger("snapvol.daemon.protocol")
_protocol_log.addFilter(_Quiet())


class Edge:
    """One HTTP server on one listening socket.

    Args:
        handler: answers every request; whatever it raises is a defect and closes the connection.
        share: the part of the process's file descriptors that its connections may take.
    """

    def __init__(self, handler: Handler, share: float) -> None:
        self.server = _Server(handler, max(64, int(raise_file_limit() * share)))
        self._runner = web.ServerRunner(self.server, shutdown_timeout=FINISH_SECONDS)

    async def listen(self, listener: Listener) -> None:
        """Begin to serve a unix socket that listens already."""
        await self._runner.setup()
        # asyncio accepts as many connections as the backlog holds before it does anything else: a flood would stop all.
        await web.SockSite(self._runner, listener.socket, backlog=_ACCEPTED_AT_ONCE).start()
        listener.socket.listen(BACKLOG)

    async def listen_tcp(self, host: str, port: int) -> int:
        """Begin to serve an address; return the port, which the system chooses for 0."""
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port)
        try:
            await site.start()
        except OSError as error:
            raise SnapvolError(
                f"daemon.metrics: {host}:{port} cannot be listened on: {error.strerror or error}", "choose another port"
            ) from None
        return site.port

    async def refuse(self) -> None:
        """Take no new connections."""
        for site in list(self._runner.sites):
            await site.stop()

    async def finish(self) -> None:
        """Let requests in flight end, at most `FINISH_SECONDS`, then close every connection."""
        await self._runner.cleanup()
