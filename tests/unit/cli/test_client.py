"""The HTTP client: what it sends, what it makes of answers, and what it says when there is none."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from snapvol import errors
from snapvol.api import JobState, Plan, Status
from snapvol.client import Client, RestoreRequest
from snapvol.errors import DaemonUnreachable, SnapvolError, UsageError
from support.fake_api import Api, job, volume

WIKI = volume("wiki")
PLAN = Plan(actions=[], done=True)
SNAPSHOT = {"volume": "wiki", "name": "s", "id": "7", "created": None}
RESTORE = RestoreRequest(backup="wiki", volume="new", path="/a")
RESTORE_BODY = {"backup": "wiki", "volume": "new", "in_place": False, "path": "/a", "repository": None}

Call = Callable[[Client], Any]
CALLS: list[tuple[Call, str, str, Any, Any]] = [
    (lambda c: c.volumes(), "GET", "/v1/volumes", None, [WIKI]),
    (lambda c: c.volume("wiki"), "GET", "/v1/volumes/wiki", None, WIKI),
    (lambda c: c.volume("wiki", measure=True), "GET", "/v1/volumes/wiki?measure=true", None, WIKI),
    (
        lambda c: c.create("wiki", {"size": "1G"}, {"a": "b"}),
        "POST",
        "/v1/volumes",
        {"name": "wiki", "options": {"size": "1G"}, "labels": {"a": "b"}},
        WIKI,
    ),
    (lambda c: c.remove("wiki"), "DELETE", "/v1/volumes/wiki", None, PLAN),
    (lambda c: c.remove("w", dry_run=True), "DELETE", "/v1/volumes/w?dry_run=true", None, PLAN),
    (lambda c: c.remove("w", permanent=True), "DELETE", "/v1/volumes/w?permanent=true", None, PLAN),
    (
        lambda c: c.set_options("wiki", {"protect": None}),
        "PATCH",
        "/v1/volumes/wiki",
        {"options": {"protect": None}},
        WIKI,
    ),
    (lambda c: c.rename("wiki", "w2"), "POST", "/v1/volumes/wiki/rename", {"name": "w2"}, WIKI),
    (lambda c: c.resize("wiki", "2G"), "POST", "/v1/volumes/wiki/resize", {"size": "2G"}, WIKI),
    (lambda c: c.mount("wiki", "me"), "POST", "/v1/volumes/wiki/mount", {"id": "me"}, {"mountpoint": "/m"}),
    (lambda c: c.unmount("wiki", "me"), "POST", "/v1/volumes/wiki/unmount", {"id": "me"}, {}),
    (lambda c: c.log("wiki"), "GET", "/v1/volumes/wiki/log", None, []),
    (lambda c: c.snapshots(), "GET", "/v1/snapshots", None, [SNAPSHOT]),
    (lambda c: c.snapshots("wiki"), "GET", "/v1/volumes/wiki/snapshots", None, [SNAPSHOT]),
    (
        lambda c: c.snapshot(["a", "b"], None, "why"),
        "POST",
        "/v1/snapshots",
        {"volumes": ["a", "b"], "name": None, "message": "why"},
        [SNAPSHOT],
    ),
    (
        lambda c: c.destroy_snapshot("wiki", "s", dry_run=True),
        "DELETE",
        "/v1/volumes/wiki/snapshots/s?dry_run=true",
        None,
        PLAN,
    ),
    (lambda c: c.hold("wiki", "s", "t"), "POST", "/v1/volumes/wiki/snapshots/s/hold", {"tag": "t"}, SNAPSHOT),
    (lambda c: c.release("wiki", "s", "t"), "POST", "/v1/volumes/wiki/snapshots/s/release", {"tag": "t"}, SNAPSHOT),
    (
        lambda c: c.rollback("wiki", "s", dry_run=True),
        "POST",
        "/v1/volumes/wiki/rollback",
        {"snapshot": "s", "dry_run": True},
        PLAN,
    ),
    (lambda c: c.diff("w@a", "w"), "GET", "/v1/diff?a=w%40a&b=w", None, [{"path": "x", "kind": "added"}]),
    (
        lambda c: c.back_up(["w"], repository="r"),
        "POST",
        "/v1/backups",
        {"objects": ["w"], "all": False, "repository": "r"},
        [job()],
    ),
    (lambda c: c.backups("w"), "GET", "/v1/backups?volume=w", None, []),
    (lambda c: c.backups(), "GET", "/v1/backups", None, []),
    (lambda c: c.restore(RESTORE), "POST", "/v1/restores", {**RESTORE_BODY, "dry_run": False}, job()),
    (lambda c: c.plan_restore(RESTORE), "POST", "/v1/restores", {**RESTORE_BODY, "dry_run": True}, PLAN),
    (lambda c: c.verify(["x"]), "POST", "/v1/verifications", {"backups": ["x"], "repository": None}, [job()]),
    (
        lambda c: c.forget(["x"], "r", dry_run=False, force=True),
        "POST",
        "/v1/forget",
        {"backups": ["x"], "repository": "r", "dry_run": False, "force": True},
        PLAN,
    ),
    (lambda c: c.jobs(), "GET", "/v1/jobs", None, [job()]),
    (lambda c: c.job("1a2b3c4d"), "GET", "/v1/jobs/1a2b3c4d", None, job()),
    (lambda c: c.job_log("1a2b3c4d"), "GET", "/v1/jobs/1a2b3c4d/log", None, {"lines": ["a"]}),
    (lambda c: c.cancel("1a2b3c4d"), "POST", "/v1/jobs/1a2b3c4d/cancel", {}, job()),
    (lambda c: c.retry("1a2b3c4d"), "POST", "/v1/jobs/1a2b3c4d/retry", {}, job()),
    (lambda c: list(c.watch("1a2b3c4d")), "GET", "/v1/jobs/1a2b3c4d/events", None, job()),
    (lambda c: c.trash(), "GET", "/v1/trash", None, []),
    (lambda c: c.undelete("wiki", "w2"), "POST", "/v1/trash/wiki/undelete", {"name": "w2"}, WIKI),
    (lambda c: c.empty_trash(), "DELETE", "/v1/trash", None, PLAN),
    (lambda c: c.empty_trash("w", dry_run=True), "DELETE", "/v1/trash?name=w&dry_run=true", None, PLAN),
    (lambda c: c.status("w"), "GET", "/v1/status?volume=w", None, Status(ok=True)),
    (lambda c: c.config(), "GET", "/v1/config", None, {"a": {"value": 1, "origin": "default"}}),
    (lambda c: c.doctor(), "GET", "/v1/doctor", None, []),
]


@pytest.mark.parametrize(("call", "method", "path", "body", "answer"), CALLS, ids=[f"{c[1]} {c[2]}" for c in CALLS])
def test_every_method_sends_its_request(api: Api, call: Call, method: str, path: str, body: Any, answer: Any) -> None:
    api.on(method, path, answer)
    result = call(Client(api.path))
    assert api.said == [(method, path, body)]
    if "unmount" not in path:
        assert result is not None


def test_answers_come_back_as_the_daemon_has_them(api: Api) -> None:
    api.on("GET", "/v1/volumes/wiki", WIKI)
    assert Client(api.path).volume("wiki") == WIKI


def test_a_job_is_watched_to_its_end(api: Api) -> None:
    states = [JobState.QUEUED, JobState.RUNNING, JobState.DONE]
    api.on("GET", "/v1/jobs/j/events", lines=[job("j", state) for state in states])
    assert [seen.state for seen in Client(api.path).watch("j")] == states


KINDS = sorted(name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, SnapvolError))


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_comes_back_as_it_was(api: Api, kind: str) -> None:
    api.refuse("GET", "/v1/volumes", kind, "it did not work", "do this", 500)
    with pytest.raises(SnapvolError) as caught:
        Client(api.path).volumes()
    assert type(caught.value) is getattr(errors, kind)
    assert str(caught.value) == "it did not work; do this"


def test_an_error_of_a_later_daemon_is_an_error_too(api: Api) -> None:
    api.refuse("GET", "/v1/volumes", "FromTheFuture", "it did not work", None, 500)
    with pytest.raises(SnapvolError, match=r"^it did not work$"):
        Client(api.path).volumes()


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nnope!", "the daemon's answer is not understood"),
        (b'HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n[{"a":1}]', "the daemon's answer is not understood"),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\nnope", "status 404, Not Found"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n[", "the daemon ended before it answered"),
        (b"", "the daemon ended before it answered"),
        (b"not HTTP at all\r\n\r\n", "the daemon ended before it answered"),
    ],
)
def test_a_broken_answer_is_never_taken_for_an_empty_one(api: Api, raw: bytes, message: str) -> None:
    api.on("GET", "/v1/volumes", raw=raw)
    with pytest.raises(SnapvolError, match=message):
        Client(api.path).volumes()


def test_what_is_no_text_is_refused_before_it_is_sent(api: Api) -> None:
    """T34: a path on the command line may be any bytes."""
    with pytest.raises(UsageError, match="what was given is not UTF-8"):
        Client(api.path).restore(RestoreRequest(backup="wiki", in_place=True, path=os.fsdecode(b"\xff")))
    assert api.requests == []


def test_no_socket(tmp_path: Path) -> None:
    with pytest.raises(DaemonUnreachable) as caught:
        Client(tmp_path / "none.sock").volumes()
    assert str(caught.value) == (
        f"no daemon answers at {tmp_path}/none.sock; start it: systemctl start snapvol, or: snapvol daemon"
    )


def test_a_socket_that_a_dead_daemon_left(tmp_path: Path) -> None:
    path = tmp_path / "stale.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    with pytest.raises(DaemonUnreachable, match=r"no daemon answers at .*; start it"):
        Client(path).volumes()


def test_a_socket_that_is_not_for_us_names_the_group(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Forbidden(socket.socket):
        def connect(self, address: object) -> None:
            raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket, "socket", Forbidden)
    with pytest.raises(DaemonUnreachable, match=r"no permission to use .*; run this as root, or join its group"):
        Client(tmp_path / "api.sock").volumes()


def test_a_path_too_long_for_a_socket(tmp_path: Path) -> None:
    with pytest.raises(DaemonUnreachable, match=r"AF_UNIX path too long; check the path"):
        Client(tmp_path / ("x" * 200)).volumes()


def test_a_daemon_that_says_nothing(tmp_path: Path) -> None:
    path = Path("/tmp") / f"snapvol-silent-{tmp_path.name}.sock"
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(path))
        try:
            silent.listen()
            with pytest.raises(DaemonUnreachable, match="the daemon does not answer any more"):
                Client(path, seconds=0.1).volumes()
        finally:
            path.unlink()
