"""Announced mounts: hints that outlive the daemon, never the boot, and never beat the kernel (T8, G6)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from snapvol.service.holders import Client, Holders, alive, start_time

OLD = Client(pid=100, start=5000, program="dockerd")
NEW = Client(pid=100, start=9000, program="dockerd")
PODMAN = [Client(pid=pid, start=pid, program="podman") for pid in range(201, 205)]


class Processes:
    """Which clients live."""

    def __init__(self, *clients: Client) -> None:
        self.alive = set(clients)

    def __call__(self, client: Client) -> bool:
        return client in self.alive


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "holders.json"


def holders(path: Path, processes: Processes, boot: str = "boot-1") -> Holders:
    made = Holders(path, alive=processes, boot=boot)
    made.load()
    return made


def test_docker_cp_uses_a_running_containers_id_t8(path: Path) -> None:
    it = holders(path, Processes(OLD))
    it.add("v", "id1", OLD)
    for _ in range(100):
        it.add("v", "id1", OLD)
        it.drop("v", "id1", OLD)
        assert it.count("v") == 1
    it.drop("v", "id1", OLD)
    assert it.count("v") == 0


def test_an_unknown_id_is_no_error_t8(path: Path) -> None:
    it = holders(path, Processes(OLD))
    it.drop("v", "never", OLD)
    it.add("v", "id1", OLD)
    it.drop("v", "other", OLD)
    it.drop("w", "id1", OLD)
    assert it.count("v") == 1


def test_counts_outlive_the_daemon_t10(path: Path) -> None:
    processes = Processes(OLD)
    holders(path, processes).add("v", "id1", OLD)
    assert holders(path, processes).count("v") == 1


def test_counts_do_not_outlive_the_boot_t7(path: Path) -> None:
    processes = Processes(OLD)
    holders(path, processes).add("v", "id1", OLD)
    assert holders(path, processes, boot="boot-2").count("v") == 0


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff\xfe", b'{"boot":"boot-1","volumes":{"v":[{"holder":1}]}}']
)
def test_a_damaged_file_is_no_obstacle(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    it = holders(path, Processes(OLD))
    assert it.count("v") == 0
    it.add("v", "id1", OLD)
    assert holders(path, Processes(OLD)).count("v") == 1


def test_a_file_that_cannot_be_written_is_no_obstacle(tmp_path: Path) -> None:
    """G7: a full disk must not fail a mount, still less an unmount."""
    (tmp_path / "run").write_text("in the way of the directory")
    holders = Holders(tmp_path / "run/holders.json")
    holders.add("v", "id1", OLD)
    assert holders.count("v") == 1
    holders.drop("v", "id1", OLD)
    assert holders.count("v") == 0


def test_a_killed_dockerd_that_mounts_again_with_the_old_id_leaks_nothing_t8(path: Path) -> None:
    processes = Processes(OLD)
    it = holders(path, processes)
    it.add("v", "id1", OLD)
    processes.alive = {NEW}
    it.add("v", "id1", NEW)  # no Unmount was sent for the first
    it.drop("v", "id1", NEW)
    assert it.orphaned("v")
    assert it.drop_orphans(lambda _: True) == ["v"]
    assert it.count("v") == 0


def test_a_container_that_outlived_its_dockerd_is_stopped_by_the_next_one(path: Path) -> None:
    processes = Processes(OLD)
    it = holders(path, processes)
    it.add("v", "id1", OLD)
    processes.alive = {NEW}
    it.add("v", "id1", NEW)  # docker cp
    it.drop("v", "id1", NEW)
    assert it.count("v") == 1
    it.drop("v", "id1", NEW)  # docker stop
    assert it.count("v") == 0


def test_orphans_stay_while_the_kernel_shows_a_user(path: Path) -> None:
    it = holders(path, Processes())
    it.add("v", "id1", OLD)
    assert it.drop_orphans(lambda _: False) == []
    assert it.count("v") == 1


def test_podman_begins_in_one_process_and_ends_in_another(path: Path) -> None:
    it = holders(path, Processes())
    it.add("v", "2f73349c", PODMAN[0])
    it.drop("v", "2f73349c", PODMAN[1])
    assert it.count("v") == 0


def test_holders_without_a_client_are_believed(path: Path) -> None:
    it = holders(path, Processes())
    it.add("v", "cli", None)
    assert not it.orphaned("v")
    assert it.drop_orphans(lambda _: True) == []
    it.drop("v", "cli", None)
    assert it.count("v") == 0


def test_a_process_is_told_from_a_later_one_with_its_number() -> None:
    start = start_time(os.getpid())
    assert start is not None
    assert alive(Client(pid=os.getpid(), start=start))
    assert not alive(Client(pid=os.getpid(), start=start - 1))
    assert start_time(2**22 + 1) is None
