"""A PostgreSQL cluster in a directory, and a writer that knows which of its rows were promised to last."""

from __future__ import annotations

import os
import pwd
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from support import needs
from support.process import Result, Server, run, wait_until

USER = "postgres"
_SETTINGS = """
listen_addresses = ''
fsync = on
full_page_writes = on
shared_buffers = 32MB
max_wal_size = 64MB
checkpoint_timeout = 30s
"""


def programs() -> Path:
    """Return where Debian has the server's programs; they are not on the search path."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    if not found:
        needs.missing("postgres", "postgresql is not installed (make test installs it)")
    return found[-1].parent


def identity() -> tuple[int, int]:
    """Return the user and group that clusters belong to."""
    user = pwd.getpwnam(USER)
    return user.pw_uid, user.pw_gid


class Cluster:
    """A cluster whose files lie in ``data``; it does not start as root.

    Args:
        data: the directory; `initialise` fills it.
        place: a directory for the socket and the log.
    """

    def __init__(self, data: Path, place: Path) -> None:
        self.data = data
        self.place = place
        self._server: Server | None = None
        place.mkdir(exist_ok=True)
        os.chown(place, *identity())

    def _command(self, program: str, *argv: str | Path) -> list[str]:
        as_user = ("setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups")
        return [*as_user, str(programs() / program), *(str(word) for word in argv)]

    def run(self, program: str, *argv: str | Path, seconds: float = 300) -> Result:
        """Run one of PostgreSQL's programs as its user."""
        return run(*self._command(program, *argv), seconds=seconds, cwd=self.place)

    def initialise(self) -> None:
        """Make a new cluster, with checksums of all pages."""
        words = ("--auth=trust", "--encoding=UTF8", "--locale=C", "--data-checksums", "--no-instructions")
        self.run("initdb", *words, "--pgdata", self.data)
        with (self.data / "postgresql.conf").open("a") as file:
            file.write(_SETTINGS)

    @contextmanager
    def started(self) -> Iterator[Cluster]:
        """Run the server for the length of a ``with``; what was not shut down is recovered."""
        (self.data / "postmaster.pid").unlink(missing_ok=True)
        argv = self._command("postgres", "-D", self.data, "-k", self.place)
        self._server = Server(argv, self.place / "postgres.log")
        try:
            self._server.ready(lambda: self.answers(), 300)
            yield self
        finally:
            self._server.stop(60)

    def answers(self) -> bool:
        words = self._command("pg_isready", "--host", self.place, "--quiet")
        return run(*words, check=False).code == 0

    def sql(self, statement: str) -> str:
        """Run SQL and return what it says, unaligned."""
        return self.run("psql", *self._connection(), "--command", statement).stdout.strip()

    def _connection(self) -> tuple[str, ...]:
        return (
            "--no-psqlrc",
            "--quiet",
            "--no-align",
            "--tuples-only",
            "--host",
            str(self.place),
            "--dbname",
            "postgres",
        )

    @contextmanager
    def written(self) -> Iterator[Writer]:
        """Write rows, one transaction each, for the length of a ``with``."""
        reading, writing = os.pipe()
        argv = ["stdbuf", "-oL", *self._command("psql", *self._connection())]
        session = Server(argv, self.place / "acknowledged", stdin=reading)
        os.close(reading)
        writer = Writer(session, writing)
        try:
            yield writer
        finally:
            writer.end()


class Writer:
    """Rows 1, 2, 3 … in table ``rows``, each committed before the next is sent."""

    def __init__(self, session: Server, pipe: int) -> None:
        self._session = session
        self._pipe = pipe
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._write)
        self._thread.start()

    def _write(self) -> None:
        number = 0
        with suppress(BrokenPipeError), os.fdopen(self._pipe, "w") as out:
            while not self._ended.is_set():
                number += 1
                out.write(f"INSERT INTO rows VALUES ({number}, repeat(md5('{number}'), 20)) RETURNING id;\n")
                out.flush()

    def acknowledged(self) -> int:
        """Return the number of the last row that the server has called committed."""
        whole = self._session.output().rpartition("\n")[0]
        return int(whole.rpartition("\n")[2] or 0)

    def end(self) -> None:
        """Write no more."""
        self._ended.set()
        self._thread.join(60)
        with suppress(AssertionError):
            wait_until(lambda: not self._session.running, 30)
        self._session.stop()
