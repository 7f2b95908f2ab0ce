"""The dead man's switch: what it tells a server of this machine, when it keeps silent, and what it never says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from snapvol.api import Finding, Level, Status
from snapvol.service import ping as pinging
from snapvol.service.ping import Ping
from snapvol.settings import PingSettings
from support.receiver import Receiver, receiver

SECRET = "0b7a-secret"
GONE = Finding(level=Level.ERROR, subject="pool 'tank'", message="its disk is missing", command="snapvol doctor")
UNBACKED = Finding(level=Level.WARNING, subject="volume 'web'", message="has never been backed up")


@pytest.fixture
def server() -> Iterator[Receiver]:
    with receiver() as made:
        yield made


@pytest.fixture
def file(tmp_path: Path, server: Receiver) -> Path:
    made = tmp_path / "ping.url"
    made.touch(mode=0o600)
    made.write_text(server.url(SECRET, "http") + "\n")
    return made


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Let time pass, as the ping sees it."""
    clock = 1000.0

    def later(seconds: float) -> None:
        nonlocal clock
        clock += seconds

    monkeypatch.setattr(pinging, "time", SimpleNamespace(monotonic=lambda: clock))
    return later


class Watched:
    def __init__(self, file: Path | None) -> None:
        self.found: list[Finding] = []
        self.breaks = False
        self.switch = Ping(PingSettings(url_file=file, every="5m"), self.look)
        self.ping = self.switch.ping

    def look(self) -> Status:
        if self.breaks:
            raise RuntimeError(SECRET)
        return Status(ok=not self.found, findings=self.found)


def test_it_is_told_every_few_minutes_that_all_is_well(
    server: Receiver, file: Path, later: Callable[[float], None]
) -> None:
    watched = Watched(file)
    watched.found = [UNBACKED]  # no error
    for _ in range(11):
        watched.ping()
        later(60)
    assert [(request.method, request.path) for request in server.requests] == [("GET", f"/{SECRET}")] * 3


def test_an_error_is_told_at_once_with_its_text_and_so_is_its_end(
    server: Receiver, file: Path, later: Callable[[float], None]
) -> None:
    watched = Watched(file)
    for found in ([], [UNBACKED, GONE], [UNBACKED, GONE], []):
        watched.found = found
        watched.ping()
        later(60)
    assert [(request.method, request.path) for request in server.requests] == [
        ("GET", f"/{SECRET}"),
        ("POST", f"/{SECRET}/fail"),
        ("GET", f"/{SECRET}"),
    ]
    assert server.requests[1].body == b"pool 'tank': its disk is missing; do: snapvol doctor\n"


def test_a_daemon_that_cannot_look_does_not_claim_to_be_well(server: Receiver, file: Path) -> None:
    watched = Watched(file)
    watched.breaks = True
    watched.ping()
    (request,) = server.requests
    assert (request.method, request.path) == ("POST", f"/{SECRET}/fail")
    assert request.body == b"snapvol cannot say how it is: RuntimeError\n"


@pytest.mark.parametrize("breakage", ["refuses", "gone", "no name"])
def test_t42_a_service_that_does_not_answer_is_a_finding_without_its_url(
    server: Receiver, file: Path, breakage: str, caplog: pytest.LogCaptureFixture, later: Callable[[float], None]
) -> None:
    watched = Watched(file)
    good = file.read_text()
    if breakage == "refuses":
        server.status = 404
    elif breakage == "gone":
        server.stop()
    else:
        file.write_text(f"https://{SECRET}.invalid/{SECRET}\n")
    watched.ping()
    watched.ping()
    (finding,) = watched.switch.findings()
    assert (finding.level, finding.subject) == (Level.WARNING, "ping")
    assert "no good answer" in finding.message
    assert finding.command == f"look at the URL in {file}"
    assert SECRET not in finding.message + caplog.text
    assert len(caplog.records) == 1, "it is said once"
    with receiver() as other:
        file.write_text(good.replace(str(server.port), str(other.port)))
        watched.ping()
        assert watched.switch.findings() == []
        assert len(other.requests) == 1


def test_t43_a_url_that_others_can_read_is_refused(server: Receiver, file: Path) -> None:
    watched = Watched(file)
    file.chmod(0o640)
    watched.ping()
    assert server.requests == []
    assert watched.switch.findings()[0].command == f"chmod 600 {file}"


@pytest.mark.parametrize("text", ["", "nonsense", f"file:///etc/{SECRET}", f"ftp://x/{SECRET}"])
def test_only_the_web_is_asked(file: Path, text: str) -> None:
    watched = Watched(file)
    file.write_text(text)
    watched.ping()
    (finding,) = watched.switch.findings()
    assert SECRET not in finding.message


def test_without_a_url_nobody_is_asked_anything() -> None:
    watched = Watched(None)
    watched.breaks = True
    watched.ping()
    assert watched.switch.findings() == []
