"""What a repository's bytes are for: how many each group of backups needs, alone and with others."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Mapping
from functools import partial

from msgspec import Struct

from snapvol.errors import Damaged, NotFound
from snapvol.repository import unpacked
from snapvol.repository.findings import CheckProgress
from snapvol.repository.ids import BlobKind, parse_id
from snapvol.repository.index import BlobIndex
from snapvol.repository.indexes import Indexes
from snapvol.repository.packs import SMALLEST, entry_size
from snapvol.repository.reach import mark
from snapvol.repository.reader import Reader
from snapvol.repository.sealing import MasterKey
from snapvol.repository.usage import Usage
from snapvol.stores.base import Store

_SHARED = 0xFFFF


class Share(Struct, frozen=True, kw_only=True):
    """What one group of backups needs; bytes are stored ones.

    Attributes:
        bytes: all of it.
        unique_bytes: what no other group needs.
    """

    bytes: int
    unique_bytes: int


class Measured(Struct, frozen=True, kw_only=True):
    """The contents of a repository.

    Attributes:
        packs: that are there.
        blobs: that indexes name, every copy counted.
        stored_bytes: of all packs.
        needed_bytes: of the blobs that backups need, as they are stored.
        plain_bytes: of the same blobs before compression.
        unneeded_bytes: of packs, for no backup: what a prune without tolerance frees.
        shares: by the names of the groups.
    """

    packs: int
    blobs: int
    stored_bytes: int
    needed_bytes: int
    plain_bytes: int
    unneeded_bytes: int
    shares: dict[str, Share]


class _Noticing(Usage):
    """Tells of every blob that becomes needed."""

    def __init__(self, index: BlobIndex, notice: Callable[[BlobKind, bytes], None]) -> None:
        super().__init__(index)
        self._notice = notice

    def need(self, kind: BlobKind, blob: bytes) -> bool:
        """See `Usage.need`."""
        new = super().need(kind, blob)
        if new:
            self._notice(kind, blob)
        return new


class Measure:
    """Reads all trees, those that several groups share once for each.

    Args:
        store: where the repository lies.
        key: its key.
        progress: told of trees, and asked whether to go on.
    """

    def __init__(self, store: Store, key: MasterKey, progress: CheckProgress) -> None:
        self._store = store
        self._indexes = Indexes(store, key)
        self._index = self._indexes.blobs
        self._reader = Reader(store, key, self._index)
        self._progress = progress
        self._owners: dict[
            tuple[BlobKind, bytes], array[int]
        ] = {}  # kind and prefix → by slot: 0, group + 1, `_SHARED`
        self._totals: list[int] = []
        self._unique: list[int] = []
        self._needed = self._with_entries = self._plain = 0

    def run(self, groups: Mapping[str, Iterable[str]]) -> Measured:
        """Measure.

        Args:
            groups: by their names the root trees of the backups in them, in hexadecimal; listed before this is asked.

        Raises:
            Damaged: an index or a tree cannot be read.
        """
        sizes = [entry.size for entry in self._store.list("data/")]
        self._indexes.load(list(self._store.list("index/")))
        for group, (name, roots) in enumerate(groups.items()):
            self._totals.append(0)
            self._unique.append(0)
            usage = _Noticing(self._index, partial(self._met, group))
            self._mark(usage, [parse_id(root, f"a backup of {name}") for root in roots])
        stored = sum(sizes)
        return Measured(
            packs=len(sizes),
            blobs=len(self._index),
            stored_bytes=stored,
            needed_bytes=self._needed,
            plain_bytes=self._plain,
            unneeded_bytes=max(0, stored - self._with_entries - SMALLEST * len(sizes)),
            shares={
                name: Share(bytes=total, unique_bytes=unique)
                for name, total, unique in zip(groups, self._totals, self._unique, strict=True)
            },
        )

    def logical(self, root: str, known: dict[bytes, int]) -> int:
        """Return the bytes of all files below a tree.

        Args:
            root: its id in hexadecimal.
            known: what was found so far, by tree; it is added to.

        Raises:
            Damaged: a tree cannot be read.
        """
        first = parse_id(root, "a backup")
        waiting = [first]
        while waiting:
            tree = waiting[-1]
            if tree in known:
                waiting.pop()
                continue
            size, subtrees = self._sizes_in(tree)
            missing = [subtree for subtree in subtrees if subtree not in known]
            if missing:
                waiting += missing
            else:
                known[tree] = size + sum(known[subtree] for subtree in subtrees)
        return known[first]

    def _mark(self, usage: Usage, roots: list[bytes]) -> None:
        try:
            mark(self._reader, usage, roots, self._progress)
        except (Damaged, NotFound) as error:
            hint = "find out what is hit: snapvol repo check"
            raise Damaged(f"what backups need is not known: {error.message}", hint) from error

    def _met(self, group: int, kind: BlobKind, blob: bytes) -> None:
        place = self._reader.locate(kind, blob)
        self._totals[group] += place.length
        slot = self._index.slot(kind, blob)
        owners = self._owners.setdefault((kind, blob[:2]), array("H"))
        if slot >= len(owners):
            owners.extend([0] * (slot + 1 - len(owners)))
        owner = owners[slot]
        if owner == 0:
            self._unique[group] += place.length
            self._needed += place.length
            self._with_entries += place.length + entry_size(place.plain_length if place.compressed else 0)
            self._plain += place.plain_length
            owners[slot] = group + 1
        elif owner != _SHARED:
            self._unique[owner - 1] -= place.length
            owners[slot] = _SHARED

    def _sizes_in(self, tree: bytes) -> tuple[int, list[bytes]]:
        what = f"tree blob {tree.hex()[:12]}"
        nodes = unpacked.decode(self._reader.read(BlobKind.TREE, tree), _Sizes, what).nodes or []
        size = sum(node.size for node in nodes if node.type == "file")
        return size, [parse_id(node.subtree or "", what) for node in nodes if node.type == "dir"]


class _Sized(Struct, gc=False):
    type: str = ""
    size: int = 0
    subtree: str | None = None


class _Sizes(Struct):
    nodes: list[_Sized] | None = None
