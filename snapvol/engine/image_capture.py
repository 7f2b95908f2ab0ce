"""One image on its way into a repository, segment by segment, in memory that does not depend on its size."""

from __future__ import annotations

import mmap
from collections import deque
from collections.abc import Iterator, Sequence
from hashlib import sha256

from msgspec import Struct

from snapvol.engine.base import no_base
from snapvol.engine.contents import is_zero
from snapvol.engine.device import Device
from snapvol.engine.image_layout import Segment, StoredImage, Writer, segments_of, zero_id
from snapvol.engine.image_plan import Action, Plan
from snapvol.engine.manifest import BackupKind, VolumeMeta
from snapvol.engine.node import Node
from snapvol.engine.pipeline import Pipeline, Slot
from snapvol.engine.progress import Progress
from snapvol.engine.ranges import total
from snapvol.engine.reading import Unreadable, root
from snapvol.errors import BaseMismatch
from snapvol.repository import BlobKind, Repository, SnapshotDocument

_WINDOW = 8 << 20  # bytes of a read: enough for the kernel to keep a disk busy
_MOST_UNFINISHED = 16  # segments whose blobs are still being stored


class Earlier(Struct, frozen=True, kw_only=True):
    """The backup that unchanged chunks are taken from.

    Attributes:
        id: its full id.
        stored: its image; None where nothing can be taken from it.
        problem: why not.
    """

    id: str
    stored: StoredImage | None = None
    problem: str | None = None

    @staticmethod
    def find(repository: Repository, identity: str, document: SnapshotDocument | None, wanted: VolumeMeta) -> Earlier:
        """Look at an earlier backup.

        Args:
            repository: with its index loaded.
            identity: the backup's full id.
            document: the backup; None where it is gone or damaged.
            wanted: whose image and source the backup's manifest must have.
        """

        def useless(why: str) -> Earlier:
            return Earlier(id=identity, problem=no_base(identity, why))

        if document is None:
            return useless("it is gone or damaged")
        try:
            start = root(repository, document)
            if start.meta is None:
                return useless(start.lost or "it is not ours")
            meta = start.meta
            if start.kind is not BackupKind.IMAGE or meta.image is None or wanted.image is None:
                return useless("it is not an image")
            if meta.source != wanted.source:
                return useless("it is of another snapshot")
            if meta.lost:
                return useless("pieces of it are lost")
            if meta.image.size != wanted.image.size:
                return useless(f"it has {meta.image.size} bytes, and the volume {wanted.image.size}")
            if meta.image.chunk != wanted.image.chunk:
                return useless(f"its pieces have {meta.image.chunk} bytes, and the new ones {wanted.image.chunk}")
            return Earlier(id=identity, stored=StoredImage(repository, start.subtree, meta))
        except Unreadable as error:
            return useless(error.message)


class Capture:
    """Reads a device as planned and stores its image.

    Args:
        repository: with its index loaded.
        device: to be read.
        plan: what is read.
        pipeline: takes what was read.
        earlier: what else the image is made of; None where the plan reads everything.
        meta: of the volume.
        progress: is told.

    Attributes:
        files: that the image is stored as.
        new: of them, those that the earlier backup does not have.
        changed: those that differ from the earlier backup's.
        unmodified: those that do not.
        bytes_checked: read as a sample of what is said to be unchanged.
    """

    def __init__(
        self,
        repository: Repository,
        device: Device,
        plan: Plan,
        pipeline: Pipeline,
        earlier: Earlier | None,
        meta: VolumeMeta,
        progress: Progress,
    ) -> None:
        self._repository = repository
        self._device = device
        self._plan = plan
        self._pipeline = pipeline
        self._earlier = earlier
        self._meta = meta
        self._progress = progress
        self._writer = Writer(repository, meta, plan.size)
        self._window = memoryview(mmap.mmap(-1, _WINDOW))  # whose address is what O_DIRECT wants
        self._unfinished: deque[tuple[int, Slot, str | None]] = deque()
        self.files = self.new = self.changed = self.unmodified = self.bytes_checked = 0

    def run(self) -> Node:
        """Return the node of ``/volume``, everything below it stored or on its way.

        Raises:
            BaseMismatch: see `back_up_image`.
            StorageFailed: the device cannot be read.
            SnapvolError: the repository failed.
            Cancelled: nobody wants it any more.
        """
        stored = self._earlier.stored if self._earlier is not None else None
        before: Iterator[Segment] = stored.segments() if stored is not None else iter(())
        for offset, size in segments_of(self._plan.size):
            segment = next(before, None)
            slot = self._segment(offset, size, segment)
            self._unfinished.append((size, slot, segment.tree if segment is not None else None))
            self._finish(_MOST_UNFINISHED)
            self._progress.advance(0, 1)
            self._progress.cancelled()
        self._finish(0)
        return self._writer.finish()

    def _finish(self, most: int) -> None:
        while len(self._unfinished) > most:
            size, slot, before = self._unfinished.popleft()
            self._pipeline.wait(slot)
            tree = self._writer.add(size, slot.content)
            self.files += 1
            self.new += before is None
            self.unmodified += before == tree
            self.changed += before not in (None, tree)

    def _segment(self, offset: int, size: int, before: Segment | None) -> Slot:
        slot, chunk = Slot(), self._plan.chunk
        start, end = offset // chunk, -(-(offset + size) // chunk)
        content = before.content if before is not None and len(before.content) == end - start else None
        for first, last, action in self._plan.runs(start, end):
            kept = content[first - start : last - start] if content is not None else None
            if action is Action.READ or (action is Action.KEEP and kept is None):
                self._read(slot, first, last)
            elif action is Action.KEEP and kept is not None:
                self._keep(slot, first, kept)
            else:
                if action is Action.STAY_ZERO and kept is not None:
                    self._check_zeros(first, kept)
                self._zeros(slot, first, last)
        return slot

    def _length(self, number: int) -> int:
        return min(self._plan.chunk, self._plan.size - number * self._plan.chunk)

    def _zeros(self, slot: Slot, first: int, last: int) -> None:
        self._pipeline.put_zeros(slot, self._length(first))
        tail = self._length(last - 1)
        if last - first > 1:
            slot.content.extend(slot.content[-1:] * (last - first - 2))
            self._pipeline.put_zeros(slot, tail)

    def _keep(self, slot: Slot, first: int, content: Sequence[str]) -> None:
        known = ""
        for number, blob in enumerate(content, first):
            # A piece that got lost in the repository is read, so that this backup is whole again.
            if blob != known and not self._repository.has(BlobKind.DATA, bytes.fromhex(blob)):
                self._read(slot, number, number + 1)
                continue
            known = blob
            if number in self._plan.sample:
                self._compare(number, blob)
            slot.content.append(blob)

    def _read(self, slot: Slot, first: int, last: int) -> None:
        at_once = _WINDOW // self._plan.chunk
        for start in range(first, last, at_once):
            end = min(start + at_once, last)
            window = self._filled(start, end)
            for number in range(start, end):
                at = (number - start) * self._plan.chunk
                piece = bytes(window[at : at + self._length(number)])
                if is_zero(piece):
                    self._pipeline.put_zeros(slot, len(piece))
                else:
                    self._pipeline.put(slot, piece)

    def _filled(self, first: int, last: int) -> memoryview:
        """Return the bytes of a few chunks, read where they are mapped and zero elsewhere."""
        offset = first * self._plan.chunk
        window = self._window[: min(last * self._plan.chunk, self._plan.size) - offset]
        parts = self._plan.parts(first, last)
        if total(parts) < len(window):
            window[:] = bytes(len(window))
        for start, end in parts:
            self._device.read(window[start - offset : end - offset], start)
        self._progress.advance(total(parts), 0)
        self._progress.cancelled()
        return window

    # -- proof that what is said to be unchanged is ------------------------------------------------------------

    def _compare(self, number: int, blob: str) -> None:
        before = self._device.bytes_read
        piece = self._filled(number, number + 1)
        self.bytes_checked += self._device.bytes_read - before
        if sha256(piece).hexdigest() != blob:
            raise self._mismatch(number)

    def _check_zeros(self, first: int, content: Sequence[str]) -> None:
        """Make sure, at no cost, that the earlier backup has nothing where nothing is mapped or has changed."""
        for number, blob in enumerate(content, first):
            if blob != zero_id(self._length(number)):
                raise self._mismatch(number)

    def _mismatch(self, number: int) -> BaseMismatch:
        at, base = number * self._plan.chunk, (self._meta.base or "")[:8]
        return BaseMismatch(
            f"volume '{self._meta.name}': its bytes from {at} on differ from backup {base}, "
            "though the storage says that they have not changed since",
            "its earlier backups may lack changes too",
        )
