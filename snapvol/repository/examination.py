"""A pack looked at whole: whether it is what its name and header say, and which of its blobs can be read."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum, auto
from hashlib import sha256

from msgspec import Struct

from snapvol.errors import Damaged, NotFound, RepositoryUnreachable
from snapvol.repository.check import LARGEST_PACK
from snapvol.repository.ids import pack_name
from snapvol.repository.index import BlobIndex, Location
from snapvol.repository.packs import PackedBlob, header_length, parse_header
from snapvol.repository.reader import Reader
from snapvol.repository.sealing import MasterKey
from snapvol.stores.base import Buffer, Store


class State(Enum):
    """What a pack is."""

    SOUND = auto()  # whole, and the indexes say so
    UNLISTED = auto()  # whole, but the indexes do not say what its header says
    DAMAGED = auto()  # not whole
    UNKNOWN = auto()  # nobody can tell what it holds
    MISSING = auto()  # not there


class Examined(Struct, frozen=True, kw_only=True):
    """What was found.

    Attributes:
        pack: its id.
        size: bytes; 0 where it is missing.
        state: what it is.
        problem: why it is not sound.
        whole: its blobs that can be read; none are listed of a sound pack, whose blobs the indexes list.
        blobs: how many it should have.
    """

    pack: bytes
    size: int = 0
    state: State
    problem: str = ""
    whole: Sequence[PackedBlob] = ()
    blobs: int = 0

    @property
    def name(self) -> str:
        """Its name in the store."""
        return pack_name(self.pack)


class Examiner:
    """Examines packs; any number of threads may.

    Args:
        store: where they lie.
        key: of the repository.
        index: what the readable indexes say.
    """

    def __init__(self, store: Store, key: MasterKey, index: BlobIndex) -> None:
        self._store = store
        self._key = key
        self._index = index
        self._reader = Reader(store, key, index)

    def examine(self, pack: bytes, size: int, listed: int | None) -> Examined:
        """Read a pack whole; one that is not sound is read twice: what is damaged on the way is not damaged there.

        Args:
            pack: its id.
            size: bytes.
            listed: how many blobs the indexes place in it; None where they do not name it at all.

        Raises:
            RepositoryUnreachable: it could not be read, or the storage contradicts itself.
        """
        if size > LARGEST_PACK:
            return Examined(pack=pack, size=size, state=State.UNKNOWN, problem=f"has {size} bytes, too many for a pack")
        first = self._once(pack, size, listed)
        if first.state in (State.SOUND, State.UNLISTED):
            return first
        second = self._once(pack, size, listed)
        better = second.state in (State.SOUND, State.UNLISTED) or len(second.whole) >= len(first.whole)
        return second if better else first

    def contents(self, pack: bytes, data: Buffer, blob: PackedBlob) -> bytes:
        """Return the plain bytes of a blob of the pack whose bytes are ``data``.

        Raises:
            Damaged: it is not whole.
        """
        place = Location(pack, blob.offset, blob.length, blob.plain_length, blob.plain > 0)
        stored = memoryview(data)[blob.offset : blob.offset + blob.length]
        return self._reader.open(blob.kind, blob.id, place, stored)

    def _once(self, pack: bytes, size: int, listed: int | None) -> Examined:
        name = pack_name(pack)
        try:
            data: Buffer = self._store.get(name)
        except NotFound:
            # Nobody else deletes meanwhile: the server contradicts itself, and "there is none" would be a guess (T27).
            said = f"{name} is listed in {self._store.location}, but cannot be read there"
            raise RepositoryUnreachable(said, "try again in a minute") from None
        except Damaged as error:  # no plain object
            return Examined(pack=pack, size=size, state=State.UNKNOWN, problem=error.message)
        problem = "" if sha256(data).digest() == pack else "is altered: its contents are not those it is named after"
        try:
            length = header_length(memoryview(data)[-4:], len(data), name)
            body = len(data) - 4 - length
            blobs = parse_header(self._key.open(memoryview(data)[body:-4], name), body, name)
        except Damaged as error:
            # The indexes alone say now what it holds: what is whole among that is worth keeping.
            blobs = self._index.blobs_of(pack) if listed else []
            if listed is None:
                return Examined(pack=pack, size=size, state=State.UNKNOWN, problem=error.message)
            problem = problem or error.message
        whole = [blob for blob in blobs if self._is_whole(pack, data, blob)]
        if len(whole) < len(blobs):
            problem = problem or "holds blobs that are not what the header says"
        if problem:
            return Examined(pack=pack, size=size, state=State.DAMAGED, problem=problem, whole=whole, blobs=len(blobs))
        if listed == len(blobs) and all(self._is_listed(pack, blob) for blob in blobs):
            return Examined(pack=pack, size=size, state=State.SOUND, blobs=listed)
        problem = "is listed otherwise than its header says" if listed else "is in no index"
        return Examined(pack=pack, size=size, state=State.UNLISTED, problem=problem, whole=whole, blobs=len(blobs))

    def _is_whole(self, pack: bytes, data: Buffer, blob: PackedBlob) -> bool:
        try:
            self.contents(pack, data, blob)
        except Damaged:
            return False
        return True

    def _is_listed(self, pack: bytes, blob: PackedBlob) -> bool:
        place = Location(pack, blob.offset, blob.length, blob.plain_length, blob.plain > 0)
        return place in self._index.find(blob.kind, blob.id)
