"""Backups and restores through a service, and a daemon that is killed in the middle of one."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from snapvol.api import JobInfo, JobState
from snapvol.errors import StorageFailed
from snapvol.service.job import Run
from snapvol.service.service import Service

SECONDS = 60.0
FILES = {"a": b"hello", "d/b": b"in a directory", "d/empty": b""}


def fill(service: Service, name: str, files: Mapping[str, bytes] = FILES, **options: str) -> Path:
    service.create_volume(name, options)
    data = service.mountpoint(name)
    write(data, files)
    return data


def write(data: Path, files: Mapping[str, bytes]) -> None:
    for file, contents in files.items():
        (data / file).parent.mkdir(parents=True, exist_ok=True)
        (data / file).write_bytes(contents)


def contents(data: Path) -> dict[str, bytes]:
    return {str(path.relative_to(data)): path.read_bytes() for path in data.rglob("*") if path.is_file()}


def backed_up(service: Service, name: str = "web") -> str:
    (job,) = service.backups.back_up([name])
    ended = service.jobs.wait(job.id, SECONDS)
    assert ended.state is JobState.DONE, ended.error
    return str(ended.result["id"])


def restore(service: Service, backup: str, **how: Any) -> JobInfo:
    job = service.backups.restore(backup, **how)
    assert isinstance(job, JobInfo)
    return service.jobs.wait(job.id, SECONDS)


def created(service: Service, name: str, **options: str) -> JobInfo:
    info = service.create_volume(name, options)
    return service.jobs.wait(str(info.job), SECONDS)


class Pause:
    """Holds each worker of a job at its beginning, from the ``skip``-th on, until it is told to go on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, kind: str = "Restore") -> None:
        self.reached = threading.Event()
        self.go_on = threading.Event()
        perform = Run.perform

        def held(run: Run, what: Any) -> dict[str, Any]:
            if type(what).__name__ == kind:
                self.reached.set()
                while not self.go_on.wait(0.01):
                    run.check()
            return perform(run, what)

        monkeypatch.setattr(Run, "perform", held)


def die(service: Service) -> None:
    """What is left when the daemon is killed: the pools let go, nothing is written any more."""
    service.state.close()
    for pool in service._context.catalog.pools.values():
        pool.backend.close()

    def dead(*_: object, **__: object) -> Any:
        raise StorageFailed("the daemon is dead")

    service._context.catalog.change = dead  # type: ignore[method-assign]
    service._context.catalog.set_snapshots = dead  # type: ignore[method-assign]
