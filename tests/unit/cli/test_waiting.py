"""Long work: progress, warnings, how it ends, Ctrl-C."""

from __future__ import annotations

import subprocess  # noqa: TID251
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from snapvol.api import JobInfo, JobProgress, JobState
from snapvol.cli.progress import Counter, Lines, described, display
from snapvol.client import Client
from support.fake_api import CREATED, Api, Result, as_terminal, job

Snapvol = Callable[..., Result]
EVENTS = "/v1/jobs/1a2b3c4d/events"
RESULT = {
    "id": "f" * 64,
    "files": 3,
    "bytes_total": 5 << 20,
    "bytes_added": 1 << 20,
    "incomplete": False,
    "problems": [],
}
DONE = job(result=RESULT, started=CREATED, ended=CREATED + timedelta(seconds=4))
HALF = JobProgress(
    phase="backing up",
    bytes_done=1 << 20,
    bytes_total=2 << 20,
    files_done=1,
    files_total=3,
    rate=1024.0,
    eta_seconds=70,
)


def test_backup_waits_and_says_what_was_done(api: Api, snapvol: Snapvol) -> None:
    api.on("POST", "/v1/backups", [job(state=JobState.QUEUED)])
    api.on("GET", EVENTS, lines=[job(state=JobState.RUNNING, progress=HALF), DONE])
    result = snapvol("backup", "wiki")
    assert result == Result(0, "backup ffffffff of wiki: 3 files, 5.0 MiB, 1.0 MiB of it new, in 4.0 s\n", "")
    assert api.said[0][2] == {"objects": ["wiki"], "all": False, "repository": None}


def test_a_backup_that_builds_on_another_says_how_much_it_read(api: Api, snapvol: Snapvol) -> None:
    api.on("POST", "/v1/backups", [job(state=JobState.QUEUED)])
    api.on("GET", EVENTS, replace(DONE, result={**RESULT, "base": "b", "bytes_read": 3 << 20}))
    result = snapvol("backup", "wiki")
    assert result.out == (
        "backup ffffffff of wiki: 3 files, 5.0 MiB, 3.0 MiB of it read, 1.0 MiB of it new, in 4.0 s\n"
    )


def test_detached_it_prints_the_job(api: Api, snapvol: Snapvol) -> None:
    api.on("POST", "/v1/backups", [job("11111111"), job("22222222")])
    assert snapvol("backup", "a", "b", "-d") == Result(0, "11111111\n22222222\n", "")
    assert [each["id"] for each in snapvol("backup", "a", "-d", "--json").json] == ["11111111", "22222222"]


def test_json_is_the_job_as_it_ended(api: Api, snapvol: Snapvol) -> None:
    api.on("POST", "/v1/backups", [job(state=JobState.QUEUED)])
    api.on("GET", EVENTS, DONE)
    assert snapvol("backup", "wiki", "--json").json["result"]["files"] == 3


def test_backup_wants_volumes_or_all(snapvol: Snapvol) -> None:
    for argv in (["backup"], ["backup", "--all", "wiki"]):
        result = snapvol(*argv)
        assert result == Result(
            2, "", "snapvol: name volumes, or say --all; snapvol backup VOLUME…, or: snapvol backup --all\n"
        )


def test_warnings_are_passed_on_once_each(api: Api, snapvol: Snapvol) -> None:
    api.on("GET", "/v1/jobs/1a2b3c4d", job(state=JobState.RUNNING))
    states = [["a"], ["a"], ["a", "b\x1b[2J"]]
    api.on(
        "GET",
        EVENTS,
        lines=[*(job(state=JobState.RUNNING, warnings=each) for each in states), job(warnings=states[-1])],
    )
    result = snapvol("job", "wait", "1a2b3c4d")
    assert result.err == "snapvol: warning: a\nsnapvol: warning: b\\x1b[2J\n"
    assert result.out == "backup of wiki: done\n"


@pytest.mark.parametrize(
    ("fields", "code", "message"),
    [
        (
            {"state": "failed", "error": "S3 does not answer", "error_kind": "RepositoryUnreachable", "hint": "wait"},
            5,
            "backup of wiki failed: S3 does not answer; wait",
        ),
        (
            {"state": "failed", "error": "it broke", "error_kind": "SnapvolError"},
            1,
            "backup of wiki failed: it broke; see: snapvol job log 1a2b3c4d",
        ),
        (
            {"state": "failed", "error": "no room", "error_kind": "NoSpace", "hint": "h"},
            4,
            "backup of wiki failed: no room; h",
        ),
        ({"state": "failed", "error": "x", "error_kind": "ToolFailed", "hint": "h"}, 1, "backup of wiki failed: x; h"),
        (
            {"state": "cancelled"},
            1,
            "backup of wiki was cancelled; start it again: snapvol job retry 1a2b3c4d",
        ),
        (
            {"state": "interrupted", "error": "interrupted: the daemon was stopped", "hint": "retry with: …"},
            1,
            "backup of wiki: interrupted: the daemon was stopped; retry with: …",
        ),
        (
            {"state": "done", "result": {**RESULT, "incomplete": True, "problems": ["a: x", "b: y"]}},
            1,
            "backup ffffffff of wiki is incomplete: 2 problems; see: snapvol job show 1a2b3c4d",
        ),
    ],
)
def test_T26_what_is_not_wholly_done_is_a_failure(
    api: Api, snapvol: Snapvol, fields: dict[str, Any], code: int, message: str
) -> None:
    ended = job(**{**fields, "state": JobState(fields["state"])})
    api.on("POST", "/v1/backups", [ended])
    api.on("GET", EVENTS, ended)
    assert snapvol("backup", "wiki") == Result(code, "", f"snapvol: {message}\n")


def test_of_several_jobs_all_are_waited_for(api: Api, snapvol: Snapvol) -> None:
    jobs = [job("11111111"), job("22222222"), job("33333333")]
    api.on("POST", "/v1/backups", jobs)
    api.on("GET", "/v1/jobs/11111111/events", job("11111111", JobState.FAILED, object="a", error="x", hint="h"))
    api.on("GET", "/v1/jobs/22222222/events", job("22222222", JobState.FAILED, object="b", error="y", hint="h"))
    api.on("GET", "/v1/jobs/33333333/events", job("33333333", object="c", result=RESULT))
    result = snapvol("backup", "--all")
    assert result.code == 1
    assert result.out.startswith("backup ffffffff of c: ")
    assert result.err == "snapvol: backup of a failed: x; h\nsnapvol: backup of b failed: y; h\n"


def test_a_daemon_that_stops_in_the_middle_is_no_success(api: Api, snapvol: Snapvol) -> None:
    running = job(state=JobState.RUNNING)
    api.on("POST", "/v1/backups", [running])
    api.on("GET", EVENTS, running)
    api.on("GET", "/v1/jobs/1a2b3c4d", running)
    assert snapvol("backup", "wiki").err == (
        "snapvol: backup of wiki goes on, but the daemon tells no more of it; see: snapvol job show 1a2b3c4d\n"
    )


def test_ctrl_c_cancels_the_job_and_says_so(api: Api, snapvol: Snapvol, monkeypatch: pytest.MonkeyPatch) -> None:
    watch = Client.watch
    presses = iter([True])

    def pressed(client: Client, id: str) -> Iterator[JobInfo]:
        if next(presses, False):
            raise KeyboardInterrupt
        yield from watch(client, id)

    monkeypatch.setattr(Client, "watch", pressed)
    api.on("POST", "/v1/backups", [job(state=JobState.RUNNING)])
    api.on("POST", "/v1/jobs/1a2b3c4d/cancel", job(state=JobState.RUNNING))
    api.on("GET", EVENTS, job(state=JobState.CANCELLED))
    result = snapvol("backup", "wiki")
    assert result.code == 1
    assert result.err == (
        "snapvol: cancelling; press Ctrl-C again to leave without waiting\n"
        "snapvol: backup of wiki was cancelled; start it again: snapvol job retry 1a2b3c4d\n"
    )


def test_ctrl_c_comes_too_late_for_a_job_that_has_just_ended(
    api: Api, snapvol: Snapvol, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Client.watch
    presses = iter([True])

    def pressed(client: Client, id: str) -> Iterator[JobInfo]:
        if next(presses, False):
            raise KeyboardInterrupt
        yield from watch(client, id)

    monkeypatch.setattr(Client, "watch", pressed)
    api.on("POST", "/v1/backups", [job(state=JobState.RUNNING)])
    api.refuse("POST", "/v1/jobs/1a2b3c4d/cancel", "Refused", "it has ended", None, 409)
    api.on("GET", EVENTS, DONE)
    assert snapvol("backup", "wiki").code == 0


def test_retry_waits_for_the_new_job(api: Api, snapvol: Snapvol) -> None:
    api.on("POST", "/v1/jobs/1a2b3c4d/retry", job("22222222", JobState.QUEUED))
    api.on("GET", "/v1/jobs/22222222/events", job("22222222"))
    assert snapvol("job", "retry", "1a2b3c4d").out == "backup of wiki: done\n"


def test_verify(api: Api, snapvol: Snapvol) -> None:
    whole = job(kind="verify", object="ffffffff", result={"files": 2, "bytes": 1024, "problems": []})
    api.on("POST", "/v1/verifications", [whole])
    api.on("GET", EVENTS, whole)
    assert snapvol("verify", "wiki") == Result(0, "ffffffff: whole, 2 files, 1.0 KiB\n", "")


def test_T30_verify_of_a_damaged_backup_fails(api: Api, snapvol: Snapvol) -> None:
    damaged = job(kind="verify", object="ffffffff", result={"files": 2, "bytes": 1024, "problems": ["a: lost"]})
    api.on("POST", "/v1/verifications", [damaged])
    api.on("GET", EVENTS, damaged)
    assert snapvol("verify", "wiki") == Result(
        1,
        "",
        "snapvol: backup ffffffff is damaged: 1 problem; "
        "see: snapvol job show 1a2b3c4d; make a new one: snapvol backup\n",
    )


@pytest.mark.parametrize(
    ("made", "shown"),
    [
        (JobProgress(), "starting"),
        (JobProgress(phase="taking a snapshot"), "taking a snapshot"),
        (HALF, "50 %, backing up, 1.0 MiB of 2.0 MiB, 1 of 3 files, 1.0 KiB/s, a minute left"),
        (JobProgress(bytes_done=5, files_done=2), "5 B, 2 files"),
    ],
)
def test_progress_in_words(made: JobProgress, shown: str) -> None:
    assert described(made) == shown


def test_lines_come_every_few_seconds_only(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    clock = [0.0]
    monkeypatch.setattr("snapvol.cli.progress.time.monotonic", lambda: clock[0])
    with display() as shown:
        assert isinstance(shown, Lines)
        for second in range(12):
            clock[0] = float(second)
            shown.show("backup of wiki", HALF)
    assert capsys.readouterr().err.splitlines() == [f"backup of wiki: {described(HALF)}"] * 2


def test_bars_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    as_terminal(monkeypatch)
    with display() as shown:
        shown.show("backup of [wiki]", HALF)
        shown.say("snapvol: warning: [x] \x1b[2J")
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "snapvol: warning: [x] \\x1b[2J" in printed.err


def test_work_in_this_process_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("snapvol.cli.progress.time.monotonic", lambda: clock[0])
    seen: list[JobProgress] = []

    class Seen(Lines):
        def show(self, title: str, progress: JobProgress) -> None:
            seen.append(progress)

    counter = Counter("restore", Seen())
    counter.total(4, 4096)
    clock[0] = 2.0
    counter.advance(2048, 1)
    counter.advance(1, 1)  # too soon to be shown
    assert [(each.bytes_done, each.files_total, each.rate, each.eta_seconds) for each in seen] == [
        (2048, 4, 1024.0, 2.0)
    ]


def test_problems_in_this_process_are_told_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    counter = Counter("restore", Lines())
    counter.note("a\nb", "cannot be made")
    assert capsys.readouterr().err == "snapvol: warning: a\\nb: cannot be made\n"


def test_ctrl_c_in_a_real_process_cancels(api: Api) -> None:
    """The signal itself, sent while the program waits for the stream."""
    import signal
    import sys

    from support.process import wait_until

    api.on("POST", "/v1/backups", [job(state=JobState.RUNNING)])
    api.on("GET", EVENTS, hold=True)
    api.on("GET", EVENTS, job(state=JobState.CANCELLED))
    api.on("POST", "/v1/jobs/1a2b3c4d/cancel", job(state=JobState.RUNNING))
    program = subprocess.Popen(
        [sys.executable, "-m", "snapvol", "backup", "wiki"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    wait_until(lambda: ("GET", EVENTS, None) in api.said)
    program.send_signal(signal.SIGINT)
    out, err = program.communicate(timeout=30)
    assert program.returncode == 1
    assert out == ""
    assert err.splitlines()[-1].startswith("snapvol: backup of wiki was cancelled")
    assert ("POST", "/v1/jobs/1a2b3c4d/cancel", {}) in api.said
