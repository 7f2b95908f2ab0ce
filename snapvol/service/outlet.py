"""The way out: a message to one service, through Apprise. Its URL is a secret and leaves this module only masked."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from tenacity import RetryError, Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential

from snapvol.api import Level
from snapvol.errors import SettingsError, Unreachable
from snapvol.service import secret_file
from snapvol.service.notices import Message

if TYPE_CHECKING:  # it is slow to import, and few need it
    import apprise

SECONDS = 60.0  # for one try
TRIES = 3
FIRST_PAUSE = 1.0  # seconds; doubles
MASK = "***"
_PARTS = re.compile(r"[/?&=:@,+\s]+")
_KINDS = {Level.OK: "success", Level.WARNING: "warning", Level.ERROR: "failure"}


class Outlet:
    """One target's service.

    Args:
        name: the target's, in the settings.
        url_file: where the URL is; looked at for each message, so that it can be mended without a restart.
    """

    def __init__(self, name: str, url_file: Path) -> None:
        self._subject = f"notify.{name}.url_file"
        self._file = url_file

    def service(self) -> str:
        """Return the kind of service: the scheme of the URL, which is no secret.

        Raises:
            SnapvolError: the URL cannot be read.
        """
        return self._url().partition("://")[0]

    def check(self) -> None:
        """Look whether the URL's file can be used.

        Raises:
            SnapvolError: it is missing, or others may read it (T43).
        """
        secret_file.check(self._subject, self._file, "put the service's Apprise URL there, mode 0600")

    def send(self, message: Message, tries: int = TRIES) -> None:
        """Hand a message over. Takes at most ``tries`` times `SECONDS`, and some seconds between.

        Raises:
            SettingsError: the URL is not one.
            Unreachable: the service did not accept it; why, without anything secret.
        """
        attempts = Retrying(
            stop=stop_after_attempt(tries),
            wait=wait_exponential(FIRST_PAUSE, max=10),
            retry=retry_if_exception_type(Unreachable),
        )
        try:
            attempts(self._try, message)
        except RetryError as error:
            raise error.last_attempt.exception() or error from None

    def _url(self) -> str:
        self.check()
        return secret_file.read(self._subject, self._file, "service's Apprise URL").strip()

    def _try(self, message: Message) -> None:
        url = self._url()
        answer = _apprise(self._subject, url).notify(
            body=message.body,
            title=message.title,
            notify_type=_KINDS[message.level],
            body_format="text",
            timeout=SECONDS,
        )
        if not answer:
            said = "; ".join(entry.message for entry in answer.logs()) or str(answer.status.name).lower()
            raise Unreachable(masked(said, url))


def _apprise(subject: str, url: str) -> apprise.Apprise:
    import apprise

    logging.getLogger("apprise").propagate = False  # it names URLs; what it says of a failure is in its answers
    asset = apprise.AppriseAsset(
        app_id="snapvol", app_desc="snapvol", storage_mode=apprise.PersistentStoreMode.MEMORY, async_mode=False
    )
    made = apprise.Apprise(asset=asset)
    if not made.add(url):
        raise SettingsError(
            f"{subject}: its first line is no URL of a service that Apprise knows",
            "see https://github.com/caronc/apprise/wiki",
        )
    return made


def masked(text: str, url: str) -> str:
    """Return ``text`` in one line, without ``url`` and any part of it that is long enough to be a secret."""
    scheme, _, rest = url.partition("://")
    parts = {part for part in _PARTS.split(rest) if len(part) > 3} | {rest}
    for part in sorted(parts | {unquote(part) for part in parts}, key=len, reverse=True):
        if part and part != scheme:
            text = text.replace(part, MASK)
    return " ".join(text.split())
