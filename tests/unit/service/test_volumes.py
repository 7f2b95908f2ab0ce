"""Existing volumes: names, sizes, options, mounts."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from snapvol.errors import (
    AlreadyExists,
    InUse,
    InvalidName,
    NotFound,
    Refused,
    SnapvolError,
    StorageFailed,
    UnknownOption,
    Unsupported,
    UsageError,
)
from snapvol.model import Volume
from snapvol.service.holders import Client, start_time
from snapvol.service.service import Service
from support.memory import Memory
from support.service import FakeKernel, Quotas, directory_service, memory_service

QUOTAS = '[pools.default]\nbackend = "quotas"\n[repositories.default]\nurl = "/r"\n[repositories.far]\nurl = "/f"\n'
DOCKERD = Client(pid=os.getpid(), start=start_time(os.getpid()) or 0, program="dockerd")


@pytest.fixture
def sized(tmp_path: Path) -> Service:
    return memory_service(tmp_path, text=QUOTAS)


# -- renaming ---------------------------------------------------------------------------------------------------


def test_a_renamed_volume_keeps_identity_contents_snapshots_and_history(on_disk: Service) -> None:
    made = on_disk.create_volume("web")
    Path(made.mountpoint, "file").write_text("x")
    on_disk.snapshot(["web"], "s1")
    renamed = on_disk.rename_volume("web", "shop")
    assert (renamed.id, renamed.name, renamed.snapshots) == (made.id, "shop", 1)
    assert Path(renamed.mountpoint, "file").read_text() == "x"
    assert [snapshot.volume for snapshot in on_disk.snapshots("shop")] == ["shop"]
    assert [event.kind for event in on_disk.log("shop")] == ["create", "snapshot", "rename"]
    with pytest.raises(NotFound):
        on_disk.volume("web")
    on_disk.create_volume("web")
    assert on_disk.volume("web").id != made.id


def test_a_rename_is_refused_in_use_to_a_taken_or_wrong_name(service: Service, kernel: FakeKernel) -> None:
    made = service.create_volume("web")
    service.create_volume("db")
    with pytest.raises(AlreadyExists, match="volume 'db' exists already in pool 'default'"):
        service.rename_volume("web", "db")
    with pytest.raises(InvalidName):
        service.rename_volume("web", "../db")
    kernel.use(made.mountpoint)
    with pytest.raises(InUse) as caught:
        service.rename_volume("web", "x")
    assert str(caught.value) == (
        "volume 'web' is in use by container abc (process 7 sh); stop or unmount that first to rename it"
    )
    assert [info.name for info in service.volumes()] == ["db", "web"]


# -- options and sizes ------------------------------------------------------------------------------------------


def test_options_change_and_go_away(sized: Service) -> None:
    sized.create_volume("web", {"size": "1G"})
    assert sized.set_options("web", {"protect": "yes", "repository": "far"}).options == {
        "size": "1G",
        "protect": "true",
        "repository": "far",
    }
    assert sized.set_options("web", {"protect": "false", "repository": None}).options == {"size": "1G"}
    assert sized.log("web")[-1].message == "protect taken away, repository taken away"
    sized.close()


def test_a_size_is_set_on_the_storage_and_written_down(sized: Service) -> None:
    made = sized.create_volume("web", {"size": "1G"})
    assert sized.resize_volume("web", "2048M").size == 2 << 30
    backend = sized._context.catalog.pools["default"].backend
    assert isinstance(backend, Quotas)
    assert backend.limits[made.id] == 2 << 30
    sized.close()


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"protct": "true"}, UnknownOption, "unknown option 'protct'; did you mean 'protect'?"),
        ({"protct": None}, UnknownOption, "unknown option 'protct'; did you mean 'protect'?"),
        ({"protect": "true", "size": "x"}, UsageError, "option 'size': 'x' is not a size"),
        ({"size": None}, Refused, "option 'size' of volume 'web' cannot be taken away; set a larger one"),
        ({"fs": "xfs"}, Unsupported, "option 'fs': pool 'default' (quotas) makes no filesystems of its own"),
        ({"mode": "0700"}, Refused, "option 'mode' of volume 'web' cannot be changed; run: chmod 0700 /"),
        (
            {"backup": "b"},
            Refused,
            "option 'backup' of volume 'web' cannot be changed; restore into it: snapvol restore b",
        ),
        ({"snapshot": "b"}, Refused, "option 'snapshot' of volume 'web' cannot be changed; go back to one of its own"),
        ({"policy": "daily"}, Unsupported, "option 'policy': 'daily': this version has no policies yet"),
        ({"pool": "other"}, UsageError, "option 'pool': no pool is called 'other'; did you mean"),
    ],
)
def test_a_wrong_change_changes_nothing(
    sized: Service, changes: dict[str, str | None], error: type[SnapvolError], said: str
) -> None:
    before = sized.create_volume("web", {"size": "1G"})
    with pytest.raises(error) as caught:
        sized.set_options("web", {"repository": "far", **changes})
    assert str(caught.value).startswith(said) or "valid: " in str(caught.value)
    assert str(caught.value).isprintable()
    assert sized.volume("web") == before
    sized.close()


def test_a_pool_without_quotas_refuses_sizes(service: Service) -> None:
    service.create_volume("web")
    with pytest.raises(
        Unsupported, match="pool 'default' \\(memory\\) has no quotas; the memory backend keeps no quotas"
    ):
        service.resize_volume("web", "1G")


# -- mounting ---------------------------------------------------------------------------------------------------


def test_holders_are_counted_and_shown(service: Service) -> None:
    service.create_volume("web")
    service.mount("web", "id1", DOCKERD)
    service.mount("web", "id2", DOCKERD)
    assert (service.volume("web").mounted, service.volume("web").holders) == (True, 2)
    service.unmount("web", "id1", DOCKERD)
    service.unmount("web", "unknown", DOCKERD)
    assert service.volume("web").holders == 1
    service.unmount("web", "id2", DOCKERD)
    assert (service.volume("web").mounted, service.volume("web").holders) == (False, 0)


def test_vol1_is_not_taken_for_vol10_t1_t3(on_disk: Service, kernel: FakeKernel) -> None:
    for name in ("vol1", "vol10", "aa", "aaa", "aaaa"):
        on_disk.create_volume(name)
    on_disk.mount("vol10", "id1", DOCKERD)
    kernel.use(on_disk.volume("vol10").mountpoint)
    on_disk.refresh_users()
    assert not on_disk.volume("vol1").mounted
    on_disk.remove_volume("vol1", permanent=True)
    on_disk.remove_volume("aa", permanent=True)
    assert [info.name for info in on_disk.volumes()] == ["aaa", "aaaa", "vol10"]
    assert Path(on_disk.volume("vol10").mountpoint).is_dir()


def test_counts_outlive_a_killed_daemon_and_the_next_unmount_works_t10(tmp_path: Path, kernel: FakeKernel) -> None:
    service = directory_service(tmp_path, kernel)
    made = service.create_volume("web")
    service.mount("web", "id1", None)
    kernel.use(made.mountpoint)
    service.close()
    service = directory_service(tmp_path, kernel)
    info = service.volume("web")
    assert (info.holders, info.users, info.id) == (1, ["container abc (process 7 sh)"], made.id)
    kernel.leave(made.mountpoint)
    service.unmount("web", "id1", None)
    assert service.volume("web").holders == 0
    service.close()


def test_mounting_never_scans_the_machine(service: Service, kernel: FakeKernel) -> None:
    service.create_volume("web")
    asked = kernel.asked
    service.mount("web", "id1", None)
    service.unmount("web", "id1", None)
    assert kernel.asked == asked


class Busy(Memory):
    """A pool that cannot unmount at first."""

    kind = "busy"
    fails = 1
    unmounted = 0

    def unmount(self, volume: Volume) -> None:
        if self.fails:
            self.fails -= 1
            raise StorageFailed("target is busy")
        self.unmounted += 1


def test_an_unmount_that_fails_is_no_error_and_is_made_up_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """G7."""
    monkeypatch.setitem(__import__("support.service", fromlist=["KINDS"]).KINDS, "busy", Busy)
    service = memory_service(tmp_path, text='[pools.default]\nbackend = "busy"\n')
    service.create_volume("web")
    service.mount("web", "id1", None)
    service.unmount("web", "id1", None)
    backend = service._context.catalog.pools["default"].backend
    assert isinstance(backend, Busy)
    assert (service.volume("web").holders, backend.unmounted) == (0, 0)
    service.refresh_users()
    assert backend.unmounted == 1
    service.close()


def test_a_mount_waits_for_no_long_work_but_says_what_it_is(service: Service) -> None:
    service.create_volume("web")
    service._context.locks.wait = 0.05
    with (
        service._context.locks.volumes("web", doing="rollback to 's1'"),
        pytest.raises(InUse, match="another operation on 'web' is running: rollback to 's1'"),
    ):
        service.mount("web", "id1", None)
    with service._context.locks.volumes("web", doing="a snapshot", mountable=True):
        service.mount("web", "id1", None)


def test_answers_from_memory_are_quick_with_500_volumes(service: Service) -> None:
    for number in range(500):
        service.create_volume(f"v{number}")
    begun = time.perf_counter()
    for _ in range(10):
        service.volumes()
    assert (time.perf_counter() - begun) / 10 < 0.1
    begun = time.perf_counter()
    for number in range(500):
        service.volume(f"v{number}")
    assert (time.perf_counter() - begun) / 500 < 0.002


def test_parallel_mounts_and_unmounts_of_one_volume_are_all_counted(service: Service) -> None:
    """G8."""
    service.create_volume("web")
    barrier = threading.Barrier(8)

    def use(number: int) -> None:
        barrier.wait(20)
        for _ in range(20):
            service.mount("web", f"id{number % 3}", DOCKERD)
        for _ in range(19):
            service.unmount("web", f"id{number % 3}", DOCKERD)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(use, range(8)))
    assert service.volume("web").holders == 8


def test_usage_is_measured_and_remembered(service: Service) -> None:
    made = service.create_volume("web")
    assert (made.used, made.used_at) == (None, None)
    Path(made.mountpoint, "file").write_bytes(b"x" * 100_000)
    service.refresh_usage("web")
    measured = service.volume("web").used
    assert measured is not None
    assert measured >= 100_000
    Path(made.mountpoint, "file").unlink()
    service.refresh_usage()
    assert service.volume("web").used == 0
