"""A daemon that is killed in the middle of a job, for real: what its successor finds, and what it makes of it."""

from __future__ import annotations

import os
import shutil
import sys
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest

from snapvol.api import JobInfo, JobState
from snapvol.errors import NotReady
from snapvol.model import State
from snapvol.service.service import Service
from support.process import Server, wait_until
from support.quick import initialise
from support.restoring import backed_up, contents, fill, restore, write
from support.service import FakeKernel, directory_service

SECONDS = 60.0
SIZE = 384 << 20  # a second's work, so that the kill comes in the middle of it

DAEMON = """
import sys, time
from pathlib import Path
from snapvol import settings
from snapvol.service.service import Service
root, what = sys.argv[1:]
service = Service(settings.load(Path(root, "config.toml"), {"SNAPVOL_ROOT": root}))
service.start()
match what:
    case "backup":
        job = service.backups.back_up(["web"])[0]
    case "restore":
        job = service.backups.restore("web", volume="web2")
    case "in place":
        job = service.backups.restore("web", in_place=True)
    case "path":
        job = service.backups.restore("web", in_place=True, path="d")
while service.jobs.get(job.id).progress.bytes_done == 0:
    time.sleep(0.01)
print(job.id, service.jobs._jobs[job.id].worker._child.pid, flush=True)
time.sleep(600)
"""


def prepared(root: Path) -> None:
    service = directory_service(root)
    initialise(service.settings, "default")
    service.create_volume("web")
    data = service.mountpoint("web")
    (data / "d").mkdir()
    (data / "d" / "big").write_bytes(os.urandom(SIZE))
    (job,) = service.backups.back_up(["web"])
    assert service.jobs.wait(job.id, SECONDS).state is JobState.DONE
    (data / "d" / "big").write_bytes(os.urandom(SIZE))
    (data / "d" / "left-over").write_bytes(b"x")
    service.close()


def killed_while(root: Path, what: str) -> str:
    """Begin a job in a daemon, kill the daemon once the job's worker moves bytes, and return the job's id."""
    daemon = Server([sys.executable, "-c", DAEMON, root, what], log=root / "daemon.log")
    daemon.ready(lambda: daemon.output().endswith("\n") and len(daemon.output().splitlines()[-1].split()) == 2, SECONDS)
    job, worker = daemon.output().splitlines()[-1].split()
    daemon.kill_9()
    wait_until(lambda: not _alive(int(worker)), 5, "the worker to end with its daemon")
    return job


def _alive(pid: int) -> bool:
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def retried(service: Service, job: str) -> JobInfo:
    return service.jobs.wait(service.jobs.retry(job).id, SECONDS)


@pytest.mark.parametrize("what", ["backup", "restore", "in place", "path"])
def test_T38_what_a_killed_daemon_leaves_is_as_before_or_is_told_and_can_be_retried(tmp_path: Path, what: str) -> None:
    root = tmp_path / "root"
    prepared(root)
    before = contents(root / "pool" / "volumes" / "web" / "data")
    job = killed_while(root, what)
    service = directory_service(root, FakeKernel())
    try:
        info = service.jobs.get(job)
        assert (info.state, info.error) == (JobState.INTERRUPTED, "interrupted: the daemon was stopped")
        assert contents(service.mountpoint("web")) == before
        assert service.volume("web").state is State.READY
        assert service.snapshots("web") == []
        if what == "restore":
            assert service.volume("web2").state is State.FAILED
            with pytest.raises(NotReady):
                service.mount("web2", "holder")
        assert any(it.subject.endswith("of 'web2'" if what == "restore" else "of 'web'") for it in
                   service.reports.status().findings)  # fmt: skip
        again = retried(service, job)
        assert (again.state, again.error) == (JobState.DONE, None)
        if what != "backup":
            restored = contents(service.mountpoint("web2" if what == "restore" else "web"))
            assert list(restored) == ["d/big"]
            assert restored["d/big"] != before["d/big"]
    finally:
        service.close()
        shutil.rmtree(root)


@pytest.mark.parametrize("path", [None, "d"])
def test_T38_what_was_written_after_a_restore_stays_though_its_end_was_forgotten(
    tmp_path: Path, path: str | None
) -> None:
    """A power cut can lose what the daemon's database, which is not synced each time, was told last."""
    root = tmp_path / "root"
    service = directory_service(root)
    initialise(service.settings, "default")
    data = fill(service, "web")
    backed_up(service)
    write(data, {"d/b": b"older"})
    job = restore(service, "web", in_place=True, path=path)
    assert job.state is JobState.DONE
    write(service.mountpoint("web"), {"later": b"acknowledged"})
    expected = contents(service.mountpoint("web"))
    (record,) = [it for it in service._context.state.jobs() if it.info.id == job.id]
    info = msgspec.structs.replace(record.info, state=JobState.RUNNING, ended=None)
    service._context.state.save_job(msgspec.structs.replace(record, info=info))
    service.close()
    service = directory_service(root, FakeKernel())
    try:
        assert service.jobs.get(job.id).state is JobState.INTERRUPTED
        assert contents(service.mountpoint("web")) == expected
        assert [it.name for it in service.snapshots("web")] == [job.result["before"]]
    finally:
        service.close()


@pytest.mark.parametrize("starts", [1, 2])
def test_T38_T40_a_pool_that_comes_back_late_is_brought_back_to_before_the_restore(tmp_path: Path, starts: int) -> None:
    root, away = tmp_path / "root", tmp_path / "away"
    prepared(root)
    pool = root / "pool"
    before = contents(pool / "volumes" / "web" / "data")
    job = killed_while(root, "path")
    pool.rename(away)
    for _ in range(starts - 1):
        directory_service(root, FakeKernel()).close()
    service = directory_service(root, FakeKernel())
    try:
        assert service.volume("web").damaged
        assert service.jobs.get(job).state is JobState.INTERRUPTED
        away.rename(pool)
        service.refresh_pools()
        assert contents(service.mountpoint("web")) == before
        assert service.snapshots("web") == []
        assert service.jobs.get(job).state is JobState.INTERRUPTED
    finally:
        service.close()
    (pool / "volumes/web/data/d/later").write_bytes(b"x")
    service = directory_service(root, FakeKernel())
    assert contents(service.mountpoint("web")) == {**before, "d/later": b"x"}
    service.close()
