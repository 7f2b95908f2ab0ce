"""Tells people what needs attention: looks every few seconds, and sends in threads that nobody waits for."""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from datetime import UTC, timedelta, tzinfo
from pathlib import Path

import tzlocal

from snapvol.api import Finding, Level, Status, TargetInfo, TrialResult
from snapvol.errors import NotFound, SnapvolError, nearest
from snapvol.model import now
from snapvol.service import notices
from snapvol.service.alarms import Known, Notice, Wish, decide, told
from snapvol.service.notices import Message
from snapvol.service.outlet import SECONDS, TRIES, Outlet
from snapvol.service.state import StateDatabase
from snapvol.settings import NotifySettings, Settings

log = logging.getLogger(__name__)

AGAIN_SECONDS = 60.0  # after a message that was not accepted, until what is true then is tried
HUNG_SECONDS = 2 * TRIES * SECONDS
END_SECONDS = 3.0  # for a message that is on its way when the daemon ends


class Announcer:
    """Everybody who is to be told.

    Args:
        settings: who they are, and this host's name.
        state: where it is remembered what they were told.
        look: says how everything is.
    """

    def __init__(self, settings: Settings, state: StateDatabase, look: Callable[[], Status]) -> None:
        self._look = look
        self._host = settings.host
        self._targets = {name: _Target(name, it, state) for name, it in settings.notify.items()}

    def announce(self) -> None:
        """Look, and begin to send what is to be told. For the daemon's housekeeping, every few seconds."""
        if not self._targets:
            return
        status = self._look()
        for target in self._targets.values():
            target.consider(status, self._host)

    def findings(self) -> list[Finding]:
        """Return which targets cannot be told anything."""
        return [finding for target in self._targets.values() for finding in target.findings()]

    def targets(self) -> list[TargetInfo]:
        """List the targets."""
        return [target.info() for target in self._targets.values()]

    def test(self, name: str | None = None) -> list[TrialResult]:
        """Send a test to one target, or all at once, and say of each whether it was accepted.

        Raises:
            NotFound: there is no such target, or none at all.
        """
        if not self._targets:
            raise NotFound("nobody is to be told anything", "add to the settings: [notify.NAME] with url_file = …")
        if name is not None and name not in self._targets:
            raise NotFound(f"no notification target is called '{name}'", nearest(name, list(self._targets)))
        chosen = [target for target in self._targets.values() if name in (None, target.name)]
        trials = [(target, target.begin_trial(self._host)) for target in chosen]
        return [target.trial_result(thread) for target, thread in trials]

    def close(self) -> None:
        """Begin nothing more; what is on its way has some seconds."""
        for target in self._targets.values():
            target.close()


class _Target:
    def __init__(self, name: str, settings: NotifySettings, state: StateDatabase) -> None:
        self.name = name
        self._settings = settings
        self._state = state
        self._outlet = Outlet(name, settings.url_file)
        self._wish = Wish(
            level=Level(settings.level),
            group=timedelta(seconds=settings.group_seconds),
            digest=settings.timetable,
            zone=_zone(),
        )
        self._subject = f"notification target '{name}'"
        self._lock = threading.Lock()
        self._known: Known = state.known(name)
        self._sending: threading.Thread | None = None
        self._began = 0.0
        self._not_before = 0.0
        self._problem: SnapvolError | None = None
        self._trials: dict[threading.Thread, str | None] = {}
        self._closed = False

    # -- what is to be told -------------------------------------------------------------------------------------

    def consider(self, status: Status, host: str) -> None:
        present = now()
        others = [finding for finding in status.findings if finding.subject != self._subject]
        with self._lock:
            if self._closed:
                return
            known, notice = decide(self._known, others, present, self._wish)
            self._remember(known)
            if notice is None or self._sending is not None or time.monotonic() < self._not_before:
                return
            message = notices.message(host, notice, status, present)
            self._began = time.monotonic()
            self._sending = thread = threading.Thread(
                target=self._send, args=(notice, message), name=f"notify-{self.name}", daemon=True
            )
        thread.start()

    def _send(self, notice: Notice, message: Message) -> None:
        problem = self._attempt(message, TRIES)
        with self._lock:
            self._sending = None
            if problem is None:
                self._remember(told(self._known, notice, now()))
            else:
                self._not_before = time.monotonic() + AGAIN_SECONDS
            before, self._problem = self._problem, problem
        if problem is None:
            log.info("%s was told: %s", self._subject, message.title)
        elif before is None:
            log.error("%s cannot be told: %s", self._subject, problem)

    def _attempt(self, message: Message, tries: int) -> SnapvolError | None:
        try:
            self._outlet.send(message, tries)
        except SnapvolError as error:
            return error
        except Exception as error:
            # Not even its text is logged: a library's error may well hold the URL.
            place = traceback.extract_tb(error.__traceback__)[-1]
            return SnapvolError(f"an unexpected {type(error).__name__} at {Path(place.filename).name}:{place.lineno}")
        return None

    def _remember(self, known: Known) -> None:
        if known != self._known:
            self._known = known
            self._state.set_known(self.name, known)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            sending = self._sending
        if sending is not None:
            sending.join(END_SECONDS)

    # -- how it is ----------------------------------------------------------------------------------------------

    def _trouble(self) -> SnapvolError | None:
        with self._lock:
            hung = self._sending is not None and time.monotonic() - self._began > HUNG_SECONDS
            problem = self._problem
        if hung:
            return SnapvolError("a message has been on its way for minutes", "systemctl restart snapvol")
        try:
            self._outlet.check()
        except SnapvolError as error:
            return error
        return problem

    def findings(self) -> Iterable[Finding]:
        trouble = self._trouble()
        if trouble is not None:
            command = trouble.hint or f"snapvol notify test {self.name}"
            message = f"cannot be told anything: {trouble.message}"
            yield Finding(level=Level.ERROR, subject=self._subject, message=message, command=command)

    def info(self) -> TargetInfo:
        trouble = self._trouble()
        try:
            service = self._outlet.service()
        except SnapvolError:
            service = ""
        with self._lock:
            at = [alarm.told_at for alarm in self._known.alarms.values() if alarm.told_at is not None]
            times = [*at, *self._known.sent]
            open_alarms = sum(alarm.told is not Level.OK for alarm in self._known.alarms.values())
        return TargetInfo(
            name=self.name,
            service=service,
            level=Level(self._settings.level),
            digest=self._settings.digest,
            told=max(times, default=None),
            alarms=open_alarms,
            problem=None if trouble is None else str(trouble),
        )

    # -- a test -------------------------------------------------------------------------------------------------

    def begin_trial(self, host: str) -> threading.Thread:
        """Begin to send a test, in a thread that `trial_result` waits for."""

        def send() -> None:
            problem = self._attempt(notices.trial(host, self.name), tries=1)
            with self._lock:
                self._trials[threading.current_thread()] = None if problem is None else str(problem)
                if problem is None:  # what was wrong is mended, and what waits need not wait longer
                    self._problem, self._not_before = None, 0.0

        thread = threading.Thread(target=send, name=f"notify-{self.name}-test", daemon=True)
        thread.start()
        return thread

    def trial_result(self, thread: threading.Thread) -> TrialResult:
        thread.join(SECONDS + 5)
        with self._lock:
            problem = self._trials.pop(thread, f"no answer within {SECONDS:.0f} s")
        return TrialResult(target=self.name, accepted=problem is None, problem=problem)


def _zone() -> tzinfo:
    """Return the machine's time zone; UTC where it is set up in two ways that differ."""
    try:
        return tzlocal.get_localzone()
    except Exception as error:  # of zoneinfo's and of its own
        log.warning("this machine's time zone is not clear: %s; digests come by UTC", error)
        return UTC
