"""The twenty rules of Docker's side (PROTOCOL.md, G1 … G20): raw requests to a real daemon, and real clients."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from support import raw
from support.breaks import Breaking, frozen
from support.containers import IMAGE, Docker, Podman
from support.process import Server, wait_until
from support.protocol import ID, ask, done, info, listed, plain_daemon
from support.scale import patient, scaled
from support.servers import Snapvol
from support.storage import KINDS, PLAIN

pytestmark = pytest.mark.root
Hosts = Callable[..., Snapvol]


@pytest.fixture(scope="module")
def host(place: Path) -> Iterator[Snapvol]:
    """One daemon for all tests that need no client."""
    with plain_daemon(place / "protocol") as daemon:
        yield daemon


@pytest.fixture
def volume(host: Snapvol, request: pytest.FixtureRequest) -> str:
    """A volume named after the test."""
    name = str(request.node.name).partition("[")[0][:60]
    done(ask(host, "Create", name))
    return name


# -- what the requests are --------------------------------------------------------------------------------------


def test_g01_an_empty_body_is_never_a_request(host: Snapvol, volume: str) -> None:
    before = listed(host)
    for verb in ("Create", "Mount", "Unmount", "Remove", "Path"):
        answer = raw.plugin(host.plugin_socket, verb)
        assert answer.status == 400
        assert answer.err
    assert raw.plugin(host.plugin_socket, "Get").status == raw.NOTHING
    for endpoint in ("/Plugin.Activate", "Capabilities", "List"):
        done(raw.plugin(host.plugin_socket, endpoint))
    assert listed(host) == before


def test_g01_docker_repeats_a_broken_create_without_its_body(
    own_docker: Callable[..., Docker], snapvol: Hosts, place: Path
) -> None:
    docker = own_docker()  # one that knows no other driver, which it would wait for
    host = snapvol(sockets=place)
    path = docker.plugins / "breaking.sock"
    front = Breaking(path, host.plugin_socket, "Create")
    try:
        created = docker.run("volume", "create", "--driver", "breaking", "web", check=False)
        assert front.broken == 1
        assert created.code != 0, "success was reported for a volume that was never made"
        assert "without a body" in created.stderr
        assert listed(host) == set()
        docker.run("volume", "create", "--driver", "breaking", "web")
        assert listed(host) == {"web"}
        docker.run("volume", "rm", "web")
    finally:
        front.close()
        path.unlink()


def test_g02_t41_get_answers_for_what_is_damaged_and_docker_keeps_its_references(
    docker: Docker, snapvol: Hosts
) -> None:
    host = snapvol()
    docker.run("volume", "create", "--driver", "snapvol", "--label", "team=web", "web")
    docker.background("user", "-v", "web:/data")
    mountpoint = Path(docker.inspect("volume", "web")["Mountpoint"])
    host.stop()
    (mountpoint.parent / "volume.json").write_text("")
    host.start()
    told = docker.inspect("volume", "web")
    assert (told["Labels"], told["Status"]["state"]) == ({"team": "web"}, "damaged")
    assert docker.run("volume", "rm", "web", check=False).code != 0
    assert docker.inspect("volume", "web")["Labels"] == {"team": "web"}


@pytest.mark.storage
def test_g03_t9_remove_looks_at_every_process(host: Snapvol, volume: str) -> None:
    mountpoint = done(ask(host, "Mount", volume, ID=ID))["Mountpoint"]
    script = 'mount --bind "$1" /mnt && echo mounted && exec sleep 600'
    elsewhere = Server(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", mountpoint],
        host.place / "other.log",
    )
    try:
        wait_until(lambda: "mounted" in elsewhere.output())
        done(ask(host, "Unmount", volume, ID=ID))
        refused = ask(host, "Remove", volume)
        assert refused.status == 500
        assert "in use" in refused.err
        assert str(elsewhere.pid) in refused.err, "the message names who has it"
    finally:
        elsewhere.stop()
    done(ask(host, "Remove", volume))
    assert volume not in listed(host)


@pytest.mark.parametrize(
    ("verb", "fields", "said"),
    [
        ("Create", {"Name": "x", "Opts": {"snapshto": "y"}}, "did you mean 'snapshot'?"),
        ("Create", {"Name": "a/b"}, "is not allowed"),
        ("Get", {"Name": "nobody"}, "no such volume"),
        ("Mount", {"Name": "nobody", "ID": ID}, "nobody"),
        ("Path", {"Name": "nobody"}, "nobody"),
    ],
)
def test_g04_errors_are_500_with_a_line_of_json(host: Snapvol, verb: str, fields: Any, said: str) -> None:
    answer = raw.plugin(host.plugin_socket, verb, fields)
    assert answer.status == 500
    assert said in answer.err
    assert "\n" not in answer.err
    assert list(answer.json) == ["Err"]


def test_g04_success_is_200_with_json_and_removing_nothing_is_success(host: Snapvol, volume: str) -> None:
    for verb in ("Create", "Get", "Path", "Mount", "Unmount", "Remove", "Remove"):
        assert done(ask(host, verb, volume, ID=ID))["Err"] == ""


def test_g04_docker_shows_the_error(docker: Docker, snapvol: Hosts) -> None:
    snapvol()
    failed = docker.run("volume", "create", "--driver", "snapvol", "-o", "snapshto=y", "web", check=False)
    assert "did you mean 'snapshot'?" in failed.stderr


def test_g05_created_is_rfc_3339_with_a_zone(host: Snapvol, volume: str) -> None:
    created = datetime.fromisoformat(done(ask(host, "Get", volume))["Volume"]["CreatedAt"])
    assert timedelta(0) <= datetime.now(UTC) - created < timedelta(minutes=2)


# -- mounts -----------------------------------------------------------------------------------------------------


@pytest.mark.storage
def test_g06_t8_ids_are_counted_and_never_trusted(host: Snapvol, volume: str) -> None:
    for verb, holders in (("Mount", 1), ("Mount", 2), ("Unmount", 1), ("Unmount", 0), ("Unmount", 0)):
        done(ask(host, verb, volume, ID=ID))
        assert info(host, volume)["holders"] == holders
    done(ask(host, "Mount", volume))
    done(ask(host, "Unmount", volume, ID="unknown"))
    assert info(host, volume)["holders"] == 1
    done(ask(host, "Unmount", volume))
    done(ask(host, "Unmount", "nobody", ID=ID))


@pytest.mark.storage
def test_g06_t8_docker_cp_a_hundred_times_on_a_running_container(
    docker: Docker, snapvol: Hosts, tmp_path: Path
) -> None:
    host = snapvol()
    docker.run("volume", "create", "--driver", "snapvol", "web")
    docker.background("user", "-v", "web:/data")
    (tmp_path / "file").write_text("copied in\n")
    for _ in range(scaled(50)):
        docker.run("cp", str(tmp_path / "file"), "user:/data/file")
        docker.run("cp", "user:/data/file", str(tmp_path / "out"))
    assert (tmp_path / "out").read_text() == "copied in\n"
    assert (info(host, "web")["holders"], info(host, "web")["mounted"]) == (1, True)
    assert "in use" in ask(host, "Remove", "web").err, "the container still runs"
    docker.run("stop", "--time", "0", "user")
    assert (info(host, "web")["holders"], info(host, "web")["mounted"]) == (0, False)


@pytest.mark.storage
def test_g06_t8_docker_is_killed_and_mounts_again_with_the_old_id(
    own_docker: Callable[..., Docker], snapvol: Hosts
) -> None:
    docker = own_docker()
    host = snapvol(sockets=docker.plugins)
    docker.run("volume", "create", "--driver", "snapvol", "--label", "team=web", "web")
    docker.background("user", "-v", "web:/data", command="echo one > /data/file; sleep 3600")
    wait_until(lambda: docker.run("exec", "user", "cat", "/data/file", check=False).stdout == "one\n")
    docker.kill_9()
    assert "in use" in ask(host, "Remove", "web").err, "the container outlives its dockerd"
    docker.start()
    docker.run("start", "user")
    assert docker.out("exec", "user", "cat", "/data/file") == "one"
    docker.run("stop", "--time", "0", "user")
    # The mount that the killed dockerd never ended is known by its client, which is gone.
    wait_until(lambda: info(host, "web")["holders"] == 0, 60)
    docker.run("rm", "user")
    assert docker.inspect("volume", "web")["Labels"] == {"team": "web"}
    docker.run("volume", "rm", "web")
    assert listed(host) == set()


@pytest.mark.storage
def test_g07_a_busy_volume_is_unmounted_all_the_same(host: Snapvol, volume: str) -> None:
    mountpoint = done(ask(host, "Mount", volume, ID=ID))["Mountpoint"]
    sitting = Server(["sh", "-c", 'cd "$1" && echo sits && exec sleep 600', "sh", mountpoint], host.place / "sits.log")
    try:
        wait_until(lambda: "sits" in sitting.output())
        done(ask(host, "Unmount", volume, ID=ID))
        assert info(host, volume)["holders"] == 0
    finally:
        sitting.stop()


@pytest.mark.storage
def test_g08_mounts_of_one_volume_come_from_everywhere_at_once(host: Snapvol, volume: str) -> None:
    def life(number: int) -> set[str]:
        mounted = {done(ask(host, "Mount", volume, ID=f"{number}"))["Mountpoint"] for _ in range(5)}
        for _ in range(5):
            done(ask(host, "Unmount", volume, ID=f"{number}"))
        return mounted

    with ThreadPoolExecutor(16) as pool:
        mountpoints = set[str]().union(*pool.map(life, range(scaled(32))))
    assert len(mountpoints) == 1
    assert info(host, volume)["holders"] == 0


# -- names and creation -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a/b", "../../etc/x", "/abs", "..", "sp ace", "ünï", "x" * 300, "-rf", "a\n", "a\0"])
def test_g09_t5_names_are_checked_here(host: Snapvol, name: str) -> None:
    before = listed(host)
    for verb in ("Create", "Mount", "Remove"):
        refused = ask(host, verb, name)
        assert refused.status == 500
        assert "volume name" in refused.err
    assert listed(host) == before


@pytest.mark.storage
@pytest.mark.parametrize("name", ["a", "A", "f" * 64, "x" * 128, "y" * 255, "config", "snapshots", "a.tmp", "a_b-c.d"])
def test_g09_t4_every_name_that_docker_allows(host: Snapvol, name: str) -> None:
    done(ask(host, "Create", name))
    assert done(ask(host, "Get", name))["Volume"]["Name"] == name
    Path(done(ask(host, "Mount", name, ID=ID))["Mountpoint"], "file").write_text("x")
    done(ask(host, "Unmount", name, ID=ID))
    done(ask(host, "Remove", name))


def test_g09_docker_passes_bad_names_on(docker: Docker, snapvol: Hosts) -> None:
    host = snapvol()
    failed = docker.run("volume", "create", "--driver", "snapvol", "../../etc/x", check=False)
    assert failed.code != 0
    assert listed(host) == set()


@pytest.mark.storage
def test_g10_create_is_idempotent_and_many_at_once_make_one(host: Snapvol) -> None:
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: ask(host, "Create", "once", Opts={"mode": "0750"}), range(scaled(32))))
    assert {answer.status for answer in answers} == {200}
    volume = info(host, "once")
    done(ask(host, "Create", "once", Opts={"mode": "0750"}))
    assert info(host, "once")["id"] == volume["id"]
    other = ask(host, "Create", "once", Opts={"mode": "0700"})
    assert other.status == 500
    assert "mode" in other.err, "the difference is named (T15)"


def full(host: Snapvol, name: str, files: int) -> None:
    """Make a volume whose copy takes a while."""
    mountpoint = Path(done(ask(host, "Create", name)) and done(ask(host, "Get", name))["Volume"]["Mountpoint"])
    for number in range(files):
        (mountpoint / f"{number:05}").write_bytes(b"x" * 4096)


def test_g10_t14_the_plugin_is_killed_in_the_middle_of_a_create(docker: Docker, snapvol: Hosts) -> None:
    host = snapvol("ext4")
    full(host, "web", 8000)
    results: list[Any] = []

    def create() -> None:
        results.append(
            docker.run("volume", "create", "--driver", "snapvol", "-o", "snapshot=web", "copy", check=False, seconds=60)
        )

    creating = threading.Thread(target=create)
    creating.start()
    pool = Path(host.settings["pools"]["default"]["path"])
    wait_until(lambda: sum(1 for _ in (pool / "tmp").rglob("*")) > 500, 30, "the copy to be under way")
    host.kill_9()
    assert listed_after(host) == {"web"}, "half made, and visible"
    creating.join()
    assert results[0].code != 0, "Docker repeats the request without its body, which must not be taken for success"
    assert not list((pool / "tmp").iterdir())
    docker.run("volume", "create", "--driver", "snapvol", "-o", "snapshot=web", "copy", seconds=120)
    wait_until(lambda: "copy" in listed(host), 60)
    assert int(docker.container("-v", "copy:/data", IMAGE, "sh", "-c", "ls /data | wc -l")) == 8000


def listed_after(host: Snapvol) -> set[str]:
    host.start()
    return listed(host)


# -- time -------------------------------------------------------------------------------------------------------


def test_g11_t19_everything_is_answered_in_five_seconds(
    snapvol: Hosts, filesystem: Callable[..., Path], place: Path
) -> None:
    disk = filesystem("xfs")
    host = snapvol(
        {"backend": "directory", "path": place / "pool-quick", "full_copies": True},
        pools={"slow": {"backend": "directory", "path": disk / "pool"}},
        sockets=place,
        start=False,
    )
    host.settings["pools"]["quick"] = {"backend": "directory", "path": place / "pool-quick", "full_copies": True}
    host.settings["daemon"]["default_pool"] = "quick"
    host.configure()
    host.start()
    done(ask(host, "Create", "old", Opts={"pool": "slow"}))
    done(ask(host, "Create", "other"))
    with frozen(disk) as thaw, ThreadPoolExecutor(4) as pool:
        creating = pool.submit(ask, host, "Create", "new", Opts={"pool": "slow"})
        removing = pool.submit(ask, host, "Remove", "old")
        time.sleep(0.5)
        for verb in ("Get", "Path", "Create", "Mount", "Unmount", "Remove"):
            assert ask(host, verb, "other", ID=ID).seconds < 1, f"{verb} of a volume elsewhere waits"
        assert {"old"} <= listed(host)
        assert ask(host, "Get", "new").status == 500, "half made"
        joined = ask(host, "Create", "new", Opts={"pool": "slow"})
        for answer in (creating.result(), joined):
            assert (answer.status, answer.seconds < 5) == (500, True)
            assert "still being created" in answer.err
        assert (removing.result().status, removing.result().seconds < 5) == (500, True)
        thaw()
    wait_until(lambda: ask(host, "Get", "new").status == 200, 20, "the work that went on")
    done(ask(host, "Create", "new", Opts={"pool": "slow"}))


def test_g11_podman_gives_up_after_five_seconds(
    podman: Podman, snapvol: Hosts, filesystem: Callable[..., Path]
) -> None:
    disk = filesystem("xfs")
    host = snapvol({"backend": "directory", "path": disk / "pool"})
    with frozen(disk):
        failed = podman.run("volume", "create", "--driver", "snapvol", "web", check=False)
        assert failed.code != 0
        assert "still being created" in failed.stderr, "our words, not Podman's timeout"
    wait_until(lambda: listed(host) == {"web"})
    podman.run("volume", "create", "--driver", "snapvol", "web")
    podman.container("-v", "web:/data", IMAGE, "sh", "-c", "echo one > /data/file")
    assert podman.container("-v", "web:/data", IMAGE, "cat", "/data/file") == "one"
    podman.run("volume", "rm", "web")


# systemd's part: listens, and starts the daemon with the socket when it likes.
ACTIVATOR = """
import os, socket, sys, time
path, trigger, *command = sys.argv[1:]
listener = socket.socket(socket.AF_UNIX)
listener.bind(path)
os.chmod(path, 0o600)
listener.listen(4096)
while not os.path.exists(trigger):
    time.sleep(0.02)
os.dup2(listener.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_FDS="1", LISTEN_FDNAMES="plugin", LISTEN_PID=str(os.getpid()))
os.execv(command[0], command)
"""


@pytest.mark.storage
def test_g12_g13_docker_with_500_volumes_starts_before_the_daemon(
    own_docker: Callable[..., Docker], snapvol: Hosts, tmp_path: Path
) -> None:
    """T12: every Get waits in the backlog of a socket that systemd holds, instead of 15 s for each volume."""
    docker = own_docker()
    host = snapvol(sockets=docker.plugins)
    names = {f"v{number:03}" for number in range(scaled(500))}
    with ThreadPoolExecutor(scaled(8, 1)) as pool:
        assert {answer.status for answer in pool.map(lambda name: ask(host, "Create", name), names)} == {200}
    docker.run("volume", "inspect", *sorted(names))  # now Docker knows them and will ask for each at its start
    began = time.monotonic()
    docker.restart()
    assert time.monotonic() - began < patient(45), "its volumes hold up a restart of Docker"

    docker.server.stop(60)
    assert host.stop() == 0
    assert not host.plugin_socket.exists(), "who stops in an orderly way leaves no stale socket"
    trigger = tmp_path / "trigger"
    daemon = [sys.executable, "-m", "snapvol", "daemon", "--config", str(host.config)]
    activated = Server([sys.executable, "-c", ACTIVATOR, host.plugin_socket, trigger, *daemon], host.log, env=host.env)
    try:
        wait_until(host.plugin_socket.exists)
        threading.Timer(3, trigger.touch).start()
        began = time.monotonic()
        docker.start()
        assert time.monotonic() - began < patient(45)
        assert set(docker.out("volume", "ls", "--quiet").split()) == names
        assert docker.inspect("volume", "v007")["Status"]["state"] == "ready"
        assert activated.stop() == 0
        assert host.plugin_socket.exists(), "the socket is systemd's"
    finally:
        activated.stop()
        host.plugin_socket.unlink(missing_ok=True)


def test_g13_a_thousand_connections_wait_in_the_backlog(host: Snapvol, volume: str) -> None:
    host.server.signal(signal.SIGSTOP)
    try:
        waiting = []
        for _ in range(1000):
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            waiting.append(connection)
            connection.connect(str(host.plugin_socket))  # EAGAIN where the backlog is full
            connection.send(raw.request("/VolumeDriver.Get", json.dumps({"Name": volume}).encode()))
    finally:
        host.server.signal(signal.SIGCONT)
    for connection in waiting:
        with connection:
            connection.settimeout(20)
            assert raw.parse(raw.receive(connection)).status == 200


def test_g14_every_answer_closes_its_connection(host: Snapvol, volume: str) -> None:
    for endpoint in ("/Plugin.Activate", "Capabilities", "List", "Get", "Path", "Mount", "Unmount", "Nonsense"):
        answer = raw.plugin(host.plugin_socket, endpoint, {"Name": volume, "ID": ID})
        assert answer.headers["connection"] == "close"


@pytest.mark.storage
def test_g15_the_mountpoint_is_the_same_everywhere(host: Snapvol, volume: str) -> None:
    before = done(ask(host, "Get", volume))["Volume"]["Mountpoint"]
    mounted = done(ask(host, "Mount", volume, ID=ID))["Mountpoint"]
    listing = done(raw.plugin(host.plugin_socket, "List"))["Volumes"]
    assert {before, mounted, done(ask(host, "Path", volume))["Mountpoint"]} == {before}
    assert [entry["Mountpoint"] for entry in listing if entry["Name"] == volume] == [before]
    assert Path(before).is_absolute()
    done(ask(host, "Unmount", volume, ID=ID))


@pytest.mark.storage
@pytest.mark.parametrize("kind", {PLAIN: 0, **dict.fromkeys(KINDS)})
def test_g16_a_fresh_volume_is_empty_and_docker_copies_the_image_into_it(
    docker: Docker, snapvol: Hosts, kind: str
) -> None:
    host = snapvol(kind)
    docker.run("volume", "create", "--driver", "snapvol", "web")
    done(ask(host, "Mount", "web", ID=ID))
    assert os.listdir(docker.inspect("volume", "web")["Mountpoint"]) == []
    done(ask(host, "Unmount", "web", ID=ID))
    assert docker.container("-v", "web:/image", IMAGE, "cat", "/image/from-image") == "from the image"


@pytest.mark.storage
def test_g17_an_empty_name_is_normal_traffic(own_docker: Callable[..., Docker], snapvol: Hosts) -> None:
    docker = own_docker()
    host = snapvol(sockets=docker.plugins)
    for content in ({"Name": ""}, {}):
        answer = raw.plugin(host.plugin_socket, "Get", content)
        assert answer.status == 500
        assert "no such volume" in answer.err
    host.cli("create", "ours")  # Docker finds it, writes it down without its name, and asks for "" at every start
    assert docker.inspect("volume", "ours")["Name"] == "ours"
    docker.restart()
    assert docker.inspect("volume", "ours")["Name"] == "ours"


@pytest.mark.parametrize("header", ["Host: ", "Host: plugin.moby.localhost", "Host: %2Frun%2Fx.sock", "Host: plugin"])
def test_g18_neither_host_nor_content_type_is_looked_at(host: Snapvol, volume: str, header: str) -> None:
    for kind in ("Accept: application/vnd.docker.plugins.v1.2+json", "Content-Type: text/html"):
        request = raw.request("/VolumeDriver.Get", json.dumps({"Name": volume}).encode(), headers=(header, kind))
        assert done(raw.exchange(host.plugin_socket, request))["Volume"]["Name"] == volume


def test_g19_the_scope_is_local(host: Snapvol, docker: Docker, snapvol: Hosts) -> None:
    assert done(raw.plugin(host.plugin_socket, "Capabilities", {})) == {"Capabilities": {"Scope": "local"}}
    snapvol()
    docker.run("volume", "create", "--driver", "snapvol", "web")
    assert docker.inspect("volume", "web")["Scope"] == "local"


@pytest.mark.storage
@pytest.mark.parametrize("options", [None, {}, {"uid": "7", "mode": "0700"}, {"o": "uid=7,mode=0700", "UID": "7"}])
def test_g20_options_as_clients_send_them(host: Snapvol, options: dict[str, str] | None) -> None:
    done(ask(host, "Create", "options", Opts=options))
    root = os.stat(done(ask(host, "Mount", "options", ID=ID))["Mountpoint"])
    done(ask(host, "Unmount", "options", ID=ID))
    assert (root.st_uid, root.st_mode & 0o7777) == ((7, 0o700) if options else (0, root.st_mode & 0o7777))
    done(ask(host, "Remove", "options"))


def test_g20_a_directory_refuses_a_quota_it_cannot_keep(docker: Docker, snapvol: Hosts) -> None:
    snapvol("ext4")
    refused = docker.run("volume", "create", "-d", "snapvol", "-o", "size=1G", "web", check=False)
    assert refused.code == 1
    assert "size" in refused.stderr
    assert "web" not in docker.out("volume", "ls", "--quiet").split()


def test_g20_podman_sends_options_in_its_own_way(podman: Podman, snapvol: Hosts) -> None:
    snapvol()
    podman.run("volume", "create", "--driver", "snapvol", "--opt", "o=uid=7,gid=8", "web")
    assert podman.container("-v", "web:/data", IMAGE, "stat", "-c", "%u:%g", "/data") == "7:8"
    refused = podman.run("volume", "create", "--driver", "snapvol", "--opt", "o=colour=red", "other", check=False)
    assert "colour" in refused.stderr
