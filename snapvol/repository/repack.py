"""Copying what is needed out of packs that go, into new ones: stored bytes as they are, once they are found whole."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from snapvol.errors import Damaged, NotFound
from snapvol.repository.findings import CheckProgress
from snapvol.repository.ids import BlobKind, pack_name
from snapvol.repository.index import BlobIndex, Location
from snapvol.repository.parallel import mapped
from snapvol.repository.reader import Reader, Run, runs_of
from snapvol.repository.usage import Usage
from snapvol.repository.writer import Writer
from snapvol.stores.base import Buffer, Store

_AHEAD = 2  # reads of up to 8 MiB that are under way
_BLOBS_AT_ONCE = 66_000  # whose places are held in memory, about 250 bytes each

_Whole = tuple[bytes, Buffer, int, bytes]  # id, stored bytes, plain length as in `PackedBlob`, contents of plain trees


def rounds(packs: Sequence[tuple[int, int]]) -> Iterator[list[int]]:
    """Yield the numbers of packs in groups that are copied together.

    Args:
        packs: numbers, and how many needed blobs each has.
    """
    group: list[int] = []
    total = 0
    for number, blobs in packs:
        if group and total + blobs > _BLOBS_AT_ONCE:
            yield group
            group, total = [], 0
        group.append(number)
        total += blobs
    if group:
        yield group


class Repacker:
    """Copies blobs within a repository.

    Args:
        store: where it lies.
        index: where everything is.
        reader: opens blobs.
        writer: makes the new packs; its index is not the reader's, or it would take the blobs for known.
        progress: told of bytes read and of packs that are done.
    """

    def __init__(self, store: Store, index: BlobIndex, reader: Reader, writer: Writer, progress: CheckProgress) -> None:
        self._store = store
        self._index = index
        self._reader = reader
        self._writer = writer
        self._progress = progress

    def copy(self, usage: Usage, packs: Sequence[int]) -> None:
        """Copy what ``usage`` keeps of some packs. `Writer.flush` then makes it last.

        Raises:
            Damaged: a needed blob is lost or altered, in all its copies.
            SnapvolError: an upload failed.
        """
        for data, trees in usage.live(packs).values():
            for kind, blobs in ((BlobKind.DATA, data), (BlobKind.TREE, trees)):
                for whole in self._whole(kind, blobs, elsewhere=True):
                    self._add(kind, whole)
            self._progress.advance(0, 1)

    def prove(self, usage: Usage, packs: Sequence[int], doomed: Collection[int]) -> None:
        """Read those blobs of some packs of which the copies in ``doomed`` packs go.

        Raises:
            Damaged: one of them is not whole.
        """
        for data, trees in usage.live(packs, beside=doomed).values():
            for kind, blobs in ((BlobKind.DATA, data), (BlobKind.TREE, trees)):
                for _ in self._whole(kind, blobs, elsewhere=False):
                    pass

    def _whole(self, kind: BlobKind, blobs: Run, *, elsewhere: bool) -> Iterator[list[_Whole]]:
        for whole in mapped(lambda run: self._read(kind, run, elsewhere), runs_of(blobs), _AHEAD):
            self._progress.cancelled()
            yield whole

    def _read(self, kind: BlobKind, run: Run, elsewhere: bool) -> list[_Whole]:
        start = run[0][1].offset
        end = max(place.offset + place.length for _, place in run)
        try:
            stored = memoryview(self._store.get(pack_name(run[0][1].pack), start, end - start))
        except (NotFound, Damaged):
            return [self._again(kind, blob, place, elsewhere) for blob, place in run]
        found = []
        for blob, place in run:
            piece = stored[place.offset - start : place.offset - start + place.length]
            try:
                found.append(self._opened(kind, blob, place, piece))
            except Damaged:
                found.append(self._again(kind, blob, place, elsewhere))
        return found

    def _opened(self, kind: BlobKind, blob: bytes, place: Location, stored: Buffer) -> _Whole:
        contents = self._reader.open(kind, blob, place, stored)
        if place.compressed:
            return blob, stored, place.plain_length, b""
        return blob, stored, 0, contents if kind is BlobKind.TREE else b""

    def _again(self, kind: BlobKind, blob: bytes, place: Location, elsewhere: bool) -> _Whole:
        """Read a blob by itself: what was damaged on the way is whole now, or another copy is."""
        failure = ""
        for there in [place, *(self._index.find(kind, blob) if elsewhere else ())]:
            try:
                stored = self._store.get(pack_name(there.pack), there.offset, there.length)
                return self._opened(kind, blob, there, stored)
            except (NotFound, Damaged) as error:
                failure = failure or error.message
        raise Damaged(failure, "nothing was deleted; find out what is hit: snapvol repo check --read-data")

    def _add(self, kind: BlobKind, whole: Sequence[_Whole]) -> None:
        for blob, stored, plain, contents in whole:
            if kind is BlobKind.TREE and not plain:
                self._writer.add(kind, contents)  # compressed, as stock clients expect trees to be
            else:
                self._writer.copy(kind, blob, stored, plain)
        self._progress.advance(sum(len(stored) for _, stored, _, _ in whole), 0)
