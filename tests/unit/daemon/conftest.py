"""The daemon's edge over a service that does what a test wants of it, served from a thread of its own."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest
from msgspec.structs import replace

from snapvol.api import JobInfo, JobState, Plan, PoolInfo, SnapshotInfo, Status, TrashInfo, VolumeInfo
from snapvol.daemon.admin import Admin
from snapvol.daemon.http import Edge
from snapvol.daemon.metrics import Metrics
from snapvol.daemon.plugin import Plugin
from snapvol.daemon.sockets import Listener, claim
from snapvol.daemon.turns import Turns
from snapvol.errors import NotFound
from snapvol.model import State
from snapvol.service.holders import Client
from snapvol.service.pool import Seen
from snapvol.service.pulse import Pulse
from snapvol.service.service import Service

T = TypeVar("T")
CREATED = datetime(2026, 11, 20, 3, 0, 0, 123456, tzinfo=UTC)


class Jobs:
    """Jobs that end after a few steps."""

    def __init__(self) -> None:
        self.infos = {"j1": JobInfo(id="j1", kind="backup", object="web", state=JobState.RUNNING, created=CREATED)}
        self.steps, self.pause = 3, 0.0
        self.left = threading.Event()

    def list(self) -> list[JobInfo]:
        return [*self.infos.values()]

    def get(self, id: str) -> JobInfo:
        if id not in self.infos:
            raise NotFound(f"job '{id}' does not exist", "see: snapvol jobs")
        return self.infos[id]

    def log(self, id: str) -> Sequence[str]:
        return (f"log of {self.get(id).id}",)

    def watch(self, id: str, heartbeat: float) -> Iterator[JobInfo]:
        info = self.get(id)
        try:
            for _ in range(self.steps - 1):
                yield info
                time.sleep(self.pause)
            yield replace(info, state=JobState.DONE)
        finally:
            self.left.set()

    def cancel(self, id: str) -> JobInfo:
        return replace(self.get(id), state=JobState.CANCELLED)

    def retry(self, id: str) -> JobInfo:
        return replace(self.get(id), id="j2", state=JobState.QUEUED)


class FakeService(Service):
    """A service in memory. ``steps`` may hold, by a method's name, what to do before it (wait, fail, …)."""

    def __init__(self) -> None:
        self.known: dict[str, VolumeInfo] = {}
        self.calls: list[tuple[Any, ...]] = []
        self.steps: dict[str, Callable[[], object]] = {}
        self.jobs: Any = Jobs()
        self.status = Status(ok=True)
        self.backups: Any = SimpleNamespace(
            list=lambda volume, repository: [],
            back_up=lambda objects, *, all, repository: self._noted("back_up", self.jobs.list(), objects, all),
            restore=self._restore,
            verify=lambda ids, repository: self._noted("verify", self.jobs.list(), ids),
            forget=lambda ids, repository, *, dry_run, force: Plan(actions=[], done=not dry_run),
        )
        self.reports: Any = SimpleNamespace(status=lambda volume=None: self.status, doctor=list)
        self.announcer: Any = SimpleNamespace(targets=list, test=lambda target: [])
        self.pulse = Pulse()

    def _noted(self, name: str, result: T, *arguments: Any) -> T:
        self.calls.append((name, *arguments))
        if name in self.steps:
            self.steps[name]()
        return result

    def _restore(self, backup: str, *, dry_run: bool, **where: Any) -> JobInfo | Plan:
        return Plan(actions=[], done=False) if dry_run else self.jobs.get("j1")

    def add(self, name: str, **fields: Any) -> VolumeInfo:
        """Put a volume into the catalog."""
        base: dict[str, Any] = {"created": CREATED, "state": State.READY, "options": {}, **fields}
        info = VolumeInfo(id=f"id-{name}", name=name, pool="p", backend="fake", mountpoint=f"/fake/{name}", **base)
        self.known[name] = info
        return info

    def volumes(self) -> list[VolumeInfo]:
        self._noted("volumes", None)
        return [*self.known.values()]

    def volume(self, name: str) -> VolumeInfo:
        self._noted("volume", None, name)
        if name not in self.known:
            raise NotFound(f"volume '{name}' does not exist", "see: snapvol ls")
        return self.known[name]

    def announced(self) -> list[Seen]:
        self._noted("announced", None)
        return [
            Seen(id=it.id, name=it.name, created=it.created, mountpoint=it.mountpoint) for it in self.known.values()
        ]

    def mountpoint(self, name: str) -> Path:
        return Path(self.volume(name).mountpoint)

    def create_volume(
        self, name: str, options: Mapping[str, str] | None = None, labels: Mapping[str, str] | None = None
    ) -> VolumeInfo:
        self._noted("create", None, name, dict(options or {}))
        return self.add(name, options=dict(options or {}))

    def remove_volume(self, name: str, *, dry_run: bool = False, permanent: bool = False) -> Plan:
        self.volume(name)
        self._noted("remove", None, name)
        del self.known[name]
        return Plan(actions=[], done=True)

    def set_options(self, name: str, changes: Mapping[str, str | None]) -> VolumeInfo:
        return self._noted("set_options", self.volume(name), name, dict(changes))

    def rename_volume(self, name: str, to: str) -> VolumeInfo:
        return replace(self.volume(name), name=to)

    def resize_volume(self, name: str, size: str) -> VolumeInfo:
        return self._noted("resize", self.volume(name), name, size)

    def mount(self, name: str, holder: str = "", client: Client | None = None) -> Path:
        return self._noted("mount", self.mountpoint(name), name, holder, client)

    def unmount(self, name: str, holder: str = "", client: Client | None = None) -> None:
        self.volume(name)
        self._noted("unmount", None, name, holder, client)

    def rollback(self, name: str, snapshot: str, *, dry_run: bool = False) -> Plan:
        return Plan(actions=[], done=not dry_run)

    def log(self, name: str) -> list[Any]:
        return []

    def snapshot(self, volumes: Sequence[str], name: str | None = None, message: str = "") -> list[SnapshotInfo]:
        return [SnapshotInfo(volume=volume, name=name or "s", id="1", created=CREATED) for volume in volumes]

    def snapshots(self, volume: str | None = None) -> list[SnapshotInfo]:
        return self.snapshot([volume or "web"])

    def destroy_snapshot(self, volume: str, snapshot: str, *, dry_run: bool = False) -> Plan:
        return Plan(actions=[], done=not dry_run)

    def hold(self, volume: str, snapshot: str, tag: str = "user") -> SnapshotInfo:
        return self.snapshot([volume], snapshot)[0]

    def release(self, volume: str, snapshot: str, tag: str = "user") -> SnapshotInfo:
        return self.snapshot([volume], snapshot)[0]

    def diff(self, a: str, b: str) -> list[Any]:
        return []

    def trash(self) -> list[TrashInfo]:
        return []

    def undelete(self, ref: str, name: str | None = None) -> VolumeInfo:
        return self.add(name or ref)

    def empty_trash(self, ref: str | None = None, *, dry_run: bool = False) -> Plan:
        return Plan(actions=[], done=not dry_run)

    def expire_trash(self) -> None:
        self._noted("expire_trash", None)

    def pools(self) -> list[PoolInfo]:
        return [PoolInfo(name="p", backend="fake", ok=True, default=True, size=100, free=40)]

    def config(self) -> dict[str, Any]:
        return {"daemon.root": {"value": "/x", "origin": "default"}}

    def refresh_pools(self) -> None:
        self._noted("refresh_pools", None)

    def refresh_repositories(self) -> None:
        self._noted("refresh_repositories", None)

    def announce(self) -> None:
        self._noted("announce", None)

    def ping(self) -> None:
        self._noted("ping", None)

    def refresh_users(self) -> None:
        self._noted("refresh_users", None)

    def refresh_usage(self, name: str | None = None) -> None:
        self._noted("refresh_usage", None, name)

    def named(self, name: str) -> list[tuple[Any, ...]]:
        """The calls of one method."""
        return [call for call in self.calls if call[0] == name]


class Served:
    """Both edges over a service, in an event loop in a thread.

    Attributes:
        service: what is served: a fake where None is given.
        plugin: Docker's socket.
        api: the admin API's.
    """

    def __init__(self, place: Path, service: Service | None = None) -> None:
        self.service = FakeService() if service is None else service
        self.plugin, self.api = place / "plugin.sock", place / "api.sock"
        self.loop = asyncio.new_event_loop()
        self._listeners = [claim(self.plugin, "", "plugin"), claim(self.api, "", "api")]
        self.edges: list[Edge] = []
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()
        self.run(self._begin(self._listeners))

    def run(self, work: Any) -> Any:
        """Run a coroutine in the loop and return its result."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(20)

    async def _begin(self, listeners: list[Listener]) -> None:
        self.metrics = Metrics(self.service)
        self.turns = Turns(8)
        self.admin = Admin(self.service, self.metrics)
        self.changed: list[str] = []
        plugin = Plugin(self.service, self.turns, self.metrics, self.changed.append)
        handlers = (plugin.answer, self.admin.answer)
        for handler, listener in zip(handlers, listeners, strict=True):
            edge = Edge(handler, 0.1)
            await edge.listen(listener)
            self.edges.append(edge)

    async def _end(self) -> None:
        for edge in self.edges:
            await edge.refuse()
        await self.turns.finish(5)
        self.admin.close()
        for edge in self.edges:
            await edge.finish()

    def stop(self) -> None:
        """End everything."""
        self.run(self._end())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()
        for listener in self._listeners:
            listener.release()


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A directory whose path is short enough for sockets."""
    place = Path(tempfile.mkdtemp(prefix="snapvol-"))
    yield place
    shutil.rmtree(place)


@pytest.fixture
def served(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """The daemon's edge."""
    monkeypatch.setattr("snapvol.daemon.http._LINGER_SECONDS", 0.2)
    serving = Served(short_path)
    yield serving
    serving.stop()


@pytest.fixture
def serve(short_path: Path) -> Iterator[Callable[[Service], Served]]:
    """Serve a service that is no fake."""
    made: list[Served] = []

    def serve(service: Service) -> Served:
        made.append(Served(short_path, service))
        return made[-1]

    yield serve
    for serving in made:
        serving.stop()


@pytest.fixture
def created() -> datetime:
    """When the fake's volumes were made."""
    return CREATED
