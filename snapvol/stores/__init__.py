"""Where repositories lie: a directory, an S3 bucket, or memory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from snapvol.errors import SettingsError
from snapvol.stores.base import Entry, Store

if TYPE_CHECKING:
    from snapvol.settings import RepositorySettings

__all__ = ["Entry", "Store", "open_store"]


def open_store(settings: RepositorySettings) -> Store:
    """Return the store that ``settings`` describe; nothing is contacted yet.

    Raises:
        SettingsError: the URL is neither an absolute path nor ``s3://bucket/prefix``, or another setting is wrong.
    """
    url = settings.url
    if url.startswith("s3://"):
        from snapvol.stores.retry import RetryingStore
        from snapvol.stores.s3 import S3Store

        return RetryingStore(S3Store(settings))
    if url.startswith("/"):
        from snapvol.stores.local import LocalStore

        return LocalStore(Path(url))
    raise SettingsError(f"{url!r} does not name a repository", "write an absolute path or s3://BUCKET/PREFIX")
