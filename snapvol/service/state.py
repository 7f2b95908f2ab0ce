"""History: what was done, by which job, with what outcome. Nothing here is needed to find or restore data.

Losing the database loses history only, so no failure of it ever fails the work that is being recorded: it is logged,
and a database that cannot be read is moved aside and begun anew.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct, field

from snapvol.api import BackupRef, Event, JobInfo
from snapvol.model import now
from snapvol.service.alarms import Known

log = logging.getLogger(__name__)

VERSION = 1
MOST_LOG_LINES = 2000  # of one job; what comes after them is dropped, with a line that says so
MOST_JOBS = 1000
MOST_EVENTS = 20_000

_SCHEMA = f"""
PRAGMA user_version = {VERSION};
CREATE TABLE IF NOT EXISTS jobs (number INTEGER PRIMARY KEY, id TEXT UNIQUE NOT NULL, record BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS job_logs (job TEXT NOT NULL, number INTEGER NOT NULL, line TEXT NOT NULL,
                                     PRIMARY KEY (job, number)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS events (number INTEGER PRIMARY KEY, time TEXT NOT NULL, kind TEXT NOT NULL,
                                   object TEXT NOT NULL, volume_id TEXT NOT NULL, message TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS events_object ON events (object);
CREATE INDEX IF NOT EXISTS events_volume ON events (volume_id);
CREATE TABLE IF NOT EXISTS last_backups (volume_id TEXT PRIMARY KEY, record BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS usages (volume_id TEXT PRIMARY KEY, record BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS told (target TEXT PRIMARY KEY, record BLOB NOT NULL);
"""


class JobRecord(Struct, frozen=True, kw_only=True):
    """A job as it is remembered.

    Attributes:
        info: what people see.
        spec: what it was asked to do, enough to do it again. Never holds a secret.
        volume_id: the volume it works on; empty where it works on none.
    """

    info: JobInfo
    spec: dict[str, Any] = field(default_factory=dict)
    volume_id: str = ""


class Measured(Struct, frozen=True, kw_only=True):
    """A volume's use in bytes, and when it was measured."""

    used: int
    at: datetime


class StateDatabase:
    """The daemon's memory of what happened: an SQLite file, mode 0600, used from any thread.

    Last backups and usages are also held in memory, so that answering Docker never waits for the disk.

    Args:
        path: the database file; it and its directory are made where they are missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.RLock()
        self._backups: dict[str, BackupRef] = {}
        self._usages: dict[str, Measured] = {}
        self._connection = self._opened()
        self._load()

    # -- opening ------------------------------------------------------------------------------------------------

    def _opened(self) -> sqlite3.Connection:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            return self._connect()
        except (OSError, sqlite3.OperationalError) as error:
            # Full, read-only, locked: the file may be whole. Go on without it; the next start looks again.
            return self._begun(sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False),
                               f"cannot be used ({error}); history is kept in memory only")  # fmt: skip
        except sqlite3.DatabaseError as error:
            aside = self._move_aside()
            return self._begun(self._connect(), f"could not be read ({error}); moved to {aside}, history begins anew")

    def _begun(self, connection: sqlite3.Connection, why: str) -> sqlite3.Connection:
        log.warning("%s: %s", self.path, why)
        connection.executescript(_SCHEMA)
        self._connection = connection
        self.add_event("state", "state.db", why)
        return connection

    def _connect(self) -> sqlite3.Connection:
        os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        os.chmod(self.path, 0o600)
        connection = sqlite3.connect(self.path, timeout=10, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            (found,) = connection.execute("PRAGMA user_version").fetchone()
            if found > VERSION:
                raise sqlite3.DatabaseError(f"written by a newer snapvol (version {found})")
            if connection.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
                raise sqlite3.DatabaseError("it is damaged")
            connection.executescript(_SCHEMA)
        except BaseException:
            connection.close()
            raise
        return connection

    def _move_aside(self) -> Path:
        aside = self.path.with_name(f"{self.path.name}.damaged-{now():%Y%m%dT%H%M%SZ}")
        for ending in ("-wal", "-shm"):
            with suppress(FileNotFoundError):
                self.path.with_name(self.path.name + ending).unlink()
        self.path.rename(aside)
        return aside

    def _load(self) -> None:
        for volume_id, record in self._read("SELECT volume_id, record FROM last_backups"):
            with suppress(msgspec.MsgspecError):
                self._backups[volume_id] = msgspec.json.decode(record, type=BackupRef)
        for volume_id, record in self._read("SELECT volume_id, record FROM usages"):
            with suppress(msgspec.MsgspecError):
                self._usages[volume_id] = msgspec.json.decode(record, type=Measured)

    def close(self) -> None:
        """Close the file. Later writes are dropped with a log line, reads find nothing."""
        with self._lock:
            self._connection.close()

    # -- events -------------------------------------------------------------------------------------------------

    def add_event(self, kind: str, object: str, message: str, volume_id: str = "") -> Event:
        """Remember that something happened now to ``object``; ``volume_id`` makes it findable after a rename."""
        event = Event(time=now(), kind=kind, object=object, message=message)
        self._write(
            ("INSERT INTO events (time, kind, object, volume_id, message) VALUES (?, ?, ?, ?, ?)",
             (event.time.isoformat(), kind, object, volume_id, message)),
            ("DELETE FROM events WHERE number <= (SELECT max(number) FROM events) - ?", (MOST_EVENTS,)),
        )  # fmt: skip
        return event

    def events(self, object: str | None = None, volume_id: str = "", limit: int = 1000) -> list[Event]:
        """Return the newest ``limit`` events, oldest first: all, or those of a name or volume identity."""
        rows = self._read(
            "SELECT time, kind, object, message FROM events WHERE ? IS NULL OR object = ? "
            "OR (volume_id = ? AND volume_id <> '') ORDER BY number DESC LIMIT ?",
            (object, object, volume_id, limit),
        )
        return [
            Event(time=datetime.fromisoformat(time), kind=kind, object=about, message=message)
            for time, kind, about, message in reversed(rows)
        ]

    # -- jobs ---------------------------------------------------------------------------------------------------

    def save_job(self, record: JobRecord) -> None:
        """Remember a job, replacing what was known of it."""
        self._write(
            ("INSERT INTO jobs (id, record) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET record = excluded.record",
             (record.info.id, msgspec.json.encode(record))),
            ("DELETE FROM job_logs WHERE job IN (SELECT id FROM jobs WHERE number <= "
             "(SELECT max(number) FROM jobs) - ?)", (MOST_JOBS,)),
            ("DELETE FROM jobs WHERE number <= (SELECT max(number) FROM jobs) - ?", (MOST_JOBS,)),
        )  # fmt: skip

    def jobs(self, limit: int = MOST_JOBS) -> list[JobRecord]:
        """Return the newest ``limit`` jobs, oldest first. One that cannot be read is left out."""
        rows = self._read("SELECT record FROM jobs ORDER BY number DESC LIMIT ?", (limit,))
        found = []
        for (record,) in reversed(rows):
            with suppress(msgspec.MsgspecError):
                found.append(msgspec.json.decode(record, type=JobRecord))
        return found

    def add_log(self, job: str, lines: Sequence[str], first: int) -> None:
        """Append ``lines`` to a job's log; ``first`` is the number of the first, counted from 0."""
        self._write(
            *(("INSERT OR REPLACE INTO job_logs (job, number, line) VALUES (?, ?, ?)", (job, first + at, line))
              for at, line in enumerate(lines)),
        )  # fmt: skip

    def job_log(self, job: str) -> list[str]:
        """Return a job's log."""
        return [line for (line,) in self._read("SELECT line FROM job_logs WHERE job = ? ORDER BY number", (job,))]

    # -- volumes ------------------------------------------------------------------------------------------------

    def set_last_backup(self, volume_id: str, backup: BackupRef) -> None:
        """Remember the newest backup of a volume."""
        self._backups[volume_id] = backup
        self._write(
            ("INSERT OR REPLACE INTO last_backups (volume_id, record) VALUES (?, ?)",
             (volume_id, msgspec.json.encode(backup))),
        )  # fmt: skip

    def drop_last_backup(self, volume_id: str) -> None:
        """Forget which backup of a volume is the newest."""
        self._backups.pop(volume_id, None)
        self._write(("DELETE FROM last_backups WHERE volume_id = ?", (volume_id,)))

    def last_backup(self, volume_id: str) -> BackupRef | None:
        """Return the newest backup of a volume, as far as this daemon knows. Reads memory only."""
        return self._backups.get(volume_id)

    def last_backups(self) -> dict[str, BackupRef]:
        """Return the newest backup by volume identity."""
        return dict(self._backups)

    def set_usage(self, volume_id: str, used: int) -> None:
        """Remember a measurement made now."""
        self._usages[volume_id] = measured = Measured(used=used, at=now())
        self._write(
            ("INSERT OR REPLACE INTO usages (volume_id, record) VALUES (?, ?)",
             (volume_id, msgspec.json.encode(measured))),
        )  # fmt: skip

    def usage(self, volume_id: str) -> Measured | None:
        """Return the last measurement of a volume. Reads memory only."""
        return self._usages.get(volume_id)

    # -- notifications ------------------------------------------------------------------------------------------

    def set_known(self, target: str, known: Known) -> None:
        """Remember what a target was told."""
        self._write(
            ("INSERT OR REPLACE INTO told (target, record) VALUES (?, ?)", (target, msgspec.json.encode(known))),
        )  # fmt: skip

    def known(self, target: str) -> Known:
        """Return what a target was told: nothing, where that is not known any more."""
        for (record,) in self._read("SELECT record FROM told WHERE target = ?", (target,)):
            with suppress(msgspec.MsgspecError):
                return msgspec.json.decode(record, type=Known)
        return Known()

    # -- statements ---------------------------------------------------------------------------------------------

    def _write(self, *statements: tuple[str, tuple[object, ...]]) -> None:
        try:
            with self._lock:
                self._connection.execute("BEGIN")
                try:
                    for statement, values in statements:
                        self._connection.execute(statement, values)
                except BaseException:
                    self._connection.execute("ROLLBACK")
                    raise
                self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            log.warning("%s: history was not written: %s", self.path, error)

    def _read(self, statement: str, values: tuple[object, ...] = ()) -> list[Any]:
        try:
            with self._lock:
                return self._connection.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            log.warning("%s: history cannot be read: %s", self.path, error)
            return []
