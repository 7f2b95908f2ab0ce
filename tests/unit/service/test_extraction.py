"""Files copied out of images of real file systems: all of them, and nothing is left wherever that ends."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest

from snapvol import mountinfo
from snapvol.api import JobState
from snapvol.engine.progress import Silent
from snapvol.errors import Damaged, NoSpace
from snapvol.model import State
from snapvol.service import extraction, scratch
from snapvol.service.kernel import Proc, Site
from snapvol.service.service import Service
from support import leftovers
from support.everything import everything
from support.filesystems import mounted
from support.process import Server, run, wait_until
from support.restoring import SECONDS, backed_up, created, restore
from support.service import FakeKernel, imaged_pool, imaged_service
from support.trees import Seen, below, differences, file, grow, look


@pytest.fixture
def service(imaged: Service) -> Service:
    return imaged


@contextmanager
def prepared(service: Service, tmp_path: Path, kind: str, size: int, files: int = 0) -> Iterator[Path]:
    """Let backups of `web` be images of a real file system that was not unmounted; give its root, mounted still."""
    service.create_volume("web", {"size": f"{size >> 20}M"})
    with mounted(kind, tmp_path / "origin", size) as root:
        if kind == "ext4":
            (root / "lost+found").rmdir()
        os.chmod(root, 0o2751)
        if files:
            for number in range(files):
                (root / f"{number}").touch()
        else:
            grow(root, everything())
        os.sync()
        with (root / "late").open("wb") as late:  # so far only in the journal
            late.write(b"only just")
            late.flush()
            os.fsync(late.fileno())
        image = tmp_path / "web.img"
        run("cp", "--sparse=always", tmp_path / "origin" / f"{kind}.img", image)
        imaged_pool(service).images[service.volume("web").id] = image
        imaged_pool(service).filesystem = kind
        yield root


def nothing_left(service: Service) -> None:
    root = service.settings.daemon.root
    assert scratch.Scratch(root).left() == []
    wait_until(lambda: not leftovers.loops(root), 10, "loop devices to be free")
    assert leftovers.mounts(root) == []


@pytest.mark.root
@pytest.mark.parametrize(("kind", "size"), [("ext4", 600 << 20), ("xfs", 320 << 20)])
def test_T34_T11_all_that_is_in_an_image_gets_into_a_directory(
    service: Service, tmp_path: Path, kind: str, size: int
) -> None:
    with prepared(service, tmp_path, kind, size) as origin:
        backed_up(service)
        wanted = _as_elsewhere(look(origin)) if kind == "xfs" else look(origin)
        job = created(service, "new", backup="web", pool="trees")
        assert (job.state, job.error) == (JobState.DONE, None)
        data = service.mountpoint("new")
        assert differences(wanted, look(data), holes=kind == "ext4") == []
        grow(data, {b"left-over": file(b"stale")})
        job = restore(service, "web", in_place=True, volume="new")
        assert (job.state, job.error) == (JobState.DONE, None)
        assert differences(wanted, look(data), holes=kind == "ext4") == []
    nothing_left(service)


def _as_elsewhere(seen: dict[bytes, Seen]) -> dict[bytes, Seen]:
    """Leave out what only XFS has: its own form of ACLs beside the usual one, and times later than those of ext4."""
    return {
        path: replace(
            entry,
            xattrs=tuple(it for it in entry.xattrs if not it[0].startswith("trusted.SGI_ACL_")),
            mtime=min(entry.mtime, (2**34 - 2**31 - 1) * 10**9),
        )
        for path, entry in seen.items()
    }


@pytest.mark.root
def test_one_path_out_of_an_image_in_place_and_into_a_new_volume(service: Service, tmp_path: Path) -> None:
    with prepared(service, tmp_path, "ext4", 64 << 20) as origin:
        backed_up(service)
        wanted = look(origin)
        job = restore(service, "web", volume="new", path="acl-dir/inside")
        assert (job.state, job.error) == (JobState.DONE, None)
        assert (
            differences(
                below(wanted, b"acl-dir"), below(look(imaged_pool(service)._data(service.volume("new").id)), b"acl-dir")
            )
            == []
        )
        service.create_volume("part", {"pool": "trees"})
        data = service.mountpoint("part")
        grow(data, {b"acl-dir": file(b"in the way")})
        job = restore(service, "web", in_place=True, volume="part", path="acl-dir/inside")
        assert (job.state, job.error_kind) == (JobState.FAILED, "Refused")
        assert (data / "acl-dir").read_bytes() == b"in the way"
        (data / "acl-dir").unlink()
        (data / "sub").mkdir()
        (data / "sub/stale").touch()
        (data / "mine").touch()
        for path in ("acl-dir/inside", "sub"):
            assert restore(service, "web", in_place=True, volume="part", path=path).state is JobState.DONE
        found = look(data)
        assert set(found) == {
            b"",
            b"mine",
            b"acl-dir",
            b"acl-dir/inside",
            *(f for f in wanted if f[:3] == b"sub" and f[3:4] != b"r"),
        }
        assert differences(below(wanted, b"acl-dir"), below(found, b"acl-dir")) == []
        missing = restore(service, "web", in_place=True, volume="part", path="sub/nothing")
        assert (missing.state, missing.error_kind) == (JobState.FAILED, "NotFound")
        through = restore(service, "web", in_place=True, volume="part", path="absolute/x")
        assert (through.state, through.error_kind) == (JobState.FAILED, "NotFound")
    nothing_left(service)


@pytest.mark.root
@pytest.mark.parametrize("how", ["cancel", "kill", "daemon"])
@pytest.mark.parametrize("phase", ["restoring the image", "copying"])
def test_T38_ended_at_any_point_no_mount_no_device_and_no_file_are_left(
    service: Service, tmp_path: Path, kernel: FakeKernel, how: str, phase: str
) -> None:
    with prepared(service, tmp_path, "ext4", 64 << 20, files=8_000):
        backed_up(service)
    job = service.create_volume("new", {"backup": "web", "pool": "trees"}).job
    assert job is not None
    wait_until(lambda: service.jobs.get(job).progress.phase.startswith(phase), SECONDS, "the job to come to that")
    if how == "cancel":
        service.jobs.cancel(job)
    elif how == "kill":
        worker = service.jobs._jobs[job].worker
        assert worker is not None
        assert worker._child is not None
        worker._child.signal(signal.SIGKILL)
    else:
        service.close()
    ended = service.jobs.wait(job, SECONDS)
    states = {"cancel": JobState.CANCELLED, "kill": JobState.FAILED, "daemon": JobState.INTERRUPTED}
    assert (ended.state, ended.result) == (states[how], {})
    if how == "daemon":
        service = imaged_service(service.settings.daemon.root, kernel)
    nothing_left(service)
    assert service.volume("new").state is State.FAILED
    again = service.jobs.wait(service.jobs.retry(job).id, SECONDS)
    assert (again.state, again.error) == (JobState.DONE, None)
    assert len(list(service.mountpoint("new").iterdir())) == 8_001
    nothing_left(service)
    if how == "daemon":
        service.close()


@pytest.mark.root
def test_T39_without_room_for_the_image_nothing_is_begun(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with prepared(service, tmp_path, "ext4", 64 << 20):
        backed_up(service)
    monkeypatch.setattr(scratch, "_SPARE", 1 << 60)
    job = created(service, "new", backup="web", pool="trees")
    assert (job.state, job.error_kind) == (JobState.FAILED, "NoSpace")
    assert "MiB free, the image that is restored there takes" in str(job.error)
    nothing_left(service)


@pytest.mark.root
def test_an_image_without_a_filesystem_that_can_be_mounted_is_told_in_a_line(service: Service) -> None:
    service.create_volume("web")
    backed_up(service)  # a tar archive
    job = created(service, "new", backup="web", pool="trees")
    assert (job.state, job.error_kind) == (JobState.FAILED, "StorageFailed")
    assert str(job.error).startswith("the image cannot be mounted: ")
    assert "--to DIR" in str(job.hint)
    nothing_left(service)


def test_what_a_killed_daemon_left_is_removed_at_the_start(service: Service) -> None:
    root = service.settings.daemon.root
    (root / "tmp/0123abcd/files").mkdir(parents=True)
    (root / "tmp/0123abcd/image").write_bytes(b"half")
    service.close()
    again = imaged_service(root)
    assert scratch.Scratch(root).left() == []
    again.close()


@pytest.mark.root
def test_T9_a_worker_keeps_no_volume_busy_but_its_own(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    script = (
        "import sys, time; from pathlib import Path; from snapvol.service import extraction; "
        "extraction.seclude(Path(sys.argv[1]), Path(sys.argv[2])); Path(sys.argv[3]).touch(); time.sleep(100)"
    )
    with mounted("ext4", mounts / "a", 16 << 20) as own, mounted("ext4", mounts / "b", 16 << 20) as other:
        worker = Server([sys.executable, "-c", script, mounts, own, tmp_path / "ready"], tmp_path / "log")
        try:
            worker.ready((tmp_path / "ready").exists)
            seen = [str(it.mountpoint) for it in mountinfo.parse(Path(f"/proc/{worker.pid}/mountinfo").read_text())]
            assert str(own) in seen
            assert str(other) not in seen
            assert {str(own), str(other)} <= {str(it.mountpoint) for it in mountinfo.own()}  # ours are as before
            for point in (own, other):
                (device,) = {it.device for it in mountinfo.own() if str(it.mountpoint) == str(point)}
                assert Proc().users(Site(path=point, sources=(device,))) == []
        finally:
            worker.kill_9()


# -- what cp says -----------------------------------------------------------------------------------------------------


@pytest.mark.root
def test_T44_no_image_takes_the_machine_with_it(tmp_path: Path) -> None:
    """The kernel leaves out of its list what an image says itself: a panic at the first error is not among it."""
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(16 << 20)
    run("mkfs.ext4", "-q", image)
    run("tune2fs", "-e", "panic", image)
    with extraction.mounted(image, "ext4", tmp_path / "files") as root:
        (found,) = [mount for mount in mountinfo.own() if mount.mountpoint == PurePosixPath(root)]
    assert {"ro", "errors=remount-ro"} <= {*found.options}


class Heard(Silent):
    """Progress that remembers."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.bytes = self.most = self.files = 0

    def total(self, files: int, bytes: int) -> None:
        self.most = bytes

    def advance(self, bytes: int, files: int) -> None:
        assert bytes >= 0
        self.bytes += bytes
        self.files += files

    def note(self, path: str, problem: str) -> None:
        self.problems.append(problem)


def test_T26_a_file_that_cannot_be_copied_is_named_and_the_restore_fails(tmp_path: Path) -> None:
    heard = Heard()
    with pytest.raises(Damaged, match=r"^1 file could not be copied out of the image; first: .*Input/output error"):
        extraction.copy(Path("/proc"), tmp_path, b"%d/mem" % os.getpid(), 1, extraction.Half(heard))
    assert len(heard.problems) == 1
    assert str(os.getpid()) not in heard.problems[0]


@pytest.mark.root
def test_T39_a_full_target_ends_it_at_once(tmp_path: Path) -> None:
    (tmp_path / "from").mkdir()
    for number in range(30):
        (tmp_path / f"from/{number:02}").write_bytes(os.urandom(1 << 20))
    with (
        mounted("ext4", tmp_path, 16 << 20) as target,
        pytest.raises(NoSpace, match=r"^the files of the image do not fit: .*No space left on device"),
    ):
        extraction.copy(tmp_path / "from", target, None, 30 << 20, extraction.Half(Silent()))


@pytest.mark.root
def test_what_the_target_does_not_take_is_said_and_the_rest_is_copied(tmp_path: Path) -> None:
    source, target = tmp_path / "from", tmp_path / "to"
    source.mkdir()
    target.mkdir()
    grow(source, {b"a": file(b"1", xattrs={"user.a": b"x"}), b"b": file(b"2")})
    run("mount", "-t", "ramfs", "none", target)
    try:
        heard = Heard()
        half = extraction.Half(heard)
        half.total(1, 1000)
        figures = extraction.copy(source, target, None, 2, half)
        assert [(target / name).read_bytes() for name in "ab"] == [b"1", b"2"]
        assert len(figures["notes"]) == len(heard.problems) == 1
        assert "Operation not supported" in figures["notes"][0]
        assert (heard.bytes, heard.most) == (1000, 2000)  # the first half is the restore of the image
    finally:
        run("umount", target)


@pytest.mark.root
def test_what_the_target_does_not_take_of_a_directory_on_the_way_is_said_too(tmp_path: Path) -> None:
    source, target = tmp_path / "from", tmp_path / "to"
    for directory in (source / "way/to", target):
        directory.mkdir(parents=True)
    os.setxattr(source / "way", "user.a", b"x")
    (source / "way/to/file").write_bytes(b"1")
    run("mount", "-t", "ramfs", "none", target)
    try:
        heard = Heard()
        figures = extraction.copy(source, target, b"way/to/file", 2, extraction.Half(heard))
        assert (target / "way/to/file").read_bytes() == b"1"
        said = "setting attribute 'user.a' of a directory on the way: Operation not supported"
        assert figures["notes"] == [said]
        assert len(heard.problems) == 1
    finally:
        run("umount", target)
