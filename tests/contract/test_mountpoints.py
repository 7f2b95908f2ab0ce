"""Mountpoints of pools that mount their volumes: what the kernel says is true, and nothing is written below (T7)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from snapvol import mountinfo
from snapvol.backends import mounting
from snapvol.backends.mountpoints import PRIVATE, SNAPSHOTS, Mountpoints
from snapvol.errors import InvalidName, StorageFailed
from snapvol.model import new_id

pytestmark = pytest.mark.root


@pytest.fixture
def points(tmp_path: Path) -> Iterator[Mountpoints]:
    yield Mountpoints("fast", tmp_path)
    for mount in reversed(mountinfo.mounted_below(tmp_path)):
        mounting.detach(Path(mount))


def test_a_mount_is_made_once_and_its_directory_goes_with_it(points: Mountpoints, tmp_path: Path) -> None:
    point = points.of("web")
    assert point == tmp_path / "mounts/fast/web"
    for _ in range(2):
        points.mount(point, "web", "tmpfs", ["size=1M", "mode=0750"])
    assert len(mountinfo.mounted_below(tmp_path)) == 1
    found = points.found(point)
    assert found is not None
    assert (found.source, found.filesystem) == ("web", "tmpfs")
    assert point.stat().st_mode & 0o7777 == 0o750
    assert points.found(points.of("other")) is None
    points.unmount(point)
    points.unmount(point)
    assert points.found(point) is None
    assert not point.exists()


def test_what_is_busy_is_unmounted_lazily(points: Mountpoints) -> None:
    point = points.of("web")
    points.mount(point, "web", "tmpfs")
    with open(point / "f", "w") as file:
        points.unmount(point)
        assert not point.exists()
        file.write("still")
    points.mount(point, "web", "tmpfs")
    assert os.listdir(point) == []


def test_another_mount_in_its_place_makes_way(points: Mountpoints) -> None:
    point = points.of("web")
    points.mount(point, "old", "tmpfs")
    points.mount(point, "web", "tmpfs", device="0:0")
    found = points.found(point)
    assert found is not None
    assert found.source == "web"
    points.unmount(point)
    assert mountinfo.mounted_below(points.directory) == []


def test_what_cannot_be_mounted_leaves_nothing_and_says_why(points: Mountpoints) -> None:
    point = points.of("web")
    with pytest.raises(StorageFailed, match=r"web cannot be mounted at .*/web: .*(nonsense|Invalid|Unknown)"):
        points.mount(point, "web", "tmpfs", ["nonsense"])
    assert not point.exists()


def test_a_place_is_borrowed_for_a_while(points: Mountpoints) -> None:
    with points.borrowed("a", "tmpfs", ["ro"], kind=SNAPSHOTS) as first, points.borrowed("a", "tmpfs") as second:
        assert first.parent == points.directory / SNAPSHOTS
        with pytest.raises(OSError, match="Read-only"):
            (first / "f").touch()
        (second / "f").touch()
    assert mountinfo.mounted_below(points.directory) == []
    assert not first.exists()
    assert not second.exists()


def test_leftovers_of_a_killed_process_are_found(points: Mountpoints) -> None:
    """T7: what is mounted stays, what was borrowed goes, and so do directories on which nothing is mounted."""
    child = os.fork()
    if child == 0:
        for kind in (SNAPSHOTS, PRIVATE):
            points.mount(points.directory / kind / new_id(), "s", "tmpfs")
        points.mount(points.of("web"), "web", "tmpfs")
        os.mkdir(points.of("stale"))
        os.mkdir(points.of("written"))
        points.of("written").joinpath("f").touch()
        os._exit(0)
    os.waitpid(child, 0)
    assert len(mountinfo.mounted_below(points.directory)) == 3
    points.recover()
    assert [mount.name for mount in mountinfo.mounted_below(points.directory)] == ["web"]
    assert sorted(os.listdir(points.directory)) == ["web", "written"]
    assert (points.of("written") / "f").exists()


def test_a_file_system_that_is_mounted_nowhere_leaves_no_trace() -> None:
    with mounting.detached("x", "tmpfs") as descriptor:
        root = Path(f"/proc/self/fd/{descriptor}")
        (root / "f").write_text("x")
        assert os.listdir(root) == ["f"]
        assert not [mount for mount in mountinfo.own() if mount.source == "x"]


def test_a_name_that_is_no_name_is_no_path(points: Mountpoints) -> None:
    """T5."""
    for name in ("../x", ".snapshots", ""):
        with pytest.raises(InvalidName):
            points.of(name)
