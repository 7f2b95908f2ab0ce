"""Backups through the service: real worker processes, a pool of directories, a repository in a directory."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from snapvol.api import JobInfo, JobState
from snapvol.docker import Docker
from snapvol.errors import (
    Cancelled,
    InUse,
    NotFound,
    Protected,
    RepositoryUnreachable,
    SettingsError,
    SnapvolError,
    Unsupported,
    UsageError,
    WrongPassword,
)
from snapvol.service import points
from snapvol.service.job import Run
from snapvol.service.service import Service
from support.process import run, wait_until
from support.quick import initialise
from support.service import FakeKernel, directory_service, memory_service

SECONDS = 60.0


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    made = directory_service(tmp_path / "root")
    initialise(made.settings, "default")
    yield made
    made.close()
    shutil.rmtree(tmp_path)


def fill(service: Service, name: str, **files: bytes) -> Path:
    service.create_volume(name)
    data = service.mountpoint(name)
    for file, contents in files.items():
        (data / file).write_bytes(contents)
    return data


def back_up(service: Service, *objects: str) -> JobInfo:
    (job,) = service.backups.back_up(list(objects))
    return service.jobs.wait(job.id, SECONDS)


def restic(service: Service, *words: str) -> str:
    url = service.settings.repository("default").url
    return run("restic", "-r", url, "--password-file", password_file(service), "--no-cache", *words, seconds=120).stdout


def password_file(service: Service) -> Path:
    file = service.settings.repository("default").password_file
    assert file is not None
    return file


class Pause:
    """Holds the worker of the next job at its beginning, until it is told to go on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached = threading.Event()
        self.go_on = threading.Event()
        perform = Run.perform

        def held(run: Run, what: Any) -> dict[str, Any]:
            self.reached.set()
            while not self.go_on.wait(0.01):
                run.check()
            return perform(run, what)

        monkeypatch.setattr(Run, "perform", held)


def test_a_backup_is_made_listed_and_remembered(service: Service) -> None:
    fill(service, "web", a=b"hello", b=b"x" * 100_000)
    job = back_up(service, "web")
    assert (job.state, job.error, job.warnings) == (JobState.DONE, None, [])
    assert (job.result["files"], job.result["bytes_total"], job.result["incomplete"]) == (2, 100_005, False)
    (backup,) = service.backups.list("web")
    assert (backup.id, backup.volume, backup.repository) == (job.result["id"], "web", "default")
    info = service.volume("web")
    assert info.last_backup is not None
    assert info.last_backup.id == backup.id
    assert service.snapshots("web") == []  # the one it was made from is gone
    assert any(event.kind == "backup" and backup.id[:8] in event.message for event in service.log("web"))


def test_a_second_backup_builds_on_the_first_by_identity(service: Service) -> None:
    """T2: a volume removed and made again under its name is another volume."""
    data = fill(service, "web", a=b"hello")
    first = back_up(service, "web")
    (data / "b").write_bytes(b"more")
    second = back_up(service, "web")
    assert second.result["parent"] == first.result["id"]
    service.remove_volume("web", permanent=True)
    fill(service, "web", a=b"another")
    assert back_up(service, "web").result["parent"] is None


def test_time_left_is_known_the_first_time_and_afterwards(service: Service) -> None:
    data = fill(service, "web")
    (data / "big").write_bytes(os.urandom(48 << 20))
    for _ in range(2):
        (job,) = service.backups.back_up(["web"])
        seen = [info.progress for info in service.jobs.watch(job.id)]
        assert seen[-1].bytes_done == seen[-1].bytes_total == 48 << 20
        assert seen[-1].files_done == seen[-1].files_total == 1
        assert seen[-1].eta_seconds == 0
    assert any(it.rate > 0 and it.eta_seconds is not None for it in seen)


def test_a_named_snapshot_is_backed_up_as_it_was_and_stays(service: Service) -> None:
    data = fill(service, "web", a=b"before")
    service.snapshot(["web"], "s1")
    (data / "a").write_bytes(b"after, and longer")
    job = back_up(service, "web@s1")
    assert job.result["bytes_total"] == len(b"before")
    (snapshot,) = service.snapshots("web")
    assert (snapshot.name, snapshot.holds) == ("s1", ())


def test_T18_a_snapshot_is_held_while_it_is_backed_up(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(service, "web", a=b"x")
    service.snapshot(["web"], "s1")
    pause = Pause(monkeypatch)
    (job,) = service.backups.back_up(["web@s1"])
    assert pause.reached.wait(SECONDS)
    with pytest.raises(Protected, match=f"backup-{job.id}"):
        service.destroy_snapshot("web", "s1")
    pause.go_on.set()
    assert service.jobs.wait(job.id, SECONDS).state is JobState.DONE
    service.destroy_snapshot("web", "s1")


def test_T19_a_volume_can_be_mounted_and_snapshotted_but_not_moved_while_it_is_backed_up(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(service, "web", a=b"x")
    pause = Pause(monkeypatch)
    (job,) = service.backups.back_up(["web"])
    assert pause.reached.wait(SECONDS)
    service.mount("web", "holder")
    service.unmount("web", "holder")
    service.snapshot(["web"], "s1")
    for moved in (lambda: service.rename_volume("web", "wob"), lambda: service.remove_volume("web")):
        with pytest.raises(InUse, match=f"backup job {job.id}"):
            moved()
    with pytest.raises(InUse, match=f"backup job {job.id} works on it"):
        service.backups.back_up(["web"])
    pause.go_on.set()
    assert service.jobs.wait(job.id, SECONDS).state is JobState.DONE
    service.rename_volume("web", "wob")


def test_backups_follow_a_volume_through_a_rename(service: Service) -> None:
    fill(service, "web", a=b"x")
    first = back_up(service, "web")
    service.rename_volume("web", "wob")
    second = back_up(service, "wob")
    assert second.result["parent"] == first.result["id"]
    assert [backup.id for backup in service.backups.list("wob")] == [first.result["id"], second.result["id"]]


def test_all_takes_every_ready_volume(service: Service) -> None:
    with pytest.raises(NotFound, match="no volume"):
        service.backups.back_up([], all=True)
    for name in ("vol1", "vol10"):
        fill(service, name, a=name.encode())
    jobs = service.backups.back_up([], all=True)
    assert [service.jobs.wait(job.id, SECONDS).state for job in jobs] == [JobState.DONE] * 2
    assert [backup.volume for backup in service.backups.list("vol1")] == ["vol1"]  # T1: not vol10's


@pytest.mark.parametrize(
    ("objects", "every", "repository", "error"),
    [
        ([], False, None, UsageError),
        (["web"], True, None, UsageError),
        (["nothing"], False, None, NotFound),
        (["web@nothing"], False, None, NotFound),
        (["../web"], False, None, UsageError),
        (["web@-rf"], False, None, UsageError),
        (["web"], False, "nowhere", SettingsError),
        (["web", "nothing"], False, None, NotFound),
    ],
)
def test_what_cannot_be_begun_is_refused_and_begins_nothing(
    service: Service, objects: list[str], every: bool, repository: str | None, error: type[SnapvolError]
) -> None:
    fill(service, "web", a=b"x")
    with pytest.raises(error):
        service.backups.back_up(objects, all=every, repository=repository)
    assert service.jobs.list() == []
    assert service.snapshots("web") == []


def test_T32_a_repository_that_cannot_be_opened_is_told_before_any_work(service: Service) -> None:
    fill(service, "web", a=b"x")
    file = password_file(service)
    secret = file.read_text()
    file.write_text("wrong\n")
    with pytest.raises(WrongPassword):
        service.backups.back_up(["web"])
    file.chmod(0o644)
    with pytest.raises(SettingsError, match="open to others"):
        service.backups.back_up(["web"])
    file.unlink()
    with pytest.raises(NotFound, match="does not exist"):
        service.backups.back_up(["web"])
    assert service.jobs.list() == []
    file.write_text(secret)
    file.chmod(0o600)
    assert back_up(service, "web").state is JobState.DONE


def test_a_storage_without_snapshots_says_what_to_do(tmp_path: Path) -> None:
    text = f'[pools.default]\nbackend = "directory"\npath = "{tmp_path}/pool"\n'
    service = directory_service(tmp_path / "root", text=text)
    try:
        if service.pools()[0].features["snapshots"]:
            pytest.fail("the temporary directory shares blocks: this test needs a file system that does not")
        initialise(service.settings, "default")
        fill(service, "web", a=b"x")
        with pytest.raises(Unsupported) as refused:
            service.backups.back_up(["web"])
        assert "full_copies" in (refused.value.hint or "")
    finally:
        service.close()


def test_T26_an_incomplete_backup_is_told_by_everybody(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """How the engine finds it out is tested with the engine."""
    fill(service, "web", a=b"kept", b=b"lost")
    found = {"id": "ab" * 32, "incomplete": True, "problems": ["b: Input/output error"]}
    monkeypatch.setattr(Run, "perform", lambda run, what: found)
    job = back_up(service, "web")
    assert (job.state, job.result["incomplete"]) == (JobState.DONE, True)
    assert any("incomplete" in line for line in job.warnings)
    assert service.log("web")[-1].message.endswith(": incomplete")
    status = service.reports.status("web")
    assert not status.ok
    (finding,) = [it for it in status.findings if it.subject == "backup of 'web'"]
    assert finding.message == f"job {job.id} made an incomplete backup"


def test_T24_a_listing_that_fails_is_never_an_empty_one_and_forgets_nothing(service: Service) -> None:
    fill(service, "web", a=b"x")
    back_up(service, "web")
    backup = back_up(service, "web").result["id"]
    place = Path(service.settings.repository("default").url)
    away = place.with_name("away")
    place.rename(away)
    service.backups.library.changed("default")
    for asked in (
        lambda: service.backups.list(),
        lambda: service.backups.forget([backup], force=True),
        lambda: service.backups.verify([backup]),
    ):
        with pytest.raises((RepositoryUnreachable, NotFound)):
            asked()
    away.rename(place)
    assert len(service.backups.list()) == 2


def test_forgetting_keeps_the_last_good_one_and_says_what_it_does(service: Service) -> None:
    fill(service, "web", a=b"x")
    first, second = back_up(service, "web").result["id"], back_up(service, "web").result["id"]
    with pytest.raises(Protected, match="newest complete one of volume 'web'"):
        service.backups.forget([second])
    plan = service.backups.forget([first[:10]], dry_run=True)
    assert (plan.done, [action.object for action in plan.actions]) == (False, [f"backup {first[:8]}"])
    assert len(service.backups.list()) == 2
    assert service.backups.forget([first]).done
    assert [backup.id for backup in service.backups.list()] == [second]
    assert service.backups.forget([second], force=True).done
    assert list(service.backups.list()) == []
    assert service.volume("web").last_backup is None
    with pytest.raises(UsageError):
        service.backups.forget([])


def test_T30_verifying_reads_everything_and_names_what_is_hit(service: Service) -> None:
    fill(service, "web", a=os.urandom(50_000))
    backup = back_up(service, "web").result["id"]
    (job,) = service.backups.verify(["web"])
    good = service.jobs.wait(job.id, SECONDS)
    assert (good.state, good.object, good.result["backup"]) == (JobState.DONE, backup[:8], backup)
    assert good.result["bytes"] >= 50_000
    for pack in (Path(service.settings.repository("default").url) / "data").rglob("*"):
        if pack.is_file() and pack.stat().st_size > 50_000:
            damaged = bytearray(pack.read_bytes())
            damaged[1000] ^= 1
            pack.chmod(0o600)
            pack.write_bytes(damaged)
    (job,) = service.backups.verify([backup[:8]])
    bad = service.jobs.wait(job.id, SECONDS)
    assert (bad.state, bad.error_kind) == (JobState.FAILED, "Damaged")
    assert bad.error is not None
    assert "1 file cannot be restored whole" in bad.error
    assert any("a: " in line for line in bad.warnings)


def test_T30_a_pack_that_was_lost_since_the_last_backup_is_uploaded_again(service: Service) -> None:
    """In the same job, although it did not look for all packs at its beginning."""
    fill(service, "web", a=os.urandom(50_000), b=b"small")
    back_up(service, "web")
    back_up(service, "web")
    for pack in (Path(service.settings.repository("default").url) / "data").rglob("*"):
        if pack.is_file() and pack.stat().st_size > 50_000:
            pack.unlink()
    job = back_up(service, "web")
    assert job.state is JobState.DONE
    (warning,) = job.warnings
    assert "is gone, and this backup needs it: once more" in warning
    (verified,) = service.backups.verify(["web"])
    assert service.jobs.wait(verified.id, SECONDS).state is JobState.DONE
    assert (service.settings.cache.path).is_dir()


def test_T28_a_killed_worker_leaves_nothing_behind_and_the_next_run_works(service: Service) -> None:
    data = fill(service, "web")
    (data / "big").write_bytes(os.urandom(512 << 20))
    (job,) = service.backups.back_up(["web"])
    wait_until(lambda: service.jobs.get(job.id).progress.bytes_done > 0, SECONDS, "the backup to be under way")
    kill_worker(service, job.id, signal.SIGKILL)
    ended = service.jobs.wait(job.id, SECONDS)
    assert (ended.state, ended.error) == (JobState.FAILED, "the worker process was ended by SIGKILL")
    assert service.snapshots("web") == []
    assert list(service.backups.list()) == []
    again = service.jobs.wait(service.jobs.retry(job.id).id, SECONDS)
    assert again.state is JobState.DONE
    restic(service, "unlock")  # the killed worker's lock: restic takes it for stale, and asks for this
    assert "no errors were found" in restic(service, "check", "--read-data")


def test_cancelling_a_backup_ends_it_cleanly_within_seconds(service: Service) -> None:
    data = fill(service, "web")
    (data / "big").write_bytes(os.urandom(512 << 20))
    (job,) = service.backups.back_up(["web"])
    wait_until(lambda: service.jobs.get(job.id).progress.bytes_done > 0, SECONDS, "the backup to be under way")
    service.jobs.cancel(job.id)
    ended = service.jobs.wait(job.id, 15)
    assert (ended.state, ended.error_kind) == (JobState.CANCELLED, Cancelled.__name__)
    assert service.snapshots("web") == []
    locks = Path(service.settings.repository("default").url) / "locks"
    assert list(locks.iterdir()) == []


def kill_worker(service: Service, job: str, number: signal.Signals) -> None:
    worker = service.jobs._jobs[job].worker
    assert worker is not None
    assert worker._child is not None
    worker._child.signal(number)


def test_what_a_killed_daemon_left_is_cleaned_at_the_next_start(tmp_path: Path) -> None:
    root = tmp_path / "root"
    service = directory_service(root)
    fill(service, "web", a=b"x")
    service.snapshot(["web"], "mine")
    catalog = service._context.catalog
    entry = catalog.get("web")
    points.hold(catalog, entry, entry.snapshot("mine"), "0123abcd")
    left = points.take(catalog, entry, "backup", "for backup job 0123abcd", points.BACKUP)
    points.hold(catalog, entry, left, "0123abcd")
    points.take(catalog, entry, "backup", "its hold was not made", points.BACKUP)
    service.hold("web", "mine", "backup-keep")
    service.close()
    again = directory_service(root)
    assert [(it.name, it.holds) for it in again.snapshots("web")] == [("mine", ("backup-keep",))]
    again.close()


def test_T37_labels_that_only_docker_has_are_recorded_with_the_volume(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(service, "web", a=b"x")
    monkeypatch.setattr(Docker, "labels", lambda docker, volume: {"com.docker.compose.project": "shop"})
    back_up(service, "web")
    assert service.volume("web").labels == {"com.docker.compose.project": "shop"}
    monkeypatch.setattr(Docker, "labels", lambda docker, volume: None)  # no answer is never "no labels"
    back_up(service, "web")
    assert service.volume("web").labels == {"com.docker.compose.project": "shop"}


def test_T42_the_password_is_in_no_history_log_or_answer(service: Service) -> None:
    file = password_file(service)
    secret = file.read_text().strip()
    fill(service, "web", a=b"x")
    job = back_up(service, "web")
    file.write_text(f"{secret}-wrong\n")
    failed = service.jobs.wait(
        service.jobs.submit("verify", "x", {"backup": "ab", "repository": "default"}).id, SECONDS
    )
    assert failed.error_kind == "WrongPassword"
    told = msgspec.json.encode([job, failed, service.jobs.log(failed.id), service.reports.status(), service.config()])
    stored = b"".join(path.read_bytes() for path in service.settings.daemon.root.glob("state.db*"))
    assert secret.encode() not in told + stored


def test_the_in_memory_pool_can_be_backed_up_too(tmp_path: Path) -> None:
    service = memory_service(tmp_path / "root", FakeKernel())
    try:
        initialise(service.settings, "default")
        fill(service, "web", a=b"hello")
        assert back_up(service, "web").state is JobState.DONE
    finally:
        service.close()
