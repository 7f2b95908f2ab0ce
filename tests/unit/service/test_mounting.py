"""Volumes that are real mounts: mounted as long as somebody needs them, and seen by the kernel wherever they are."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from snapvol.api import Level
from snapvol.errors import InUse, SnapvolError, StorageFailed, UnknownOption
from snapvol.model import State
from snapvol.service import checks, holders
from snapvol.service.holders import Client
from snapvol.service.kernel import Site
from snapvol.service.service import Service
from support.imaged import Mounted
from support.service import FakeKernel, memory_service

POOLS = '[pools.default]\nbackend = "mounted"\n'
DOCKERD = Client(pid=os.getpid(), start=holders.start_time(os.getpid()) or 0, program="dockerd")


@pytest.fixture
def service(tmp_path: Path, kernel: FakeKernel) -> Iterator[Service]:
    made = memory_service(tmp_path / "root", kernel, POOLS)
    made.create_volume("web")
    yield made
    made.close()


def again(service: Service, kernel: FakeKernel) -> Service:
    """The next daemon."""
    service.close()
    return memory_service(service.settings.daemon.root, kernel, POOLS)


def pool(service: Service) -> Mounted:
    backend = service._context.catalog.pools["default"].backend
    assert isinstance(backend, Mounted)
    return backend


def is_mounted(service: Service, name: str = "web") -> bool:
    return pool(service).is_mounted(service._context.catalog.get(name).volume)


def source(service: Service, name: str = "web") -> str:
    return pool(service).sources(service._context.catalog.get(name).volume)[0]


def test_T8_it_is_mounted_from_the_first_mount_to_the_last_unmount(service: Service) -> None:
    assert not is_mounted(service)
    for holder in ("one", "two"):
        assert service.mount("web", holder, DOCKERD) == service.mountpoint("web")
    service.unmount("web", "one", DOCKERD)
    assert is_mounted(service)
    service.unmount("web", "unknown", DOCKERD)
    assert is_mounted(service)
    service.unmount("web", "two", DOCKERD)
    assert not is_mounted(service)


def test_a_comparison_with_the_present_mounts_it_for_that_long(service: Service) -> None:
    service.snapshot(["web"], "s1")
    (pool(service)._data(service.volume("web").id) / "new").touch()
    assert [change.path for change in service.diff("web@s1", "web")] == ["new"]
    assert not is_mounted(service)
    service.mount("web", "one", DOCKERD)
    service.diff("web@s1", "web")
    assert is_mounted(service)


def test_who_reads_keeps_it_mounted_whatever_Docker_does_meanwhile(service: Service) -> None:
    contents, entry = service._context.contents, service._context.catalog.get("web")
    with contents.read(entry), contents.read(entry):
        service.mount("web", "one", DOCKERD)
        service.unmount("web", "one", DOCKERD)
        service.refresh_users()
        assert is_mounted(service)
    assert not is_mounted(service)
    with contents.read(entry):
        service.mount("web", "one", DOCKERD)
    assert is_mounted(service)


def test_what_cannot_be_mounted_is_not_counted(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    contents, entry = service._context.contents, service._context.catalog.get("web")

    def refuse(*_: object) -> Path:
        raise StorageFailed("no")

    with monkeypatch.context() as patch:
        patch.setattr(Mounted, "mount", refuse)
        with pytest.raises(StorageFailed), contents.read(entry):
            pass
        with pytest.raises(StorageFailed):
            service.mount("web", "one", DOCKERD)
    assert not contents.needed(entry.volume.id)


def test_T10_a_restarted_daemon_finds_it_mounted_and_the_last_unmount_works(
    service: Service, kernel: FakeKernel
) -> None:
    service.mount("web", "one", DOCKERD)
    kernel.use(source(service))
    service = again(service, kernel)
    service.refresh_users()
    assert is_mounted(service)
    assert service.volume("web").users != []
    kernel.leave(source(service))
    service.unmount("web", "one", DOCKERD)
    assert not is_mounted(service)
    service.close()


def test_T10_also_without_the_holders_the_containers_keep_it_mounted(service: Service, kernel: FakeKernel) -> None:
    service.mount("web", "one", DOCKERD)
    kernel.use(source(service))
    service.close()
    (service.settings.daemon.runtime / "holders.json").unlink()
    service = again(service, kernel)
    assert is_mounted(service)
    kernel.leave(source(service))
    service.unmount("web", "one", DOCKERD)
    assert not is_mounted(service)
    service.close()


def test_T10_whoever_mounts_while_the_dead_are_counted_keeps_it_mounted(
    service: Service, kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = Client(pid=os.getpid(), start=1, program="dockerd")
    for holder in ("one", "two"):
        service.mount("web", holder, dead)
    users = kernel.users

    def slowly(site: Site) -> list[str]:
        found = users(site)
        service.mount("web", "three", DOCKERD)
        return found

    monkeypatch.setattr(kernel, "users", slowly)
    service.unmount("web", "one", dead)
    assert is_mounted(service)
    service.unmount("web", "three", DOCKERD)
    assert not is_mounted(service)


def test_T7_after_a_reboot_it_is_mounted_afresh(
    service: Service, kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    service.mount("web", "one", DOCKERD)
    pool(service).unmount(service._context.catalog.get("web").volume)  # the machine has crashed
    (tmp_path / "boot").write_text("another boot\n")
    monkeypatch.setattr(holders, "_BOOT_ID", tmp_path / "boot")
    service = again(service, kernel)
    assert (service.volume("web").holders, service.volume("web").mounted, is_mounted(service)) == (0, False, False)
    service.mount("web", "one", DOCKERD)
    assert is_mounted(service)
    service.close()


def test_what_a_killed_daemon_had_mounted_for_itself_is_unmounted_by_the_next(
    service: Service, kernel: FakeKernel
) -> None:
    pool(service).mount(service._context.catalog.get("web").volume)
    service = again(service, kernel)
    assert not is_mounted(service)
    service.close()


def test_a_holder_whose_container_went_while_no_daemon_ran_expires(
    service: Service, kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.mount("web", "gone", DOCKERD)
    service.mount("web", "cli", None)
    service = again(service, kernel)
    service.refresh_users()
    assert service.volume("web").holders == 2  # it may just be starting
    monkeypatch.setattr(holders, "CARRIED_SECONDS", 0.0)
    kernel.use(source(service))
    service.refresh_users()
    assert service.volume("web").holders == 2
    kernel.leave(source(service))
    service.refresh_users()
    assert service.volume("web").holders == 1  # made by hand: nobody but that hand ends it
    assert is_mounted(service)
    service.mount("web", "new", DOCKERD)  # of this daemon: its end will be heard
    service.unmount("web", "cli", None)
    service.refresh_users()
    assert (service.volume("web").holders, is_mounted(service)) == (1, True)
    service.close()


def test_T9_who_has_it_mounted_elsewhere_keeps_it_from_everything_that_replaces_it(
    service: Service, kernel: FakeKernel
) -> None:
    service.snapshot(["web"], "s1")
    kernel.use(source(service), "the mount at /mnt")
    for attempt in (
        lambda: service.remove_volume("web"),
        lambda: service.remove_volume("web", permanent=True),
        lambda: service.rename_volume("web", "shop"),
        lambda: service.rollback("web", "s1"),
    ):
        with pytest.raises(InUse, match="in use by the mount at /mnt"):
            attempt()
    kernel.leave(source(service))
    service.remove_volume("web")


def test_what_is_mounted_by_hand_is_unmounted_for_a_rollback_and_mounted_again(service: Service) -> None:
    service.snapshot(["web"], "s1")
    (service.mount("web", "cli") / "new").touch()
    service.rollback("web", "s1")
    assert is_mounted(service)
    assert list((service.mountpoint("web")).iterdir()) == []
    service.rename_volume("web", "shop")
    assert not (service.mountpoint("shop")).exists()


def test_storage_that_does_not_say_what_the_kernel_calls_it_loses_nothing(
    service: Service, kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.mount("web", "one", Client(pid=1, start=-1, program="gone"))
    kernel.use(source(service))
    service.refresh_users()

    def silent(*_: object) -> tuple[str, ...]:
        raise StorageFailed("the pool does not answer")

    monkeypatch.setattr(Mounted, "sources", silent)
    kernel.used.clear()
    service.refresh_users()
    assert service.volume("web").holders == 1
    assert service.volume("web").users != []
    with pytest.raises(SnapvolError, match="does not answer"):
        service.remove_volume("web")
    service.unmount("web", "other", DOCKERD)  # Docker never hears of it (G7)


def test_a_volume_whose_restore_was_killed_is_unmounted_before_its_removal(service: Service) -> None:
    entry = service._context.catalog.get("web")
    service._context.catalog.change(entry.volume.id, state=State.FAILED)
    pool(service).mount(entry.volume)
    service.remove_volume("web")
    assert service.volumes() == []


def test_T13_doctor_says_where_Docker_may_not_see_what_is_mounted(service: Service, tmp_path: Path) -> None:
    pools, root = service._context.catalog.pools.values(), service.settings.daemon.root
    for process in ("1", "self"):
        (tmp_path / process / "ns").mkdir(parents=True)
        (tmp_path / process / "ns/mnt").touch()
    (finding,) = checks.propagation(pools, root, tmp_path)
    assert (finding.level, "PrivateMounts" in str(finding.command)) == (Level.WARNING, True)
    (tmp_path / "self/ns/mnt").unlink()
    (tmp_path / "self/ns/mnt").hardlink_to(tmp_path / "1/ns/mnt")
    assert [it.level for it in checks.propagation(pools, root, tmp_path)] == [Level.OK]
    assert [it.level for it in checks.propagation(pools, root, tmp_path / "absent")] == [Level.WARNING]
    assert list(checks.propagation(pools, tmp_path / "elsewhere", tmp_path)) == []


def test_T16_options_with_a_common_beginning(service: Service) -> None:
    made = service.create_volume("options", {"mounted.any.thing": "x"})
    assert made.options == {"mounted.any.thing": "x"}
    assert service.create_volume("copy", {"snapshot": "options"}).options == {
        "mounted.any.thing": "x",
        "snapshot": "options",
    }
    for wrong in ("mounted.", "mounted", "mountedx.y"):
        with pytest.raises(UnknownOption, match=r"did you mean 'mounted\.\*'\?"):
            service.create_volume("wrong", {wrong: "x"})
