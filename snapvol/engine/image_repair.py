"""An image made anew with zeros where the repository has lost pieces, and told which those are.

Zeros look like any others: what is lost stands in the manifest (`VolumeMeta.lost`), so that a restore and a
verification say of it what they say of pieces that are lost now, and no later backup takes it for a base.
"""

from __future__ import annotations

from snapvol.engine.contents import zeros
from snapvol.engine.image_archiver import CHUNK
from snapvol.engine.image_layout import Segment, StoredImage, Writer, zero_id
from snapvol.engine.manifest import VolumeMeta
from snapvol.engine.node import Node
from snapvol.engine.ranges import Span, joined
from snapvol.repository import BlobKind, Repository

_MOST_SPANS = 20_000  # what a manifest takes; more are told as one that reaches from the first to the last


class ImageRepair:
    """One image.

    Args:
        repository: with its index loaded.
        image: as it is stored.
        meta: of the volume.
        store: whether the new image's trees are stored; otherwise it only finds out what is lost.

    Attributes:
        lost: the spans of bytes that are; also those that were lost before.
        volume: the node of the new ``/volume``; None where nothing is stored.
    """

    def __init__(self, repository: Repository, image: StoredImage, meta: VolumeMeta, store: bool) -> None:
        self.volume: Node | None = None
        self._repository = repository
        self._chunk = meta.image.chunk if meta.image is not None else CHUNK
        self._store = store
        self._lost: list[Span] = list(image.lost)
        self._zeros: set[int] = set()
        writer = Writer(repository, meta, image.size) if store else None
        for segment in image.segments():
            content = self._anew(segment)
            if writer is not None:
                writer.add(segment.size, content)
        if writer is not None:
            self.volume = writer.finish()
        found = joined(sorted(self._lost))
        self.lost = found if len(found) <= _MOST_SPANS else [(found[0][0], found[-1][1])]

    def _anew(self, segment: Segment) -> list[str]:
        if segment.problem is not None:
            self._lost.append((segment.offset, segment.offset + segment.size))
            lengths = [min(self._chunk, segment.size - at) for at in range(0, segment.size, self._chunk)]
            return [self._zero(length) for length in lengths]
        content = []
        for offset, length, blob in segment.pieces():
            if blob == zero_id(length):
                content.append(self._zero(length))  # also where the repository has lost it: what it was is known
            elif self._repository.has(BlobKind.DATA, bytes.fromhex(blob)):
                content.append(blob)
            else:
                self._lost.append((offset, offset + length))
                content.append(self._zero(length))
        return content

    def _zero(self, length: int) -> str:
        if self._store and length not in self._zeros:
            self._repository.add(BlobKind.DATA, zeros(length))
            self._zeros.add(length)
        return zero_id(length)
