"""The main job with a real Docker Engine, a real S3 server and containers that run all the while."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.containers import IMAGE, Docker
from support.process import Result, wait_until
from support.scale import patient
from support.servers import Snapvol
from support.storage import KINDS, PLAIN

pytestmark = [pytest.mark.root, pytest.mark.storage]
Hosts = Callable[..., Snapvol]

# What a container writes: several sizes, a hard link, a symbolic link, an owner and a mode of its own, an old time.
FILL = """
set -e
mkdir -p /data/pages
dd if=/dev/urandom of=/data/upload bs=64k count=48 2>/dev/null
echo home > /data/pages/home
ln /data/pages/home /data/pages/index
ln -s pages/home /data/start
chmod 0640 /data/upload
touch -d '2001-02-03 04:05:06' /data/pages/home
sync
"""
# Every name with its kind, mode, owner and time, what is in links and files, and what the file system counts of files.
PORTRAIT = """
cd /data
find . | sort | xargs stat -c '%n %F %a %u:%g %Y'
find . ! -type d | sort | xargs stat -c '%N %h %s'
find . -type f | sort | xargs sha256sum
"""


def portrait(docker: Docker, volume: str) -> str:
    return docker.container("-v", f"{volume}:/data", IMAGE, "sh", "-c", PORTRAIT)


def fill(docker: Docker, volume: str) -> str:
    docker.container("-v", f"{volume}:/data", IMAGE, "sh", "-c", FILL)
    return portrait(docker, volume)


def status(docker: Docker, volume: str) -> dict[str, Any]:
    found: dict[str, Any] = docker.inspect("volume", volume)["Status"]
    return found


def create(docker: Docker, name: str, *options: str, driver: str = "snapvol") -> Result:
    """Create a volume, and ask again as long as the daemon says that it is at it (G11): slow machines take longer."""
    given = [word for option in options for word in ("-o", option)]
    done = docker.run("volume", "create", "--driver", driver, *given, name, check=False)
    for _ in range(round(patient(1)) - 1):
        if "is still being created" in done.stderr:
            done = docker.run("volume", "create", "--driver", driver, *given, name, check=False)
    assert done.code == 0, done
    return done


def until_restored(docker: Docker, volume: str) -> None:
    wait_until(lambda: status(docker, volume)["state"] == "ready", 60, lambda: f"{volume}: {status(docker, volume)}")


@pytest.fixture(params=KINDS)
def host(request: pytest.FixtureRequest, docker: Docker, snapvol: Hosts) -> Snapvol:
    """A daemon that is the Docker Engine's driver ``snapvol``, on btrfs, a directory of XFS, or the lab's storage."""
    return snapvol(request.param, daemon={"docker_socket": docker.socket})


def test_options_reach_the_volume_and_status_tells_of_it(docker: Docker, host: Snapvol) -> None:
    quota = [] if host.settings["pools"]["default"]["backend"] == "directory" else ["size=64M"]
    create(docker, "web", "uid=1234", "gid=2345", "mode=0751", *quota)
    assert docker.container("-v", "web:/data", IMAGE, "stat", "-c", "%u %g %a", "/data") == "1234 2345 751"
    told = status(docker, "web")
    assert (told["pool"], told["backend"]) == ("default", host.settings["pools"]["default"]["backend"])
    assert told["options"]["uid"] == "1234"
    if quota:
        assert told["size"] == 64 << 20
        full = docker.run(
            *("run", "--rm", "--network", "none", "-v", "web:/data", IMAGE),
            *("dd", "if=/dev/urandom", "of=/data/big", "bs=1M", "count=100", "conv=fsync"),
            check=False,
        )
        assert re.search("quota exceeded|no space left", full.stderr.lower()), full


def test_copy_up_fills_a_fresh_volume(docker: Docker, host: Snapvol) -> None:
    """G16: Docker copies the image's content only into a volume whose root is empty.

    T13: what the daemon mounts is seen in dockerd's mount namespace, which here is another one.
    """
    create(docker, "web")
    assert docker.container("-v", "web:/image", IMAGE, "ls", "-A", "/image") == "from-image"


def test_two_containers_share_a_volume_that_is_snapshotted_while_they_write(docker: Docker, host: Snapvol) -> None:
    host.cli("repo", "init")
    create(docker, "web")
    docker.background("writer", "-v", "web:/data", command="while sleep 0.05; do date >> /data/log; done")
    docker.background("reader", "-v", "web:/data")
    wait_until(lambda: docker.run("exec", "reader", "test", "-s", "/data/log", check=False).code == 0)
    assert status(docker, "web")["holders"] == 2
    host.cli("snapshot", "web", "-n", "one")
    docker.run("exec", "writer", "sh", "-c", "echo after > /data/after")
    create(docker, "copy", "snapshot=web@one")
    names = docker.container("-v", "copy:/data", IMAGE, "ls", "/data").split()
    assert names == ["log"], "the snapshot is of the time before"
    host.cli("backup", "web@one")
    told = status(docker, "web")
    assert told["snapshots"] >= 1
    assert told["last_backup"]["id"] == host.json("backups", "web")[0]["id"]
    assert told["last_snapshot"]
    docker.run("rm", "-f", "writer")
    assert docker.out("exec", "reader", "ls", "/data").split() == ["after", "log"], "the other container keeps it (T8)"
    docker.run("rm", "-f", "reader")
    assert (status(docker, "web")["holders"], status(docker, "web")["mounted"]) == (0, False)


def test_clones_are_made_from_a_snapshot_and_from_now(docker: Docker, host: Snapvol) -> None:
    create(docker, "web")
    before = fill(docker, "web")
    host.cli("snapshot", "web", "-n", "before")
    docker.container("-v", "web:/data", IMAGE, "sh", "-c", "echo now > /data/now; sync")
    create(docker, "web2", "snapshot=web@before")
    create(docker, "web3", "snapshot=web")
    assert portrait(docker, "web2") == before
    assert portrait(docker, "web3") == portrait(docker, "web") != before
    docker.container("-v", "web2:/data", IMAGE, "sh", "-c", "echo mine > /data/mine")
    assert "mine" not in portrait(docker, "web"), "a clone is a volume of its own"


def test_containers_go_on_while_the_daemon_is_killed_and_comes_back(docker: Docker, host: Snapvol) -> None:
    """T10: after kill -9 containers write on, new ones start, and the last stop leaves nothing held."""
    create(docker, "web")
    docker.background("writer", "-v", "web:/data", command="while sleep 0.05; do echo line >> /data/log; done")
    wait_until(lambda: docker.run("exec", "writer", "test", "-s", "/data/log", check=False).code == 0)
    host.kill_9()
    size = int(docker.out("exec", "writer", "stat", "-c", "%s", "/data/log"))
    wait_until(lambda: int(docker.out("exec", "writer", "stat", "-c", "%s", "/data/log")) > size)
    host.start()
    assert status(docker, "web")["mounted"]
    docker.background("late", "-v", "web:/data")
    assert docker.out("exec", "late", "head", "-n", "1", "/data/log") == "line"
    refused = host.cli("rm", "web", check=False)
    assert refused.code == 4, refused
    docker.run("rm", "-f", "writer")
    assert status(docker, "web")["mounted"], "the late container holds it"
    docker.run("rm", "-f", "late")
    assert (status(docker, "web")["holders"], status(docker, "web")["mounted"]) == (0, False)
    docker.run("volume", "rm", "web")


def test_a_container_stopped_while_the_daemon_is_away_holds_nothing_for_ever(docker: Docker, snapvol: Hosts) -> None:
    """G6: Docker never repeats the unmount that nobody heard, so the kernel's account has to do."""
    host = snapvol(KINDS[0])
    create(docker, "web")
    docker.background("one", "-v", "web:/data")
    host.kill_9()
    docker.run("rm", "-f", "one", check=False)  # Docker asks for the unmount for 15 s, in vain
    host.start()
    docker.run("rm", "-f", "one", check=False)
    docker.run("volume", "rm", "web")
    assert [entry["name"] for entry in host.json("trash")] == ["web"]


def test_removed_volumes_come_back_from_the_trash(docker: Docker, host: Snapvol) -> None:
    """T17: docker volume rm is undoable, and a new volume of the name is a fresh one."""
    create(docker, "web")
    before = fill(docker, "web")
    host.cli("snapshot", "web", "-n", "kept")
    docker.run("volume", "rm", "web")
    assert "web" not in docker.out("volume", "ls", "--quiet").split()
    assert [entry["name"] for entry in host.json("trash")] == ["web"]
    create(docker, "web")
    assert docker.container("-v", "web:/data", IMAGE, "ls", "-A", "/data") == ""
    docker.run("volume", "rm", "web")
    newest, oldest = host.json("trash")
    assert newest["deleted"] > oldest["deleted"]
    host.cli("undelete", oldest["id"])
    assert portrait(docker, "web") == before
    assert [snapshot["name"] for snapshot in host.json("snapshots", "web")] == ["kept"]


def on_bucket(host: Snapvol, bucket: Any) -> None:
    """Give the daemon a repository in the bucket."""
    host.settings["repositories"] = {"default": bucket.settings()}
    host.configure()
    host.restart()
    host.cli("repo", "init")


def test_a_second_host_gets_its_volume_from_the_bucket(
    docker: Docker, host: Snapvol, snapvol: Hosts, own_docker: Callable[..., Docker], bucket: Any
) -> None:
    """Another machine, nothing in its state, the same repository: -o backup= gives the volume back."""
    on_bucket(host, bucket)
    create(docker, "web", "mode=0751")
    before = fill(docker, "web")
    host.cli("backup", "web")
    docker.container("-v", "web:/data", IMAGE, "sh", "-c", "echo later > /data/later; sync")
    later = portrait(docker, "web")
    host.cli("backup", "web")
    first = min(host.json("backups", "web"), key=lambda backup: backup["time"])["id"]

    there = own_docker()
    other = snapvol(PLAIN, repository=bucket.settings(), sockets=there.plugins, daemon={"host": "other"})
    began = time.monotonic()
    create(there, "newest", "backup=web")
    create(there, "oldest", f"backup={first}")
    assert time.monotonic() - began < patient(10), "Docker is answered at once; a job does the rest"
    until_restored(there, "newest")
    until_restored(there, "oldest")
    assert portrait(there, "newest") == later
    assert portrait(there, "oldest") == before
    assert {job["state"] for job in other.json("jobs")} == {"done"}
    assert there.container("-v", "newest:/data", IMAGE, "stat", "-c", "%a", "/data") == "751"


def test_mounting_what_is_being_restored_says_how_far_it_is(
    docker: Docker, host: Snapvol, bucket: Any, rgw: Any
) -> None:
    """A container cannot start on half a volume; it is told when to try again."""
    on_bucket(host, bucket)
    create(docker, "web")
    before = fill(docker, "web")
    host.cli("backup", "web")
    rgw.pause()
    try:
        create(docker, "copy", "backup=web")
        refused = docker.run("run", "--rm", "--network", "none", "-v", "copy:/data", IMAGE, "true", check=False)
        assert refused.code == 125
        assert re.search(r"volume 'copy' is being restored: \d+ %, try again in", refused.stderr), refused
        assert status(docker, "copy")["state"] == "restoring"
    finally:
        rgw.resume()
    until_restored(docker, "copy")
    assert portrait(docker, "copy") == before


def test_a_restore_that_fails_says_why_and_can_be_tried_again_or_removed(docker: Docker, host: Snapvol) -> None:
    """T14, T38: nobody gets half a volume, neither before nor after the failure."""
    host.cli("repo", "init")
    create(docker, "web")
    fill_script = "dd if=/dev/urandom of=/data/big bs=1M count=48 2>/dev/null; sync"
    docker.container("-v", "web:/data", IMAGE, "sh", "-c", fill_script)
    before = portrait(docker, "web")
    host.cli("backup", "web")
    # The largest pack has the file's content, and not the small blobs that are read first.
    pack = max((host.place / "repository/data").glob("*/*"), key=lambda file: file.stat().st_size)
    content = pack.read_bytes()
    pack.chmod(0o600)
    pack.write_bytes(b"")
    for name in ("copy", "second"):
        create(docker, name, "backup=web")
    for name in ("copy", "second"):
        wait_until(lambda name=name: status(docker, name)["state"] == "failed", 60)  # type: ignore[misc]
        refused = docker.run("run", "--rm", "--network", "none", "-v", f"{name}:/data", IMAGE, "true", check=False)
        assert refused.code == 125
        assert pack.name[:8] in refused.stderr, refused
    docker.run("volume", "rm", "second")
    pack.write_bytes(content)
    host.cli("job", "retry", status(docker, "copy")["job"])
    until_restored(docker, "copy")
    assert portrait(docker, "copy") == before


def compose_file(place: Path) -> Path:
    file = place / "compose.yaml"
    file.write_text(
        'version: "3"\nservices:\n  wiki:\n'
        f"    image: {IMAGE}\n    network_mode: none\n    command: sh -c 'echo one >> /data/runs; cat /data/runs'\n"
        "    volumes: ['content:/data']\nvolumes:\n  content:\n    driver: snapvol\n"
        "    driver_opts:\n      mode: '0755'\n"
        "    driver_opts: {mode: '0750'}\n"  # Compose refuses a volume that Docker knows without them
    )
    return file


def test_compose_down_is_undoable(docker: Docker, host: Snapvol, tmp_path: Path) -> None:
    """T17: what down -v removed comes back from the trash, and Compose goes on with it."""
    file = compose_file(tmp_path)
    docker.compose(file, "up", "--no-color", project="site")
    docker.compose(file, "down", "--volumes", project="site")
    assert "site_content" not in docker.out("volume", "ls", "--quiet").split()
    host.cli("undelete", "site_content")
    again = docker.compose(file, "up", "--no-color", project="site")
    assert again.stdout.count("one") == 2, again


def test_compose_adopts_its_volume_on_another_host(
    docker: Docker, host: Snapvol, snapvol: Hosts, own_docker: Callable[..., Docker], bucket: Any, tmp_path: Path
) -> None:
    """T37: a restored volume has the labels by which Compose knows it for its own."""
    on_bucket(host, bucket)
    file = compose_file(tmp_path)
    docker.compose(file, "up", "--no-color", project="site")
    labels = docker.inspect("volume", "site_content")["Labels"]
    assert labels["com.docker.compose.volume"] == "content"
    host.cli("backup", "site_content")

    there = own_docker()
    other = snapvol(PLAIN, repository=bucket.settings(), sockets=there.plugins, daemon={"docker_socket": there.socket})
    other.cli("restore", "site_content")
    assert there.inspect("volume", "site_content")["Labels"] == labels
    again = there.compose(file, "up", "--no-color", project="site")
    assert again.stdout.count("one") == 2, again
    there.compose(file, "down", "--volumes", project="site")
    assert [entry["name"] for entry in other.json("trash")] == ["site_content"]
