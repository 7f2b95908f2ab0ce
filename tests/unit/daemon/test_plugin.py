"""The rules of Docker's side, over raw requests and a service that can be made slow or wrong."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from snapvol.daemon import http, plugin
from snapvol.errors import AlreadyExists, InUse, NotReady, StorageFailed, UnknownOption
from support import raw
from support.process import wait_until

BODILESS = ("/Plugin.Activate", "/VolumeDriver.Capabilities", "/VolumeDriver.List")
WITH_BODY = ("Create", "Mount", "Unmount", "Remove", "Path", "Get")


def test_g01_an_empty_body_is_no_request(served: Any) -> None:
    served.service.add("web")
    for verb in ("Create", "Mount", "Unmount", "Remove", "Path"):
        for body in (b"", b"\n"):
            answer = raw.plugin(served.plugin, verb, body)
            assert answer.status == 400
            assert "without a body" in answer.err
    assert not served.service.calls
    for body in (b"", b" \n"):
        assert raw.plugin(served.plugin, "Get", body).status == raw.NOTHING
    chunked = b"POST /VolumeDriver.Create HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    assert raw.exchange(served.plugin, chunked).status == 400
    for endpoint in BODILESS:
        assert raw.plugin(served.plugin, endpoint).status == 200


def test_g02_get_that_cannot_answer_drops_the_connection(served: Any) -> None:
    served.service.add("web")

    def broken() -> None:
        raise RuntimeError("a defect")

    served.service.steps["volume"] = broken
    assert raw.plugin(served.plugin, "Get", {"Name": "web"}).status == raw.NOTHING


def test_g02_get_answers_for_a_damaged_volume(served: Any) -> None:
    served.service.add("web", damaged=True, error="volume.json is empty", created=None)
    volume = raw.plugin(served.plugin, "Get", {"Name": "web"}).json["Volume"]
    assert volume["Status"]["state"] == "damaged"
    assert volume["Status"]["error"] == "volume.json is empty"
    assert "CreatedAt" not in volume


def test_g04_errors_are_500_with_err_and_success_is_200_with_json(served: Any) -> None:
    served.service.add("web")
    for error in (UnknownOption("no option 'siez'", "did you mean 'size'?"), AlreadyExists("taken"), InUse("used")):

        def fail(error: Exception = error) -> None:
            raise error

        served.service.steps["create"] = fail
        answer = raw.plugin(served.plugin, "Create", {"Name": "new"})
        assert (answer.status, answer.json) == (500, {"Err": str(error)})
    for verb in ("Mount", "Unmount", "Path", "Get", "Remove"):
        answer = raw.plugin(served.plugin, verb, {"Name": "web"})
        assert answer.status == 200
        assert not answer.json["Err"]


def test_g04_a_defect_is_an_error_without_its_traceback(served: Any) -> None:
    def broken() -> None:
        raise RuntimeError("inner workings")

    served.service.steps["create"] = broken
    answer = raw.plugin(served.plugin, "Create", {"Name": "new"})
    assert answer.status == 500
    assert "inner workings" not in answer.err


def test_g05_created_has_a_zone(served: Any) -> None:
    served.service.add("web")
    created = datetime.fromisoformat(raw.plugin(served.plugin, "Get", {"Name": "web"}).json["Volume"]["CreatedAt"])
    assert created.tzinfo is not None


def test_g06_the_client_is_known_by_pid_and_start(served: Any) -> None:
    served.service.add("web")
    raw.plugin(served.plugin, "Mount", {"Name": "web", "ID": "a" * 64})
    _, name, holder, client = served.service.named("mount")[0]
    assert (name, holder) == ("web", "a" * 64)
    stat = Path("/proc/self/stat").read_text()
    assert (str(client.pid), client.start) == (stat.split()[0], int(stat.rpartition(")")[2].split()[19]))


def test_g07_a_failing_unmount_succeeds_for_docker(served: Any) -> None:
    served.service.add("web")

    def busy() -> None:
        raise StorageFailed("umount: target is busy")

    served.service.steps["unmount"] = busy
    assert raw.plugin(served.plugin, "Unmount", {"Name": "web", "ID": "x"}).status == 200
    assert raw.plugin(served.plugin, "Unmount", {"Name": "gone", "ID": "x"}).status == 200


def test_g08_one_volume_in_turn_and_others_at_once(served: Any) -> None:
    running: dict[str, int] = {}
    most: dict[str, int] = {}
    together = threading.Barrier(2)
    lock = threading.Lock()

    def work() -> None:
        name = threading.current_thread().name
        with lock:
            running["all"] = running.get("all", 0) + 1
            most["all"] = max(most.get("all", 0), running["all"])
        together.wait(5)  # two volumes are mounted at once, or this breaks
        with lock:
            running["all"] -= 1
        assert name.startswith("plugin")

    for name in ("a", "b"):
        served.service.add(name)
    served.service.steps["mount"] = work
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(raw.plugin, served.plugin, "Mount", {"Name": name}) for name in ("a", "b") * 4]
    assert {answer.result().status for answer in asked} == {200}
    assert most["all"] == 2


@pytest.mark.parametrize(
    "name", ["a/b", "../../etc/x", "/abs", "..", "sp ace", "ünï", "x" * 256, "-rf", "@a", "a\nb", "%41"]
)
def test_g09_t5_names_that_no_client_may_send(served: Any, name: str) -> None:
    for verb in ("Create", "Mount", "Unmount", "Remove", "Path"):
        answer = raw.plugin(served.plugin, verb, {"Name": name})
        assert answer.status == 500
        assert "volume name" in answer.err
        assert "\n" not in answer.err
    assert "no such volume" in raw.plugin(served.plugin, "Get", {"Name": name}).err
    assert not served.service.calls


@pytest.mark.parametrize("name", ["a", "7", "A.b_c-d", "f" * 64, "x" * 128, "y" * 255, "config", "web.tmp"])
def test_g09_t4_names_that_clients_do_send(served: Any, name: str) -> None:
    assert raw.plugin(served.plugin, "Create", {"Name": name}).status == 200
    assert raw.plugin(served.plugin, "Get", {"Name": name}).json["Volume"]["Name"] == name


def test_g10_a_second_create_joins_the_first(served: Any) -> None:
    for patience in (0.2, 2, 20):  # on a busy machine the second may come when the first is through
        made = _create_at_once(served, f"web{patience}", patience)
        if len(made) == 2:
            break
    assert sorted(made) == ["1G", "2G"]


def _create_at_once(served: Any, name: str, patience: float) -> list[str]:
    """Ask for one volume three times while it is made; return the sizes that the service was asked for."""
    begun, go = threading.Event(), threading.Event()

    def slow() -> None:
        begun.set()
        go.wait(60)

    def create(size: str) -> int:
        return raw.plugin(served.plugin, "Create", {"Name": name, "Opts": {"size": size}}).status

    served.service.steps["create"] = slow
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(create, "1G")
        assert begun.wait(30)
        second, other = pool.submit(create, "1G"), pool.submit(create, "2G")
        assert raw.plugin(served.plugin, "Get", {"Name": name}).status == 500, "half made"
        time.sleep(patience)
        go.set()
        assert [answer.result() for answer in (first, second, other)] == [200, 200, 200]
    return [options["size"] for _, made, options in served.service.named("create") if made == name]


def test_g11_every_answer_comes_in_time_and_the_work_goes_on(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugin, "ANSWER_SECONDS", 0.2)
    go = threading.Event()
    for verb in ("create", "mount", "unmount", "remove"):
        served.service.steps[verb] = lambda: go.wait(10)
    created = raw.plugin(served.plugin, "Create", {"Name": "web"})
    assert created.status == 500
    assert created.err == "volume 'web' is still being created; ask again in a few seconds"
    assert created.seconds < 2
    go.set()
    wait_until(lambda: "web" in served.service.known)
    go.clear()
    mounted = raw.plugin(served.plugin, "Mount", {"Name": "web", "ID": "m"})
    assert (mounted.status, "not mounted yet" in mounted.err) == (500, True)
    assert raw.plugin(served.plugin, "Unmount", {"Name": "web", "ID": "u"}).status == 200
    removed = raw.plugin(served.plugin, "Remove", {"Name": "web"})
    assert (removed.status, "not removed yet" in removed.err) == (500, True)
    go.set()
    # A removal whose turn came only after its answer is not done; a mount that nobody waits for is taken back.
    wait_until(lambda: [call[2] for call in served.service.named("unmount")] == ["u", "m"])
    assert not served.service.named("remove")
    assert raw.plugin(served.plugin, "Remove", {"Name": "web"}).status == 200


def test_g11_a_mount_whose_client_has_left_is_taken_back(served: Any) -> None:
    begun, go = threading.Event(), threading.Event()
    served.service.add("web")

    def slow() -> None:
        begun.set()
        go.wait(10)

    served.service.steps["mount"] = slow
    with raw.connect(served.plugin) as connection:
        connection.sendall(raw.request("/VolumeDriver.Mount", b'{"Name":"web","ID":"m"}'))
        assert begun.wait(5)
    time.sleep(0.1)
    go.set()
    wait_until(lambda: len(served.service.named("unmount")) == 1)


def test_g13_five_hundred_gets_at_once(served: Any) -> None:
    for number in range(500):
        served.service.add(f"v{number}")
    connections = [raw.connect(served.plugin) for _ in range(500)]
    for number, connection in enumerate(connections):
        connection.sendall(raw.request("/VolumeDriver.Get", json.dumps({"Name": f"v{number}"}).encode()))
    for number, connection in enumerate(connections):
        with connection:
            answer = raw.parse(raw.receive(connection))
            assert answer.json["Volume"]["Mountpoint"] == f"/fake/v{number}"


def test_g14_every_answer_closes_its_connection(served: Any) -> None:
    served.service.add("web")
    for endpoint in (*BODILESS, *(f"/VolumeDriver.{verb}" for verb in WITH_BODY), "/VolumeDriver.Nonsense"):
        for body in (b'{"Name":"web"}', b"{", b'{"Name":"nobody"}'):
            answer = raw.plugin(served.plugin, endpoint, body)  # returns only once the other side has closed
            assert answer.headers["connection"] == "close"


def test_g15_the_mountpoint_is_absolute_and_the_same_everywhere(served: Any) -> None:
    served.service.add("web")
    seen = {
        raw.plugin(served.plugin, "Mount", {"Name": "web", "ID": ""}).json["Mountpoint"],
        raw.plugin(served.plugin, "Mount", {"Name": "web"}).json["Mountpoint"],
        raw.plugin(served.plugin, "Path", {"Name": "web"}).json["Mountpoint"],
        raw.plugin(served.plugin, "Get", {"Name": "web"}).json["Volume"]["Mountpoint"],
        raw.plugin(served.plugin, "List").json["Volumes"][0]["Mountpoint"],
    }
    assert seen == {"/fake/web"}


def test_g17_an_empty_name_is_no_volume(served: Any) -> None:
    for content in ({"Name": ""}, {}, {"ID": "x"}):
        answer = raw.plugin(served.plugin, "Get", content)
        assert answer.status == 500
        assert answer.err.startswith("no such volume")


@pytest.mark.parametrize(
    "headers",
    [
        ("Host: ",),
        ("Host: plugin.moby.localhost", "User-Agent: Go-http-client/1.1"),
        ("Host: %2Frun%2Fdocker%2Fplugins%2Fsnapvol.sock",),
        ("Host: plugin", "Content-Type: application/vnd.docker.plugins.v1.1+json"),
        ("Host: x", "Content-Type: text/html"),
    ],
)
def test_g18_neither_host_nor_type_matters(served: Any, headers: tuple[str, ...]) -> None:
    served.service.add("web")
    answer = raw.exchange(served.plugin, raw.request("/VolumeDriver.Get", b'{"Name":"web"}\n', headers=headers))
    assert answer.json["Volume"]["Name"] == "web"


def test_g19_capabilities(served: Any) -> None:
    assert raw.plugin(served.plugin, "Capabilities", {}).json == {"Capabilities": {"Scope": "local"}}
    assert raw.plugin(served.plugin, "/Plugin.Activate").json == {"Implements": ["VolumeDriver"]}


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (b'{"Name":"v"}', {}),
        (b'{"Name":"v","Opts":null}', {}),
        (b'{"Name":"v","Opts":{}}', {}),
        (b'{"Name":"v","Opts":{"size":"1G","uid":"7"}}', {"size": "1G", "uid": "7"}),
        (b'{"Name":"v","Opts":{"o":"uid=7,size=1G","UID":"7","SIZE":"1G"}}', {"size": "1G", "uid": "7"}),
    ],
)
def test_g20_options_as_clients_send_them(served: Any, given: bytes, meant: dict[str, str]) -> None:
    assert raw.plugin(served.plugin, "Create", given).status == 200
    assert served.service.named("create") == [("create", "v", meant)]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"null", 400),
        (b"[]", 400),
        (b'"web"', 400),
        (b'{"Name":7}', 400),
        (b'{"Name":"v","Opts":[]}', 400),
        (b'{"Name":"v","Opts":{"size":1}}', 400),
        (b'{"Name":"v","Opts":{"size":null}}', 400),
        (b'{"Name":"\xff"}', 400),
        (b'{"Name":"\\ud800"}', 400),
        (b'{"a":' * 50_000, 400),
        (b"[" * 50_000, 400),
        (b'{"Name":"' + b"x" * http.LARGEST_BODY + b'"}', 413),
        (b'{"Name":"v","Opts":{"o":"uid"}}', 500),
        (b'{"Name":"v","Opts":{"o":"uid=7","uid":"8"}}', 500),
    ],
)
def test_t45_what_is_no_request_is_refused(served: Any, body: bytes, status: int) -> None:
    served.service.add("web")
    answer = raw.plugin(served.plugin, "Create", body)
    assert answer.status == status
    assert answer.err
    assert not served.service.named("create")
    assert raw.plugin(served.plugin, "Get", {"Name": "web"}).status == 200


def test_t45_a_hundred_megabytes_are_refused_unread(served: Any) -> None:
    announced = b"POST /VolumeDriver.Create HTTP/1.1\r\nHost: \r\nContent-Length: 104857600\r\n\r\n" + b"x" * 200_000
    answer = raw.exchange(served.plugin, announced)
    assert answer.status == 413
    endless = b"POST /VolumeDriver.Create HTTP/1.1\r\nHost: \r\nTransfer-Encoding: chunked\r\n\r\n"
    assert raw.exchange(served.plugin, endless + b"10000\r\n" + (b"x" * 65536 + b"\r\n10000\r\n") * 40).status == 413


def test_t45_who_sends_nothing_or_too_slowly_is_left(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "READ_SECONDS", 0.3)
    began = raw.request("/VolumeDriver.Get", b'{"Name":"web"}')
    answer = raw.exchange(served.plugin, began[:-5])
    assert answer.status == 408


def test_t45_nonsense_gets_a_4xx(served: Any, caplog: pytest.LogCaptureFixture) -> None:
    for data in (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"GET\r\n\r\n", b"POST / HTTP/9.9\r\n\r\n"):
        assert raw.exchange(served.plugin, data).status == 400
    assert raw.plugin(served.plugin, "Nonsense", {}).status == 404
    assert raw.plugin(served.plugin, "Nonsense", {}).err
    assert raw.exchange(served.plugin, raw.request("/VolumeDriver.List", method="GET")).status == 405
    assert "Traceback" not in caplog.text


def test_errors_of_a_restore_reach_the_mounter(served: Any) -> None:
    served.service.add("web")

    def restoring() -> None:
        raise NotReady("volume 'web' is being restored: 43 %", "try again in about 2 min")

    served.service.steps["mount"] = restoring
    answer = raw.plugin(served.plugin, "Mount", {"Name": "web", "ID": "x"})
    assert answer.err == "volume 'web' is being restored: 43 %; try again in about 2 min"


def test_who_measures_hears_of_volumes_made_and_used(served: Any) -> None:
    for verb, heard in (("Create", 1), ("Mount", 1), ("Get", 1), ("Unmount", 2), ("Remove", 2), ("Unmount", 2)):
        assert raw.plugin(served.plugin, verb, {"Name": "web"}).status == 200
        assert served.changed == ["web"] * heard
