"""Blobs on their way into the repository: read by one thread, hashed, compressed and sealed by others."""

from __future__ import annotations

import os
import threading
from queue import SimpleQueue
from types import TracebackType
from typing import Self

from snapvol.engine.contents import zeros
from snapvol.repository import BlobKind, Repository

_IN_FLIGHT = 48 << 20

# Below this, handing a blob to another thread costs more than storing it: threads then mostly fight for the
# interpreter (50,000 small files: 6.3 s by one thread, 8.5 s by three). Above, the libraries work without it.
_SMALL = 128 << 10


class Slot:
    """The blob ids of one file, filled in as its blobs are stored.

    Attributes:
        content: hexadecimal ids in the file's order.
        given: blobs handed to other threads, counted by the thread that reads.
        stored: blobs that these have stored.
    """

    __slots__ = ("content", "given", "stored")

    def __init__(self) -> None:
        self.content: list[str] = []
        self.given = 0
        self.stored = 0

    @property
    def complete(self) -> bool:
        """Whether every id is there."""
        return self.stored == self.given


class Pipeline:
    """A few threads that store blobs, with a bound on the bytes they have been given and not yet stored.

    Used by one thread. Leaving the context ends the threads; `settle` before, or what they met is lost.
    """

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._queue: SimpleQueue[tuple[Slot, int, bytes] | None] = SimpleQueue()
        self._changed = threading.Condition()
        self._in_flight = 0
        self._failure: BaseException | None = None
        self._zeros: dict[int, str] = {}
        self._added = 0  # by the thread that reads
        self._added_elsewhere = 0
        count = min(os.cpu_count() or 1, 4)
        self._threads = [threading.Thread(target=self._work, name=f"store-{n}", daemon=True) for n in range(count)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._failure = self._failure or error  # what is still queued is dropped
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()

    @property
    def bytes_added(self) -> int:
        """Bytes that the repository did not have, before compression."""
        return self._added + self._added_elsewhere

    def put(self, slot: Slot, data: bytes) -> None:
        """Store a blob and note its id at the end of ``slot``. Waits while too much is under way.

        Raises:
            SnapvolError: this or an earlier blob could not be stored.
        """
        if len(data) < _SMALL:
            blob, new = self._repository.add(BlobKind.DATA, data)
            slot.content.append(blob.hex())
            self._added += len(data) if new else 0
            return
        with self._changed:
            self._changed.wait_for(lambda: self._in_flight < _IN_FLIGHT or self._failure is not None)
            self._in_flight += len(data)
        self._raise()
        slot.content.append("")  # before another thread fills it in
        slot.given += 1
        self._queue.put((slot, len(slot.content) - 1, data))

    def put_zeros(self, slot: Slot, length: int) -> None:
        """Note the id of ``length`` zero bytes at the end of ``slot``; they are hashed and stored once a run."""
        known = self._zeros.get(length)
        if known is None:
            blob, new = self._repository.add(BlobKind.DATA, zeros(length))
            self._added += length if new else 0
            known = self._zeros[length] = blob.hex()
        slot.content.append(known)

    def wait(self, slot: Slot) -> None:
        """Return when every blob of ``slot`` is stored.

        Raises:
            SnapvolError: a blob could not be stored.
        """
        if not slot.complete:
            with self._changed:
                self._changed.wait_for(lambda: slot.complete or self._failure is not None)
            self._raise()

    def settle(self) -> None:
        """Return when everything is stored.

        Raises:
            SnapvolError: a blob could not be stored.
        """
        with self._changed:
            self._changed.wait_for(lambda: not self._in_flight or self._failure is not None)
        self._raise()

    def _raise(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _work(self) -> None:
        while (task := self._queue.get()) is not None:
            slot, index, data = task
            added = 0
            try:
                if self._failure is None:
                    blob, new = self._repository.add(BlobKind.DATA, data)
                    slot.content[index] = blob.hex()
                    added = len(data) if new else 0
            except BaseException as error:
                with self._changed:
                    self._failure = self._failure or error  # raised again in the thread that reads
            with self._changed:
                slot.stored += 1
                self._in_flight -= len(data)
                self._added_elsewhere += added
                self._changed.notify_all()
