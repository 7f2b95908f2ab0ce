"""The dead man's switch: a service that hears from us while all is well, and wakes somebody when it does not.

It is the only alarm for a daemon that hangs or is gone, since such a one sends none.
"""

from __future__ import annotations

import logging
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

from snapvol import __version__
from snapvol.api import Finding, Level, Status
from snapvol.errors import SettingsError, SnapvolError, Unreachable
from snapvol.service import secret_file
from snapvol.service.outlet import masked
from snapvol.settings import PingSettings

log = logging.getLogger(__name__)

SECONDS = 15.0  # for an answer
LONGEST = 10_000  # bytes of a body
SUBJECT = "ping"
_KEY = "ping.url_file"


class Ping:
    """The switch.

    Args:
        settings: where and how often.
        look: says how everything is; while it fails, we are not well.
    """

    def __init__(self, settings: PingSettings, look: Callable[[], Status]) -> None:
        self._settings = settings
        self._look = look
        self._due = 0.0
        self._was_well: bool | None = None
        self._problem: SnapvolError | None = None

    def ping(self) -> None:
        """Tell the service how we are, where that is due or has changed. For the housekeeping; never raises."""
        file = self._settings.url_file
        if file is None:
            return
        wrong = self._wrong()
        if time.monotonic() < self._due and self._was_well is (wrong is None):
            return
        try:
            _tell(file, wrong)
        except SnapvolError as error:
            if self._problem is None:
                log.error("%s: %s", SUBJECT, error)
            self._problem = error  # and the next look tries again
        else:
            self._problem, self._was_well = None, wrong is None
            self._due = time.monotonic() + self._settings.seconds

    def _wrong(self) -> str | None:
        try:
            findings = self._look().findings
        except Exception as error:
            log.exception("nobody can say how we are")
            return f"snapvol cannot say how it is: {type(error).__name__}\n"
        lines = [
            f"{finding.subject}: {finding.message}{f'; do: {finding.command}' if finding.command else ''}\n"
            for finding in findings
            if finding.level is Level.ERROR
        ]
        return "".join(lines) or None

    def findings(self) -> list[Finding]:
        """Return why the service does not hear us."""
        problem = self._problem
        if problem is None:
            return []
        message = f"the service that watches over us cannot be told how we are: {problem.message}"
        return [Finding(level=Level.WARNING, subject=SUBJECT, message=message, command=problem.hint)]


def _tell(file: Path, wrong: str | None) -> None:
    secret_file.check(_KEY, file, "put the service's URL there, mode 0600")
    url = secret_file.read(_KEY, file, "service's URL").strip()
    if not url.startswith(("https://", "http://")):
        raise SettingsError(f"{_KEY}: the first line of {file} is not a URL", "put the service's URL there: https://…")
    request = urllib.request.Request(
        url if wrong is None else f"{url.rstrip('/')}/fail",
        data=None if wrong is None else wrong.encode()[:LONGEST],
        headers={"User-Agent": f"snapvol/{__version__}", "Content-Type": "text/plain; charset=utf-8"},
    )
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:
            answer.read(LONGEST)
    except (OSError, ValueError) as error:  # of HTTP, of the network, of a URL with a blank in it
        why = getattr(error, "reason", None) or getattr(error, "strerror", None) or type(error).__name__
        raise Unreachable(f"no good answer: {masked(str(why), url)}", f"look at the URL in {file}") from None
