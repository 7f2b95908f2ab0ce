"""What a prune does: a decision over facts, without touching anything."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import Struct

from snapvol.errors import UsageError
from snapvol.repository.packs import MOST_BLOBS
from snapvol.units import size

PAGE = 1000  # objects that one request lists or deletes
READ = 8 << 20  # bytes that one request reads
FEW_SMALL = 10  # small packs below which merging them is not worth it


class Limits(Struct, frozen=True, kw_only=True):
    """What a prune is to achieve, and what it may cost.

    Attributes:
        unused_share: share of what is left that may be unneeded bytes, to copy less; None: see ``unused_bytes``.
        unused_bytes: likewise, as a number; None: any.
        repack_bytes: at most so many bytes of packs are copied; None: any.
    """

    unused_share: float | None = 0.05
    unused_bytes: int | None = None
    repack_bytes: int | None = None


def limits(max_unused: str, max_repack_size: str | None) -> Limits:
    """Return limits from words: ``5%``, ``200M`` or ``unlimited``; and a size.

    Raises:
        UsageError: they are neither.
    """
    copied = None if max_repack_size is None else (0 if max_repack_size == "0" else size(max_repack_size))
    if max_unused == "unlimited":
        return Limits(unused_share=None, repack_bytes=copied)
    if max_unused.endswith("%"):
        try:
            share = float(max_unused[:-1]) / 100
        except ValueError:
            share = -1.0
        if not 0 <= share < 1:
            raise UsageError(f"{max_unused!r} is not a share", "write 0% to 99%, a size, or unlimited")
        return Limits(unused_share=share, repack_bytes=copied)
    if max_unused.isdigit() and max_unused != "0":
        raise UsageError(f"{max_unused!r} has no unit", f"write a share or a size: {max_unused}%, {max_unused}G")
    allowed = 0 if max_unused == "0" else size(max_unused)
    return Limits(unused_share=None, unused_bytes=allowed, repack_bytes=copied)


class PackFacts(Struct, frozen=True, gc=False):
    """A pack that indexes name.

    Attributes:
        number: its number in the index.
        size: bytes in the store; 0 where it is missing.
        needed: bytes of blobs that stay.
        unneeded: bytes of others.
        needed_blobs: how many.
        unneeded_blobs: likewise.
        duplicates: those of the unneeded ones that stay in another pack.
        tidy: it holds blobs of one kind, and no needed tree uncompressed: else stock clients would repack it.
        trees: it holds trees.
    """

    number: int
    size: int
    needed: int
    unneeded: int
    needed_blobs: int
    unneeded_blobs: int
    duplicates: int
    tidy: bool
    trees: bool


class Requests(Struct, frozen=True, kw_only=True):
    """About how many requests to an S3 server the changes take. What is stored is looked at again: one GET each."""

    list: int
    get: int
    put: int
    delete: int


class Figures(Struct, frozen=True, kw_only=True):
    """A plan in numbers; bytes are stored ones.

    Attributes:
        snapshots: backups that stay.
        packs: that indexes name.
        blobs: in them, every copy counted.
        needed_bytes: what backups need.
        unneeded_bytes: the rest of what indexes name.
        duplicate_blobs: needed blobs' copies that are not needed.
        packs_deleted: packs without anything needed.
        packs_repacked: packs from which what is needed is copied into new ones.
        packs_unreferenced: packs that no index names: killed runs left them.
        blobs_deleted: blobs that are gone afterwards.
        bytes_copied: in repacking.
        bytes_freed: by which the repository becomes smaller.
        unneeded_left: bytes that stay although nobody needs them: freeing them would copy more than the limits allow.
        indexes_replaced: index files that are written anew.
        requests: what the changes cost.
    """

    snapshots: int
    packs: int
    blobs: int
    needed_bytes: int
    unneeded_bytes: int
    duplicate_blobs: int
    packs_deleted: int
    packs_repacked: int
    packs_unreferenced: int
    blobs_deleted: int
    bytes_copied: int
    bytes_freed: int
    unneeded_left: int
    indexes_replaced: int
    requests: Requests


class Choice(Struct, frozen=True):
    """Packs by their numbers: those that go, and those of which what is needed is copied first."""

    delete: tuple[int, ...]
    repack: tuple[int, ...]


def choose(packs: Iterable[PackFacts], limits: Limits, target: int) -> Choice:
    """Decide what becomes of each pack.

    What nobody needs goes. Of the others the emptiest are repacked until no more unneeded bytes are left than the
    limits allow; mixed ones and those with duplicates in any case, and small ones where there are many.

    Args:
        packs: all that indexes name.
        limits: what to achieve and what it may cost.
        target: bytes of a new pack; one of less than half is small.
    """
    delete, candidates, small = [], [], []
    needed = unneeded = 0
    for pack in packs:
        needed += pack.needed
        unneeded += pack.unneeded if pack.needed_blobs else 0
        if not pack.needed_blobs:
            delete.append(pack.number)
        elif pack.unneeded_blobs or not pack.tidy:
            candidates.append(pack)
        elif _small(pack, target):
            small.append(pack)
    merged = small if len(small) >= FEW_SMALL else []
    order = sorted([*candidates, *merged], key=lambda pack: (pack.tidy, -pack.unneeded / pack.needed, pack.number))
    allowed = _allowed(limits, needed)
    repack: list[int] = []
    copied = 0
    for pack in order:
        enough = unneeded <= allowed and pack.tidy and not pack.duplicates and not _small(pack, target)
        dear = limits.repack_bytes is not None and copied + pack.needed + pack.unneeded > limits.repack_bytes
        if enough or dear:
            continue
        repack.append(pack.number)
        copied += pack.needed + pack.unneeded
        unneeded -= pack.unneeded
    return Choice(tuple(delete), tuple(repack))


def figures(
    packs: Sequence[PackFacts],
    choice: Choice,
    *,
    snapshots: int,
    unreferenced: Sequence[int],
    indexes: Sequence[int],
    target: int,
    objects: int,
) -> Figures:
    """Return a plan in numbers.

    Args:
        packs: all that indexes name.
        choice: what becomes of them.
        snapshots: how many there are.
        unreferenced: the sizes of packs that no index names.
        indexes: the blobs in each index that is replaced.
        target: bytes of a new pack.
        objects: packs, indexes and snapshots that are listed once more.
    """
    delete, repack = set(choice.delete), set(choice.repack)
    copied = [pack for pack in packs if pack.number in repack]
    going = [pack for pack in packs if pack.number in delete or pack.number in repack]
    bytes_copied = sum(pack.needed for pack in copied)
    made = sum(_made([pack for pack in copied if pack.trees is trees], target) for trees in (False, True))
    put = made + len(indexes) + (made > 0) + 2  # two locks
    deleted = sum(pack.size > 0 for pack in going) + len(unreferenced)
    return Figures(
        snapshots=snapshots,
        packs=len(packs),
        blobs=sum(pack.needed_blobs + pack.unneeded_blobs for pack in packs),
        needed_bytes=sum(pack.needed for pack in packs),
        unneeded_bytes=sum(pack.unneeded for pack in packs),
        duplicate_blobs=sum(pack.duplicates for pack in packs),
        packs_deleted=len(delete),
        packs_repacked=len(repack),
        packs_unreferenced=len(unreferenced),
        blobs_deleted=sum(pack.unneeded_blobs for pack in going),
        bytes_copied=bytes_copied,
        bytes_freed=sum(pack.size for pack in going) + sum(unreferenced) - bytes_copied,
        unneeded_left=sum(pack.unneeded for pack in packs) - sum(pack.unneeded for pack in going),
        indexes_replaced=len(indexes),
        requests=Requests(
            list=-(-objects // PAGE) + 4,
            get=sum(1 + pack.needed // READ for pack in copied) + len(indexes) + put,
            put=put,
            delete=-(-len(indexes) // PAGE) + -(-deleted // PAGE) + 2,
        ),
    )


def _small(pack: PackFacts, target: int) -> bool:
    return pack.needed + pack.unneeded < target // 2 and pack.needed_blobs + pack.unneeded_blobs < MOST_BLOBS // 2


def _allowed(limits: Limits, needed: int) -> float:
    if limits.unused_share is not None:
        return limits.unused_share / (1 - limits.unused_share) * needed
    return float("inf") if limits.unused_bytes is None else limits.unused_bytes


def _made(packs: Sequence[PackFacts], target: int) -> int:
    by_size = -(-sum(pack.needed for pack in packs) // target)
    return max(by_size, -(-sum(pack.needed_blobs for pack in packs) // MOST_BLOBS))
