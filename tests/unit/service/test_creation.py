"""Making volumes: the same again is no error, anything else is, and half of one is never seen."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from snapvol.api import JobInfo, JobProgress, JobState, VolumeInfo
from snapvol.errors import AlreadyExists, InvalidName, NotFound, NotReady, SnapvolError, StorageFailed, UsageError
from snapvol.model import Snapshot, State, Volume, now
from snapvol.service import context as context_module
from snapvol.service.service import Service
from support.memory import Memory
from support.service import memory_service

TWO_POOLS = """
[daemon]
default_pool = "a"
[pools.a]
backend = "memory"
[pools.b]
backend = "quotas"
[pools.b.defaults]
size = "5G"
protect = true
"""


class FakeRestorer:
    """Jobs that fill volumes: they stand still until the test moves them."""

    def __init__(self) -> None:
        self.jobs: dict[str, JobInfo] = {}
        self.cancelled: list[str] = []
        self.fault: SnapvolError | None = None
        self.seen_while_filling: list[str] = []
        self.service: Service
        self.asked: dict[str, str] = {}

    def fill(
        self, volume: Volume, backup: str, repository: str | None, asked: Mapping[str, str] | None = None
    ) -> JobInfo:
        self.seen_while_filling = [info.name for info in self.service.volumes()]
        self.asked = dict(asked or {})
        if self.fault is not None:
            raise self.fault
        progress = JobProgress(bytes_done=43, bytes_total=100, eta_seconds=120)
        job = JobInfo(
            id="job1", kind="restore", object=volume.name, state=JobState.RUNNING, created=now(), progress=progress
        )
        self.jobs[volume.id] = job
        self.service._context.catalog.change(volume.id, job=job.id)
        return job

    def active(self, volume_id: str) -> JobInfo | None:
        return self.jobs.get(volume_id)

    def cancel(self, volume_id: str) -> None:
        if self.jobs.pop(volume_id, None):
            self.cancelled.append(volume_id)


@pytest.fixture
def restorer(service: Service) -> FakeRestorer:
    fake = FakeRestorer()
    fake.service = service
    service._context.restorer = fake
    assert isinstance(service._context, context_module.Context)
    return fake


def backend(service: Service, pool: str = "default") -> Memory:
    found = service._context.catalog.pools[pool].backend
    assert isinstance(found, Memory)
    return found


def test_a_volume_is_listed_and_mounted_empty(service: Service) -> None:
    made = service.create_volume("web", {"mode": "0700"}, {"com.docker.compose.project": "shop"})
    assert service.volumes() == [made] == [service.volume("web")]
    assert (made.pool, made.state, made.labels) == ("default", State.READY, {"com.docker.compose.project": "shop"})
    path = service.mount("web", "id1")
    assert str(path) == made.mountpoint == str(service.mountpoint("web"))
    assert list(path.iterdir()) == []


def test_the_same_again_is_no_error(service: Service) -> None:
    first = service.create_volume("web", {"mode": "700"})
    assert service.create_volume("web", {"mode": "0700"}) == first


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "it has mode=0700"),
        ({"mode": "0750"}, "it has mode=0700, mode=0750 was asked for"),
        ({"mode": "0700", "uid": "7"}, "uid=7 was asked for, it has none"),
    ],
)
def test_other_options_on_an_existing_name_show_the_difference_t15(
    service: Service, options: dict[str, str], said: str
) -> None:
    before = service.create_volume("web", {"mode": "0700"})
    with pytest.raises(AlreadyExists) as caught:
        service.create_volume("web", options)
    assert caught.value.message == f"volume 'web' exists with other options: {said}"
    assert service.volumes() == [before]


@pytest.mark.parametrize(
    "name", ["", "../x", "x/y", "-rf", "a\nb", "a\0b", "@x", "#x", "%x", "..", "ü", "a b", "x" * 256, ".hidden", "_x"]
)
def test_names_that_are_not_allowed_are_refused_t5(service: Service, name: str) -> None:
    with pytest.raises(InvalidName) as caught:
        service.create_volume(name)
    assert str(caught.value).isprintable()
    assert service.volumes() == []


@pytest.mark.parametrize(
    "name", ["config", "snapshots", "x.tmp", "a", "ab", "A", "pvmove", "vol_tdata", "x" * 255, "0.-_"]
)
def test_unusual_names_work_t4(on_disk: Service, name: str) -> None:
    on_disk.create_volume(name)
    on_disk.snapshot([name], name)
    assert on_disk.volume(name).snapshots == 1
    on_disk.remove_volume(name)
    assert on_disk.volumes() == []


def test_default_options_come_from_the_pool_unless_given(tmp_path: Path) -> None:
    service = memory_service(tmp_path, text=TWO_POOLS)
    try:
        made = service.create_volume("big", {"pool": "b", "protect": "false"})
        assert (made.pool, made.options, made.size) == ("b", {"size": "5G"}, 5 << 30)
        assert service.create_volume("other", {"pool": "b"}).options == {"size": "5G", "protect": "true"}
        assert service.create_volume("other", {"pool": "b", "size": "5120M"}).name == "other"
        with pytest.raises(AlreadyExists, match="it is in pool 'b', not 'a'"):
            service.create_volume("other")
    finally:
        service.close()


def test_a_refused_option_makes_nothing(service: Service) -> None:
    for options in ({"size": "1G"}, {"fs": "xfs"}, {"backup.kind": "image"}, {"nonsense": "1"}, {"pool": "b"}):
        with pytest.raises(SnapvolError):
            service.create_volume("web", options)
    assert service.volumes() == []
    assert list(backend(service).volumes()) == []


# -- clones -----------------------------------------------------------------------------------------------------


def write(service: Service, name: str, text: str) -> None:
    (Path(service.volume(name).mountpoint) / "file").write_text(text)


def read(service: Service, name: str) -> str:
    return (Path(service.volume(name).mountpoint) / "file").read_text()


def test_clones_of_a_snapshot_and_of_now(service: Service) -> None:
    service.create_volume("web")
    write(service, "web", "before")
    service.snapshot(["web"], "before")
    write(service, "web", "now")
    old = service.create_volume("web2", {"snapshot": "web@before"})
    new = service.create_volume("web3", {"snapshot": "web"})
    assert (read(service, "web2"), read(service, "web3")) == ("before", "now")
    assert old.parent == "web@before"
    taken = service.snapshots("web")[-1]
    assert (new.parent, taken.made_by, taken.message) == (f"web@{taken.name}", "clone", "for the clone 'web3'")
    assert service.create_volume("web3", {"snapshot": "web"}) == new
    assert service.volume("web").snapshots == 2
    service.remove_volume("web")
    assert service.create_volume("web3", {"snapshot": "web"}) == new


def test_a_clone_inherits_size_but_not_protection(tmp_path: Path) -> None:
    service = memory_service(tmp_path, text=TWO_POOLS)
    try:
        service.create_volume("web", {"pool": "b", "size": "7G", "repository": "default"})
        clone = service.create_volume("c1", {"snapshot": "web", "protect": "false"})
        assert (clone.pool, clone.size, clone.options["repository"]) == ("b", 7 << 30, "default")
        assert "protect" not in clone.options
        assert service.create_volume("c2", {"snapshot": "web", "size": "9G"}).size == 9 << 30
        with pytest.raises(UsageError, match="volume 'web' is in pool 'b', its clone cannot be in 'a'"):
            service.create_volume("c3", {"snapshot": "web", "pool": "a"})
    finally:
        service.close()


@pytest.mark.parametrize(
    ("source", "error", "said"),
    [
        ("nope", NotFound, "volume 'nope' does not exist"),
        ("web@nope", NotFound, "snapshot 'web@nope' does not exist"),
        ("c", UsageError, "volume 'c' cannot be made from itself"),
    ],
)
def test_a_clone_of_what_is_not_there_makes_nothing(
    service: Service, source: str, error: type[SnapvolError], said: str
) -> None:
    service.create_volume("web")
    with pytest.raises(error, match=said):
        service.create_volume("c", {"snapshot": source})
    assert [info.name for info in service.volumes()] == ["web"]
    assert service.snapshots() == []


def test_a_failed_clone_leaves_no_snapshot_that_was_taken_for_it(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.create_volume("web")

    def fail(volume: Volume, *, size: int | None = None, source: Snapshot | None = None) -> None:
        raise StorageFailed("no")

    monkeypatch.setattr(backend(service), "create", fail)
    with pytest.raises(StorageFailed):
        service.create_volume("c", {"snapshot": "web"})
    assert service.snapshots() == []


# -- from backups -----------------------------------------------------------------------------------------------


def test_a_volume_from_a_backup_is_being_restored_until_it_is_not(service: Service, restorer: FakeRestorer) -> None:
    made = service.create_volume("web", {"backup": "db@2026-11-20T03:00", "mode": "0700"})
    assert (made.state, made.job, made.progress, made.eta_seconds) == (State.RESTORING, "job1", 0.43, 120)
    assert restorer.asked == {"backup": "db@2026-11-20T03:00", "mode": "0700"}
    assert restorer.seen_while_filling == []  # G10: not to be seen before it is known that there is such a backup
    for refused in (
        lambda: service.mount("web", "id1"),
        lambda: service.snapshot(["web"]),
        lambda: service.create_volume("c", {"snapshot": "web"}),
        lambda: service.rename_volume("web", "x"),
    ):
        with pytest.raises(NotReady) as caught:
            refused()
        assert str(caught.value) == "volume 'web' is being restored: 43 %, try again in about 2 min"
    assert service.create_volume("web", {"backup": "db@2026-11-20T03:00", "mode": "0700"}).job == "job1"
    restorer.jobs.clear()
    service._context.catalog.change(made.id, state=State.READY, options={**made.options, "uid": "7"})
    service.mount("web", "id1")
    # What the backup brought along is no difference to what is asked for.
    assert service.create_volume("web", {"backup": "db@2026-11-20T03:00", "mode": "0700"}).id == made.id
    with pytest.raises(AlreadyExists, match="it has mode=0700, mode=0750 was asked for"):
        service.create_volume("web", {"backup": "db@2026-11-20T03:00", "mode": "0750"})


def test_a_backup_that_does_not_exist_makes_no_volume_t14(service: Service, restorer: FakeRestorer) -> None:
    restorer.fault = NotFound("there is no backup 'db'")
    with pytest.raises(NotFound, match="there is no backup 'db'"):
        service.create_volume("web", {"backup": "db"})
    assert service.volumes() == []
    assert list(backend(service).volumes()) == []
    service.create_volume("web")


def test_a_failed_restore_says_why_and_can_be_removed(service: Service, restorer: FakeRestorer) -> None:
    made = service.create_volume("web", {"backup": "db"})
    restorer.jobs.clear()
    service._context.catalog.change(made.id, state=State.FAILED, error="the repository does not answer")
    with pytest.raises(NotReady) as caught:
        service.mount("web", "id1")
    assert str(caught.value) == (
        "volume 'web' could not be restored: the repository does not answer; "
        "try again: snapvol job retry job1; or remove it: snapvol rm web"
    )
    with pytest.raises(NotReady):  # a Create must not take it for made
        service.create_volume("web", {"backup": "db"})
    service.remove_volume("web")
    assert (service.volumes(), service.trash()) == ([], [])


def test_removing_what_is_being_restored_stops_the_job(service: Service, restorer: FakeRestorer) -> None:
    made = service.create_volume("web", {"backup": "db"})
    assert service.remove_volume("web", dry_run=True).actions[0].verb == "destroy"
    assert restorer.cancelled == []
    service.remove_volume("web")
    assert restorer.cancelled == [made.id]
    assert (service.volumes(), service.trash()) == ([], [])


# -- at the same time -------------------------------------------------------------------------------------------


class Slow(Memory):
    """A pool whose creations wait for the test."""

    kind = "slow"
    begun: threading.Event
    go_on: threading.Event
    made = 0

    def create(self, volume: Volume, *, size: int | None = None, source: Snapshot | None = None) -> None:
        type(self).made += 1
        self.begun.set()
        assert self.go_on.wait(20)
        super().create(volume, size=size, source=source)


@pytest.fixture
def slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Service:
    monkeypatch.setitem(__import__("support.service", fromlist=["KINDS"]).KINDS, "slow", Slow)
    Slow.begun, Slow.go_on, Slow.made = threading.Event(), threading.Event(), 0
    return memory_service(tmp_path, text='[pools.default]\nbackend = "slow"\n')


def test_two_creations_of_one_name_make_one_volume_and_half_of_it_is_never_seen(slow: Service) -> None:
    """G10."""
    with ThreadPoolExecutor(4) as threads:
        same = [threads.submit(slow.create_volume, "web", {"mode": "0700"}) for _ in range(3)]
        assert Slow.begun.wait(20)
        other = threads.submit(slow.create_volume, "web", {"mode": "0711"})
        assert slow.volumes() == []
        with pytest.raises(NotFound):
            slow.volume("web")
        Slow.go_on.set()
        infos: list[VolumeInfo] = [future.result(20) for future in same]
        with pytest.raises(AlreadyExists):
            other.result(20)
    assert Slow.made == 1
    assert infos[0] == infos[1] == infos[2] == slow.volume("web")
    slow.close()


def test_a_slow_creation_keeps_nobody_else_waiting_t19(slow: Service) -> None:
    with ThreadPoolExecutor(1) as threads:
        making = threads.submit(slow.create_volume, "slow")
        assert Slow.begun.wait(20)
        assert slow.volumes() == []
        with slow._context.locks.volumes("other", wait=0):
            pass
        Slow.go_on.set()
        making.result(20)
    slow.close()


def test_creations_and_removals_at_once_leave_either_a_volume_or_none(service: Service) -> None:
    def create() -> None:
        for _ in range(15):
            service.create_volume("web")

    def remove() -> None:
        for _ in range(15):
            try:
                service.remove_volume("web")
            except NotFound:
                continue

    with ThreadPoolExecutor(4) as threads:
        for future in [threads.submit(work) for work in (create, remove, create, remove)]:
            future.result(60)
    listed = {info.id for info in service.volumes()}
    assert listed == {volume.id for volume in backend(service).volumes() if isinstance(volume, Volume)}
    assert {info.id for info in service.trash()} == {
        volume.id for volume in backend(service).trashed() if isinstance(volume, Volume)
    }
    assert service._context.locks._claims == {}
