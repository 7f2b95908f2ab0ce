"""The daemon's life: lock, sockets, service, servers, housekeeping; and all of it in reverse."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from snapvol import __version__
from snapvol.daemon import logs, sockets, systemd
from snapvol.daemon.admin import Admin
from snapvol.daemon.exposition import Exposition, metrics_address
from snapvol.daemon.housekeeping import Housekeeping
from snapvol.daemon.http import FINISH_SECONDS, Edge, raise_file_limit
from snapvol.daemon.metrics import Metrics
from snapvol.daemon.plugin import Plugin
from snapvol.daemon.turns import Turns
from snapvol.service.service import Service
from snapvol.settings import Settings

log = logging.getLogger(__name__)
VOLUMES_AT_ONCE = 64  # threads for Docker's side
CLOSE_SECONDS = 20.0  # for jobs to take note that they are to stop
_BACKLOG_SECONDS = 0.05  # for the connections that were made before the socket's file went
_SWITCH_SECONDS = 0.001  # how soon a thread that computes gives way to the one that answers Docker


def run(settings: Settings) -> None:
    """See `snapvol.daemon.run`."""
    logs.begin(settings.daemon.log_level)
    sys.setswitchinterval(_SWITCH_SECONDS)
    raise_file_limit()
    notifier = systemd.Notifier()
    metrics_address(settings.daemon.metrics)
    lock = sockets.claim_root(settings.daemon.root)
    try:
        # Listening comes before everything that takes time: requests wait in the backlog, where Docker sees
        # neither a refused connection nor a missing socket, each of which costs it 15 s for every volume (G12).
        plugin, api = sockets.claim_all(settings.daemon, systemd.handed_sockets())
        try:
            stuck = asyncio.run(Daemon(settings, notifier, plugin, api).live())
        finally:
            api.release()
            plugin.release()
    finally:
        os.close(lock)
    if stuck:
        log.warning("ended with work under way: %s", ", ".join(stuck))
        logging.shutdown()
        os._exit(0)  # a thread that hangs in the storage would keep the interpreter for ever


class Daemon:
    """One run.

    Args:
        settings: the effective settings.
        notifier: who hears of readiness.
        plugin: Docker's socket, which listens.
        api: the admin API's, likewise.
    """

    def __init__(
        self, settings: Settings, notifier: systemd.Notifier, plugin: sockets.Listener, api: sockets.Listener
    ) -> None:
        self._settings = settings
        self._notifier = notifier
        self._listeners = (plugin, api)
        self._stop = asyncio.Event()
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="daemon")

    async def live(self) -> list[str]:
        """Serve until a signal; return the work that would not end."""
        self._handle_signals()
        began = time.monotonic()
        starting = asyncio.get_running_loop().run_in_executor(self._threads, _started, self._settings)
        stopping = asyncio.ensure_future(self._stop.wait())
        waited: tuple[asyncio.Future[object], ...] = (starting, stopping)  # type: ignore[assignment]
        await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if starting.done():
            return await self._serve(starting.result(), began)
        self._threads.shutdown(wait=False)
        return ["start"]

    async def _serve(self, service: Service, began: float) -> list[str]:
        metrics, turns = Metrics(service), Turns(VOLUMES_AT_ONCE)
        exposition, housekeeping = Exposition(metrics), Housekeeping(service, service.pulse)
        plugin, admin = Plugin(service, turns, metrics, housekeeping.changed), Admin(service, metrics)
        plugin_edge, api_edge = Edge(plugin.answer, 0.5), Edge(admin.answer, 0.25)
        # What lives as long as the daemon need not be looked at by every collection, in the middle of an answer.
        gc.collect()
        gc.freeze()
        try:
            await plugin_edge.listen(self._listeners[0])
            await api_edge.listen(self._listeners[1])
            await exposition.listen(self._settings.daemon.metrics)
            housekeeping.start()
            log.info("snapvol %s serves %s after %.2f s", __version__, self._addresses(), time.monotonic() - began)
            self._notifier.tell("READY=1")
            watched = asyncio.create_task(self._notifier.beat(service.pulse.alive))
            await self._stop.wait()
            watched.cancel()
        finally:
            self._notifier.tell("STOPPING=1")
            housekeeping.stop()
            for listener in self._listeners:
                listener.remove()
            await asyncio.sleep(_BACKLOG_SECONDS)
            await asyncio.gather(*(edge.refuse() for edge in (plugin_edge, api_edge, exposition.edge)))
            admin.stop()
            under_way = await turns.finish(FINISH_SECONDS)
            await asyncio.gather(*(edge.finish() for edge in (plugin_edge, api_edge, exposition.edge)))
            admin.close()
            stuck = await self._close(service, under_way)
        return stuck

    async def _close(self, service: Service, under_way: list[str]) -> list[str]:
        closing = asyncio.get_running_loop().run_in_executor(self._threads, service.close)
        done, _ = await asyncio.wait([closing], timeout=CLOSE_SECONDS)
        self._threads.shutdown(wait=False)
        if not done:
            return [*under_way, "close"]
        closing.result()
        log.info("stopped")
        return under_way

    def _addresses(self) -> str:
        return " and ".join(str(listener.path) for listener in self._listeners)

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._asked_to_stop, number)
        loop.add_signal_handler(signal.SIGHUP, log.info, "SIGHUP: settings are read at start only; restart instead")

    def _asked_to_stop(self, number: signal.Signals) -> None:
        log.info("%s: stopping", number.name)
        self._stop.set()


def _started(settings: Settings) -> Service:
    service = Service(settings)
    service.start()
    return service
