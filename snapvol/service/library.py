"""What is in the repositories, asked through short-lived worker processes.

So the daemon never computes a key, parses an index or waits in a socket of S3 itself, and a question that hangs is
ended by ending its process.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from contextlib import suppress

import msgspec
from msgspec import Struct

from snapvol.api import BackupInfo
from snapvol.engine.manifest import VolumeMeta
from snapvol.errors import Cancelled, NotFound, RepositoryUnreachable, SnapvolError, StorageFailed, UsageError
from snapvol.service import work
from snapvol.service.process import Worker
from snapvol.service.repositories import check_password_file
from snapvol.settings import Settings

log = logging.getLogger(__name__)

FRESH = 30.0  # seconds that a listing is good for where nothing changed it
LOOK_SECONDS = 60.0  # for a repository to open when nobody waits for it
LOOK_AGAIN = 900.0  # seconds between two looks at one that is well
LOOK_MENDED = 120.0  # and at one that is not
PATIENCE = 600.0  # seconds for a question to a repository whose storage retries


class Found(Struct, frozen=True, kw_only=True):
    """A backup, and what it says of its volume: None where another program made it."""

    backup: BackupInfo
    meta: VolumeMeta | None = None


class _Listing(Struct, frozen=True):
    at: float
    backups: tuple[BackupInfo, ...]


class Library:
    """The repositories of the settings.

    Args:
        settings: where they are.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._asking: dict[str, threading.Lock] = {}
        self._listings: dict[str, _Listing] = {}
        self._opened: dict[str, int] = {}
        self._problems: dict[str, SnapvolError | None] = {}
        self._workers: set[Worker] = set()
        self._closed = False
        self._look_at: dict[str, float] = {}

    def close(self) -> None:
        """End all questions that wait for an answer; whoever asked hears that they were cancelled."""
        with self._lock:
            self._closed = True
            workers = list(self._workers)
        for worker in workers:
            worker.cancel()

    @property
    def names(self) -> list[str]:
        """All repositories' names."""
        return list(self._settings.repositories)

    def place(self, name: str | None) -> work.Place:
        """Return how to reach a repository; None is the default one.

        Raises:
            SettingsError: there is none of that name.
        """
        name = name or self._settings.default_repository
        chosen = self._settings
        return work.Place(name=name, settings=chosen.repository(name), root=chosen.daemon.root, cache=chosen.cache)

    def problem(self, name: str) -> tuple[bool, SnapvolError | None]:
        """Return whether a repository was asked anything yet, and why the last answer was an error."""
        with self._lock:
            return name in self._problems, self._problems.get(name)

    def require(self, name: str | None, seconds: float | None = None) -> None:
        """Make sure that a repository can be opened, unless that was seen before with the same password file (T32).

        Args:
            name: of the repository.
            seconds: after which it is not waited for any longer, and no error: the job will see.

        Raises:
            SnapvolError: its password file, its storage or the repository itself cannot be used.
        """
        place = self.place(name)
        stamp = check_password_file(place.name, place.settings).stat().st_mtime_ns
        if self._opened.get(place.name) == stamp:
            return
        if self.open(place.name, seconds):
            self._opened[place.name] = stamp

    def open(self, name: str | None, seconds: float | None = None) -> bool:
        """Open a repository, and say whether it answered within ``seconds``.

        Raises:
            SnapvolError: its password file, its storage or the repository itself cannot be used.
        """
        place = self.place(name)
        check_password_file(place.name, place.settings)
        return self._ask(place, work.Probe(repository=place), seconds) is not None

    def look(self, name: str) -> None:
        """Find out whether a repository opens, for `problem` to tell, unless that was done not long ago."""
        if time.monotonic() < self._look_at.get(name, 0.0):
            return
        with suppress(SnapvolError):  # what the repository says is noted; its password file is looked at each time
            if not self.open(name, LOOK_SECONDS):
                self._note(name, RepositoryUnreachable(f"no answer within {LOOK_SECONDS:.0f} s", "snapvol doctor"))
        pause = LOOK_AGAIN if self.problem(name)[1] is None else LOOK_MENDED
        self._look_at[name] = time.monotonic() + pause

    def list(self, name: str | None, *, fresh: bool = False) -> Sequence[BackupInfo]:
        """Return all backups in a repository, oldest first; from memory where that is fresh enough.

        Raises:
            SnapvolError: they could not be listed whole. That never looks like an empty repository.
        """
        place = self.place(name)
        check_password_file(place.name, place.settings)
        with self._lock:
            asking = self._asking.setdefault(place.name, threading.Lock())
        with asking:
            known = self._listings.get(place.name)
            if known is not None and not fresh and time.monotonic() - known.at < FRESH:
                return known.backups
            at = time.monotonic()
            answer = self._ask(place, work.List(repository=place), PATIENCE)
            if answer is None:
                raise StorageFailed(f"repository '{place.name}': no answer within {PATIENCE:.0f} s")
            backups = msgspec.convert(answer["backups"], tuple[BackupInfo, ...])
            self._listings[place.name] = _Listing(at, backups)
            return backups

    def find(self, text: str, name: str | None, seconds: float = PATIENCE) -> Found | None:
        """Return the backup that ``text`` means: an id, ``VOLUME`` or ``VOLUME@TIME``; None after ``seconds``.

        Raises:
            NotFound: there is no such backup.
            SnapvolError: the repository cannot be used.
        """
        place = self.place(name)
        check_password_file(place.name, place.settings)
        answer = self._ask(place, work.Describe(repository=place, backup=text), seconds)
        return None if answer is None else msgspec.convert(answer, Found)

    def forget(self, name: str | None, ids: Sequence[str]) -> None:
        """Remove backups by their full ids.

        Raises:
            SnapvolError: not all could be removed.
        """
        place = self.place(name)
        try:
            if self._ask(place, work.Forget(repository=place, backups=list(ids)), PATIENCE) is None:
                raise StorageFailed(f"repository '{place.name}': no answer within {PATIENCE:.0f} s")
        finally:
            self.changed(place.name)

    def changed(self, name: str) -> None:
        """Do not answer from memory any more."""
        self._listings.pop(name, None)

    def _ask(self, place: work.Place, question: work.Work, seconds: float | None) -> dict[str, object] | None:
        worker = Worker(question, self._hear, seconds=seconds)
        with self._lock:
            self._workers.add(worker)
            closed = self._closed
        if closed:
            worker.cancel()
        try:
            answer = worker.result()
        except SnapvolError as error:
            if worker.late:
                return None
            if isinstance(error, Cancelled):
                raise
            # A backup that is not there is no fault of the repository.
            if not (isinstance(question, work.Describe) and isinstance(error, NotFound | UsageError)):
                self._note(place.name, error)
            raise
        finally:
            with self._lock:
                self._workers.discard(worker)
        self._note(place.name, None)
        return answer

    def _note(self, name: str, problem: SnapvolError | None) -> None:
        with self._lock:
            self._problems[name] = problem

    def _hear(self, message: work.Message) -> None:
        if isinstance(message, work.Said):
            log.log(logging.WARNING if message.warning else logging.DEBUG, "%s", message.line)
