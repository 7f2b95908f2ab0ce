"""Docker's requests to a daemon, and what the admin API says of their effect."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support import disks, raw
from support.scale import patient
from support.servers import Snapvol
from support.storage import STORAGE

ID = "a" * 64


def ask(host: Snapvol, verb: str, name: str, seconds: float | None = None, **fields: Any) -> raw.Answer:
    limit = patient(10) if seconds is None else seconds
    return raw.plugin(host.plugin_socket, verb, {"Name": name, **fields}, limit)


def done(answer: raw.Answer) -> Any:
    assert answer.status == 200, answer
    return answer.json


def info(host: Snapvol, name: str) -> Any:
    return raw.exchange(host.api_socket, raw.request(f"/v1/volumes/{name}", method="GET")).json


def listed(host: Snapvol) -> set[str]:
    return {volume["Name"] for volume in done(raw.plugin(host.plugin_socket, "List"))["Volumes"]}


@contextmanager
def plain_daemon(directory: Path) -> Iterator[Snapvol]:
    """A daemon with one pool: of plain directories, which copies in full, or in the lab of the storage chosen there."""
    directory.mkdir()
    settings: dict[str, Any] = {"backend": "directory", "path": directory / "pool", "full_copies": True}
    if STORAGE:
        settings = {"backend": STORAGE, **disks.another(STORAGE)}
    daemon = Snapvol(directory, {"pools": {"default": settings}}).start()
    try:
        yield daemon
    finally:
        code = daemon.stop()
        if STORAGE:
            disks.drop(settings)
    assert code == 0
