"""Images restored through the service: as they are, and as files copied out of them, and killed anywhere."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from snapvol.api import JobInfo, JobState
from snapvol.errors import NoSpace, UnknownOption
from snapvol.model import State, Volume
from snapvol.service import scratch
from snapvol.service.job import Run
from snapvol.service.service import Service
from support import leftovers
from support.everything import everything
from support.filesystems import mounted
from support.imaged import Imaged
from support.process import run, wait_until
from support.quick import initialise
from support.service import FakeKernel, imaged_service
from support.trees import Seen, below, differences, file, grow, look

SECONDS = 60.0
FILES = {"a": b"hello", "d/b": b"in a directory"}


@pytest.fixture
def kernel() -> FakeKernel:
    return FakeKernel()


@pytest.fixture
def service(tmp_path: Path, kernel: FakeKernel) -> Iterator[Service]:
    made = imaged_service(tmp_path / "root", kernel)
    initialise(made.settings, "default")
    yield made
    made.close()


def pool(service: Service) -> Imaged:
    backend = service._context.catalog.pools["default"].backend
    assert isinstance(backend, Imaged)
    return backend


def write(service: Service, name: str, files: dict[str, bytes]) -> None:
    with service._context.contents.read(service._context.catalog.get(name)) as data:
        for path in [path for path in data.resolve().rglob("*") if path.is_file()]:
            path.unlink()
        for file_name, inside in files.items():
            (data / file_name).parent.mkdir(exist_ok=True)
            (data / file_name).write_bytes(inside)


def contents(service: Service, name: str) -> dict[str, bytes]:
    with service._context.contents.read(service._context.catalog.get(name)) as data:
        root = data.resolve()
        return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def backed_up(service: Service, name: str = "web") -> str:
    (job,) = service.backups.back_up([name])
    ended = service.jobs.wait(job.id, SECONDS)
    assert (ended.state, ended.error) == (JobState.DONE, None)
    return str(ended.result["id"])


def made(service: Service, name: str = "web", **options: str) -> str:
    service.create_volume(name, options)
    write(service, name, FILES)
    return backed_up(service, name)


def restore(service: Service, backup: str, **how: Any) -> JobInfo:
    job = service.backups.restore(backup, **how)
    assert isinstance(job, JobInfo)
    return service.jobs.wait(job.id, SECONDS)


def created(service: Service, name: str, **options: str) -> JobInfo:
    info = service.create_volume(name, options)
    return service.jobs.wait(str(info.job), SECONDS)


def is_mounted(service: Service, name: str) -> bool:
    return pool(service).is_mounted(service._context.catalog.get(name).volume)


# -- into pools that take images --------------------------------------------------------------------------------------


def test_an_image_becomes_the_contents_of_a_new_volume(service: Service) -> None:
    made(service)
    job = restore(service, "web", volume="web2")
    assert (job.state, job.error, job.warnings) == (JobState.DONE, None, [])
    assert contents(service, "web2") == FILES
    assert service.volume("web2").options["fs"] == "ext4"
    assert not is_mounted(service, "web2")
    assert pool(service).limits[service.volume("web2").id] == 16 << 20


def test_a_volume_that_is_too_small_for_the_image_is_made_larger_unless_its_size_was_asked_for(
    service: Service,
) -> None:
    made(service, size="32M")
    service.set_options("web", {"size": "48M"})
    backed_up(service)
    catalog = service._context.catalog
    catalog.change(catalog.get("web").volume.id, options={})  # as of a volume made before sizes were noted
    backed_up(service)
    job = restore(service, "web", volume="web2")
    assert (job.state, job.warnings) == (JobState.DONE, ["the volume gets size=48M, so that the contents fit"])
    assert service.volume("web2").size == 48 << 20
    refused = created(service, "web3", backup="web", size="32M")
    assert (refused.state, refused.error_kind) == (JobState.FAILED, "Refused")
    assert refused.error == "volume 'web3' was asked for with size=32M, the image in the backup has 48M"
    assert service.volume("web3").state is State.FAILED
    service.remove_volume("web3")


def test_T35_an_image_in_place_is_exact_can_be_undone_and_changes_the_filesystem(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(service, fs="xfs")
    before = {"other": b"stale"}
    write(service, "web", before)
    service.mount("web", "by hand")
    job = restore(service, "web", in_place=True)
    assert (job.state, job.error) == (JobState.DONE, None)
    assert is_mounted(service, "web")  # as somebody had asked for
    assert contents(service, "web") == FILES
    assert service.volume("web").options["fs"] == "ext4"
    service.rollback("web", str(job.result["before"]))
    assert contents(service, "web") == before


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("how", ["fail", "cancel", "daemon"])
def test_T38_an_interrupted_image_changes_nothing_and_can_be_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_place: bool, how: str
) -> None:
    root = tmp_path / "root"
    service = imaged_service(root)
    initialise(service.settings, "default")
    made(service)
    before = {"a": b"changed"}
    write(service, "web", before)
    perform = Run.perform

    def half(run: Run, what: Any) -> dict[str, Any]:
        if type(what).__name__ != "RestoreImage":
            return perform(run, what)
        what.target.write_bytes(b"half")
        if how == "cancel":
            service.jobs.cancel(run.id)
        elif how == "daemon":
            service.jobs._jobs[run.id].stopping = True
        else:
            raise NoSpace("the pool is full")
        while True:
            run.check()

    with monkeypatch.context() as patch:
        patch.setattr(Run, "perform", half)
        job = restore(service, "web", **({"in_place": True} if in_place else {"volume": "web2"}))
    assert job.state is {"fail": JobState.FAILED, "cancel": JobState.CANCELLED, "daemon": JobState.INTERRUPTED}[how]
    service.close()
    service = imaged_service(root)
    assert contents(service, "web") == before
    if not in_place:
        assert service.volume("web2").state is State.FAILED
    again = service.jobs.wait(service.jobs.retry(job.id).id, SECONDS)
    assert (again.state, again.error) == (JobState.DONE, None)
    assert contents(service, "web" if in_place else "web2") == FILES
    assert not is_mounted(service, "web")
    service.close()


def test_files_get_a_volume_into_which_they_fit(service: Service) -> None:
    service.create_volume("tree", {"pool": "trees"})
    data = service.mountpoint("tree")
    (data / "big").write_bytes(bytes(40 << 20))
    backed_up(service, "tree")
    job = restore(service, "tree", volume="fits")
    assert (job.state, job.warnings) == (JobState.DONE, ["the volume gets size=1G, so that the contents fit"])
    assert service.volume("fits").options == {"size": "1G", "backup": job.result["backup"]}
    assert (pool(service)._data(service.volume("fits").id) / "big").stat().st_size == 40 << 20
    assert not is_mounted(service, "fits")
    asked = created(service, "asked", backup="tree", size="64M")
    assert (asked.state, service.volume("asked").options["size"]) == (JobState.DONE, "64M")


def test_options_of_another_storage_are_left_out_and_said(service: Service) -> None:
    service.create_volume("web", {"size": "32M", "fs": "xfs", "mounted.x": "y"})
    write(service, "web", FILES)
    service.set_options("web", {"backup.kind": "files"})
    backed_up(service)
    job = created(service, "web2", backup="web", pool="trees")
    assert job.state is JobState.DONE
    assert [line.partition(" of the backup")[0] for line in job.warnings] == [
        "option fs=xfs",
        "option mounted.x=y",
        "option size=32M",
    ]
    assert contents(service, "web2") == FILES


# -- out of images of real filesystems --------------------------------------------------------------------------------


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
        pool(service).images[service.volume("web").id] = image
        pool(service).filesystem = kind
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
                below(wanted, b"acl-dir"), below(look(pool(service)._data(service.volume("new").id)), b"acl-dir")
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
    with prepared(service, tmp_path, "ext4", 64 << 20, files=15_000):
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
    assert len(list(service.mountpoint("new").iterdir())) == 15_001
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
    made(service)  # a tar archive
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


def test_T37_an_option_that_this_storage_does_not_take_is_left_out_and_said(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.create_volume("web", {"backup.kind": "files", "mounted.speed": "warp"})
    write(service, "web", FILES)
    backed_up(service)
    stage = Imaged.stage

    def picky(backend: Imaged, volume: Volume) -> Path:
        if "mounted.speed" in volume.options:
            raise UnknownOption("this version has no 'speed'")
        return stage(backend, volume)

    monkeypatch.setattr(Imaged, "stage", picky)
    job = restore(service, "web", volume="web2")
    assert (job.state, job.warnings) == (
        JobState.DONE,
        ["option mounted.speed=warp of the backup was not restored: this version has no 'speed'"],
    )
    assert contents(service, "web2") == FILES
    assert "mounted.speed" not in service.volume("web2").options
