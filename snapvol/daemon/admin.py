"""The admin API's server: finds the route, checks what is given, runs it in a thread, and turns errors into answers."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

import msgspec
from aiohttp import web
from aiohttp.web import BaseRequest, StreamResponse

from snapvol.daemon import http, openapi
from snapvol.daemon.metrics import TEXT, Metrics
from snapvol.daemon.openapi import Error, ErrorBody
from snapvol.daemon.routes import TABLE
from snapvol.daemon.routing import MethodNotAllowed, Route, Router
from snapvol.errors import SnapvolError
from snapvol.service.service import Service

log = logging.getLogger(__name__)
THREADS = 32
STREAMS = 64
T = TypeVar("T")
_END = object()


class Admin:
    """Answers the CLI and other programs.

    Args:
        service: what it serves.
        metrics: where durations are noted, and what ``/metrics`` shows.
    """

    def __init__(self, service: Service, metrics: Metrics) -> None:
        self._service = service
        self._metrics = metrics
        self._stopping = False
        self._router = Router(TABLE)
        self._document = msgspec.json.encode(openapi.document(self._router.routes))
        # Of their own, so that slow administration and idle watchers take nothing from Docker's side.
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="api")
        self._streams = ThreadPoolExecutor(STREAMS, thread_name_prefix="events")

    async def answer(self, request: BaseRequest) -> StreamResponse:
        """Answer one request: the one place where errors become HTTP (status, kind, message, hint)."""
        began, label = time.perf_counter(), "other"
        try:
            if request.path in ("/v1/openapi.json", "/metrics"):
                label = f"GET {request.path}"
                return await self._about(request)
            route, given = self._router.find(request.method, request.rel_url.raw_path)
            label = f"{route.method} {route.path}"
            return await self._serve(request, route, given)
        except http.BadRequest as error:
            return _failure(error.status, "UsageError", error.message, None)
        except SnapvolError as error:
            return _refusal(error)
        except ConnectionError:
            raise  # the client has left
        except Exception:
            log.exception("%s %s failed unexpectedly", request.method, request.path)
            return _failure(500, "SnapvolError", "the daemon met an unexpected error", "see: journalctl -u snapvol")
        finally:
            self._metrics.answered("api", label, time.perf_counter() - began)

    async def _about(self, request: BaseRequest) -> StreamResponse:
        if request.method != "GET":
            raise MethodNotAllowed(request.method, request.path, ["GET"])
        if request.path == "/metrics":
            return _whole(await self._in_thread(self._metrics.text), content_type=TEXT)
        return _whole(self._document)

    async def _serve(self, request: BaseRequest, route: Route, given: dict[str, str]) -> StreamResponse:
        arguments = route.arguments(given, request.query, await http.body(request))
        call = partial(route.action, self._service, **arguments)
        if route.streams:
            return await self._stream(request, await self._in_thread(call))
        result = await self._in_thread(lambda: msgspec.json.encode(call()))
        if request.method != "GET":
            log.info("%s %s: done", request.method, request.path)
        return _whole(result)

    async def _in_thread(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    async def _stream(self, request: BaseRequest, items: Generator[Any, None, None]) -> StreamResponse:
        """Send a line of JSON for each item as it comes; a client that leaves ends it with the next one."""
        loop = asyncio.get_running_loop()
        item = await loop.run_in_executor(self._streams, next, items, _END)  # an error here still has its status
        response = StreamResponse(headers={"Content-Type": openapi.LINES, "Cache-Control": "no-store"})
        response.force_close()
        await response.prepare(request)
        with suppress(ConnectionError):  # the client has left: that is its right
            while item is not _END and not self._stopping:
                await response.write(msgspec.json.encode(item) + b"\n")
                item = await loop.run_in_executor(self._streams, next, items, _END)
        items.close()
        return response

    def stop(self) -> None:
        """End the streams, which have no end of their own; other requests in flight go on."""
        self._stopping = True

    def close(self) -> None:
        """Take no more work."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._streams.shutdown(wait=False, cancel_futures=True)


def _whole(body: bytes, status: int = 200, content_type: str = openapi.JSON) -> web.Response:
    response = web.Response(body=body, status=status, headers={"Content-Type": content_type})
    response.force_close()
    return response


def _failure(status: int, kind: str, message: str, hint: str | None) -> web.Response:
    return _whole(msgspec.json.encode(Error(error=ErrorBody(kind=kind, message=message, hint=hint))), status)


def _refusal(error: SnapvolError) -> web.Response:
    kind = "UsageError" if isinstance(error, MethodNotAllowed) else type(error).__name__
    response = _failure(error.status, kind, error.message, error.hint)
    if isinstance(error, MethodNotAllowed):
        response.headers["Allow"] = ", ".join(error.allowed)
    return response
