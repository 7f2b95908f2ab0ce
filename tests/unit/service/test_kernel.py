"""Who uses what, by the kernel's account."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapvol import mountinfo
from snapvol.mountinfo import Location, Mount, Mounts, Namespace
from snapvol.service.kernel import Proc, Site
from support.filesystems import mounted
from support.process import Server, run, wait_until

paths = st.lists(st.sampled_from(["a", "aa", "a0", "a!", "b"]), max_size=3).map(
    lambda parts: PurePosixPath("/", *parts)
)
mounts = st.builds(
    Mount,
    id=st.integers(1, 8),
    parent=st.integers(0, 8),
    device=st.sampled_from(["8:1", "8:2"]),
    root=paths,
    mountpoint=paths,
    filesystem=st.just("ext4"),
    source=st.just("/dev/sda1"),
)


def is_used(mount: Mount, location: Location, parents: dict[int, Mount]) -> bool:
    """The rule in its plainest form; see `Mounts.users`."""
    through = location.mount
    if (mount.device, mount.root, mount.mountpoint) == (through.device, through.root, through.mountpoint):
        return False
    shows = mount.device == through.device and mount.root.is_relative_to(location.root)
    if shows and (mount.root, mount.mountpoint) != (through.root, through.mountpoint):
        return True
    parent = parents.get(mount.parent)
    if parent is None or parent is mount or not mount.mountpoint.is_relative_to(parent.mountpoint):
        return False
    place = parent.root / mount.mountpoint.relative_to(parent.mountpoint)
    return parent.device == through.device and place.is_relative_to(location.root)


@given(st.lists(mounts, min_size=1, max_size=8, unique_by=lambda mount: mount.id), paths)
def test_looking_up_finds_what_comparing_with_every_mount_finds(found: list[Mount], root: PurePosixPath) -> None:
    space = Namespace(pid=1, command="sh", container=None, mounts=tuple(found))
    location = Location(mount=found[0], root=root)
    parents = {mount.id: mount for mount in found}
    expected = [mount.mountpoint for mount in found if is_used(mount, location, parents)]
    assert [user.mountpoint for user in Mounts([space], []).showing(location)] == expected


def test_an_absent_directory_has_no_users(tmp_path: Path) -> None:
    assert Proc().users(Site(path=tmp_path / "absent")) == []
    assert "x" not in Proc().survey({"x": Site(path=tmp_path / "absent"), "y": Site(path=tmp_path)}).users


@pytest.mark.root
def test_a_bind_mount_is_a_user_and_is_named_t3(tmp_path: Path) -> None:
    vol1, vol10, target = (tmp_path / name for name in ("vol1", "vol10", "target"))
    for directory in (vol1, vol10, target):
        directory.mkdir()
    run("mount", "--bind", vol10, target)
    try:
        # Once, although other mount namespaces of this machine get a copy, and without the processes that live there.
        assert Proc().users(Site(path=vol10)) == [f"the mount at {target}"]
        assert Proc().users(Site(path=vol1)) == []
        assert Proc().survey({"1": Site(path=vol1), "10": Site(path=vol10)}).users.keys() == {"10"}
    finally:
        run("umount", target)
    assert Proc().users(Site(path=vol10)) == []
    assert os.listdir(vol10) == []


@pytest.mark.root
def test_T9_T13_a_file_system_of_its_own_is_used_where_it_is_mounted_elsewhere(tmp_path: Path) -> None:
    elsewhere, log = tmp_path / "elsewhere", tmp_path / "log"
    elsewhere.mkdir()
    with mounted("ext4", tmp_path, 64 << 20) as point:
        (mount,) = {mount.device for mount in mountinfo.own() if mount.mountpoint == PurePosixPath(point)}
        site = Site(path=point, sources=(mount,))
        follower = Server(["unshare", "--mount", "--propagation", "slave", "sleep", "100"], log)
        try:
            wait_until(lambda: os.stat(f"/proc/{follower.pid}/ns/mnt").st_ino != os.stat("/proc/self/ns/mnt").st_ino)
            assert Proc().users(site) == []  # its copy goes with ours
            assert Proc().survey({"a": site, "b": Site(path=elsewhere)}).mounted == {"a"}
            run("mount", "--bind", point, elsewhere)
            assert Proc().users(site) == [f"the mount at {elsewhere}"]
            run("umount", point)
            assert Proc().users(site) == [f"the mount at {elsewhere}"]
            run("umount", elsewhere)
            assert Proc().users(site) == []
            assert os.listdir(point) == []
        finally:
            follower.kill_9()
            run("mount", "-o", "loop", tmp_path / "ext4.img", point)
