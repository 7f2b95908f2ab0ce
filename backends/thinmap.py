"""Which blocks of a thin volume are mapped, and which differ between two: from the pool's metadata (T31).

What is read is a metadata snapshot, of which a pool has one: whoever has reserved it is waited for.
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from snapvol.backend import Range
from snapvol.backends import devicemapper
from snapvol.backends.failures import explained
from snapvol.backends.thinmetadata import Metadata, reading
from snapvol.errors import StorageFailed

log = logging.getLogger(__name__)

_PATIENCE = 120.0  # seconds that others may take
_COURTESY = 5.0  # seconds that somebody else has who may be at work when the pool is opened
_PAUSE = 0.1


class ThinMap:
    """The mappings of one thin pool.

    Args:
        pool: what device-mapper calls the thin pool.
        metadata: the device that its metadata is on.
        lock: a file that keeps our own processes from each other; what it says is who has reserved the snapshot.
    """

    def __init__(self, pool: str, metadata: Path, lock: Path) -> None:
        self._pool = pool
        self._metadata = metadata
        self._lock = lock

    def recover(self) -> None:
        """Release a metadata snapshot that a killed process has left: one blocks all that come after.

        Ours is released at once, and so is anybody's from before the reboot. Where it may be another program's, that
        has some seconds to do it itself: nobody keeps it for longer than reading takes.

        Raises:
            StorageFailed: the kernel refuses.
        """
        first = not self._lock.exists()  # in this boot
        with self._alone() as lock:
            end = time.monotonic() + (0 if first or os.pread(lock, 1, 0) else _COURTESY)
            while self._held() and time.monotonic() < end:
                time.sleep(_PAUSE)
            if self._held():
                log.warning("%s: the metadata snapshot that somebody has left is released", self._pool)
                self._release(lock)

    def _held(self) -> bool:
        state = devicemapper.thin_pool(self._pool)
        return state is not None and state.held is not None

    def mapped(self, volume: int, chunk: int, size: int) -> tuple[Range, ...]:
        """Return the ranges of a thin volume that are mapped, in bytes, ascending and apart from each other.

        Args:
            volume: its number in the pool.
            chunk: the pool's chunk size in bytes.
            size: of the volume, in bytes.

        Raises:
            StorageFailed: that cannot be told.
        """
        with self._reserved(chunk) as metadata:
            return _ranges(metadata.mapped(volume), chunk, size)

    def volumes(self) -> set[int]:
        """Return the numbers of all thin volumes in the pool.

        Raises:
            StorageFailed: that cannot be told.
        """
        with self._reserved() as metadata:
            return metadata.volumes()

    def differing(self, base: int, volume: int, chunk: int, size: int) -> tuple[Range, ...]:
        """Return the ranges, in bytes, in which two thin volumes do not share what they map.

        Args:
            base: one's number in the pool.
            volume: the other's.
            chunk: the pool's chunk size in bytes.
            size: of both, in bytes.

        Raises:
            StorageFailed: that cannot be told.
        """
        with self._reserved(chunk) as metadata:
            return _ranges(metadata.differing(base, volume), chunk, size)

    @contextmanager
    def _alone(self) -> Iterator[int]:
        with explained(f"the metadata of {self._pool} cannot be locked"):
            os.makedirs(self._lock.parent, mode=0o700, exist_ok=True)
            lock = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield lock
        finally:
            os.close(lock)

    @contextmanager
    def _reserved(self, chunk: int | None = None) -> Iterator[Metadata]:
        with self._alone() as lock, explained(f"the metadata of {self._pool} cannot be read"):
            self._wait(lock)
            os.pwrite(lock, b"reserved", 0)
            try:
                devicemapper.message(self._pool, "reserve_metadata_snap")
            except OSError:
                os.ftruncate(lock, 0)  # another program has been faster: it is not ours to release
                raise
            try:
                state = devicemapper.thin_pool(self._pool)
                if state is None or state.held is None:
                    raise StorageFailed(f"thin pool {self._pool} has lost its metadata snapshot")
                with reading(self._metadata) as read:
                    metadata = Metadata(read, state.held)
                    if chunk not in (None, metadata.chunk):
                        raise StorageFailed("the chunk size in the metadata is not the one that LVM reports")
                    yield metadata
            finally:
                self._release(lock)

    def _wait(self, lock: int) -> None:
        """Wait until nobody has the metadata snapshot; one of ours whose process is gone is released."""
        end = time.monotonic() + _PATIENCE
        while True:
            state = devicemapper.thin_pool(self._pool)
            if state is None:
                raise StorageFailed(f"thin pool {self._pool} is not active")
            if state.held is None:
                return
            if os.pread(lock, 1, 0):
                self._release(lock)
                return
            if time.monotonic() > end:
                raise StorageFailed(
                    f"another program has reserved the metadata snapshot of {self._pool}",
                    f"if none does: dmsetup message {self._pool} 0 release_metadata_snap",
                )
            time.sleep(_PAUSE)

    def _release(self, lock: int) -> None:
        with explained(f"the metadata snapshot of {self._pool} cannot be released"):
            if self._held():
                devicemapper.message(self._pool, "release_metadata_snap")
            os.ftruncate(lock, 0)


def _ranges(runs: Iterable[tuple[int, int]], chunk: int, size: int) -> tuple[Range, ...]:
    """Return runs of chunks as ranges of bytes, neighbours joined, cut off at ``size``."""
    found: list[Range] = []
    for first, count in runs:
        begin, end = first * chunk, min((first + count) * chunk, size)
        if begin >= end:
            continue
        if found and begin == sum(found[-1]):
            found[-1] = (found[-1][0], end - found[-1][0])
        else:
            found.append((begin, end - begin))
    return tuple(found)
