"""The admin API over raw requests: routes, checks, errors, streams, and a document that tells the truth."""

from __future__ import annotations

import json
import threading
from typing import Any

import msgspec
import pytest
from openapi_spec_validator import validate

from snapvol.daemon import openapi
from snapvol.daemon.routes import TABLE
from snapvol.daemon.routing import Router
from snapvol.errors import InUse, NoSpace, PoolUnavailable, SnapvolError
from support import raw
from support.examples import api_requests
from support.process import wait_until


def ask(served: Any, method: str, target: str, body: object = None) -> raw.Answer:
    data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    return raw.exchange(served.api, raw.request(target, data, method))


def failed(answer: raw.Answer) -> tuple[int, str, str, str | None]:
    error = answer.json["error"]
    return answer.status, error["kind"], error["message"], error["hint"]


@pytest.mark.parametrize(("method", "target", "body"), list(api_requests()))
def test_every_route_answers_what_its_type_says(served: Any, method: str, target: str, body: bytes) -> None:
    served.service.add("web")
    answer = ask(served, method, target, body)
    assert answer.status == 200, answer.body
    assert answer.headers["connection"] == "close"
    route, _ = Router(TABLE).find(method, target.partition("?")[0])
    if not route.streams:
        assert answer.json is not None
        if len(openapi._answers(route)) == 1:
            msgspec.json.decode(answer.body, type=route.answer)


def test_the_document_is_valid_openapi_and_names_every_route(served: Any) -> None:
    document = ask(served, "GET", "/v1/openapi.json").json
    validate(document)
    described = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    about = {("GET", "/v1/openapi.json"), ("GET", "/metrics")}
    assert described == {(method, path) for method, path, _ in TABLE} | about
    operations = [operation for methods in document["paths"].values() for operation in methods.values()]
    assert len({operation["operationId"] for operation in operations}) == len(operations)
    restore = document["paths"]["/v1/restores"]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
    assert [part["$ref"].rpartition("/")[2] for part in restore["anyOf"]] == ["JobInfo", "Plan"]
    dry_run = document["paths"]["/v1/volumes/{volume}"]["delete"]["parameters"][1]
    assert (dry_run["name"], dry_run["schema"]["type"], dry_run["required"]) == ("dry_run", "boolean", False)


def test_what_is_asked_reaches_the_service(served: Any) -> None:
    served.service.add("web")
    body = {"name": "new", "options": {"size": "1G"}}
    assert ask(served, "POST", "/v1/volumes", body).json["options"] == {"size": "1G"}
    ask(served, "PATCH", "/v1/volumes/web", {"options": {"protect": "true", "policy": None}})
    assert served.service.named("set_options") == [("set_options", "web", {"protect": "true", "policy": None})]
    assert ask(served, "POST", "/v1/volumes/web/mount", {"id": "me"}).json == {"mountpoint": "/fake/web"}
    assert served.service.named("mount") == [("mount", "web", "me", None)]
    assert ask(served, "DELETE", "/v1/trash?dry_run=true").json == {"actions": [], "done": False}
    assert ask(served, "DELETE", "/v1/trash?dry_run=false").json == {"actions": [], "done": True}


@pytest.mark.parametrize(
    ("method", "target", "body", "status", "kind", "message", "hint"),
    [
        ("GET", "/v2/volumes", None, 404, "NotFound", "the API has no /v2/volumes", "see GET /v1/openapi.json"),
        ("GET", "/v1/volumes/", None, 400, "InvalidName", "volume name is empty", None),
        ("GET", "/v1/volumes/no", None, 404, "NotFound", "volume 'no' does not exist", "see: snapvol ls"),
        ("GET", "/v1/volumes/..%2Fx", None, 400, "InvalidName", "volume name '../x' is not allowed", None),
        ("GET", "/v1/volumes/a%00b", None, 400, "InvalidName", "volume name 'a\\x00b' is not allowed", None),
        ("DELETE", "/v1/volumes/web/snapshots/-rf", None, 400, "InvalidName",
         "snapshot name '-rf' is not allowed", None),
        ("GET", "/v1/jobs/..%2F..", None, 400, "InvalidName", "'../..' is no id", None),
        ("POST", "/v1/trash/a%20b/undelete", {}, 400, "InvalidName", "'a b' is no id", None),
        ("GET", "/v1/volumes?x=1", None, 400, "UnknownOption", "/v1/volumes takes no 'x'", None),
        ("DELETE", "/v1/volumes/web?dryrun=1", None, 400, "UnknownOption", "unknown parameter 'dryrun'",
         "did you mean 'dry_run'?"),
        ("DELETE", "/v1/volumes/web?dry_run=perhaps", None, 400, "UsageError",
         "the parameters cannot be read: Expected `bool`, got `str` - at `dry_run`", "parameters: dry_run, permanent"),
        ("DELETE", "/v1/volumes/web?dry_run=1&dry_run=0", None, 400, "UsageError",
         "'dry_run' is given more than once", None),
        ("POST", "/v1/volumes", {"name": "x", "option": {}}, 400, "UnknownOption", "unknown field 'option'",
         "did you mean 'options'?"),
        ("POST", "/v1/volumes", {}, 400, "UsageError",
         "the fields cannot be read: Object missing required field `name`", "fields: name, options, labels"),
        ("POST", "/v1/volumes", None, 400, "UsageError",
         "the fields cannot be read: Object missing required field `name`", "fields: name, options, labels"),
        ("POST", "/v1/volumes", {"name": 7}, 400, "UsageError",
         "the fields cannot be read: Expected `str`, got `int` - at `name`", "fields: name, options, labels"),
        ("POST", "/v1/volumes", {"name": "x", "options": {"size": 1}}, 400, "UsageError",
         "the fields cannot be read: Expected `str`, got `int` - at `options[...]`", "fields: name, options, labels"),
        ("POST", "/v1/volumes", b"[]", 400, "UsageError",
         "the fields cannot be read: Expected `object`, got `array`", "fields: name, options, labels"),
        ("POST", "/v1/volumes", b'{"name":"\xff"}', 400, "UsageError", None, None),
        ("POST", "/v1/volumes", b'{"name":' + b"[" * 40_000, 400, "UsageError", None, None),
        ("POST", "/v1/volumes", b'{"name":"' + b"x" * 2**20 + b'"}', 413, "UsageError", None, None),
        ("POST", "/v1/jobs/j1/cancel", {"force": True}, 400, "UnknownOption", "unknown field 'force'", None),
        ("GET", "/v1/volumes", {}, 400, "UsageError", "GET /v1/volumes takes no body", None),
        ("GET", "/v1/jobs/none/events", None, 404, "NotFound", "job 'none' does not exist", "see: snapvol jobs"),
    ],
)  # fmt: skip
def test_t16_what_is_wrong_is_said(
    served: Any, method: str, target: str, body: object, status: int, kind: str, message: str | None, hint: str | None
) -> None:
    served.service.add("web")
    got = failed(ask(served, method, target, body))
    assert got[:2] == (status, kind)
    assert message is None or got[2] == message
    assert hint is None or got[3] == hint
    assert "\n" not in got[2]
    assert not [call for call in served.service.calls if call[0] != "volume"]


def test_a_method_that_a_path_does_not_take(served: Any) -> None:
    answer = ask(served, "PUT", "/v1/volumes/web")
    assert failed(answer) == (405, "UsageError", "/v1/volumes/web does not take PUT", "it takes GET, DELETE, PATCH")
    assert answer.headers["allow"] == "GET, DELETE, PATCH"
    assert ask(served, "POST", "/metrics").headers["allow"] == "GET"


@pytest.mark.parametrize(
    "error",
    [
        InUse("volume 'web' is in use", "stop: db"),
        PoolUnavailable("pool 'p' is not there"),
        NoSpace("pool 'p' is full: 3 of 100 GiB"),
        SnapvolError("it failed"),
    ],
)
def test_an_error_keeps_status_kind_message_and_hint(served: Any, error: SnapvolError) -> None:
    def fail() -> None:
        raise error

    served.service.add("web")
    served.service.steps["resize"] = fail
    got = failed(ask(served, "POST", "/v1/volumes/web/resize", {"size": "1G"}))
    assert got == (error.status, type(error).__name__, error.message, error.hint)


def test_a_defect_is_told_without_its_traceback(served: Any, caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> None:
        raise RuntimeError("inner workings")

    served.service.steps["volumes"] = broken
    answer = ask(served, "GET", "/v1/volumes")
    assert answer.status == 500
    assert b"inner workings" not in answer.body
    assert "inner workings" in caplog.text


def test_a_job_streams_until_its_end(served: Any) -> None:
    answer = ask(served, "GET", "/v1/jobs/j1/events")
    assert answer.headers["content-type"] == "application/x-ndjson"
    text, lines = answer.body, []
    while text:  # chunked: size, data
        size, _, text = text.partition(b"\r\n")
        lines += text[: int(size, 16)].splitlines()
        text = text[int(size, 16) + 2 :]
    assert [json.loads(line)["state"] for line in lines] == ["running", "running", "done"]


def test_a_watcher_that_leaves_is_let_go(served: Any) -> None:
    served.service.jobs.steps = 10**9
    with raw.connect(served.api) as connection:
        connection.sendall(raw.request("/v1/jobs/j1/events", method="GET"))
        assert connection.recv(100).startswith(b"HTTP/1.1 200")
    wait_until(served.service.jobs.left.is_set, 10)


def test_t19_slow_administration_takes_nothing_from_docker(served: Any) -> None:
    served.service.add("web")
    go = threading.Event()
    served.service.steps["resize"] = lambda: go.wait(20)
    asked = [
        threading.Thread(target=ask, args=(served, "POST", "/v1/volumes/web/resize", {"size": "1G"})) for _ in range(40)
    ]
    for thread in asked:
        thread.start()
    wait_until(lambda: len(served.service.named("resize")) == 32)
    for verb in ("Get", "Mount", "Path"):
        assert raw.plugin(served.plugin, verb, {"Name": "web"}).seconds < 2
    go.set()
    for thread in asked:
        thread.join()


def test_t45_idle_connections_give_way_to_real_ones(served: Any) -> None:
    served.service.add("web")
    for edge in served.edges:
        edge.server.most = 20
    idle = [raw.connect(path) for path in (served.plugin, served.api) for _ in range(100)]
    assert raw.plugin(served.plugin, "Get", {"Name": "web"}).status == 200
    assert ask(served, "GET", "/v1/volumes").status == 200
    for connection in idle:
        connection.close()
