"""The daemon's log: one line an event, on standard error, where systemd and dockerd both take it from."""

from __future__ import annotations

import logging
import os
import sys
import time

from snapvol.errors import SettingsError, nearest

# They tell of every connection and every tick; theirs is news only where something is wrong.
LIBRARIES = (
    *("aiodocker", "aiohttp", "apprise", "apscheduler", "asyncio", "boto3", "botocore", "oauthlib"),
    *("requests_oauthlib", "sh", "urllib3"),
)
LEVELS = ("debug", "info", "warning", "error")
# The journal reads the priority from the line's beginning, and has its own clock.
_PRIORITIES = ((logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (0, 7))


class _Line(logging.Formatter):
    converter = staticmethod(time.gmtime)
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def __init__(self, journal: bool) -> None:
        super().__init__("%(message)s" if journal else "%(asctime)s %(levelname)s %(message)s")
        self._journal = journal

    def formatMessage(self, record: logging.LogRecord) -> str:
        line = " ".join(super().formatMessage(record).splitlines())
        if not self._journal:
            return line
        return f"<{next(number for level, number in _PRIORITIES if record.levelno >= level)}>{line}"


def begin(level: str) -> None:
    """Send this process's log to standard error.

    Raises:
        SettingsError: there is no such level.
    """
    if level not in LEVELS:
        raise SettingsError(f"daemon.log_level: '{level}' is not a level", nearest(level, LEVELS))
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Line(journal=bool(os.environ.get("JOURNAL_STREAM"))))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for library in LIBRARIES:
        logging.getLogger(library).setLevel(logging.WARNING)
