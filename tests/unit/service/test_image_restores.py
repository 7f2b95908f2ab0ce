"""Images restored through the service: as they are, and as files copied out of them, and killed anywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from snapvol.api import JobState
from snapvol.errors import NoSpace, UnknownOption
from snapvol.model import State, Volume
from snapvol.service.job import Run
from snapvol.service.service import Service
from support.imaged import Imaged
from support.quick import initialise
from support.restoring import SECONDS, backed_up, created, restore
from support.service import imaged_pool, imaged_service

FILES = {"a": b"hello", "d/b": b"in a directory"}


@pytest.fixture
def service(imaged: Service) -> Service:
    return imaged


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


def made(service: Service, name: str = "web", **options: str) -> str:
    service.create_volume(name, options)
    write(service, name, FILES)
    return backed_up(service, name)


def is_mounted(service: Service, name: str) -> bool:
    return imaged_pool(service).is_mounted(service._context.catalog.get(name).volume)


# -- into pools that take images --------------------------------------------------------------------------------------


def test_an_image_becomes_the_contents_of_a_new_volume(service: Service) -> None:
    made(service)
    job = restore(service, "web", volume="web2")
    assert (job.state, job.error, job.warnings) == (JobState.DONE, None, [])
    assert contents(service, "web2") == FILES
    assert service.volume("web2").options["fs"] == "ext4"
    assert not is_mounted(service, "web2")
    assert imaged_pool(service).limits[service.volume("web2").id] == 16 << 20


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


@pytest.mark.parametrize("kind", ["image", "files"])
def test_T37_a_volume_is_no_larger_than_it_was_because_the_storage_begins_with_more(
    service: Service, kind: str
) -> None:
    made(service, size="8M", **{"backup.kind": kind})
    job = restore(service, "web", volume="web2")
    assert (job.state, job.warnings) == (JobState.DONE, [])
    assert service.volume("web2").options["size"] == "8M"
    assert imaged_pool(service).limits[service.volume("web2").id] == 8 << 20
    assert contents(service, "web2") == FILES


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
    assert (imaged_pool(service)._data(service.volume("fits").id) / "big").stat().st_size == 40 << 20
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
