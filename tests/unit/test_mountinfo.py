"""Who has a directory mounted, from recorded mountinfo files and from the kernel."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest

from snapvol import mountinfo
from snapvol.errors import StorageFailed
from snapvol.mountinfo import Location, Mount, Mounts, Namespace, locate, mounted_below, parse
from support.process import Server, run, wait_until

CONTAINER = "4bf1a7d1" * 8
# A host with its pool on /, and a btrfs pool whose volumes are subvolumes; recorded, then cut down.
HOST = r"""22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,errors=remount-ro
23 22 0:21 / /proc rw,nosuid shared:12 - proc proc rw
27 22 0:45 / /srv/pool rw,relatime shared:7 - btrfs /dev/sdb rw,ssd,space_cache=v2,subvolid=5,subvol=/
31 22 8:1 /data/with\040blank\134and\011tab\012 /mnt/a\040b rw,relatime - ext4 /dev/sda1 rw
"""
# A container with two volumes, one of them inside the other, its own files, and a bind mount of the host's root.
INSIDE = rf"""501 400 0:60 / / rw,relatime - overlay overlay rw,lowerdir=/l
502 501 8:1 /var/lib/docker/containers/{CONTAINER}/hostname /etc/hostname rw - ext4 /dev/sda1 rw
503 501 8:1 /pool/volumes/vol10/data /data rw,relatime - ext4 /dev/sda1 rw
504 503 0:45 /volumes/db/data /data/sub rw,relatime - btrfs /dev/sdb rw,subvolid=5,subvol=/
505 501 8:1 / /host rw,relatime - ext4 /dev/sda1 rw
506 501 0:45 /volumes/db/data/part//deleted /part rw - btrfs /dev/sdb rw
"""


def mounts(*spaces: str, host: str = HOST) -> Mounts:
    own = parse(host)
    return Mounts(
        [
            Namespace(pid=1, command="init", container=None, mounts=tuple(own)),
            *(
                Namespace(pid=100 + number, command="app", container=CONTAINER, mounts=tuple(parse(text)))
                for number, text in enumerate(spaces)
            ),
        ],
        own,
    )


def at(root: str, through: int = 22) -> Location:
    mount = next(mount for mount in parse(HOST) if mount.id == through)
    return Location(mount=mount, root=PurePosixPath(root))


def test_a_line_is_taken_apart() -> None:
    assert parse(HOST)[2] == Mount(
        id=27,
        parent=22,
        device="0:45",
        root=PurePosixPath("/"),
        mountpoint=PurePosixPath("/srv/pool"),
        filesystem="btrfs",
        source="/dev/sdb",
        options=("rw", "ssd", "space_cache=v2", "subvolid=5", "subvol=/"),
        follows=True,
    )


def test_octal_escapes_and_bytes_that_are_not_utf8() -> None:
    mount = parse(HOST)[3]
    assert mount.root == PurePosixPath("/data/with blank\\and\ttab\n")
    assert mount.mountpoint == PurePosixPath("/mnt/a b")
    line = os.fsdecode(b"1 1 8:1 / /\xff\\040\xc3\xa9 rw - ext4 /dev/sda1 rw\n")
    assert os.fsencode(parse(line)[0].mountpoint) == b"/\xff \xc3\xa9"


@pytest.mark.parametrize(
    "line", ["x", "22 1 8:1 / / rw ext4 /dev/sda1 rw", "a b 8:1 / / rw - ext4 x rw", "1 1 8:1 / / rw - e"]
)
def test_a_line_that_is_none_is_an_error_not_an_omission(line: str) -> None:
    with pytest.raises(StorageFailed, match="not understood"):
        parse(line)


def test_a_volume_with_a_longer_name_is_another() -> None:
    """T3: vol10 is mounted, vol1 is not."""
    found = mounts(INSIDE)
    (user,) = [
        user for user in found.showing(at("/pool/volumes/vol10/data")) if user.mountpoint == PurePosixPath("/data")
    ]
    assert (user.pid, user.command, user.container) == (100, "app", CONTAINER)
    assert found.showing(at("/pool/volumes/vol1/data")) == []
    assert found.showing(at("/pool/volumes/vol100/data")) == []


def test_mounts_that_contain_a_directory_do_not_use_it() -> None:
    assert mounts(INSIDE).showing(at("/pool/volumes/idle/data")) == []


def test_what_is_mounted_on_a_directory_inside_uses_it() -> None:
    points = [str(user.mountpoint) for user in mounts(INSIDE).showing(at("/pool/volumes/vol10/data"))]
    assert points == ["/data", "/data/sub"]
    # As seen by the host: a tmpfs inside a volume that nobody else has mounted.
    host = parse(HOST + "40 22 0:99 / /pool/volumes/idle/data/cache rw - tmpfs tmpfs rw\n")
    found = Mounts([Namespace(pid=1, command="init", container=None, mounts=tuple(host))], host)
    assert [str(user.mountpoint) for user in found.showing(at("/pool/volumes/idle/data"))] == [
        "/pool/volumes/idle/data/cache"
    ]
    assert found.showing(at("/pool/volumes/idl/data")) == []


def test_a_part_of_a_subvolume_uses_it_also_when_it_was_deleted() -> None:
    points = [str(user.mountpoint) for user in mounts(INSIDE).showing(at("/volumes/db/data", through=27))]
    assert points == ["/data/sub", "/part"]
    assert mounts(INSIDE).showing(at("/volumes/d/data", through=27)) == []


def test_a_volume_that_is_a_whole_file_system() -> None:
    """Its own mount, and the copy of it in a service's namespace, do not use it; a container's does."""
    own = "50 22 253:7 / /run/snapvol/db rw shared:9 - ext4 /dev/dm-7 rw\n"
    copied = INSIDE + "60 501 253:7 / /run/snapvol/db rw - ext4 /dev/dm-7 rw\n"
    mounted = INSIDE + "61 501 253:7 / /data/db rw - ext4 /dev/dm-7 rw\n"
    mount = parse(own)[0]
    here = Location(mount=mount, root=PurePosixPath("/"))
    spaces = [
        Namespace(pid=pid, command="x", container=None, mounts=tuple(parse(text)))
        for pid, text in ((1, HOST + own), (2, copied), (3, mounted))
    ]
    assert [(user.pid, str(user.mountpoint)) for user in Mounts(spaces, [mount]).showing(here)] == [(3, "/data/db")]


VOLUME = "40 22 253:7 / /var/lib/snapvol/mounts/fast/web rw shared:9 - ext4 /dev/mapper/vg-web rw\n"
DATASET = "41 22 0:77 / /var/lib/snapvol/mounts/tank/web rw shared:9 - zfs tank/volumes/web rw\n"
POINT = Path("/var/lib/snapvol/mounts/fast/web")
CONTAINER_OF_IT = "601 501 253:7 / /data rw master:9 - ext4 /dev/mapper/vg-web rw\n"
PASSED_ON = """700 400 8:1 / /host ro,relatime master:1 - ext4 /dev/sda1 rw
701 700 253:7 / /host/var/lib/snapvol/mounts/fast/web rw master:9 - ext4 /dev/mapper/vg-web rw
"""
STUCK = PASSED_ON.replace(" master:1", "").replace(" master:9", "")


@pytest.mark.parametrize(
    ("others", "used_at"),
    [
        ([], []),
        ([HOST + VOLUME], []),  # a namespace with a copy of all
        ([INSIDE + CONTAINER_OF_IT], ["/data"]),
        ([INSIDE + PASSED_ON], []),  # goes with ours, as in a container with -v /:/host:rslave
        ([INSIDE + STUCK], ["/host/var/lib/snapvol/mounts/fast/web"]),  # stays, and keeps the device busy
    ],
)
def test_T9_T13_who_mounts_the_device_of_a_mounted_volume(others: list[str], used_at: list[str]) -> None:
    found = mounts(*others, host=HOST + VOLUME)
    assert [str(user.mountpoint) for user in found.users(POINT, ["253:7"])] == used_at
    place = Location(mount=mountinfo.parse(VOLUME)[0], root=PurePosixPath("/"))
    assert [str(user.mountpoint) for user in found.showing(place)] == used_at


def test_T8_a_container_is_seen_after_our_own_mount_is_gone_and_by_no_other_volume_s_name() -> None:
    found = mounts(INSIDE + CONTAINER_OF_IT + "602 501 0:77 / /zfs rw - zfs tank/volumes/web rw\n")
    assert [str(user.mountpoint) for user in found.users(POINT, ["253:7"])] == ["/data"]
    assert [user.container for user in found.users(POINT, ["tank/volumes/web"])] == [found.namespaces[1].container]
    assert found.users(POINT, ["253:70"]) == []
    assert found.users(POINT, ["tank/volumes/we"]) == []
    with pytest.raises(FileNotFoundError):
        found.users(POINT)


def test_a_dataset_is_known_by_its_name_and_only_where_it_is_one() -> None:
    tmpfs = "43 22 0:80 / /mnt rw - tmpfs tank/volumes/web rw\n"
    snapshot = "44 22 0:81 / /snap rw - zfs tank/volumes/web@s1 rw\n"
    found = mounts(host=HOST + DATASET + tmpfs + snapshot)
    assert found.users(Path("/var/lib/snapvol/mounts/tank/web"), ["tank/volumes/web"]) == []
    (user,) = found.users(Path("/elsewhere"), ["tank/volumes/web"])
    assert (user.here, str(user.mountpoint)) == (True, "/var/lib/snapvol/mounts/tank/web")
    assert found.mounted(Path("/var/lib/snapvol/mounts/tank/web"))
    assert not found.mounted(POINT)


def process(proc: Path, pid: int, mounts: str | None, cgroup: str = "0::/\n") -> None:
    home = proc / str(pid)
    (home / "ns").mkdir(parents=True)
    (home / "ns" / "mnt").write_text(f"{pid}")
    (home / "comm").write_text(f"p{pid}\n")
    (home / "cgroup").write_text(cgroup)
    if mounts is not None:
        (home / "mountinfo").write_text(mounts)


def test_processes_of_one_namespace_are_asked_once(tmp_path: Path) -> None:
    process(tmp_path, 1, HOST)
    process(tmp_path, 20, INSIDE, f"0::/system.slice/docker-{CONTAINER}.scope\n")
    process(tmp_path, 21, None)  # would be an error if it were read
    (tmp_path / "21/ns/mnt").unlink()
    (tmp_path / "21/ns/mnt").hardlink_to(tmp_path / "20/ns/mnt")
    (tmp_path / "self").mkdir()
    found = Mounts.read(tmp_path).namespaces
    assert [(space.pid, space.command, space.container) for space in found] == [
        (1, "p1", None),
        (20, "p20", CONTAINER),
    ]


def test_a_process_that_ends_meanwhile_is_passed_over_for_its_neighbour(tmp_path: Path) -> None:
    process(tmp_path, 20, None)
    process(tmp_path, 21, INSIDE)
    (tmp_path / "21/ns/mnt").unlink()
    (tmp_path / "21/ns/mnt").hardlink_to(tmp_path / "20/ns/mnt")
    (found,) = Mounts.read(tmp_path).namespaces
    assert (found.pid, found.container) == (21, CONTAINER)


def test_the_container_is_known_by_what_it_mounts_where_cgroups_do_not_tell(tmp_path: Path) -> None:
    process(tmp_path, 20, INSIDE)
    assert Mounts.read(tmp_path).namespaces[0].container == CONTAINER


def test_what_may_not_be_seen_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    process(tmp_path, 20, INSIDE)
    read = Path.read_bytes

    def refuse(path: Path) -> bytes:
        if path.name == "mountinfo" and path.is_relative_to(tmp_path):
            raise PermissionError(13, "Permission denied")
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(StorageFailed, match="process 20 has mounted: Permission denied; run snapvol as root"):
        Mounts.read(tmp_path)


def test_the_kernel_says_where_a_directory_lies(tmp_path: Path) -> None:
    here = locate(tmp_path)
    assert here.mount.mountpoint in [PurePosixPath(tmp_path), *PurePosixPath(tmp_path).parents]
    assert here.root.name == tmp_path.name
    with pytest.raises(FileNotFoundError):
        locate(tmp_path / "gone")
    assert mounted_below(tmp_path / "gone") == []
    assert mountinfo.users(tmp_path) == []


@pytest.fixture
def volumes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    pool = tmp_path_factory.mktemp("pool")
    for name in ("vol1", "vol10", "idle"):
        (pool / name / "sub").mkdir(parents=True)
    yield pool
    for point in sorted(set(mounted_below(pool)), reverse=True):
        run("umount", point)


@pytest.mark.root
def test_a_mount_in_another_namespace_is_found(volumes: Path, tmp_path: Path) -> None:
    """T3, T9, G3: as a container does it, out of sight of our own namespace."""
    point, ready = tmp_path / "in the container", tmp_path / "ready"
    point.mkdir()
    script = 'mount --bind "$1" "$2" && mount -t tmpfs none "$1"/../vol1/sub && touch "$3" && exec sleep 100'
    server = Server(
        ["unshare", "--mount", "--propagation", "private", "sh", "-ec", script, "x", volumes / "vol10", point, ready],
        log=tmp_path / "log",
    )
    try:
        server.ready(ready.exists)
        found = Mounts.read()
        assert [(str(user.mountpoint), user.command) for user in found.users(volumes / "vol10")] == [
            (str(point), "sleep")
        ]
        assert [str(user.mountpoint) for user in found.users(volumes / "vol1")] == [str(volumes / "vol1/sub")]
        assert found.users(volumes / "idle") == []
        assert mounted_below(volumes / "vol1") == []
    finally:
        server.stop()
    wait_until(lambda: mountinfo.users(volumes / "vol10") == [])


@pytest.mark.root
def test_our_own_mounts_below_a_directory(volumes: Path) -> None:
    """T9: also a bind mount of the same file system, which has the same st_dev."""
    run("mount", "--bind", volumes / "idle", volumes / "vol1/sub")
    # A set, because the session's place is shared with what lies below it, which gets a copy of the mount.
    assert set(mounted_below(volumes / "vol1")) == {PurePosixPath(volumes / "vol1/sub")}
    assert mounted_below(volumes / "vol10") == []
    assert {str(user.mountpoint) for user in mountinfo.users(volumes / "idle")} == {str(volumes / "vol1/sub")}
