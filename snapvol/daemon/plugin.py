"""Docker's side: the volume plugin protocol, as its clients really use it (rules G1 … G20 of `PROTOCOL.md`).

Activate, Capabilities, Get, List and Path are answered in the event loop, from memory. Create, Mount, Unmount and
Remove run in threads, in turn for each volume; their answer comes within `ANSWER_SECONDS` even where the work takes
longer, and the work then goes on. Nothing that a client does, nor its leaving, stops work that has begun.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

from aiohttp.web import BaseRequest, StreamResponse

from snapvol import names
from snapvol.api import VolumeInfo
from snapvol.daemon import http, peer, wire
from snapvol.daemon.metrics import Metrics
from snapvol.daemon.turns import Late, Turns, within
from snapvol.errors import InUse, InvalidName, NotFound, NotReady, SnapvolError
from snapvol.service.pool import Seen
from snapvol.service.service import Service

log = logging.getLogger(__name__)
ANSWER_SECONDS = 4.0  # Podman gives up after 5 (G11)

Verb = Callable[[BaseRequest, wire.Request], Awaitable[bytes]]


class Plugin:
    """Answers Docker's and Podman's requests.

    Args:
        service: what it serves.
        turns: where blocking work runs.
        metrics: where durations are noted.
        changed: hears of volumes that were made or used.
    """

    def __init__(self, service: Service, turns: Turns, metrics: Metrics, changed: Callable[[str], None]) -> None:
        self._service = service
        self._turns = turns
        self._metrics = metrics
        self._changed = changed
        self._listed: tuple[list[Seen], bytes] = [], wire.volumes([])
        self._creating: dict[str, tuple[dict[str, str], asyncio.Task[object]]] = {}
        self._removing: dict[str, asyncio.Task[object]] = {}
        self._bodiless: dict[str, Callable[[], bytes]] = {
            "/Plugin.Activate": lambda: wire.IMPLEMENTS,
            "/VolumeDriver.Capabilities": lambda: wire.CAPABILITIES,
            "/VolumeDriver.List": self._list,
        }
        self._quick: dict[str, Verb] = {"/VolumeDriver.Get": self._get, "/VolumeDriver.Path": self._path}
        self._verbs: dict[str, Verb] = {
            **self._quick,
            "/VolumeDriver.Create": self._create,
            "/VolumeDriver.Mount": self._mount,
            "/VolumeDriver.Unmount": self._unmount,
            "/VolumeDriver.Remove": self._remove,
        }

    async def answer(self, request: BaseRequest) -> StreamResponse:
        """Answer one request. Content-Type and Host are not looked at (G18)."""
        began = time.perf_counter()
        endpoint = request.path
        if endpoint not in self._bodiless and endpoint not in self._verbs:
            return wire.failure(f"snapvol has no {endpoint[:100]}", 404)
        try:
            return await self._answer(request, endpoint)
        finally:
            self._metrics.answered("plugin", endpoint.rpartition(".")[2], time.perf_counter() - began)

    async def _answer(self, request: BaseRequest, endpoint: str) -> StreamResponse:
        try:
            content = await http.body(request)
            if request.method != "POST":
                return wire.failure(f"{endpoint} wants POST", 405)
            if endpoint in self._bodiless:
                return wire.answer(self._bodiless[endpoint]())
            if not content.strip():
                return self._no_request(request, endpoint)
            return wire.answer(await self._do(request, endpoint, wire.request(content)))
        except http.BadRequest as error:
            return wire.failure(error.message, error.status)
        except SnapvolError as error:
            # Clients know two kinds of answers, 200 and 500 (G4); only what is no request at all is a 4xx.
            return wire.failure(str(error), 400 if isinstance(error, wire.Unreadable) else 500)
        except Exception:
            log.exception("%s failed unexpectedly", endpoint)
            if endpoint == "/VolumeDriver.Get":
                return http.drop(request)  # any answer but the volume makes Docker forget its references (G2)
            return wire.failure("snapvol met an unexpected error: see its log (journalctl -u snapvol)")

    async def _do(self, request: BaseRequest, endpoint: str, asked: wire.Request) -> bytes:
        if endpoint in self._quick:
            return await self._quick[endpoint](request, asked)
        what = f"{endpoint.rpartition('.')[2].lower()} {asked.name[:300]!r} {asked.id[:12]}".rstrip()
        began = time.perf_counter()
        try:
            answer = await self._verbs[endpoint](request, asked)
        except SnapvolError as error:
            log.warning("%s: %s", what, error)
            raise
        log.info("%s: done in %.0f ms", what, (time.perf_counter() - began) * 1000)
        return answer

    def _no_request(self, request: BaseRequest, endpoint: str) -> StreamResponse:
        """G1: Docker repeats a request whose connection broke with its body already spent."""
        log.info("%s without a body: no request", endpoint)
        if endpoint == "/VolumeDriver.Get":
            return http.drop(request)
        return wire.failure(f"{endpoint} came without a body; ask again", 400)

    # -- from memory --------------------------------------------------------------------------------------------

    def _list(self) -> bytes:
        seen = self._service.announced()
        if seen is not self._listed[0]:
            self._listed = seen, wire.volumes(seen)
        return self._listed[1]

    async def _get(self, request: BaseRequest, asked: wire.Request) -> bytes:
        try:
            return wire.volume(self._known(asked.name))
        except (NotFound, InvalidName):
            raise NotFound(f"no such volume: {asked.name[:300]}") from None  # also for an empty name (G17)

    async def _path(self, request: BaseRequest, asked: wire.Request) -> bytes:
        return wire.mountpoint(self._known(asked.name).mountpoint)

    def _known(self, name: str) -> VolumeInfo:
        """Return the volume of that name. By its id, which the service takes too, Docker would know it twice."""
        info = self._service.volume(names.volume_name(name))
        if info.name != name:
            raise NotFound(f"no such volume: {name}")
        return info

    # -- in threads ---------------------------------------------------------------------------------------------

    async def _create(self, request: BaseRequest, asked: wire.Request) -> bytes:
        name, options = names.volume_name(asked.name), wire.options(asked.options)
        under_way = self._creating.get(name)
        if under_way is None or under_way[0] != options:
            work = partial(self._service.create_volume, name, options)
            under_way = options, self._turns.enter(name, work, what=f"create {name}")
            self._creating[name] = under_way
            under_way[1].add_done_callback(partial(self._created, name))
        try:
            await within(ANSWER_SECONDS, under_way[1])
        except Late:
            raise NotReady(f"volume '{name}' is still being created", "ask again in a few seconds") from None
        self._changed(name)
        return wire.DONE

    def _created(self, name: str, task: asyncio.Task[object]) -> None:
        if name in self._creating and self._creating[name][1] is task:
            del self._creating[name]

    async def _mount(self, request: BaseRequest, asked: wire.Request) -> bytes:
        name, pid, answered = names.volume_name(asked.name), peer.process(request), asyncio.Event()
        work = partial(self._mount_for, name, asked.id, pid)
        task = self._turns.enter(name, work, dropped=answered.is_set, what=f"mount {name}")
        try:
            path = await within(ANSWER_SECONDS, task)
        except Late:
            answered.set()
            task.add_done_callback(partial(self._take_back, name, asked.id, pid))
            raise NotReady(f"volume '{name}' is not mounted yet", "ask again in a few seconds") from None
        if request.transport is None:  # whoever has not heard of the mount will not end it
            self._take_back(name, asked.id, pid, task)
        return wire.mountpoint(str(path))

    def _mount_for(self, name: str, holder: str, pid: int | None) -> Path:
        self._known(name)
        return self._service.mount(name, holder, peer.client(pid))

    def _take_back(self, name: str, holder: str, pid: int | None, task: asyncio.Task[Path]) -> None:
        if not task.cancelled() and task.exception() is None:
            log.info("mount %s: nobody waits for it any more, taken back", name)
            self._turns.enter(name, partial(self._unmount_for, name, holder, pid), what=f"unmount {name}")

    async def _unmount(self, request: BaseRequest, asked: wire.Request) -> bytes:
        name = names.volume_name(asked.name)
        work = partial(self._unmount_for, name, asked.id, peer.process(request))
        try:
            await within(ANSWER_SECONDS, self._turns.enter(name, work, what=f"unmount {name}"))
        except Late:
            log.info("unmount %s: takes longer, goes on by itself", name)
        except SnapvolError as error:
            # An error would put Docker's count of mounts wrong for ever (G7); the kernel tells us what is in use.
            if not isinstance(error, NotFound):
                log.warning("unmount %s: %s", name, error)
        else:
            self._changed(name)
        return wire.DONE

    def _unmount_for(self, name: str, holder: str, pid: int | None) -> None:
        self._known(name)
        self._service.unmount(name, holder, peer.client(pid))

    async def _remove(self, request: BaseRequest, asked: wire.Request) -> bytes:
        name, late = names.volume_name(asked.name), asyncio.Event()
        task = self._removing.get(name)
        if task is None:
            work = partial(self._remove_for, name)
            task = self._turns.enter(name, work, dropped=late.is_set, what=f"remove {name}")
            self._removing[name] = task
            task.add_done_callback(lambda _: self._removing.pop(name, None))
        try:
            await within(ANSWER_SECONDS, task)
        except Late:
            late.set()  # a removal that has not begun must not come as a surprise later
            raise InUse(f"volume '{name}' is not removed yet: other work on it goes on", "ask again") from None
        except NotFound:
            log.info("remove %s: there is none", name)
        return wire.DONE

    def _remove_for(self, name: str) -> None:
        self._known(name)
        self._service.remove_volume(name)
