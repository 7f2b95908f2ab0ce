"""Image backups through the service: what each is based on, and what a kill or a failure leaves of that (T2, T28)."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from snapvol.api import JobInfo, JobState
from snapvol.errors import NotFound, Protected, StorageFailed
from snapvol.service import bases, points
from snapvol.service.job import Run
from snapvol.service.service import Service
from support.imaged import BLOCK, Imaged
from support.quick import initialise
from support.service import imaged_pool, imaged_service

SECONDS = 60.0
BIG = 4 << 20


@pytest.fixture
def service(imaged: Service) -> Service:
    fill(imaged, "web", size=BIG)
    return imaged


def data(service: Service, name: str) -> Path:
    return imaged_pool(service)._data(service.volume(name).id)


def fill(service: Service, name: str, size: int = 4096, **options: str) -> None:
    service.create_volume(name, options)
    (data(service, name) / "a").write_bytes(os.urandom(size))
    (data(service, name) / "b").write_bytes(b"b")


def touch(service: Service, name: str) -> None:
    """Change the last bytes of a file, without any change of what lies behind it in the image."""
    with (data(service, name) / "a").open("r+b") as file:
        file.seek(-10, os.SEEK_END)
        file.write(os.urandom(10))


def back_up(service: Service, *objects: str) -> JobInfo:
    (job,) = service.backups.back_up(list(objects or ["web"]))
    return service.jobs.wait(job.id, SECONDS)


def done(service: Service, *objects: str) -> JobInfo:
    job = back_up(service, *objects)
    assert (job.state, job.error) == (JobState.DONE, None)
    return job


def held(service: Service, name: str = "web") -> dict[str, tuple[str, ...]]:
    return {snapshot.name: snapshot.holds for snapshot in service.snapshots(name)}


def hold(service: Service, name: str, tag: str) -> None:
    """Hold a snapshot as a backup does."""
    catalog = service._context.catalog
    entry = catalog.get("web")
    points.mark(catalog, entry, entry.snapshot(name), tag)


def is_incremental(job: JobInfo) -> bool:
    assert job.result["bytes_total"] == 16 << 20
    read = job.result["bytes_read"] - job.result["bytes_checked"]  # a sample of the unchanged is read, too
    whole = read >= BIG
    assert whole is (job.result["base"] is None)
    assert whole or read < BIG / 2
    return not whole


def test_the_second_backup_reads_what_has_changed_since_the_first(service: Service) -> None:
    first = done(service)
    assert not is_incremental(first)
    assert first.warnings == []
    assert held(service) == {first.result["snapshot"]: ("base-default",)}
    touch(service, "web")
    second = done(service)
    assert is_incremental(second)
    assert (second.warnings, second.result["parent"]) == ([], first.result["id"])
    assert held(service) == {second.result["snapshot"]: ("base-default",)}
    assert {(backup.kind, backup.volume) for backup in service.backups.list("web")} == {("image", "web")}
    backup = service.backups._restores.find("web", None)
    assert backup.meta is not None
    assert backup.meta.used is not None
    assert BIG <= backup.meta.used <= BIG + 4 * BLOCK
    assert any("KiB have changed" in line for line in service.jobs.log(second.id))


def test_the_option_chooses_between_image_and_files_and_files_need_no_base(service: Service) -> None:
    done(service)
    service.set_options("web", {"backup.kind": "files"})
    job = done(service)
    assert job.result["files"] == 2
    assert held(service) == {}
    service.set_options("web", {"backup.kind": None, "backup.chunk": "64k"})
    assert service.volume("web").options == {"backup.chunk": "64K"}
    assert not is_incremental(done(service))
    assert [backup.kind for backup in service.backups.list("web")] == ["image", "files", "image"]


def test_another_chunk_is_read_whole_and_said(service: Service) -> None:
    done(service)
    service.set_options("web", {"backup.chunk": "64K"})
    job = done(service)
    assert not is_incremental(job)
    assert len(job.warnings) == 1
    assert is_incremental(done(service))


def test_a_snapshot_that_was_backed_up_by_its_name_is_a_base_and_stays_when_it_is_none_any_more(
    service: Service,
) -> None:
    service.snapshot(["web"], "mine")
    done(service, "web@mine")
    assert held(service) == {"mine": ("base-default",)}
    touch(service, "web")
    job = done(service)
    assert is_incremental(job)
    assert held(service) == {"mine": (), job.result["snapshot"]: ("base-default",)}
    again = done(service, "web@mine")  # an older one
    assert is_incremental(again)
    assert held(service) == {"mine": (), job.result["snapshot"]: ("base-default",)}
    assert is_incremental(done(service))


def test_a_failed_backup_keeps_the_base(service: Service) -> None:
    first = done(service)
    place = Path(service.settings.repository("default").url)
    touch(service, "web")
    place.rename(place.with_name("away"))
    assert back_up(service).state is JobState.FAILED
    assert held(service) == {first.result["snapshot"]: ("base-default",)}
    place.with_name("away").rename(place)
    assert is_incremental(done(service))


def test_a_wrong_answer_about_what_changed_is_found_said_and_made_good(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    done(service)
    (data(service, "web") / "a").write_bytes(os.urandom(BIG))
    monkeypatch.setattr(Imaged, "image_changes", lambda *_: ())
    job = done(service)
    assert job.result["mismatch"]
    assert any("everything is read anew" in line for line in job.warnings)
    assert not is_incremental(job)
    assert held(service) == {job.result["snapshot"]: ("base-default",)}


@pytest.mark.parametrize("answer", ["unknown", "gone"])
def test_without_knowledge_of_what_changed_all_is_read(
    service: Service, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    done(service)

    def changes(*_: object) -> None:
        if answer == "gone":
            raise NotFound("snapshot 'web@x' is gone")

    monkeypatch.setattr(Imaged, "image_changes", changes)
    job = done(service)
    assert not is_incremental(job)
    assert job.warnings == ([] if answer == "unknown" else ["snapshot 'web@x' is gone: everything is read"])


def test_a_backup_that_was_forgotten_is_no_base(service: Service) -> None:
    first = done(service)
    service.backups.forget([first.result["id"]], force=True)
    job = done(service)
    assert not is_incremental(job)
    assert job.warnings == ["the backup that the last one was based on is no longer in the repository: all is read"]


# -- holds ------------------------------------------------------------------------------------------------------------


def test_T18_a_base_is_destroyed_by_hand_only_after_its_release_and_then_all_is_read(service: Service) -> None:
    name = done(service).result["snapshot"]
    with pytest.raises(Protected) as refused:
        service.destroy_snapshot("web", name)
    assert refused.value.message == f"snapshot 'web@{name}' is what the next backup to repository 'default' is based on"
    assert str(refused.value.hint).endswith(f"snapvol release web@{name} --tag base-default")
    service.release("web", name, "base-default")
    service.destroy_snapshot("web", name)
    assert not is_incremental(done(service))


def test_T17_a_base_is_no_obstacle_to_removal_and_comes_back_from_the_trash(service: Service) -> None:
    name = done(service).result["snapshot"]
    service.remove_volume("web")
    service.undelete("web")
    assert held(service) == {name: ("base-default",)}
    assert is_incremental(done(service))
    service.remove_volume("web")
    service.empty_trash()
    assert service.trash() == []
    fill(service, "web")
    done(service)
    service.remove_volume("web", permanent=True)
    assert imaged_pool(service)._volumes == {}


def test_T18_a_hold_of_somebody_else_is_an_obstacle_and_the_command_names_its_tag(service: Service) -> None:
    done(service)
    service.snapshot(["web"], "mine")
    service.hold("web", "mine", "audit 2026")
    with pytest.raises(Protected, match="'web@mine' is held by 'audit 2026'") as refused:
        service.remove_volume("web")
    assert refused.value.hint == "let go of it: snapvol release web@mine --tag 'audit 2026'"


def test_a_clone_and_a_restored_volume_have_no_base(service: Service) -> None:
    done(service)
    service.create_volume("copy", {"snapshot": "web"})
    job = service.backups.restore("web", volume="again")
    assert isinstance(job, JobInfo)
    assert service.jobs.wait(job.id, SECONDS).state is JobState.DONE
    assert held(service, "copy") == held(service, "again") == {}


# -- kills ------------------------------------------------------------------------------------------------------------

STEPS = ("hold", "release", "destroy_snapshot", "record")


class Dead(StorageFailed):
    """Nothing that the killed daemon wanted to do is done any more."""


def dying(monkeypatch: pytest.MonkeyPatch, step: int) -> Callable[[], bool]:
    """Let every change of the storage from number ``step`` on fail; return what tells whether it came to that."""
    seen = [0]

    def guarded(change: Any) -> Any:
        def attempt(*arguments: Any, **named: Any) -> Any:
            seen[0] += 1
            if seen[0] >= step:
                raise Dead("killed")
            return change(*arguments, **named)

        return attempt

    for name in STEPS:
        monkeypatch.setattr(Imaged, name, guarded(getattr(Imaged, name)))
    return lambda: seen[0] >= step


def test_T28_killed_at_any_step_there_is_always_a_base_and_never_a_pile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "root"
    service = imaged_service(root)
    initialise(service.settings, "default")
    fill(service, "web", size=BIG)
    done(service)
    for step in range(1, 12):
        touch(service, "web")
        with monkeypatch.context() as patch:
            died = dying(patch, step)
            back_up(service)
            left = imaged_pool(service)._snapshots[service.volume("web").id]
            assert [snapshot for snapshot in left if "base-default" in snapshot.holds]
            service.close()
        service = imaged_service(root)
        assert [tag for tags in held(service).values() for tag in tags] == ["base-default"]
        assert len(held(service)) == 1
        touch(service, "web")
        assert is_incremental(done(service))
        if not died():
            break
    else:
        pytest.fail("the backup has no end")
    assert step > 4
    service.close()


def test_doctor_names_what_holds_snapshots_for_nobody(service: Service) -> None:
    name = done(service).result["snapshot"]
    assert not service.reports._leftovers()
    hold(service, name, bases.tag("old"))
    service.snapshot(["web"], "mine")
    hold(service, "mine", "backup-0123abcd")
    place = service.settings.daemon.root / "tmp" / "0123abcd"
    place.mkdir(parents=True)
    assert [(it.subject, it.command) for it in service.reports._leftovers()] == [
        (f"snapshot 'web@{name}'", f"snapvol release web@{name} --tag base-old"),
        ("snapshot 'web@mine'", "snapvol release web@mine --tag backup-0123abcd"),
        (f"file {place}", f"rm -r --one-file-system {place}"),
    ]


def test_Docker_mounts_and_unmounts_while_an_image_is_read(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    perform = Run.perform

    def between(run: Run, what: Any) -> dict[str, Any]:
        assert service.mount("web", "one").exists()
        service.unmount("web", "one")
        return perform(run, what)

    monkeypatch.setattr(Run, "perform", between)
    done(service)
    assert not imaged_pool(service).is_mounted(service._context.catalog.get("web").volume)
