"""Podman, which speaks the same protocol with other habits: five seconds for every call, no retry, its own list."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from support.containers import IMAGE, Docker, Podman
from support.process import wait_until
from support.servers import Snapvol

pytestmark = pytest.mark.root
Hosts = Callable[..., Snapvol]


@pytest.fixture(params=["btrfs", "xfs"])
def host(request: pytest.FixtureRequest, snapvol: Hosts) -> Snapvol:
    return snapvol(request.param)


def names(podman: Podman) -> list[str]:
    return sorted(podman.out("volume", "ls", "--quiet").split())


def test_a_volume_lives_its_life(podman: Podman, host: Snapvol) -> None:
    podman.run("volume", "create", "--driver", "snapvol", "--opt", "mode=0751", "web")
    told = podman.inspect("volume", "web")
    assert (told["Driver"], told["Status"]["pool"]) == ("snapvol", "default")
    podman.container("-v", "web:/data", IMAGE, "sh", "-c", "echo one > /data/file")
    assert podman.container("-v", "web:/data", IMAGE, "stat", "-c", "%a", "/data") == "751"
    podman.out("run", "--detach", "--name", "one", "-v", "web:/data", IMAGE, "sleep", "600")
    podman.out("run", "--detach", "--name", "two", "-v", "web:/data", IMAGE, "sleep", "600")
    podman.run("rm", "-f", "-t", "0", "one")
    assert host.json("inspect", "web")["mounted"], "the second container has it (T8)"
    assert podman.out("exec", "two", "cat", "/data/file") == "one"
    podman.run("rm", "-f", "-t", "0", "two")
    assert not host.json("inspect", "web")["mounted"]
    podman.run("volume", "rm", "web")
    assert (names(podman), host.json("ls")) == ([], [])


def test_podman_shows_what_was_wrong(podman: Podman, host: Snapvol) -> None:
    """G4, G20: the error reaches the person, and Podman does not take it for success."""
    done = podman.run("volume", "create", "--driver", "snapvol", "--opt", "snapshto=web", "copy", check=False)
    assert done.code != 0
    assert "did you mean 'snapshot'?" in done.stderr
    assert names(podman) == []


def test_clones_appear_with_volume_reload(podman: Podman, host: Snapvol) -> None:
    podman.run("volume", "create", "--driver", "snapvol", "web")
    podman.container("-v", "web:/data", IMAGE, "sh", "-c", "echo one > /data/file")
    host.cli("clone", "web", "copy")
    assert names(podman) == ["web"]
    podman.run("volume", "reload")
    assert names(podman) == ["copy", "web"]
    assert podman.container("-v", "copy:/data", IMAGE, "cat", "/data/file") == "one"
    host.cli("rm", "copy")
    podman.run("volume", "reload")
    assert names(podman) == ["web"]


def test_prune_goes_to_the_trash(podman: Podman, host: Snapvol) -> None:
    """G3, T17: Podman 4.3 prunes every plugin volume that no container of its own uses."""
    podman.run("volume", "create", "--driver", "snapvol", "web")
    podman.container("-v", "web:/data", IMAGE, "sh", "-c", "echo one > /data/file")
    podman.run("volume", "prune", "--force")
    assert names(podman) == []
    assert [entry["name"] for entry in host.json("trash")] == ["web"]
    host.cli("undelete", "web")
    podman.run("volume", "reload")
    assert podman.container("-v", "web:/data", IMAGE, "cat", "/data/file") == "one"


def test_prune_spares_what_docker_has_mounted(podman: Podman, docker: Docker, host: Snapvol) -> None:
    """G3: each client knows only its own containers; the kernel knows all."""
    podman.run("volume", "create", "--driver", "snapvol", "web")
    docker.background("one", "-v", "web:/data")
    done = podman.run("volume", "prune", "--force", check=False)
    assert "in use" in done.stderr or "mounted" in done.stderr, done
    docker.run("exec", "one", "sh", "-c", "echo one > /data/file")
    assert [volume["name"] for volume in host.json("ls")] == ["web"]
    assert host.json("trash") == []


def test_a_slow_restore_keeps_podmans_five_seconds(podman: Podman, host: Snapvol, bucket: Any, rgw: Any) -> None:
    """G11: with an S3 server that accepts and never answers, every call still ends within Podman's limit."""
    host.settings["repositories"] = {"default": bucket.settings()}
    host.configure()
    host.restart()
    host.cli("repo", "init")
    podman.run("volume", "create", "--driver", "snapvol", "web")
    podman.container("-v", "web:/data", IMAGE, "sh", "-c", "echo one > /data/file")
    host.cli("backup", "web")
    rgw.pause()
    try:
        done = podman.run("volume", "create", "--driver", "snapvol", "--opt", "backup=web", "copy", check=False)
        assert done.seconds < 5.5
        if done.code:
            assert "still being created" in done.stderr, done
        assert podman.run("volume", "ls").seconds < 5.5
        assert podman.container("-v", "web:/data", IMAGE, "cat", "/data/file") == "one", "others are not held up (T19)"
    finally:
        rgw.resume()

    def restored() -> bool:
        return any((v["name"], v["state"]) == ("copy", "ready") for v in host.json("ls"))

    wait_until(restored, 60, lambda: str(host.json("ls")))
    podman.run("volume", "create", "--driver", "snapvol", "--opt", "backup=web", "copy", check=False)
    assert podman.container("-v", "copy:/data", IMAGE, "cat", "/data/file") == "one"
