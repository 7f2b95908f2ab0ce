"""Restores through the service into new volumes: whole, in part, interrupted at every point; and what is planned."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from snapvol.api import JobInfo, JobState, Plan
from snapvol.errors import AlreadyExists, NotFound, NotReady, Refused, SnapvolError, UsageError
from snapvol.model import State
from snapvol.service.job import Run
from snapvol.service.service import Service
from support.process import wait_until
from support.quick import initialise
from support.restoring import FILES, SECONDS, Pause, backed_up, contents, die, fill, restore, write
from support.service import FakeKernel, directory_service


@pytest.fixture
def service(on_disk: Service) -> Service:
    initialise(on_disk.settings, "default")
    return on_disk


# -- new volumes ------------------------------------------------------------------------------------------------------


def test_T36_a_backup_becomes_a_new_volume_with_the_same_contents(service: Service) -> None:
    fill(service, "web")
    backup = backed_up(service)
    job = restore(service, "web", volume="web2")
    assert (job.state, job.error, job.kind, job.object) == (JobState.DONE, None, "restore", "web2")
    assert contents(service.mountpoint("web2")) == FILES
    info = service.volume("web2")
    assert (info.state, info.parent, info.job) == (State.READY, backup, job.id)
    assert service.mount("web2", "holder") == service.mountpoint("web2")


def test_a_lost_volume_comes_back_under_its_own_name(service: Service) -> None:
    fill(service, "web")
    backup = backed_up(service)
    with pytest.raises(AlreadyExists) as taken:
        service.backups.restore(backup)
    assert f"snapvol restore {backup[:8]} web --in-place" in (taken.value.hint or "")
    service.remove_volume("web", permanent=True)
    assert restore(service, backup).state is JobState.DONE
    assert contents(service.mountpoint("web")) == FILES


def test_create_with_a_backup_answers_at_once_and_a_job_fills_the_volume(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(service, "web")
    backup = backed_up(service)
    pause = Pause(monkeypatch)
    made = service.create_volume("web4", {"backup": "web"})
    assert (made.state, made.job) == (State.RESTORING, service.jobs.list()[-1].id)
    assert pause.reached.wait(SECONDS)
    with pytest.raises(NotReady, match=r"'web4' is being restored: 0 %, try again in a minute"):
        service.mount("web4", "holder")
    pause.go_on.set()
    assert service.jobs.wait(str(made.job), SECONDS).state is JobState.DONE
    assert contents(service.mount("web4", "holder")) == FILES
    assert service.volume("web4").parent == backup
    # The same Create again finds the same volume.
    assert service.create_volume("web4", {"backup": "web"}).id == made.id


def test_T36_what_does_not_exist_is_told_at_once_and_leaves_no_volume(service: Service) -> None:
    fill(service, "web")
    backed_up(service)
    for backup in ("wob", "web@2001-01-01", "ffffffff"):
        with pytest.raises(NotFound):
            service.create_volume("new", {"backup": backup})
        with pytest.raises(NotFound):
            service.backups.restore(backup, volume="new")
    assert [info.name for info in service.volumes()] == ["web"]
    assert restore(service, "web", volume="new", path="d/nothing").state is JobState.FAILED


def test_one_path_into_a_new_volume(service: Service) -> None:
    fill(service, "web")
    backed_up(service)
    assert restore(service, "web", volume="part", path="/d/").state is JobState.DONE
    assert contents(service.mountpoint("part")) == {"d/b": FILES["d/b"], "d/empty": b""}


@pytest.mark.parametrize("path", ["", "/", ".", "./", "..", "a/../..", "a\0b"])
def test_T5_a_path_that_leads_out_of_the_volume_is_refused(service: Service, path: str) -> None:
    with pytest.raises(UsageError):
        service.backups.restore("web", volume="new", path=path)


def test_T38_a_restore_that_fails_leaves_a_volume_that_says_why_and_can_be_retried_or_removed(service: Service) -> None:
    fill(service, "web", {"a": os.urandom(50_000)})
    backed_up(service)
    data = Path(service.settings.repository("default").url) / "data"
    whole = {pack: pack.read_bytes() for pack in data.rglob("*") if pack.is_file() and pack.stat().st_size > 50_000}
    for pack, stored in whole.items():
        pack.chmod(0o600)
        pack.write_bytes(stored[:1000] + bytes([stored[1000] ^ 1]) + stored[1001:])
    job = restore(service, "web", volume="web2")
    assert job.state is JobState.FAILED
    info = service.volume("web2")
    assert (info.state, info.error, info.job) == (State.FAILED, job.error, job.id)
    with pytest.raises(NotReady) as refused:
        service.mount("web2", "holder")
    assert f"snapvol job retry {job.id}" in (refused.value.hint or "")
    status = service.reports.status()
    assert any(it.subject == "volume 'web2'" and "could not be restored" in it.message for it in status.findings)
    for pack, stored in whole.items():
        pack.write_bytes(stored)
    again = service.jobs.wait(service.jobs.retry(job.id).id, SECONDS)
    assert (again.state, again.error) == (JobState.DONE, None)
    assert contents(service.mount("web2", "holder")) == contents(service.mountpoint("web"))


def test_a_cancelled_restore_can_be_removed(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(service, "web")
    backed_up(service)
    pause = Pause(monkeypatch)
    job = service.backups.restore("web", volume="web2")
    assert isinstance(job, JobInfo)
    assert pause.reached.wait(SECONDS)
    service.jobs.cancel(job.id)
    assert service.jobs.wait(job.id, SECONDS).state is JobState.CANCELLED
    assert service.volume("web2").state is State.FAILED
    service.remove_volume("web2")
    with pytest.raises(NotFound):
        service.volume("web2")


def test_removing_a_volume_that_is_being_restored_stops_the_job(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(service, "web")
    backed_up(service)
    pause = Pause(monkeypatch)
    job = service.backups.restore("web", volume="web2")
    assert isinstance(job, JobInfo)
    assert pause.reached.wait(SECONDS)
    service.remove_volume("web2")
    assert service.jobs.get(job.id).state is JobState.CANCELLED
    assert [info.name for info in service.volumes()] == ["web"]


def test_T38_a_daemon_killed_during_a_restore_leaves_no_half_volume_that_can_be_mounted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "root"
    service = directory_service(root)
    initialise(service.settings, "default")
    fill(service, "web")
    backed_up(service)
    pause = Pause(monkeypatch)
    job = service.backups.restore("web", volume="web2")
    assert isinstance(job, JobInfo)
    assert pause.reached.wait(SECONDS)
    write(service.mountpoint("web2"), {"half": b"ha"})
    die(service)
    monkeypatch.undo()
    again = directory_service(root)
    try:
        assert again.jobs.get(job.id).state is JobState.INTERRUPTED
        info = again.volume("web2")
        assert info.state is State.FAILED
        assert info.error == (
            f"interrupted: the daemon was stopped; retry with: snapvol job retry {job.id}, "
            "or remove it: snapvol rm web2"
        )
        with pytest.raises(NotReady):
            again.mount("web2", "holder")
        retried = again.jobs.wait(again.jobs.retry(job.id).id, SECONDS)
        assert (retried.state, retried.error) == (JobState.DONE, None)
        assert contents(again.mountpoint("web2")) == FILES  # and nothing of the half
    finally:
        again.close()
        pause.go_on.set()


def test_a_lost_history_does_not_leave_a_volume_restoring_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "root"
    service = directory_service(root)
    initialise(service.settings, "default")
    fill(service, "web")
    backed_up(service)
    pause = Pause(monkeypatch)
    service.backups.restore("web", volume="web2")
    assert pause.reached.wait(SECONDS)
    die(service)
    for file in root.glob("state.db*"):
        file.unlink()
    again = directory_service(root)
    assert again.volume("web2").state is State.FAILED
    again.close()
    pause.go_on.set()


# -- plans and refusals -----------------------------------------------------------------------------------------------


def test_a_dry_run_says_what_would_be_done_and_does_nothing(service: Service) -> None:
    fill(service, "web", policy="none")
    backup = backed_up(service)
    new = service.backups.restore("web", volume="web2", dry_run=True)
    assert isinstance(new, Plan)
    assert [(action.verb, action.object) for action in new.actions] == [
        ("create", "volume web2"),
        ("restore", "everything"),
    ]
    assert "policy=none" in new.actions[0].detail
    assert new.actions[1].detail.startswith(f"from backup {backup[:8]} of ")
    place = service.backups.restore("web", in_place=True, path="d", dry_run=True)
    assert isinstance(place, Plan)
    assert [(action.verb, action.object) for action in place.actions] == [
        ("snapshot", "volume web"),
        ("replace", "/d in web"),
    ]
    assert not new.done
    assert not place.done
    assert [info.name for info in service.volumes()] == ["web"]
    assert service.snapshots() == []
    assert [job.kind for job in service.jobs.list()] == ["backup"]


def test_in_place_finds_the_volume_by_its_identity_after_a_rename(service: Service) -> None:
    data = fill(service, "web")
    backup = backed_up(service)
    write(data, {"a": b"changed"})
    service.rename_volume("web", "wob")
    fill(service, "web", {"mine": b"another volume of that name"})
    assert restore(service, backup, in_place=True).object == "wob"
    assert contents(service.mountpoint("wob")) == FILES
    assert contents(service.mountpoint("web")) == {"mine": b"another volume of that name"}


def test_T2_a_backup_of_a_volume_restores_what_it_was_then(service: Service) -> None:
    data = fill(service, "web", {"a": b"1"})
    service.snapshot(["web"], "s1")
    first = backed_up(service, "web@s1")
    service.destroy_snapshot("web", "s1")
    (data / "a").write_bytes(b"2")
    service.snapshot(["web"], "s1")
    (data / "a").write_bytes(b"3")
    service.snapshot(["web"], "s2")
    second = backed_up(service, "web@s2")
    assert restore(service, first, volume="one").state is JobState.DONE
    assert restore(service, second, volume="two").state is JobState.DONE
    assert contents(service.mountpoint("one")) == {"a": b"1"}
    assert contents(service.mountpoint("two")) == {"a": b"3"}


def test_another_host_with_nothing_but_the_repository_gets_everything_back(tmp_path: Path) -> None:
    first = directory_service(tmp_path / "one")
    made = initialise(first.settings, "default")
    fill(first, "web")
    backed_up(first)
    first.close()
    text = (
        f'[pools.default]\nbackend = "directory"\npath = "{tmp_path}/two/pool"\nfull_copies = true\n'
        f'[repositories.default]\nurl = "{made.location}"\npassword_file = "{tmp_path}/two/password"\n'
    )
    second = directory_service(tmp_path / "two", text=text)
    try:
        password = tmp_path / "two" / "password"
        password.write_text(made.recovery_key)
        password.chmod(0o600)
        assert restore(second, "web").state is JobState.DONE
        assert contents(second.mountpoint("web")) == FILES
    finally:
        second.close()


def test_a_retry_of_what_is_complete_or_gone_is_refused(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(service, "web")
    backed_up(service)
    done = restore(service, "web", volume="web2")
    with pytest.raises(Refused):
        service.jobs.retry(done.id)
    monkeypatch.setattr(Run, "perform", _fail)
    failed = restore(service, "web", volume="web3")
    service.remove_volume("web3")
    with pytest.raises(NotFound, match="does not exist any more"):
        service.jobs.retry(failed.id)


def _fail(run: Run, what: Any) -> dict[str, Any]:
    raise SnapvolError("no")


def test_progress_of_the_job_is_the_volumes(service: Service) -> None:
    fill(service, "web", {"big": os.urandom(24 << 20)})
    backed_up(service)
    job = service.backups.restore("web", volume="web2")
    assert isinstance(job, JobInfo)
    seen = [info.progress for info in service.jobs.watch(job.id)]
    assert seen[-1].fraction == 1.0
    assert [it.bytes_done for it in seen] == sorted(it.bytes_done for it in seen)
    assert "restoring" in {it.phase for it in seen}
    wait_until(lambda: service.volume("web2").state is State.READY, 5)
    assert msgspec.json.decode(msgspec.json.encode(service.jobs.get(job.id)), type=JobInfo).state is JobState.DONE


def test_another_hosts_volume_of_the_same_name_does_not_replace_ours_unless_its_backup_is_meant(tmp_path: Path) -> None:
    """Two hosts on one repository, each with a `web`: the newest `web` may be the other's."""
    alpha = directory_service(tmp_path / "alpha", FakeKernel())
    initialise(alpha.settings, "default")
    data = fill(alpha, "web", {"whose": b"alpha"})
    assert alpha.jobs.wait(alpha.backups.back_up(["web"])[0].id, SECONDS).state is JobState.DONE
    there = alpha.settings.repository("default")
    settings = msgspec.structs.replace(
        alpha.settings,
        daemon=msgspec.structs.replace(
            alpha.settings.daemon, root=tmp_path / "beta", runtime=tmp_path / "beta/run", host="beta"
        ),
        pools={
            "default": msgspec.structs.replace(
                alpha.settings.pools["default"], storage={"path": str(tmp_path / "beta-pool"), "full_copies": True}
            )
        },
        repositories={"default": there},
    )
    beta = Service(settings)
    beta.start()
    try:
        fill(beta, "web", {"whose": b"beta"})
        assert beta.jobs.wait(beta.backups.back_up(["web"])[0].id, SECONDS).state is JobState.DONE
        newest = beta.backups.list("web", None)[-1]
        for dry_run in (True, False):
            with pytest.raises(Refused, match=r"is of another volume 'web', on host 'beta'; .* name it by its ID"):
                alpha.backups.restore("web", in_place=True, dry_run=dry_run)
        assert contents(data) == {"whose": b"alpha"}
        assert restore(alpha, newest.id[:8], in_place=True, volume="web").state is JobState.DONE
        assert contents(data) == {"whose": b"beta"}
    finally:
        beta.close()
        alpha.close()
