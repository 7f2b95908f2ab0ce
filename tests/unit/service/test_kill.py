"""The daemon killed before every single step of every operation: what is left is one of the states listed here (T14).

A child process does the operation and ends itself without any farewell before its n-th change of the file system; then
a new service opens the pool. This is done for every n, until the operation comes to its end.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from snapvol.api import JobInfo, JobState
from snapvol.errors import SnapvolError
from snapvol.model import State, Volume, now
from snapvol.service.service import Service
from support.service import directory_service

KILLED = 9
MOST_STEPS = 400
CHANGES = {
    "os.rename",
    "os.remove",
    "os.rmdir",
    "os.mkdir",
    "os.chmod",
    "os.chown",
    "os.link",
    "os.fork",
    "os.truncate",
}


def killed_at(step: int, root: Path, operation: Callable[[Service], object]) -> bool:
    """Do ``operation`` in a child that is killed before its change number ``step``; tell whether it came to that."""
    child = os.fork()
    if child == 0:
        try:
            service = directory_service(root)
            me, left = os.getpid(), [step]

            def count(event: str, arguments: tuple[object, ...]) -> None:
                writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
                if (event in CHANGES or writes) and os.getpid() == me:
                    left[0] -= 1
                    if left[0] == 0:
                        os._exit(KILLED)

            sys.addaudithook(count)
            operation(service)
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, KILLED)
    return code == KILLED


def check_every_step(
    tmp_path: Path,
    prepare: Callable[[Service], object],
    operation: Callable[[Service], object],
    judge: Callable[[Service], str],
    states: set[str],
) -> None:
    """Kill ``operation`` at every step. ``judge`` names what is left; all of ``states`` occur, and no other."""
    origin = tmp_path / "origin"
    service = directory_service(origin)
    prepare(service)
    service.close()
    found = set()
    for step in range(1, MOST_STEPS):
        root = tmp_path / "root"
        shutil.copytree(origin, root, symlinks=True)
        killed = killed_at(step, root, operation)
        service = directory_service(root)
        found.add(judge(service))
        assert all(not info.damaged for info in service.volumes())
        assert list((root / "pool/tmp").iterdir()) == []
        if killed:
            operation_again(service, operation)
        service.close()
        shutil.rmtree(root)
        if not killed:
            assert step > 3  # else nothing was counted
            break
    else:
        pytest.fail("the operation has no end")
    assert found == states


def operation_again(service: Service, operation: Callable[[Service], object]) -> None:
    """What was interrupted can be done again, or is refused because it is done."""
    try:
        operation(service)
    except SnapvolError as error:
        assert str(error).isprintable()  # noqa: PT017


def content(service: Service, name: str) -> str:
    return (Path(service.volume(name).mountpoint) / "file").read_text()


def write(service: Service, name: str, text: str) -> None:
    (Path(service.volume(name).mountpoint) / "file").write_text(text)


def names(service: Service) -> list[str]:
    return [info.name for info in service.volumes()]


def web(service: Service) -> None:
    service.create_volume("web")
    write(service, "web", "one")
    service.snapshot(["web"], "s1")
    write(service, "web", "two")


def test_create(tmp_path: Path) -> None:
    def judge(service: Service) -> str:
        if names(service) == []:
            return "none"
        info = service.volume("web")
        assert (info.state, info.options) == (State.READY, {"mode": "0711"})
        assert Path(info.mountpoint).stat().st_mode & 0o7777 == 0o711
        return "whole"

    check_every_step(
        tmp_path,
        lambda service: None,
        lambda service: service.create_volume("web", {"mode": "0711"}),
        judge,
        {"none", "whole"},
    )


def test_clone(tmp_path: Path) -> None:
    def judge(service: Service) -> str:
        assert content(service, "web") == "two"
        taken = [snapshot for snapshot in service.snapshots("web") if snapshot.made_by == "clone"]
        if "copy" not in names(service):
            return f"none, {len(taken)} snapshot"
        assert content(service, "copy") == "two"
        assert service.volume("copy").parent == f"web@{taken[0].name}"
        return "whole"

    check_every_step(
        tmp_path,
        web,
        lambda service: service.create_volume("copy", {"snapshot": "web"}),
        judge,
        {"none, 0 snapshot", "none, 1 snapshot", "whole"},
    )


def test_snapshot_of_two_volumes(tmp_path: Path) -> None:
    def prepare(service: Service) -> None:
        for name in ("web", "db"):
            service.create_volume(name)
            write(service, name, name)

    def judge(service: Service) -> str:
        return ", ".join(f"{snapshot.volume}@{snapshot.name}" for snapshot in service.snapshots()) or "none"

    check_every_step(
        tmp_path,
        prepare,
        lambda service: service.snapshot(["web", "db"], "s1"),
        judge,
        {"none", "db@s1, web@s1"},
    )


def test_rollback(tmp_path: Path) -> None:
    def judge(service: Service) -> str:
        saved = [snapshot.name for snapshot in service.snapshots("web") if snapshot.made_by == "rollback"]
        if content(service, "web") == "two":
            return f"before, {len(saved)} saved"
        assert content(service, "web") == "one"
        assert service.create_volume("copy", {"snapshot": f"web@{saved[0]}"}).parent == f"web@{saved[0]}"
        assert content(service, "copy") == "two"
        service.remove_volume("copy")
        return "after"

    check_every_step(
        tmp_path,
        web,
        lambda service: service.rollback("web", "s1"),
        judge,
        {"before, 0 saved", "before, 1 saved", "after"},
    )


def test_rename(tmp_path: Path) -> None:
    def judge(service: Service) -> str:
        (name,) = names(service)
        assert content(service, name) == "two"
        assert [snapshot.volume for snapshot in service.snapshots()] == [name]
        return name

    check_every_step(tmp_path, web, lambda service: service.rename_volume("web", "shop"), judge, {"web", "shop"})


@pytest.mark.parametrize(("permanent", "states"), [(False, {"live", "trash"}), (True, {"live", "gone"})])
def test_remove(tmp_path: Path, permanent: bool, states: set[str]) -> None:
    def judge(service: Service) -> str:
        if names(service):
            assert service.trash() == []
            assert content(service, "web") == "two"
            return "live"
        if not service.trash():
            return "gone"
        assert content(service, service.undelete("web").name) == "two"
        service.remove_volume("web")
        return "trash"

    check_every_step(tmp_path, web, lambda service: service.remove_volume("web", permanent=permanent), judge, states)


def test_undelete(tmp_path: Path) -> None:
    def prepare(service: Service) -> None:
        web(service)
        service.remove_volume("web")

    def judge(service: Service) -> str:
        if names(service) == ["shop"]:
            assert service.trash() == []
            assert content(service, "shop") == "two"
            return "live"
        assert len(service.trash()) == 1
        return "trash"

    check_every_step(tmp_path, prepare, lambda service: service.undelete("web", "shop"), judge, {"trash", "live"})


def test_change_of_options(tmp_path: Path) -> None:
    def judge(service: Service) -> str:
        return str(service.volume("web").options)

    check_every_step(
        tmp_path,
        web,
        lambda service: service.set_options("web", {"protect": "true"}),
        judge,
        {"{}", "{'protect': 'true'}"},
    )


def test_create_from_a_backup(tmp_path: Path) -> None:
    def create(service: Service) -> None:
        def fill(volume: Volume, asked: Mapping[str, str]) -> JobInfo:
            assert asked == {"backup": "db"}
            return JobInfo(id="j", kind="restore", object=volume.name, state=JobState.QUEUED, created=now())

        service._creation.create("web", {"backup": "db"}, {}, fill)

    def judge(service: Service) -> str:
        if names(service) == []:
            return "none"
        assert (service.volume("web").state, service.volume("web").error) == (
            State.FAILED,
            "the restore was interrupted",
        )
        service.remove_volume("web")
        assert service.trash() == []
        return "failed"

    check_every_step(tmp_path, lambda service: None, create, judge, {"none", "failed"})
