"""Worker processes: what reaches them, what comes back, and that they always end."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from snapvol.errors import Cancelled, NotFound, SnapvolError, WrongPassword
from snapvol.service import process, work
from snapvol.service.process import Worker
from snapvol.settings import RepositorySettings, Settings, load
from support.process import run, wait_until
from support.quick import initialise

SECRET = "correct horse battery staple"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load(environment={"SNAPVOL_ROOT": str(tmp_path / "root")})


def place(settings: Settings, name: str = "default") -> work.Place:
    return work.Place(name=name, settings=settings.repository(name), root=settings.daemon.root)


@pytest.fixture
def silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[work.Place]:
    """A repository on an S3 server that takes connections and never says a word."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")
    password = tmp_path / "password"
    password.write_text(f"{SECRET}\n")
    password.chmod(0o600)
    with socket.create_server(("127.0.0.1", 0)) as server:
        where = RepositorySettings(
            url="s3://bucket/prefix",
            endpoint=f"http://127.0.0.1:{server.getsockname()[1]}",
            region="here",
            addressing="path",
            password_file=password,
        )
        yield work.Place(name="silent", settings=where, root=tmp_path)


class Waiting:
    """A worker that waits for the silent server, in a thread."""

    def __init__(self, where: work.Place) -> None:
        self.worker = Worker(work.Probe(repository=where))
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run)
        self.thread.start()
        wait_until(lambda: self.pid is not None, 10, "the worker's process")

    def _run(self) -> None:
        try:
            self.worker.result()
        except BaseException as error:
            self.error = error

    @property
    def pid(self) -> int | None:
        child = self.worker._child
        return child.pid if child else None


def alive(pid: int) -> bool:
    with suppress(ProcessLookupError, FileNotFoundError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def test_a_worker_answers(settings: Settings) -> None:
    made = initialise(settings, "default")
    assert Worker(work.Probe(repository=place(settings))).result() == {"id": made.id}


def test_an_error_comes_back_as_what_it_was(settings: Settings) -> None:
    with pytest.raises(NotFound) as error:
        Worker(work.Probe(repository=place(settings))).result()
    assert str(settings.repository("default").password_file) in error.value.message
    assert "snapvol repo init" in (error.value.hint or "")


def test_T32_a_wrong_password_is_told_by_the_worker(settings: Settings) -> None:
    initialise(settings, "default")
    file = settings.repository("default").password_file
    assert file is not None
    file.write_text("wrong\n")
    with pytest.raises(WrongPassword):
        Worker(work.Probe(repository=place(settings))).result()


def test_T42_no_secret_is_in_argv_environment_or_request(silent: work.Place) -> None:
    waiting = Waiting(silent)
    assert waiting.pid is not None
    try:
        wait_until(lambda: b"snapvol.worker" in Path(f"/proc/{waiting.pid}/cmdline").read_bytes(), 10)
        shown = Path(f"/proc/{waiting.pid}/cmdline").read_bytes() + Path(f"/proc/{waiting.pid}/environ").read_bytes()
        request = work.encode(work.Request(parent=1, work=work.Probe(repository=silent)))
        assert SECRET.encode() not in shown + request
    finally:
        waiting.worker.cancel()
        waiting.thread.join(20)


def test_a_worker_is_behind_everybody_else(silent: work.Place) -> None:
    waiting = Waiting(silent)
    assert waiting.pid is not None
    try:
        pid = waiting.pid
        ours = os.getpriority(os.PRIO_PROCESS, 0)
        wait_until(lambda: os.getpriority(os.PRIO_PROCESS, pid) == min(ours + 10, 19), 10, "the worker to be nice")
        assert os.getsid(pid) == pid
    finally:
        waiting.worker.cancel()
        waiting.thread.join(20)


def test_T20_cancelling_ends_a_worker_that_waits_for_a_silent_server(silent: work.Place) -> None:
    waiting = Waiting(silent)
    assert waiting.pid is not None
    pid = waiting.pid
    time.sleep(1)  # into the wait
    began = time.monotonic()
    waiting.worker.cancel()
    waiting.thread.join(20)
    assert isinstance(waiting.error, Cancelled)
    assert time.monotonic() - began < process.GRACE + 2
    assert not alive(pid)


def test_cancelling_before_the_start(silent: work.Place) -> None:
    worker = Worker(work.Probe(repository=silent))
    worker.cancel()
    with pytest.raises(Cancelled):
        worker.result()


def test_a_killed_worker_is_told_as_such(silent: work.Place) -> None:
    waiting = Waiting(silent)
    assert waiting.pid is not None
    os.kill(waiting.pid, signal.SIGKILL)
    waiting.thread.join(20)
    assert isinstance(waiting.error, SnapvolError)
    assert waiting.error.message == "the worker process was ended by SIGKILL"


def test_a_question_is_not_waited_for_longer_than_asked(silent: work.Place) -> None:
    worker = Worker(work.Probe(repository=silent), seconds=1.0)
    began = time.monotonic()
    with pytest.raises(SnapvolError, match="no answer within 1 s"):
        worker.result()
    assert worker.late
    assert time.monotonic() - began < 5


DAEMON = """
import sys, threading
from snapvol.service import work
from snapvol.service.process import Worker
import msgspec
where = work.decode_request(sys.stdin.buffer.read()).work
worker = Worker(where)
threading.Thread(target=worker.result, daemon=True).start()
while worker._child is None:
    pass
print(worker._child.pid, flush=True)
threading.Event().wait()
"""


def test_T14_a_worker_ends_with_a_daemon_that_is_killed(silent: work.Place, tmp_path: Path) -> None:
    request = tmp_path / "request"
    request.write_bytes(work.encode(work.Request(parent=1, work=work.Probe(repository=silent))))
    script = tmp_path / "daemon.py"
    script.write_text(DAEMON)
    out = tmp_path / "out"
    shell = f'exec "{sys.executable}" "{script}" < "{request}" > "{out}"'
    command = ("timeout", "-s", "KILL", "5", "bash", "-c", shell)
    killed = threading.Thread(target=run, args=command, kwargs={"check": False})
    killed.start()
    wait_until(lambda: out.exists() and out.read_text().endswith("\n"), 10, "the worker")
    pid = int(out.read_text())
    assert alive(pid)
    killed.join(20)
    wait_until(lambda: not alive(pid), 5, "the worker to end with its daemon")


def test_what_a_worker_prints_goes_to_the_log_and_not_between_the_messages(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    initialise(settings, "default")
    (tmp_path / "sitecustomize.py").write_text("import sys; print('one'); print('two', file=sys.stderr)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    heard: list[work.Message] = []
    assert "id" in Worker(work.Probe(repository=place(settings)), heard.append).result()
    assert {message.line for message in heard if isinstance(message, work.Said)} >= {"one", "two"}
