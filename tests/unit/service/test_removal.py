"""Removal and the trash: refused where somebody would lose something, undoable for a while, for ever where asked."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from snapvol import model
from snapvol.api import Action
from snapvol.errors import AlreadyExists, InUse, InvalidName, NotFound, Protected
from snapvol.model import now
from snapvol.service.service import Service
from support.service import FakeKernel, directory_service, memory_service

NO_TRASH = '[pools.default]\nbackend = "directory"\npath = "{}/pool"\nfull_copies = true\n[trash]\nkeep = "0"\n'


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[timedelta]:
    """How far time is ahead of the machine's: the test sets the one element."""
    ahead = [timedelta()]
    monkeypatch.setattr("snapvol.service.trash.now", lambda: now() + ahead[0])
    return ahead


def test_a_removed_volume_comes_back_as_it_was_t17(on_disk: Service) -> None:
    made = on_disk.create_volume("web", {"mode": "0711"})
    Path(made.mountpoint, "file").write_text("x")
    on_disk.snapshot(["web"], "s1")
    plan = on_disk.remove_volume("web")
    assert plan.done
    assert plan.actions[0] == Action(
        verb="move", object="volume web", target="to the trash", detail=plan.actions[0].detail
    )
    assert plan.actions[0].detail.startswith("with 1 snapshot; until ")
    assert on_disk.volumes() == []
    (trashed,) = on_disk.trash()
    assert (trashed.id, trashed.name, trashed.deleted is not None) == (made.id, "web", True)
    back = on_disk.undelete("web")
    assert (back.id, back.options, back.snapshots, back.labels) == (made.id, made.options, 1, made.labels)
    assert Path(back.mountpoint, "file").read_text() == "x"
    assert on_disk.trash() == []


def test_the_name_is_free_at_once_t17(on_disk: Service) -> None:
    for text in ("first", "second", "third"):
        made = on_disk.create_volume("web")
        assert list(Path(made.mountpoint).iterdir()) == []
        Path(made.mountpoint, "file").write_text(text)
        on_disk.remove_volume("web")
    back = on_disk.undelete("web")  # the one removed last
    assert Path(back.mountpoint, "file").read_text() == "third"
    with pytest.raises(AlreadyExists, match="volume 'web' exists already"):
        on_disk.undelete("web")
    other = on_disk.undelete("web", "web2")
    assert Path(other.mountpoint, "file").read_text() == "second"
    oldest = on_disk.undelete(on_disk.trash()[0].id, "web3")
    assert Path(oldest.mountpoint, "file").read_text() == "first"
    with pytest.raises(NotFound, match="there is no 'web' in the trash; see: snapvol trash"):
        on_disk.undelete("web")


def test_undelete_refuses_a_wrong_name(service: Service) -> None:
    service.create_volume("web")
    service.remove_volume("web")
    with pytest.raises(InvalidName):
        service.undelete("web", "../web")
    assert len(service.trash()) == 1


def test_a_dry_run_says_the_same_and_does_nothing(on_disk: Service) -> None:
    made = on_disk.create_volume("web")
    planned = on_disk.remove_volume("web", dry_run=True)
    assert not planned.done
    assert on_disk.volumes() == [made]
    assert on_disk.remove_volume("web", dry_run=True, permanent=True).actions[0].verb == "destroy"
    assert on_disk.remove_volume("web").actions == planned.actions


@pytest.mark.parametrize("permanent", [False, True])
def test_removal_is_refused_while_anybody_uses_it_t9(service: Service, kernel: FakeKernel, permanent: bool) -> None:
    """G3."""
    made = service.create_volume("web")
    for number in range(5):
        kernel.use(made.mountpoint, f"container {number} (process {number} sh)")
    with pytest.raises(InUse) as caught:
        service.remove_volume("web", permanent=permanent)
    assert str(caught.value) == (
        "volume 'web' is in use by container 0 (process 0 sh), container 1 (process 1 sh), "
        "container 2 (process 2 sh) and 2 more; stop or unmount that first to remove it"
    )
    kernel.leave(made.mountpoint)
    service.remove_volume("web", permanent=permanent)


def test_holders_that_the_kernel_does_not_confirm_never_block(service: Service) -> None:
    """G3, G6."""
    service.create_volume("web")
    for number in range(3):
        service.mount("web", f"id{number}", None)
    service.remove_volume("web")
    service.create_volume("web")
    assert service.volume("web").holders == 0


def test_a_protected_volume_and_a_held_snapshot_say_what_to_do_t18(service: Service) -> None:
    service.create_volume("web", {"protect": "true"})
    with pytest.raises(Protected) as caught:
        service.remove_volume("web")
    assert str(caught.value) == "volume 'web' is protected; allow its removal: snapvol set web protect=false"
    service.set_options("web", {"protect": "false"})
    service.snapshot(["web"], "s1")
    service.hold("web", "s1", "audit")
    with pytest.raises(Protected) as caught:
        service.remove_volume("web", permanent=True)
    assert caught.value.message == "snapshot 'web@s1' is held by 'audit'"
    assert caught.value.hint == "let go of it: snapvol release web@s1 --tag audit"
    assert len(service.volumes()) == 1
    service.release("web", "s1", "audit")
    service.remove_volume("web")


def test_what_is_not_there_is_not_found(service: Service) -> None:
    with pytest.raises(NotFound, match="volume 'web' does not exist; see: snapvol ls"):
        service.remove_volume("web")
    with pytest.raises(NotFound):
        service.empty_trash("web")


def test_permanent_removal_leaves_nothing(on_disk: Service, tmp_path: Path) -> None:
    on_disk.create_volume("web")
    on_disk.snapshot(["web"], "s1")
    on_disk.remove_volume("web", permanent=True)
    assert on_disk.trash() == []
    for part in ("volumes", "trash", "tmp"):
        assert list((tmp_path / "pool" / part).iterdir()) == []


def test_without_a_trash_removal_is_for_ever(tmp_path: Path, kernel: FakeKernel) -> None:
    service = directory_service(tmp_path, kernel, NO_TRASH.format(tmp_path))
    service.create_volume("web")
    plan = service.remove_volume("web")
    assert (plan.actions[0].verb, "cannot be brought back" in plan.actions[0].detail) == ("destroy", True)
    assert service.trash() == []
    assert list((tmp_path / "pool" / "trash").iterdir()) == []
    service.close()


def test_the_trash_expires(on_disk: Service, clock: list[timedelta], tmp_path: Path) -> None:
    for name in ("old", "new"):
        on_disk.create_volume(name)
    on_disk.remove_volume("old")
    clock[0] = timedelta(hours=20)
    on_disk.expire_trash()
    assert [trashed.name for trashed in on_disk.trash()] == ["old"]
    on_disk.remove_volume("new")
    clock[0] = timedelta(hours=25)
    on_disk.expire_trash()
    assert [trashed.name for trashed in on_disk.trash()] == ["new"]
    assert len(list((tmp_path / "pool" / "trash").iterdir())) == 1


def test_a_clock_set_back_expires_nothing_t22(service: Service, clock: list[timedelta]) -> None:
    service.create_volume("web")
    service.remove_volume("web")
    clock[0] = timedelta(days=-400)
    service.expire_trash()
    assert len(service.trash()) == 1


def test_the_trash_outlives_the_daemon(tmp_path: Path) -> None:
    service = directory_service(tmp_path)
    made = service.create_volume("web")
    service.remove_volume("web")
    service.close()
    service = directory_service(tmp_path)
    assert [trashed.id for trashed in service.trash()] == [made.id]
    assert service.undelete("web").id == made.id
    service.close()


def test_emptying_destroys_all_or_what_is_named_t1(service: Service) -> None:
    for name in ("vol1", "vol1", "vol10", "vol2"):
        service.create_volume(name)
        service.remove_volume(name)
    planned = service.empty_trash("vol1", dry_run=True)
    assert [action.object for action in planned.actions] == ["removed volume vol1"] * 2
    assert len(service.trash()) == 4
    assert service.empty_trash("vol1").actions == planned.actions
    assert [trashed.name for trashed in service.trash()] == ["vol2", "vol10"]
    service.empty_trash()
    assert service.trash() == []


def test_the_state_database_is_not_needed_to_find_anything(tmp_path: Path) -> None:
    """DESIGN §2.3: lose the database and every volume, snapshot and removed volume is still there."""
    service = directory_service(tmp_path)
    for name in ("web", "gone"):
        service.create_volume(name, labels={"a": "b"})
    service.snapshot(["web"], "s1")
    service.remove_volume("gone")
    before = (service.volumes(), service.snapshots(), service.trash())
    service.close()
    (tmp_path / "state.db").unlink()
    service = directory_service(tmp_path)
    assert (service.volumes(), service.snapshots(), service.trash()) == before
    service.close()


def test_trash_entries_know_when_they_expire(tmp_path: Path) -> None:
    text = '[pools.default]\nbackend = "memory"\n[trash]\nkeep = "7d"\n'
    service = memory_service(tmp_path, text=text)
    service.create_volume("web")
    service.remove_volume("web")
    (trashed,) = service.trash()
    assert trashed.deleted is not None
    assert trashed.expires == trashed.deleted + timedelta(days=7)
    assert msgspec.json.decode(msgspec.json.encode(trashed), type=type(trashed)) == trashed
    assert model.now() - trashed.deleted < timedelta(minutes=1)
    service.close()
