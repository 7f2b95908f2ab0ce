"""What the daemon does by the clock. Never two runs of one task at once, and none of them in the event loop."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

from apscheduler.schedulers.asyncio import AsyncIOScheduler

from snapvol.errors import SnapvolError
from snapvol.service.service import Service

log = logging.getLogger(__name__)
SOON_SECONDS = 1
LATER_SECONDS = 60  # measuring is for an hour in which dockerd is not just asking for all its volumes
POOLS_SECONDS = 10
USERS_SECONDS = 30
TRASH_SECONDS = 60
USAGE_SECONDS = 600
POLICIES_FIRST_SECONDS = 5  # the volumes of pools that come a little later than the daemon are missed, too
POLICIES_SECONDS = 10


class Housekeeping:
    """The timed tasks of one daemon."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._tasks: dict[str, tuple[Callable[[], object], int, int]] = {
            "pools": (service.refresh_pools, SOON_SECONDS, POOLS_SECONDS),
            "users": (service.refresh_users, SOON_SECONDS, USERS_SECONDS),
            "policies": (service.protection.tick, POLICIES_FIRST_SECONDS, POLICIES_SECONDS),
            "trash": (service.expire_trash, SOON_SECONDS, TRASH_SECONDS),
            "usage": (service.refresh_usage, LATER_SECONDS, USAGE_SECONDS),
        }
        self._threads = ThreadPoolExecutor(len(self._tasks), thread_name_prefix="housekeeping")
        self._measurer = ThreadPoolExecutor(1, thread_name_prefix="measure")
        self._due: dict[str, float] = {}  # volume → when it may be measured again
        self._failed: dict[str, str] = {}
        self._stopped = False
        self._scheduler = AsyncIOScheduler(
            timezone=UTC,
            # A run that was missed, by a suspended machine for example, is made up for once, however often it was due.
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
        )

    def start(self) -> None:
        """Begin."""
        for name, (_, first, seconds) in self._tasks.items():
            begin = datetime.now(UTC) + timedelta(seconds=first)
            self._scheduler.add_job(self._run, "interval", (name,), seconds=seconds, id=name, next_run_time=begin)
        self._scheduler.start()

    async def _run(self, name: str) -> None:
        """Run a task; say that it fails when it begins to, not at every tick."""
        try:
            await asyncio.get_running_loop().run_in_executor(self._threads, self._tasks[name][0])
        except Exception as error:
            said = str(error) if isinstance(error, SnapvolError) else f"{type(error).__name__}: {error}"
            if self._failed.get(name) != said:
                traced = None if isinstance(error, SnapvolError) else error
                log.error("housekeeping of %s fails: %s", name, said, exc_info=traced)
            self._failed[name] = said
        else:
            if self._failed.pop(name, None):
                log.info("housekeeping of %s works again", name)

    def changed(self, volume: str) -> None:
        """Measure a volume soon: it was made or used. At most a hundredth of the time is spent on one volume."""
        if not self._stopped and time.monotonic() >= self._due.get(volume, 0.0):
            self._due[volume] = float("inf")
            asyncio.get_running_loop().run_in_executor(self._measurer, self._measure, volume)

    def _measure(self, volume: str) -> None:
        began = time.monotonic()
        try:
            self._service.refresh_usage(volume)
        except SnapvolError as error:
            log.debug("volume '%s' was not measured: %s", volume, error)
        except Exception:
            log.exception("volume '%s' was not measured", volume)
        ended = time.monotonic()
        self._due[volume] = ended + 100 * (ended - began)

    def stop(self) -> None:
        """Begin nothing more; what runs goes on in its thread."""
        self._stopped = True
        self._measurer.shutdown(wait=False, cancel_futures=True)
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)
        self._threads.shutdown(wait=False, cancel_futures=True)
