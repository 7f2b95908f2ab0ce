"""The contents of volumes, mounted for as long as somebody needs them: who announced it, and the service itself."""

from __future__ import annotations

import logging
import os
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from snapvol.errors import SnapvolError, StorageFailed
from snapvol.service.catalog import Catalog, Entry
from snapvol.service.holders import Holders
from snapvol.service.locks import Locks

log = logging.getLogger(__name__)


@contextmanager
def pinned(root: Path) -> Iterator[None]:
    """Keep the file system of a directory mounted while the context lasts, for a worker that may take long to open it.

    Whoever unmounts it, or exports its pool, is told that it is busy. Else the worker would find the empty directory
    below the mount: an empty volume to back up, and the machine's own file system to restore into (T7).

    Raises:
        StorageFailed: there is no such directory.
    """
    try:
        descriptor = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise StorageFailed(f"{root} cannot be opened: {error.strerror}") from error
    try:
        yield
    finally:
        os.close(descriptor)


class Contents:
    """Mounts and unmounts.

    Attributes:
        later: identities of the volumes that could not be unmounted when nobody needed them any more.
    """

    def __init__(self, catalog: Catalog, locks: Locks, holders: Holders) -> None:
        self._catalog = catalog
        self._locks = locks
        self._holders = holders
        self._readers: Counter[str] = Counter()
        self._counting = threading.Lock()
        self.later: set[str] = set()

    def needed(self, volume_id: str) -> bool:
        """Tell whether somebody announced a use, or the service itself reads."""
        return self._holders.count(volume_id) > 0 or self._readers[volume_id] > 0

    @contextmanager
    def read(self, entry: Entry) -> Iterator[Path]:
        """Give the root of a volume while the context lasts. Others may mount and unmount it meanwhile.

        Raises:
            InUse: what excludes a mount is still running after some seconds.
            SnapvolError: it cannot be mounted.
        """
        volume_id = entry.volume.id
        with self._locks.mounting(entry.key):
            self._count(volume_id, 1)
            try:
                path = entry.backend.mount(entry.volume)
            except BaseException:
                self._count(volume_id, -1)
                raise
        try:
            yield path
        finally:
            self._count(volume_id, -1)
            self.let_go(entry)

    @contextmanager
    def claimed(self, entry: Entry) -> Iterator[Path]:
        """Give the root of a volume that the caller has claimed for itself, while the context lasts."""
        path = entry.backend.mount(entry.volume)
        try:
            yield path
        finally:
            self.settle(entry)

    def settle(self, entry: Entry) -> None:
        """Mount or unmount a volume that the caller has claimed for itself, as those who announced a use need it.

        Never raises: a failure is logged, and the next mount, or the next look around, tries again.
        """
        try:
            if self._holders.count(entry.volume.id) > 0:
                entry.backend.mount(entry.volume)
            else:
                entry.backend.unmount(entry.volume)
        except SnapvolError as error:
            log.warning("volume '%s' is not mounted as it should be: %s", entry.volume.name, error)
            self.later.add(entry.volume.id)

    def let_go(self, entry: Entry) -> None:
        """Unmount a volume that nobody needs any more; later where that cannot be now. Never raises.

        Docker must not hear of a failed unmount: its counts would be wrong from then on (G7).
        """
        volume_id = entry.volume.id
        if self.needed(volume_id):
            return
        try:
            with self._locks.mounting(entry.key, wait=0.5):
                found = self._catalog.by_id(volume_id)
                if found is not None and not self.needed(volume_id):
                    found.backend.unmount(found.volume)
                self.later.discard(volume_id)
        except SnapvolError as error:
            log.info("volume '%s' is unmounted later: %s", entry.volume.name, error)
            self.later.add(volume_id)

    def _count(self, volume_id: str, change: int) -> None:
        with self._counting:
            self._readers[volume_id] += change
            if not self._readers[volume_id]:
                del self._readers[volume_id]
