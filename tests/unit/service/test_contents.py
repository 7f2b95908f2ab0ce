"""What a worker is sent to stays there until it comes."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from snapvol.api import JobState
from snapvol.backends import mounting
from snapvol.errors import StorageFailed
from snapvol.service import work
from snapvol.service.contents import pinned
from snapvol.service.job import Run
from snapvol.service.service import Service
from support.process import run
from support.quick import initialise
from support.restoring import FILES, backed_up, contents, fill, restore


@pytest.fixture
def service(on_disk: Service) -> Service:
    initialise(on_disk.settings, "default")
    return on_disk


@pytest.mark.root
def test_T7_a_pinned_file_system_cannot_be_unmounted(tmp_path: Path) -> None:
    """Nor its pool be exported: that unmounts what nobody has open."""
    point = tmp_path / "mounted"
    point.mkdir()
    with mounting.detached("none", "tmpfs") as descriptor:
        mounting.attach(descriptor, point)
    try:
        with pinned(point):
            assert run("umount", point, check=False).code != 0
            assert point.is_mount()
    finally:
        run("umount", point)
    assert not point.is_mount()


def test_what_is_not_there_cannot_be_pinned(tmp_path: Path) -> None:
    with pytest.raises(StorageFailed, match=f"{tmp_path}/nothing cannot be opened: {os.strerror(errno.ENOENT)}"):
        pinned(tmp_path / "nothing").__enter__()


def test_T7_what_is_backed_up_and_restored_into_is_pinned_before_a_worker_begins(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    perform = Run.perform
    seen = []

    def held(job: Run, what: Any) -> dict[str, Any]:
        if isinstance(what, work.BackUp | work.Restore):
            place = what.source if isinstance(what, work.BackUp) else what.target
            seen.append((type(what).__name__, str(place) in _open()))
        return perform(job, what)

    monkeypatch.setattr(Run, "perform", held)
    fill(service, "web")
    backup = backed_up(service)
    assert restore(service, backup, volume="new").state is JobState.DONE
    assert restore(service, backup, in_place=True).state is JobState.DONE
    assert restore(service, backup, in_place=True, path="d").state is JobState.DONE
    assert seen == [("BackUp", True), *[("Restore", True)] * 3]
    assert contents(service.mountpoint("new")) == FILES


def _open() -> set[str]:
    """Return what this process has open."""
    found = set()
    for entry in os.scandir("/proc/self/fd"):
        try:
            found.add(os.readlink(entry.path))
        except FileNotFoundError:
            continue
    return found
