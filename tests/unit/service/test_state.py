from __future__ import annotations

import sqlite3
import stat
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from snapvol.api import BackupRef, JobInfo, JobState
from snapvol.service import state
from snapvol.service.state import JobRecord, StateDatabase

THEN = datetime(2026, 11, 20, 3, 0, tzinfo=UTC)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "root" / "state.db"


def job(id: str) -> JobRecord:
    return JobRecord(
        info=JobInfo(id=id, kind="backup", object="web", state=JobState.DONE, created=THEN),
        spec={"volume": "web"},
        volume_id="1",
    )


def test_only_the_owner_can_read_it(path: Path) -> None:
    StateDatabase(path).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_what_was_written_is_read_after_a_restart(path: Path) -> None:
    before = StateDatabase(path)
    ref = BackupRef(id="ab", time=THEN, repository="default")
    before.add_event("create", "web", "created", "1")
    before.save_job(job("j1"))
    before.add_log("j1", ["a", "b"], 0)
    before.add_log("j1", ["c"], 2)
    before.set_last_backup("1", ref)
    before.set_usage("1", 4096)
    before.close()
    after = StateDatabase(path)
    assert [(event.kind, event.object, event.message) for event in after.events("web")] == [
        ("create", "web", "created")
    ]
    assert after.jobs() == [job("j1")]
    assert after.job_log("j1") == ["a", "b", "c"]
    assert after.last_backup("1") == ref
    measured = after.usage("1")
    assert measured is not None
    assert measured.used == 4096
    after.close()


def test_events_follow_a_volume_through_its_names(path: Path) -> None:
    database = StateDatabase(path)
    database.add_event("create", "old", "created", "1")
    database.add_event("rename", "new", "renamed", "1")
    database.add_event("create", "old", "another one", "2")
    assert [event.message for event in database.events("new", "1")] == ["created", "renamed"]
    database.close()


def test_a_job_is_kept_once(path: Path) -> None:
    database = StateDatabase(path)
    database.save_job(job("j1"))
    database.save_job(job("j1"))
    assert len(database.jobs()) == 1
    database.close()


def test_history_does_not_grow_without_end(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "MOST_JOBS", 3)
    monkeypatch.setattr(state, "MOST_EVENTS", 3)
    database = StateDatabase(path)
    for number in range(5):
        database.save_job(job(f"j{number}"))
        database.add_log(f"j{number}", ["line"], 0)
        database.add_event("kind", "web", str(number))
    assert [record.info.id for record in database.jobs(99)] == ["j2", "j3", "j4"]
    assert database.job_log("j1") == []
    assert [event.message for event in database.events("web")] == ["2", "3", "4"]
    database.close()


@pytest.mark.parametrize(
    "damage", [b"no database at all, but long enough to be taken for one" * 99, b"SQLite format 3\0" + bytes(4000)]
)
def test_T41_a_damaged_database_is_moved_aside_and_loses_history_only(path: Path, damage: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(damage)
    database = StateDatabase(path)
    assert database.jobs() == []
    (event,) = database.events("state.db")
    aside = [file for file in path.parent.iterdir() if ".damaged-" in file.name]
    assert [file.read_bytes() for file in aside] == [damage]
    assert str(aside[0]) in event.message
    database.save_job(job("j1"))
    assert database.jobs() == [job("j1")]
    database.close()


def test_the_database_of_a_later_version_is_not_written(path: Path) -> None:
    StateDatabase(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    database = StateDatabase(path)
    (event,) = database.events("state.db")
    assert "newer snapvol" in event.message
    database.close()


def test_a_database_that_cannot_be_opened_now_is_left_where_it_is(path: Path) -> None:
    StateDatabase(path).close()
    kept = path.with_name("kept")
    path.rename(kept)
    path.mkdir()  # as good as a full disk: opening fails, and says nothing of the contents
    database = StateDatabase(path)
    (event,) = database.events("state.db")
    assert "history is kept in memory only" in event.message
    database.save_job(job("j1"))
    assert database.jobs() == [job("j1")]
    database.close()
    assert path.is_dir()


def test_a_failing_database_does_not_fail_the_work(path: Path) -> None:
    database = StateDatabase(path)
    database.close()
    database.save_job(job("j1"))
    database.set_usage("1", 7)
    assert database.jobs() == []
    measured = database.usage("1")
    assert measured is not None
    assert measured.used == 7


def test_many_threads_may_write(path: Path) -> None:
    database = StateDatabase(path)

    def write(number: int) -> None:
        for at in range(20):
            database.add_event("kind", f"v{number}", str(at))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(len(database.events(f"v{number}")) == 20 for number in range(8))
    database.close()
