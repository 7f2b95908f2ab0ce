"""What a thin pool's metadata says: which chunks of its volumes are mapped, and which differ between two (T31).

The metadata is B+ trees of blocks of 4 KiB that are never changed while a metadata snapshot holds them. Two volumes
with a common past have most of their blocks in common: what differs is found by going through both trees together and
passing over every block that is in both. The layout is that of ``struct thin_disk_superblock`` in the kernel's
drivers/md/dm-thin-metadata.c and ``struct btree_node`` in drivers/md/persistent-data/dm-btree-internal.h.

A wrong answer would corrupt backups silently: each block's checksum, number and order are verified, and the number of
mappings by what the kernel has counted. Whatever is not as expected is refused.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from operator import lt
from pathlib import Path

import google_crc32c
from msgspec import Struct

from snapvol.errors import StorageFailed

BLOCK = 4096
Read = Callable[[int], bytes]  # returns the block of this number

_CHECKSUM = struct.Struct("<I")
_SUPERBLOCK_SALT, _NODE_SALT = 160774, 121107
_MAGIC = 27022010
_SUPERBLOCK = struct.Struct("<I I Q 16s Q I I Q Q 128s 128s Q Q I I Q I I I")
_VERSIONS = (1, 2)
_NODE = struct.Struct("<I I Q I I I I")  # checksum, flags, number, entries, most entries, a value's size, padding
_INTERNAL, _LEAF = 1, 2
_MAPPING, _DETAILS = struct.Struct("<Q"), struct.Struct("<Q Q I I")
_TIME_BITS = 24  # of a mapping: the rest is the data block's number
_MOST_LEVELS = 16
_KEYS_END = 1 << 64
_SECTOR = 512
# What was written together is read together, and remembered: blocks that snapshots hold do not change.
_WINDOW, _WINDOWS = 16 * BLOCK, 256


@contextmanager
def reading(device: Path) -> Iterator[Read]:
    """Give what reads the blocks of the device that a thin pool's metadata is on, past the page cache.

    Raises:
        OSError: it cannot be opened.
    """
    descriptor = os.open(device, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
    try:
        size = os.lseek(descriptor, 0, os.SEEK_END)
        with mmap.mmap(-1, _WINDOW) as pages:  # the buffer must be aligned

            @lru_cache(_WINDOWS)
            def window(begin: int) -> bytes:
                return pages[: os.preadv(descriptor, [pages], begin)]

            def read(number: int) -> bytes:
                if not 0 < number < size // BLOCK:
                    raise StorageFailed(f"the metadata has no block {number}")
                begin, offset = divmod(number * BLOCK, _WINDOW)
                block = window(begin * _WINDOW)[offset : offset + BLOCK]
                if len(block) < BLOCK:
                    raise StorageFailed(f"block {number} of the metadata is cut short")
                return block

            yield read
    finally:
        os.close(descriptor)


class _Node(Struct, frozen=True):
    """A block of a tree: keys, ascending, and for each a value or the number of the block with what comes from it."""

    keys: tuple[int, ...]
    values: Sequence[int]


class _Subtree(Struct, frozen=True):
    """A block that has not been read, with the keys from ``low`` on and below ``high``; its height is 0 for a leaf."""

    low: int
    high: int
    block: int
    height: int


class _Tree:
    """One B+ tree, whose leaves are all equally far from its root.

    Args:
        read: reads blocks.
        root: its root's number.
        value: what leaves have for each key.
    """

    def __init__(self, read: Read, root: int, value: struct.Struct) -> None:
        self._read = read
        self._value = value
        height, block = 0, root
        while self._header(self._block(block), block)[1] & _INTERNAL:
            height += 1
            if height == _MOST_LEVELS:
                raise StorageFailed(f"the tree from block {root} of the metadata has no end")
            block = self._node(_Subtree(0, _KEYS_END, block, height)).values[0]
        self.root = _Subtree(0, _KEYS_END, root, height)

    def children(self, tree: _Subtree) -> list[_Subtree]:
        """Return what is below a block that is no leaf."""
        node = self._node(tree)
        ends = (*node.keys[1:], tree.high)
        return [
            _Subtree(low, high, block, tree.height - 1)
            for low, high, block in zip(node.keys, ends, node.values, strict=True)
        ]

    def leaf(self, tree: _Subtree) -> _Node:
        """Return what a leaf has."""
        return self._node(tree)

    def leaves(self) -> Iterator[_Node]:
        """Yield all leaves, in the order of their keys."""
        pending = [self.root]
        while pending:
            tree = pending.pop()
            if tree.height:
                pending += reversed(self.children(tree))
            else:
                yield self.leaf(tree)

    def find(self, key: int) -> int | None:
        """Return the (first) number of a key's value; None where the tree does not have it."""
        tree = self.root
        while tree.height:
            below = [child for child in self.children(tree) if child.low <= key < child.high]
            if not below:
                return None
            (tree,) = below
        node = self.leaf(tree)
        return node.values[node.keys.index(key)] if key in node.keys else None

    def _block(self, number: int) -> bytes:
        return _verified(self._read(number), number, _NODE_SALT)

    @staticmethod
    def _header(block: bytes, number: int) -> tuple[int, ...]:
        header: tuple[int, ...] = _NODE.unpack_from(block)
        if header[1] not in (_INTERNAL, _LEAF):
            raise StorageFailed(f"block {number} of the metadata is no part of a tree")
        return header

    def _node(self, tree: _Subtree) -> _Node:
        number = tree.block
        block = self._block(number)
        _, flags, _, count, most, size, _ = self._header(block, number)
        value = _MAPPING if tree.height else self._value
        if (flags == _INTERNAL) != bool(tree.height) or size != value.size:
            raise StorageFailed(f"block {number} of the metadata is of another kind than expected")
        if count > most or _NODE.size + most * (8 + size) > BLOCK or (tree.height and not count):
            raise StorageFailed(f"block {number} of the metadata cannot have {count} of {most} entries")
        keys: tuple[int, ...] = struct.unpack_from(f"<{count}Q", block, _NODE.size)
        start = _NODE.size + 8 * most
        if size == _MAPPING.size:
            values: Sequence[int] = struct.unpack_from(f"<{count}Q", block, start)
        else:
            values = [found[0] for found in value.iter_unpack(block[start : start + count * size])]
        if keys and not (tree.low <= keys[0] and keys[-1] < tree.high and all(map(lt, keys, keys[1:]))):
            raise StorageFailed(f"the keys in block {number} of the metadata are not in order")
        return _Node(keys, values)


class Metadata:
    """The metadata of a thin pool as a metadata snapshot holds it.

    Args:
        read: reads blocks; see `reading`.
        held: the block of the metadata snapshot, as the kernel's status names it.

    Raises:
        StorageFailed: there is none, or it is of a kind that is not known.
    """

    def __init__(self, read: Read, held: int) -> None:
        block = _verified(read(held), held, _SUPERBLOCK_SALT)
        fields = _SUPERBLOCK.unpack_from(block)
        magic, version, mappings, details, sectors, block_sectors = (fields[at] for at in (4, 5, 11, 12, 13, 14))
        incompatible = fields[18]
        if magic != _MAGIC or version not in _VERSIONS or incompatible or block_sectors * _SECTOR != BLOCK:
            raise StorageFailed(f"the metadata is of a kind that is not known (version {version})")
        self.chunk: int = sectors * _SECTOR  # bytes
        self._read = read
        self._volumes = _Tree(read, mappings, _MAPPING)
        self._details = _Tree(read, details, _DETAILS)

    def volumes(self) -> set[int]:
        """Return the numbers of all thin volumes.

        Raises:
            OSError: a block cannot be read.
            StorageFailed: a block is not as it must be.
        """
        return {key for leaf in self._details.leaves() for key in leaf.keys}

    def mapped(self, volume: int) -> Iterator[tuple[int, int]]:
        """Yield the runs of chunks that a thin volume has mapped, ascending: the first one's number, and how many.

        Raises:
            OSError: a block cannot be read.
            StorageFailed: the volume is not there, or a block is not as it must be; what came before is void.
        """
        tree, counted = self._tree(volume)
        seen = 0
        for leaf in tree.leaves():
            seen += len(leaf.keys)
            yield from _runs(leaf.keys)
        if seen != counted:
            raise StorageFailed(f"the metadata has {seen} mappings of volume {volume}, and says {counted}")

    def differing(self, old: int, new: int) -> Iterator[tuple[int, int]]:
        """Yield the runs of chunks that two thin volumes do not share, ascending; those that one has not mapped too.

        Args:
            old: one's number.
            new: the other's.

        Raises:
            OSError: a block cannot be read.
            StorageFailed: one is not there, or a block is not as it must be; what came before is void.
        """
        (left, before), (right, after) = self._tree(old), self._tree(new)
        comparison = _Comparison(left, right)
        for keys in comparison.differing():
            yield from _runs(keys)
        if comparison.gained != after - before:
            raise StorageFailed(
                f"volume {new} of the metadata has {comparison.gained} mappings more than {old}, and says"
                f" {after - before}"
            )

    def _tree(self, volume: int) -> tuple[_Tree, int]:
        """Return a volume's tree of mappings, and how many the kernel has counted in it."""
        root, counted = self._volumes.find(volume), self._details.find(volume)
        if root is None or counted is None:
            raise StorageFailed(f"the metadata does not have the volume {volume}")
        return _Tree(self._read, root, _MAPPING), counted


class _Side:
    """One of two trees that are gone through together: what is still to come of it.

    Attributes:
        pending: blocks that have not been read, the next one last.
        keys: those of the leaf that has been read last.
        values: theirs.
        at: how many of them are done.
    """

    def __init__(self, tree: _Tree) -> None:
        self._tree = tree
        self.pending = [tree.root]
        self.keys: tuple[int, ...] = ()
        self.values: Sequence[int] = ()
        self.at = 0

    @property
    def within(self) -> bool:
        """Whether a leaf is begun and not done."""
        return self.at < len(self.keys)

    @property
    def next(self) -> _Subtree | None:
        """The next block, where no leaf is begun."""
        return self.pending[-1] if self.pending else None

    def load(self) -> None:
        """Read the next block, a leaf."""
        leaf = self._tree.leaf(self.pending.pop())
        self.keys, self.values, self.at = leaf.keys, leaf.values, 0

    def open(self) -> None:
        """Read the next block."""
        tree = self.pending[-1]
        if tree.height:
            self.pending[-1:] = reversed(self._tree.children(tree))
        else:
            self.load()

    def take(self) -> tuple[int, int]:
        """Return the next key and its value, and go on."""
        self.at += 1
        return self.keys[self.at - 1], self.values[self.at - 1]

    def reach(self, key: int) -> bool:
        """Read on until it is clear whether ``key`` can still come; return whether a leaf is begun."""
        while not self.within and self.pending and self.pending[-1].low <= key:
            self.open()
        return self.within


class _Comparison:
    """Goes through two trees of mappings at once.

    Attributes:
        gained: by how many mappings the second has more, as far as it has come.
    """

    def __init__(self, left: _Tree, right: _Tree) -> None:
        self._left, self._right = _Side(left), _Side(right)
        self.gained = 0

    def differing(self) -> Iterator[Sequence[int]]:
        """Yield keys whose data is not the same, ascending."""
        left, right = self._left, self._right
        while True:
            if left.within or right.within:
                yield self._step()
                continue
            one, other = left.next, right.next
            if one is None and other is None:
                return
            if one is None or other is None:
                (right if one is None else left).open()
            elif one.block == other.block:
                if one.height != other.height:
                    raise StorageFailed(f"block {one.block} of the metadata has two places")
                left.pending.pop()
                right.pending.pop()
            elif one.height == other.height == 0 and one.low == other.low:
                left.load()
                right.load()
                if left.keys == right.keys:
                    yield self._values()
            elif one.height != other.height:
                (left if one.height > other.height else right).open()
            else:
                (left if one.low <= other.low else right).open()

    def _values(self) -> Sequence[int]:
        """Return the keys of two leaves with the same keys whose data is not the same."""
        left, right = self._left, self._right
        left.at = right.at = len(left.keys)
        return [
            key
            for key, one, other in zip(left.keys, left.values, right.values, strict=True)
            if one != other and one >> _TIME_BITS != other >> _TIME_BITS
        ]

    def _step(self) -> Sequence[int]:
        """Take the next key; return it where its data is not the same, or only one side has it."""
        left, right = self._left, self._right
        if left.within:
            right.reach(left.keys[left.at])
        if right.within:
            left.reach(right.keys[right.at])
        if not right.within or (left.within and left.keys[left.at] < right.keys[right.at]):
            self.gained -= 1
            return (left.take()[0],)
        if not left.within or right.keys[right.at] < left.keys[left.at]:
            self.gained += 1
            return (right.take()[0],)
        (key, one), (_, other) = left.take(), right.take()
        return () if one >> _TIME_BITS == other >> _TIME_BITS else (key,)


def _runs(keys: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield ascending numbers as runs: the first, and how many."""
    if keys and keys[-1] - keys[0] == len(keys) - 1:
        yield keys[0], len(keys)
        return
    begin = 0
    for at in range(1, len(keys) + 1):
        if at == len(keys) or keys[at] != keys[at - 1] + 1:
            yield keys[begin], at - begin
            begin = at


def _verified(block: bytes, number: int, salt: int) -> bytes:
    """Return a block whose checksum and number are right: of the kernel's CRC the last step is left out."""
    (checksum,), (place,) = _CHECKSUM.unpack_from(block), struct.unpack_from("<Q", block, 8)
    if google_crc32c.value(block[4:]) ^ 0xFFFFFFFF ^ salt != checksum:
        raise StorageFailed(f"block {number} of the metadata has a wrong checksum")
    if place != number:
        raise StorageFailed(f"block {number} of the metadata says that it is {place}")
    return block
