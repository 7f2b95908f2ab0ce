"""The way of blobs into a repository: hash, know or compress, seal, pack, upload, index."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from hashlib import sha256

from msgspec import Struct

from snapvol.errors import NotFound, PackLost, UsageError
from snapvol.repository import unpacked
from snapvol.repository.compression import check_round_trip, compress_large
from snapvol.repository.ids import BlobKind, pack_name
from snapvol.repository.index import MOST_IN_FILE, BlobIndex, index_file
from snapvol.repository.packs import TARGET, PackedBlob, Packer, largest
from snapvol.repository.piece_cache import PieceCache
from snapvol.repository.sealing import MasterKey
from snapvol.stores.base import Buffer, Store
from snapvol.stores.cache import NoCache

log = logging.getLogger(__name__)

CHECK_ALL_FROM_LEVEL = 6
LISTED = 1000  # objects that one request lists


class Tuning(Struct, frozen=True, kw_only=True):
    """What writing may take.

    Attributes:
        pack_size: bytes at which a pack is finished.
        level: of zstd. 1 keeps up with stock restic, whose own encoder is between 1 and 3.
        check_one_in: of how many blobs one is decompressed again to compare, as long as the repository is empty; later
            all are, for then there are few new ones.
        uploads: packs that are uploaded or wait for it at once; memory is this + 2 times ``pack_size``.
        index_after_packs: packs after which an index is written, so that a killed run has not uploaded them in vain.
        index_after_seconds: likewise, counted from the last index.
    """

    pack_size: int = TARGET
    level: int = 1
    check_one_in: int = 16
    uploads: int = 3
    index_after_packs: int = 64
    index_after_seconds: float = 60.0


class Writer:
    """Adds blobs. Any number of threads may call `add`; compression and encryption run in theirs, outside of locks.

    Attributes:
        indexes: the ids of the index files that it has written.
    """

    def __init__(
        self, store: Store, key: MasterKey, index: BlobIndex, tuning: Tuning, pieces: PieceCache | None = None
    ) -> None:
        self.tuning = tuning
        self._pieces = pieces or PieceCache(NoCache())
        self.check_all = tuning.level >= CHECK_ALL_FROM_LEVEL
        self._store = store
        self._key = key
        self._index = index
        self._mutex = threading.Lock()
        self._index_mutex = threading.Lock()
        self._open: dict[BlobKind, Packer] = {}
        self._pending: dict[BlobKind, set[bytes]] = {kind: set() for kind in BlobKind}
        self._unindexed: list[tuple[bytes, Sequence[PackedBlob]]] = []
        self._indexed_at = time.monotonic()
        self.indexes: set[bytes] = set()
        self._spare: list[bytearray] = []  # buffers of packs that are uploaded
        self._relied: set[int] = set()  # numbers of packs in the index
        self._slots = threading.BoundedSemaphore(tuning.uploads)
        self._uploads: set[Future[None]] = set()
        self._pool: ThreadPoolExecutor | None = None
        self._failure: BaseException | None = None
        self._turn = 0

    def has(self, kind: BlobKind, blob: bytes) -> bool:
        """Say whether the blob need not be added; a pack that makes this true is one that `recheck` looks for."""
        with self._mutex:
            return self._known(kind, blob)

    def add(self, kind: BlobKind, data: bytes) -> tuple[bytes, bool]:
        """Add ``data`` unless it is there; return its id and whether it was new.

        Raises:
            UsageError: it is larger than a blob may be.
            SnapvolError: an earlier upload failed.
        """
        if len(data) > largest(kind):
            raise UsageError(f"{len(data)} bytes are too many for a {kind} blob")
        blob = sha256(data).digest()
        with self._mutex:
            self._raise_failure()
            if self._known(kind, blob):
                return blob, False
            self._pending[kind].add(blob)
            self._turn += 1
            check = self.check_all or self._turn % self.tuning.check_one_in == 0
        try:
            stored, plain = self._compressed(kind, data, check)
            sealed = self._key.seal_large(stored)
        except BaseException as error:
            self._fail(error)
            raise
        self.copy(kind, blob, sealed, plain)
        return blob, True

    def copy(self, kind: BlobKind, blob: bytes, sealed: Buffer, plain: int) -> None:
        """Add a blob as it is stored elsewhere in this repository, whether it is known or not.

        Args:
            kind: what it is.
            blob: its id.
            sealed: its stored bytes, which the caller has opened and found to be whole.
            plain: as in `PackedBlob`.

        Raises:
            SnapvolError: an earlier upload failed.
        """
        with self._mutex:
            packer = self._open.get(kind)
            if packer is None:
                packer = self._open[kind] = Packer(kind, self._spare.pop() if self._spare else None)
            packer.add(blob, sealed, plain)
            full = self._open.pop(kind) if packer.full(self.tuning.pack_size) else None
            due = self._is_due()
        if full is not None:
            self._submit(full)
        if due:
            self._write_due()

    def take_in(self, packs: Iterable[tuple[bytes, Sequence[PackedBlob]]]) -> None:
        """Make packs that lie in the store without an index known; the next index lists them."""
        with self._mutex:
            for pack, blobs in packs:
                self._index.add(pack, blobs)
                self._unindexed.append((pack, blobs))

    def flush(self) -> None:
        """Upload what is left, wait for all uploads, and write the indexes of all that was uploaded.

        Raises:
            SnapvolError: an upload failed.
        """
        with self._mutex:
            left = [self._open.pop(kind) for kind in list(self._open)]
        for packer in left:
            self._submit(packer)
        while True:
            with self._mutex:
                running = list(self._uploads)
            if not running:
                break
            for upload in running:
                upload.result()
        with self._mutex:
            self._raise_failure()
        self._write_indexes()

    def rely_on_all(self) -> None:
        """Have `recheck` look for every pack that the index names and that is not known to be missing."""
        with self._mutex:
            self._relied.update(self._index.present())

    def recheck(self) -> None:
        """Make sure that every pack that this run wrote or relied on is still there.

        Raises:
            PackLost: one is missing.
        """
        with self._mutex:
            wanted = {pack_name(self._index.pack_id(number)) for number in self._relied}
        if not wanted:
            return
        if len(wanted) > 1 + len(self._index.packs()) // LISTED:  # whichever takes fewer requests
            for entry in self._store.list("data/"):
                wanted.discard(entry.name)
        for name in sorted(wanted):  # also: a listing may be older than the pack
            try:
                self._store.size(name)
            except NotFound:
                raise PackLost(
                    f"{name} in {self._store.location} is gone, and this backup needs it",
                    "run it again, which uploads what is lost; find out what is hit: snapvol repo check",
                ) from None

    def close(self) -> None:
        """End the threads. What was not flushed is lost, except for packs that are uploaded already."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None

    def _known(self, kind: BlobKind, blob: bytes) -> bool:
        number = self._index.pack_number(kind, blob)
        if number >= 0:
            self._relied.add(number)
            return True
        return blob in self._pending[kind]

    def _compressed(self, kind: BlobKind, data: bytes, check: bool) -> tuple[bytes, int]:
        frame = compress_large(data, self.tuning.level)
        # Stock clients expect trees to be compressed. An empty blob cannot be: its plain length means uncompressed.
        if not data or (len(frame) >= len(data) and kind is BlobKind.DATA):
            return data, 0
        if check:
            check_round_trip(frame, data)
        return frame, len(data)

    def _submit(self, packer: Packer) -> None:
        self._slots.acquire()
        try:
            with self._mutex:
                self._raise_failure()
                if self._pool is None:
                    self._pool = ThreadPoolExecutor(self.tuning.uploads, thread_name_prefix="snapvol-upload")
                upload = self._pool.submit(self._upload, packer)
                self._uploads.add(upload)
        except BaseException:
            self._slots.release()
            raise
        upload.add_done_callback(self._uploaded)

    def _uploaded(self, upload: Future[None]) -> None:
        with self._mutex:
            self._uploads.discard(upload)
        self._slots.release()

    def _upload(self, packer: Packer) -> None:
        try:
            pack, data = packer.finish(self._key)
            self._store.put(pack_name(pack), data)
            if packer.kind is BlobKind.TREE:
                self._pieces.keep(pack, 0, data)  # the next backup looks at it
            with self._mutex:
                self._index.add(pack, packer.blobs)
                self._relied.add(self._index.number(pack))
                self._pending[packer.kind].difference_update(blob.id for blob in packer.blobs)
                self._unindexed.append((pack, packer.blobs))
                self._spare.append(data)
                due = self._is_due()
            if due:
                self._write_indexes()
        except BaseException as error:
            self._fail(error)
            raise

    def _is_due(self) -> bool:
        """Say whether an index is to be written now; a pack that waits for one must not wait for the next pack."""
        return bool(self._unindexed) and (
            len(self._unindexed) >= self.tuning.index_after_packs
            or time.monotonic() - self._indexed_at >= self.tuning.index_after_seconds
        )

    def _write_due(self) -> None:
        try:
            self._write_indexes()
        except BaseException as error:
            self._fail(error)
            raise

    def _write_indexes(self) -> None:
        with self._index_mutex:
            with self._mutex:
                waiting, self._unindexed = self._unindexed, []
                self._indexed_at = time.monotonic()
            try:
                while waiting:
                    count, part = _first_file(waiting)
                    name = unpacked.write(self._store, self._key, "index", index_file(part))
                    self.indexes.add(bytes.fromhex(name))
                    waiting = waiting[count:]
            except BaseException:
                with self._mutex:
                    self._unindexed = waiting + self._unindexed
                raise

    def _fail(self, error: BaseException) -> None:
        with self._mutex:
            if self._failure is None:
                self._failure = error

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure


def _first_file(
    waiting: list[tuple[bytes, Sequence[PackedBlob]]],
) -> tuple[int, list[tuple[bytes, Sequence[PackedBlob]]]]:
    """Return how many packs fill an index file, and those packs."""
    blobs = 0
    for count, (_, content) in enumerate(waiting):
        if count and blobs + len(content) > MOST_IN_FILE:
            return count, waiting[:count]
        blobs += len(content)
    return len(waiting), waiting
