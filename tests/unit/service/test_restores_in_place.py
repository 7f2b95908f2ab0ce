"""Restores in place of a volume's contents: exact, undoable, and nothing changed where they do not succeed."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from snapvol.api import JobInfo, JobState
from snapvol.backends.directory import Directory
from snapvol.errors import InUse, NotReady, StorageFailed
from snapvol.model import State
from snapvol.service.job import Run
from snapvol.service.service import Service
from support.quick import initialise
from support.restoring import FILES, SECONDS, Pause, backed_up, contents, die, fill, restore, write
from support.service import FakeKernel, directory_service


@pytest.fixture
def service(on_disk: Service) -> Service:
    initialise(on_disk.settings, "default")
    return on_disk


def test_T35_in_place_is_exact_and_can_be_undone(service: Service) -> None:
    data = fill(service, "web")
    backed_up(service)
    later = {"a": b"changed", "left-over": b"stale log"}
    (data / "d" / "b").unlink()
    write(data, later)
    before = contents(data)
    job = restore(service, "web", in_place=True)
    assert (job.state, job.error) == (JobState.DONE, None)
    assert contents(service.mountpoint("web")) == FILES
    (snapshot,) = service.snapshots("web")
    assert (snapshot.name, snapshot.made_by) == (job.result["before"], "restore")
    assert snapshot.name.startswith("before-restore-")
    service.rollback("web", snapshot.name)
    assert contents(service.mountpoint("web")) == before


def test_one_path_in_place_is_exact_there_and_leaves_the_rest(service: Service) -> None:
    data = fill(service, "web")
    backed_up(service)
    write(data, {"a": b"changed", "d/left-over": b"stale", "d/b": b"changed"})
    assert restore(service, "web", in_place=True, path="d").state is JobState.DONE
    assert contents(service.mountpoint("web")) == {**FILES, "a": b"changed"}
    assert restore(service, "web", in_place=True, path="a").state is JobState.DONE
    assert contents(service.mountpoint("web")) == FILES
    assert len(service.snapshots("web")) == 2


def test_T9_a_volume_in_use_is_not_replaced_whoever_uses_it(service: Service, kernel: FakeKernel) -> None:
    data = fill(service, "web")
    backed_up(service)
    kernel.use(data)
    with pytest.raises(InUse, match="container abc"):
        service.backups.restore("web", in_place=True)
    kernel.leave(data)
    assert service.jobs.list()[-1].kind == "backup"
    assert service.snapshots("web") == []


def test_nobody_can_mount_it_from_the_beginning_of_the_job(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(service, "web")
    backed_up(service)
    pause = Pause(monkeypatch)
    job = service.backups.restore("web", in_place=True)
    assert isinstance(job, JobInfo)
    assert pause.reached.wait(SECONDS)
    with pytest.raises(NotReady, match="is being restored"):
        service.mount("web", "holder")
    with pytest.raises((InUse, NotReady)):
        service.backups.back_up(["web"])
    with pytest.raises((InUse, NotReady)):
        service.remove_volume("web")
    pause.go_on.set()
    assert service.jobs.wait(job.id, SECONDS).state is JobState.DONE
    service.mount("web", "holder")


def test_T38_somebody_who_came_in_by_another_door_stops_the_replacement(
    service: Service, kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = fill(service, "web")
    backed_up(service)
    write(data, {"a": b"changed"})
    before = contents(data)
    pause = Pause(monkeypatch)
    job = service.backups.restore("web", in_place=True)
    assert isinstance(job, JobInfo)
    assert pause.reached.wait(SECONDS)
    kernel.use(data)
    pause.go_on.set()
    ended = service.jobs.wait(job.id, SECONDS)
    assert (ended.state, ended.error_kind) == (JobState.FAILED, "InUse")
    assert contents(data) == before
    assert service.snapshots("web") == []


@pytest.mark.parametrize("path", [None, "d"])
@pytest.mark.parametrize("how", ["cancel", "fail"])
def test_T38_an_in_place_restore_that_does_not_succeed_changes_nothing(
    service: Service, monkeypatch: pytest.MonkeyPatch, path: str | None, how: str
) -> None:
    data = fill(service, "web")
    backed_up(service)
    write(data, {"a": b"changed", "d/left-over": b"x"})
    before = contents(data)
    perform = Run.perform
    reached = threading.Event()

    def half(run: Run, what: Any) -> dict[str, Any]:
        if type(what).__name__ != "Restore":
            return perform(run, what)
        write(what.target, {"d/b": b"half", "d/new": b"half"})
        reached.set()
        if how == "fail":
            raise StorageFailed("the disk is tired")
        while True:
            run.check()

    monkeypatch.setattr(Run, "perform", half)
    job = service.backups.restore("web", in_place=True, path=path)
    assert isinstance(job, JobInfo)
    assert reached.wait(SECONDS)
    if how == "cancel":
        service.jobs.cancel(job.id)
    ended = service.jobs.wait(job.id, SECONDS)
    assert ended.state is (JobState.CANCELLED if how == "cancel" else JobState.FAILED)
    assert contents(service.mountpoint("web")) == before
    assert service.snapshots("web") == []
    assert service.volume("web").state is State.READY
    service.mount("web", "holder")


@pytest.mark.parametrize("path", [None, "d"])
def test_T38_a_daemon_killed_during_an_in_place_restore_leaves_the_old_volume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str | None
) -> None:
    root = tmp_path / "root"
    service = directory_service(root)
    initialise(service.settings, "default")
    data = fill(service, "web")
    backed_up(service)
    write(data, {"a": b"changed", "d/left-over": b"x"})
    before = contents(data)
    perform = Run.perform
    reached, go_on = threading.Event(), threading.Event()

    def half(run: Run, what: Any) -> dict[str, Any]:
        if type(what).__name__ != "Restore":
            return perform(run, what)
        write(what.target, {"d/b": b"half"})
        reached.set()
        go_on.wait()
        raise StorageFailed("dead")

    monkeypatch.setattr(Run, "perform", half)
    job = service.backups.restore("web", in_place=True, path=path)
    assert isinstance(job, JobInfo)
    assert reached.wait(SECONDS)
    die(service)
    monkeypatch.undo()
    again = directory_service(root)
    try:
        assert again.jobs.get(job.id).state is JobState.INTERRUPTED
        assert again.volume("web").state is State.READY
        assert contents(again.mountpoint("web")) == before
        assert again.snapshots("web") == []
        assert not (data.parent / "data.new").exists()
        retried = again.jobs.wait(again.jobs.retry(job.id).id, SECONDS)
        assert (retried.state, retried.error) == (JobState.DONE, None)
        assert contents(again.mountpoint("web"))["d/b"] == FILES["d/b"]
    finally:
        again.close()
        monkeypatch.setattr(Directory, "rollback", lambda *_: None)
        go_on.set()
