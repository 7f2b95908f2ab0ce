from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from snapvol.api import Finding, JobState, Level
from snapvol.docker import Docker
from snapvol.errors import NotFound, StorageFailed
from snapvol.model import Health
from snapvol.service.job import Run
from snapvol.service.repositories import confirm_recovery_key
from snapvol.service.service import Service
from support.quick import initialise
from support.service import FakeKernel, directory_service

SECONDS = 60.0


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    made = directory_service(tmp_path / "root", FakeKernel())
    yield made
    made.close()
    shutil.rmtree(tmp_path)


def ready(service: Service) -> None:
    initialise(service.settings, "default")
    confirm_recovery_key(service.settings, "default")


def back_up(service: Service, name: str) -> JobState:
    (job,) = service.backups.back_up([name])
    return service.jobs.wait(job.id, SECONDS).state


def subjects(findings: list[Finding]) -> dict[str, str | None]:
    return {finding.subject: finding.command for finding in findings if finding.level is not Level.OK}


def test_a_new_machine_is_told_what_to_do_first(service: Service) -> None:
    service.create_volume("web")
    status = service.reports.status()
    assert not status.ok
    assert subjects(status.findings) == {
        "volume 'web'": "snapvol backup web",
        "repository 'default'": "snapvol repo init",
    }
    (volume,) = status.volumes
    assert (volume.would_lose, volume.would_lose_off_host, volume.last_backup) == (None, None, None)


def test_everything_is_all_right_once_it_is(service: Service) -> None:
    ready(service)
    service.create_volume("web")
    assert back_up(service, "web") is JobState.DONE
    status = service.reports.status()
    assert (status.ok, status.findings) == (True, [])
    assert [(it.name, it.ok) for it in status.repositories] == [("default", True)]
    assert [(it.name, it.ok, it.default) for it in status.pools] == [("default", True, True)]
    (volume,) = status.volumes
    assert volume.would_lose is not None
    assert 0 <= volume.would_lose < SECONDS


def test_what_would_be_lost_is_counted_from_the_last_point_and_apart_from_the_last_one_elsewhere(
    service: Service,
) -> None:
    ready(service)
    service.create_volume("web")
    service.snapshot(["web"], "s1")
    (volume,) = service.reports.status().volumes
    assert volume.would_lose is not None
    assert volume.would_lose_off_host is None
    back_up(service, "web")
    service.snapshot(["web"], "s2")
    (volume,) = service.reports.status().volumes
    assert volume.would_lose is not None
    assert volume.would_lose_off_host is not None
    assert volume.would_lose < volume.would_lose_off_host


def test_T33_an_unconfirmed_recovery_key_is_asked_for_until_it_is_confirmed(service: Service) -> None:
    initialise(service.settings, "default")
    asked = {"repository 'default'": "snapvol repo key confirm"}
    assert subjects(service.reports.status().findings) == asked
    assert subjects(service.reports.doctor())["repository 'default'"] == "snapvol repo key confirm"
    confirm_recovery_key(service.settings, "default")
    assert subjects(service.reports.status().findings) == {}


def test_a_failed_backup_is_told_until_one_succeeds(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    ready(service)
    service.create_volume("web")
    assert back_up(service, "web") is JobState.DONE

    def fail(run: Run, what: object) -> dict[str, object]:
        raise StorageFailed("the disk is tired")

    with monkeypatch.context() as failing:
        failing.setattr(Run, "perform", fail)
        assert back_up(service, "web") is JobState.FAILED
    (job,) = service.reports.status().jobs
    (finding,) = service.reports.status("web").findings
    assert finding.subject == "backup of 'web'"
    assert finding.message == f"job {job.id} failed: the disk is tired"
    assert finding.command == f"snapvol job retry {job.id}"
    assert back_up(service, "web") is JobState.DONE
    assert service.reports.status().ok


def test_one_volume_is_told_of_alone(service: Service) -> None:
    ready(service)
    for name in ("vol1", "vol10"):
        service.create_volume(name)
    status = service.reports.status("vol1")
    assert [volume.name for volume in status.volumes] == ["vol1"]
    assert subjects(status.findings) == {"volume 'vol1'": "snapvol backup vol1"}
    with pytest.raises(NotFound):
        service.reports.status("nothing")


def test_a_volume_that_wants_no_protection_is_not_asked_for(service: Service) -> None:
    ready(service)
    service.create_volume("cache", {"policy": "none"})
    assert service.reports.status().ok


def test_T40_a_pool_that_is_not_well_is_told(service: Service) -> None:
    ready(service)
    pool = service._context.catalog.pools["default"]
    pool.health = Health(ok=False, problem="it is read-only")
    status = service.reports.status()
    (finding,) = status.findings
    assert (finding.level, finding.subject, finding.message) == (Level.ERROR, "pool 'default'", "it is read-only")
    pool.problem = "its disk is missing"
    (finding,) = service.reports.status().findings
    assert finding.message == "its disk is missing"


def test_T40_a_pool_that_works_with_a_disk_less_is_a_warning(service: Service) -> None:
    ready(service)
    service._context.catalog.pools["default"].health = Health(ok=True, problem="zpool 'tank' is DEGRADED")
    (finding,) = service.reports.status().findings
    assert (finding.level, finding.subject, finding.message) == (
        Level.WARNING,
        "pool 'default'",
        "zpool 'tank' is DEGRADED",
    )


def test_T41_a_damaged_volume_is_told_with_its_reason(tmp_path: Path) -> None:
    first = directory_service(tmp_path / "root")
    ready(first)
    first.create_volume("web")
    first.close()
    (tmp_path / "root" / "pool" / "volumes" / "web" / "volume.json").write_text("{")
    again = directory_service(tmp_path / "root")
    (finding,) = again.reports.status().findings
    again.close()
    assert (finding.level, finding.subject) == (Level.ERROR, "volume 'web'")
    assert finding.message.startswith("is damaged: ")


def test_T43_doctor_finds_permissions_that_are_too_wide_and_gives_the_command(service: Service) -> None:
    ready(service)
    daemon = service.settings.daemon
    with socket.socket(socket.AF_UNIX) as open_to_all:
        daemon.api_socket.parent.mkdir(parents=True, exist_ok=True)
        open_to_all.bind(str(daemon.api_socket))
        daemon.api_socket.chmod(0o666)
        found = subjects(service.reports.doctor())
        assert found[f"socket {daemon.api_socket}"] == f"chmod 660 {daemon.api_socket}"
        assert f"socket {daemon.plugin_socket}" in found
    file = service.settings.repository("default").password_file
    assert file is not None
    file.chmod(0o640)
    assert subjects(service.reports.doctor())["repository 'default'"] == f"chmod 600 {file}"


def test_doctor_tries_the_tools_the_pools_the_repositories_and_docker(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready(service)
    found = {finding.subject: finding for finding in service.reports.doctor()}
    assert found["tool cp"].level is Level.OK
    assert found["kernel"].level is Level.OK
    assert found["repository 'default'"].level is Level.OK
    assert "pool 'default'" in found
    assert found["docker"].level is Level.OK  # nobody wants it asked
    monkeypatch.setattr(Docker, "version", lambda docker: None)
    daemon = msgspec.structs.replace(service.settings.daemon, docker_socket="/run/docker.sock")
    service._context.settings = msgspec.structs.replace(service.settings, daemon=daemon)
    assert {it.subject: it.level for it in service.reports.doctor()}["docker"] is Level.WARNING
