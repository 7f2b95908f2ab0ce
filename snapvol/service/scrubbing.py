"""What scrubs remember, kept on this machine by the repository's id. Losing it means only that reading begins anew."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic

import msgspec
from msgspec import Struct

from snapvol.errors import StorageFailed
from snapvol.model import now
from snapvol.repository.portions import Amount, Scrub, ScrubRecord
from snapvol.service.repositories import write_durably
from snapvol.settings import Settings

KEEP_SECONDS = 30.0  # between two writes of the record: what a killed scrub reads again


class Scrubbed(Struct, frozen=True, kw_only=True):
    """How much of a repository scrubs have read by now.

    Attributes:
        packs: that are there.
        unread: of them, those that no scrub has read and found whole.
        since: every pack was read, and found whole, then or later; None where some never were.
    """

    packs: int
    unread: int
    since: datetime | None


class KeptScrub(Scrub):
    """A scrub that is remembered while it runs."""

    def __init__(self, amount: Amount, record: ScrubRecord, now: datetime, keep: Callable[[ScrubRecord], None]) -> None:
        super().__init__(amount, record, now)
        self._keep = keep
        self._kept_at = monotonic()

    def noted(self, pack: bytes, whole: bool) -> None:
        """See `Portion.noted`."""
        super().noted(pack, whole)
        if monotonic() - self._kept_at >= KEEP_SECONDS:
            self._keep(self.record)
            self._kept_at = monotonic()

    def result(self, packs: int) -> Scrubbed:
        """Return what is read by now of a repository of so many packs.

        Those that are missing or of a wrong length cannot be read: they count as unread.
        """
        unread = packs - len(self.record.read)
        since = None if unread or self.oldest is None else datetime.fromtimestamp(self.oldest, UTC)
        return Scrubbed(packs=packs, unread=unread, since=since)


@contextmanager
def scrub(place: Path, repository: str, amount: Amount) -> Iterator[KeptScrub]:
    """Provide the next scrub of a repository; what it has read is kept, however it ends.

    Args:
        place: the file that remembers.
        repository: its id.
        amount: how much is to be read.

    Raises:
        StorageFailed: the file cannot be read or written.
    """

    def keep(record: ScrubRecord) -> None:
        try:
            place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_durably(place, msgspec.json.encode(record), os.replace)
        except OSError as error:
            raise StorageFailed(
                f"{place} cannot be written: {error.strerror}", "without it the next scrub reads the same again"
            ) from None

    begun = _remembered(place, repository)
    keep(begun)  # before hours of reading that could not be remembered
    scrub = KeptScrub(amount, begun, now(), keep)
    try:
        yield scrub
    finally:
        keep(scrub.record)


def _remembered(place: Path, repository: str) -> ScrubRecord:
    try:
        record = msgspec.json.decode(place.read_bytes(), type=ScrubRecord)
    except (FileNotFoundError, msgspec.MsgspecError, UnicodeDecodeError):
        return ScrubRecord(repository=repository)
    except OSError as error:
        raise StorageFailed(
            f"{place} cannot be read: {error.strerror}", f"look at its owner and mode: {place}"
        ) from None
    return record if record.repository == repository else ScrubRecord(repository=repository)


def record_file(settings: Settings | None, repository: str) -> Path:
    """Return the file that remembers the scrubs of a repository.

    Args:
        settings: of the daemon, where the repository is one of theirs. Whoever may not write there, and whoever names
            a repository by its URL, has a cache of their own.
        repository: its id.
    """
    if settings is not None:
        root = settings.daemon.root
        if os.access(root, os.W_OK | os.X_OK):
            return root / "scrubs" / f"{repository}.json"
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "snapvol" / "scrubs" / f"{repository}.json"
