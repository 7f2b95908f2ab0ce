"""Snapshots: all or none, held where asked, and a way back that can itself be undone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from snapvol.errors import (
    AlreadyExists,
    InUse,
    InvalidName,
    NotFound,
    Protected,
    SnapvolError,
    StorageFailed,
    UsageError,
)
from snapvol.model import Snapshot, Volume
from snapvol.service.service import Service
from support.service import FakeKernel, directory_service, memory_service

TWO = '[daemon]\ndefault_pool = "a"\n[pools.a]\nbackend = "memory"\n[pools.b]\nbackend = "memory"\n'


def write(service: Service, name: str, text: str) -> None:
    Path(service.volume(name).mountpoint, "file").write_text(text)


def read(service: Service, name: str) -> str:
    return Path(service.volume(name).mountpoint, "file").read_text()


def test_a_snapshot_without_a_name_has_the_time(service: Service) -> None:
    service.create_volume("web")
    first, second = (service.snapshot(["web"])[0] for _ in range(2))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\dZ", first.name)
    assert second.name != first.name
    assert [snapshot.name for snapshot in service.snapshots("web")] == [first.name, second.name]
    info = service.volume("web")
    assert (info.snapshots, info.last_snapshot) == (2, second.created)


def test_several_volumes_share_one_name_over_pools(tmp_path: Path) -> None:
    service = memory_service(tmp_path, text=TWO)
    service.create_volume("web")
    service.create_volume("db", {"pool": "b"})
    service.create_volume("log")
    made = service.snapshot(["db", "web", "log", "db"], None, "before the upgrade")
    assert [snapshot.volume for snapshot in made] == ["db", "web", "log"]
    assert {(snapshot.name, snapshot.message) for snapshot in made} == {(made[0].name, "before the upgrade")}
    service.close()


def test_a_failure_in_the_second_pool_leaves_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    service = memory_service(tmp_path, text=TWO)
    service.create_volume("web")
    service.create_volume("db", {"pool": "b"})

    def fail(volumes: Sequence[Volume], name: str, *, message: str = "", made_by: str = "user") -> Sequence[Snapshot]:
        raise StorageFailed("the disk is on fire")

    monkeypatch.setattr(service._context.catalog.pools["b"].backend, "snapshot", fail)
    with pytest.raises(StorageFailed):
        service.snapshot(["web", "db"], "s1")
    assert service.snapshots() == []
    service.snapshot(["web"], "s1")
    service.close()


@pytest.mark.parametrize(
    ("volumes", "name", "error", "said"),
    [
        ([], None, UsageError, "no volume to snapshot was named"),
        (["nope", "web"], "x", NotFound, "volume 'nope' does not exist"),
        (["db", "web"], "s1", AlreadyExists, "snapshot 'web@s1' exists already; choose another name"),
        (["web"], "../x", InvalidName, "snapshot name '../x' is not allowed"),
        (["web"], "-rf", InvalidName, "snapshot name '-rf' is not allowed"),
        (["web"], "", InvalidName, "snapshot name is empty"),
        (["web"], "a\nb", InvalidName, "snapshot name 'a\\nb' is not allowed"),
    ],
)
def test_wrong_requests_make_nothing_t5(
    service: Service, volumes: list[str], name: str | None, error: type[SnapvolError], said: str
) -> None:
    for volume in ("web", "db"):
        service.create_volume(volume)
    service.snapshot(["web"], "s1")
    with pytest.raises(error) as caught:
        service.snapshot(volumes, name)
    assert str(caught.value).startswith(said)
    assert [snapshot.name for snapshot in service.snapshots()] == ["s1"]


def test_a_held_snapshot_stays_and_says_why_t18(service: Service) -> None:
    service.create_volume("web")
    service.snapshot(["web"], "s1")
    assert service.hold("web", "s1", "b").holds == ("b",)
    assert service.hold("web", "s1", "a").holds == ("a", "b")
    assert service.hold("web", "s1", "a").holds == ("a", "b")
    for dry_run in (True, False):
        with pytest.raises(Protected) as caught:
            service.destroy_snapshot("web", "s1", dry_run=dry_run)
        assert caught.value.message == "snapshot 'web@s1' is held by 'a', 'b'"
        assert caught.value.hint == "let go of it: snapvol release web@s1 --tag a"
    service.release("web", "s1", "b")
    service.release("web", "s1", "unknown")
    assert service.release("web", "s1", "a").holds == ()
    assert not service.destroy_snapshot("web", "s1", dry_run=True).done
    assert service.destroy_snapshot("web", "s1").done
    assert service.snapshots("web") == []
    with pytest.raises(NotFound, match="snapshot 'web@s1' does not exist; see: snapvol snapshots web"):
        service.destroy_snapshot("web", "s1")


@pytest.mark.parametrize("tag", ["base-", "base-camp", "backup-0123abcd"])
def test_nobody_holds_with_a_tag_that_backups_release_t18(service: Service, tag: str) -> None:
    service.create_volume("web")
    service.snapshot(["web"], "s1")
    with pytest.raises(UsageError, match=f"holds called '{tag}' are made and released by backups; choose another tag"):
        service.hold("web", "s1", tag)
    assert service.hold("web", "s1", "backup-tapes").holds == ("backup-tapes",)
    assert service.release("web", "s1", tag).holds == ("backup-tapes",)


def test_rollback_goes_back_and_can_be_undone(on_disk: Service) -> None:
    on_disk.create_volume("web")
    write(on_disk, "web", "one")
    on_disk.snapshot(["web"], "s1")
    write(on_disk, "web", "two")
    on_disk.snapshot(["web"], "s2")
    write(on_disk, "web", "three")
    Path(on_disk.volume("web").mountpoint, "extra").touch()
    planned = on_disk.rollback("web", "s1", dry_run=True)
    assert [(action.verb, action.object) for action in planned.actions] == [
        ("snapshot", "volume web"),
        ("replace", "the contents of web"),
        ("keep", "newer snapshots"),
    ]
    assert planned.actions[2].detail == "s2"
    assert (read(on_disk, "web"), on_disk.volume("web").snapshots) == ("three", 2)
    on_disk.rollback("web", "s1")
    assert read(on_disk, "web") == "one"
    assert not Path(on_disk.volume("web").mountpoint, "extra").exists()
    saved = on_disk.snapshots("web")[-1]
    assert saved.name.startswith("before-rollback-")
    assert saved.made_by == "rollback"
    on_disk.rollback("web", saved.name)
    assert read(on_disk, "web") == "three"
    assert Path(on_disk.volume("web").mountpoint, "extra").exists()


def test_rollback_is_refused_in_use_and_takes_no_snapshot(service: Service, kernel: FakeKernel) -> None:
    made = service.create_volume("web")
    service.snapshot(["web"], "s1")
    kernel.use(made.mountpoint)
    with pytest.raises(InUse, match="stop or unmount that first to roll it back"):
        service.rollback("web", "s1")
    assert service.volume("web").snapshots == 1


def test_a_name_used_again_means_the_later_snapshot_t2(on_disk: Service) -> None:
    on_disk.create_volume("web")
    write(on_disk, "web", "one")
    (first,) = on_disk.snapshot(["web"], "s1")
    on_disk.destroy_snapshot("web", "s1")
    write(on_disk, "web", "two")
    (second,) = on_disk.snapshot(["web"], "s1")
    assert first.id != second.id
    assert on_disk.create_volume("c", {"snapshot": "web@s1"}).parent == "web@s1"
    assert read(on_disk, "c") == "two"


def test_snapshots_outlive_the_daemon(tmp_path: Path) -> None:
    service = directory_service(tmp_path)
    service.create_volume("web")
    service.snapshot(["web"], "s1", "why")
    service.hold("web", "s1", "keep")
    before = service.snapshots()
    service.close()
    service = directory_service(tmp_path)
    assert service.snapshots() == before
    service.close()


def test_snapshots_taken_at_once_are_all_kept_and_all_different(service: Service) -> None:
    for name in ("a", "b"):
        service.create_volume(name)
    with ThreadPoolExecutor(6) as threads:
        futures = [threads.submit(service.snapshot, names) for names in [["a", "b"], ["b", "a"], ["a"]] * 4]
        made = [snapshot for future in futures for snapshot in future.result(60)]
    listed = service.snapshots()
    assert len(listed) == len(made) == 20
    assert len({(snapshot.volume, snapshot.name) for snapshot in listed}) == 20


def test_differences_to_another_snapshot_and_to_now(on_disk: Service) -> None:
    on_disk.create_volume("web")
    write(on_disk, "web", "one")
    on_disk.snapshot(["web"], "s1")
    write(on_disk, "web", "three")
    root = Path(on_disk.volume("web").mountpoint)
    (root / "new").mkdir()
    on_disk.snapshot(["web"], "s2")
    (root / "new").rmdir()
    assert [(it.kind, it.path) for it in on_disk.diff("web@s1", "web@s2")] == [("modified", "file"), ("added", "new")]
    assert [(it.kind, it.path) for it in on_disk.diff("web@s2", "web")] == [("removed", "new")]
    assert on_disk.diff("web@s2", "web@s2") == []
    with pytest.raises(UsageError, match="'web' is not a snapshot"):
        on_disk.diff("web", "web@s1")
