"""Backups of trees through the service, on real btrfs: what each is based on, and what becomes of that."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from snapvol import shell
from snapvol.api import JobInfo, JobState
from snapvol.backends import BACKENDS
from snapvol.backends.btrfs import Btrfs
from snapvol.engine.reading import entries
from snapvol.errors import NoSpace, Protected
from snapvol.model import Snapshot, Volume, new_id
from snapvol.repository import BlobKind
from snapvol.repository.ids import pack_name
from snapvol.service.repositories import open_repository
from snapvol.service.service import Service
from support.process import run
from support.quick import initialise
from support.repositories import restic
from support.restoring import restore
from support.service import FakeKernel, settings_for

pytestmark = pytest.mark.root
SECONDS = 120.0


@pytest.fixture
def service(tmp_path: Path, filesystem: Callable[[str], Path]) -> Iterator[Service]:
    """A service over subvolumes, with one volume of a hundred files in ten directories."""
    place = filesystem("btrfs") / new_id()[:8]
    written = f'[daemon]\ndefault_pool = "default"\n[pools.default]\nbackend = "btrfs"\npath = "{place}"\n'
    service = Service(settings_for(tmp_path, written), kinds=BACKENDS, kernel=FakeKernel())
    service.start()
    initialise(service.settings, "default")
    service.create_volume("web", {})
    for number in range(100):
        directory = service.mountpoint("web") / f"d{number % 10}"
        directory.mkdir(exist_ok=True)
        (directory / f"f{number}").write_bytes(os.urandom(2000))
    yield service
    for volume in service.volumes():
        service.remove_volume(volume.name, permanent=True)
    service.empty_trash()
    service.close()


def back_up(service: Service, *objects: str) -> JobInfo:
    (job,) = service.backups.back_up(list(objects or ["web"]))
    return service.jobs.wait(job.id, SECONDS)


def done(service: Service, *objects: str) -> JobInfo:
    job = back_up(service, *objects)
    assert (job.state, job.error) == (JobState.DONE, None)
    assert (job.result["files"], job.result["dirs"]) == (100, 11)
    return job


def touch(service: Service) -> None:
    (service.mountpoint("web") / "d3" / "f3").write_bytes(os.urandom(1500))


def held(service: Service) -> dict[str, tuple[str, ...]]:
    return {snapshot.name: snapshot.holds for snapshot in service.snapshots("web")}


def changed(service: Service, job: JobInfo) -> list[str]:
    return [line for line in service.jobs.log(job.id) if "have changed" in line]


def test_the_second_backup_looks_at_what_has_changed_since_the_first(service: Service, tmp_path: Path) -> None:
    first = done(service)
    assert changed(service, first) == []
    assert held(service) == {first.result["snapshot"]: ("base-default",)}
    touch(service)
    second = done(service)
    assert any("at most 1 paths have changed" in line for line in service.jobs.log(second.id))
    assert (second.warnings, second.result["base"]) == ([], first.result["id"])
    assert (second.result["changed"], second.result["unmodified"], second.result["mismatch"]) == (1, 99, False)
    assert held(service) == {second.result["snapshot"]: ("base-default",)}
    sizes = {backup.id: (backup.size, backup.files) for backup in service.backups.list("web")}
    assert sizes[second.result["id"]] == (199_500, 100)
    settings = service.settings.repository("default")
    assert settings.password_file is not None
    password = Path(settings.password_file).read_text().strip()
    said = restic(Path(settings.url), "check", "--read-data", password=password).stdout
    assert "no errors were found" in said


def test_a_wrong_answer_about_what_changed_is_found_said_and_made_good(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    done(service)
    for path in service.mountpoint("web").rglob("f*"):
        path.write_bytes(os.urandom(1000))
    monkeypatch.setattr(Btrfs, "changes", lambda *_: [])
    job = done(service)
    assert job.result["mismatch"]
    assert any("though the storage says" in line and "everything is read anew" in line for line in job.warnings)
    assert (job.result["bytes_read"], job.result["base"]) == (100_000, None)
    assert held(service) == {job.result["snapshot"]: ("base-default",)}


def test_where_btrfs_cannot_say_what_changed_everything_is_looked_at(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = done(service)
    touch(service)
    with monkeypatch.context() as patch:
        start = shell.start
        patch.setattr(shell, "start", lambda program, *words: start("false") if "send" in words else start(program))
        job = done(service)
    (warning,) = job.warnings
    assert "btrfs send failed (exit 1)" in warning
    assert warning.endswith("everything is looked at")
    assert (job.result["new"], job.result["parent"]) == (0, first.result["id"])  # just made files are read again
    place = service.mountpoint("web").parent / "snapshots" / job.result["snapshot"] / "data"
    run("btrfs", "property", "set", place, "ro", "false")
    (place / "d3" / "f3").write_bytes(b"evil")
    os.sync()
    run("btrfs", "property", "set", place, "ro", "true")
    again = done(service)
    assert (again.warnings, changed(service, again)) == ([], [])
    assert any("is not known: everything is looked at" in line for line in service.jobs.log(again.id))


def test_a_rollback_and_a_forgotten_backup_cost_a_look(service: Service) -> None:
    first = done(service)
    touch(service)
    service.rollback("web", first.result["snapshot"])
    second = done(service)
    assert changed(service, second) == []
    service.backups.forget([second.result["id"]], force=True)
    third = done(service)
    assert third.warnings == ["the backup that the last one was based on is no longer in the repository: all is read"]
    touch(service)
    assert done(service).result["base"] == third.result["id"]


def test_T30_what_a_repair_gave_up_is_read_again_also_where_nothing_has_changed(service: Service) -> None:
    """A base must not be taken unseen when indexes were replaced since: what they lost is in no index now."""
    first = done(service).result["id"]
    touch(service)
    second = done(service).result["id"]  # by then this machine knows that the first stands
    settings = service.settings.repository("default")
    with open_repository("default", settings) as repository:
        repository.load_index()
        lost = next(iter(entries(repository, second, b"d1/f1")))[1].content or [""]
        place = repository.locate(BlobKind.DATA, bytes.fromhex(lost[0]))
        pack = Path(settings.url) / pack_name(place.pack)
        content = bytearray(pack.read_bytes())
        content[place.offset + place.length // 2] ^= 1
        pack.chmod(0o600)
        pack.write_bytes(content)
        assert repository.repair_index(read_data=True).lost_blobs == 1
    third = done(service)
    assert third.result["base"] == second
    with open_repository("default", settings) as repository:
        assert repository.check(True).problems == []
    assert third.result["bytes_read"] < 199_500
    assert restore(service, first, volume="old").error is None


def test_T39_where_a_snapshot_finds_no_room_the_base_is_given_up(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = done(service).result["snapshot"]
    snapshot = Btrfs.snapshot

    def full(backend: Btrfs, volumes: Sequence[Volume], name: str, **more: str) -> Sequence[Snapshot]:
        if first in {known.name for known in backend.snapshots(volumes[0]) if isinstance(known, Snapshot)}:
            raise NoSpace("the pool is full")
        return snapshot(backend, volumes, name, **more)

    monkeypatch.setattr(Btrfs, "snapshot", full)
    job = done(service)
    assert job.warnings == ["the pool is full: the base of this backup is given up to make room, so everything is read"]
    assert held(service) == {job.result["snapshot"]: ("base-default",)}
    monkeypatch.setattr(Btrfs, "snapshot", lambda *_, **__: _no_room())
    assert back_up(service).state is JobState.FAILED
    assert held(service) == {}


def _no_room() -> Sequence[Snapshot]:
    raise NoSpace("the pool is full")


def test_T17_T18_a_base_is_kept_from_destruction_but_not_a_volume_from_removal(service: Service) -> None:
    name = done(service).result["snapshot"]
    with pytest.raises(Protected, match="is what the next backup to repository 'default' is based on"):
        service.destroy_snapshot("web", name)
    service.remove_volume("web")
    service.undelete("web")
    assert held(service) == {name: ("base-default",)}
    touch(service)
    assert changed(service, done(service))
    (name,) = held(service)
    service.release("web", name, "base-default")
    assert held(service) == {name: ()}  # the next backup takes it away
    touch(service)
    assert changed(service, done(service)) == []
    service.remove_volume("web")
    service.empty_trash()
    assert service.trash() == []
