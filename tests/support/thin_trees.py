"""Synthetic metadata of a thin pool: mappings as B+ trees of random shape that share blocks, for hypothesis."""

from __future__ import annotations

import random
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import google_crc32c

BLOCK = 4096
CHUNK = 65536
INTERNAL, LEAF = 1, 2
NODE_SALT, SUPERBLOCK_SALT = 121107, 160774
Mappings = Mapping[int, tuple[int, int]]  # chunk: data block, time


def sealed(block: bytes, salt: int) -> bytes:
    """Return a block with the checksum that the kernel would give it."""
    return struct.pack("<I", google_crc32c.value(block[4:]) ^ 0xFFFFFFFF ^ salt) + block[4:]


def node(number: int, flags: int, keys: Sequence[int], values: Sequence[bytes], most: int) -> bytes:
    """Return a block of a tree, with room for ``most`` entries, or as many as there can be."""
    size = len(values[0]) if values else 8
    most = min(most, (BLOCK - 32) // (8 + size) // 3 * 3)
    head = struct.pack("<I I Q I I I I", 0, flags, number, len(keys), most, size, 0)
    body = struct.pack(f"<{len(keys)}Q", *keys).ljust(8 * most, b"\0") + b"".join(values)
    return sealed((head + body).ljust(BLOCK, b"\0"), NODE_SALT)


@dataclass
class Metadata:
    """A metadata device.

    Attributes:
        blocks: by number.
        most: entries in a node.
        roots: of the volumes' trees.
        counts: of their mappings.
    """

    most: int = 6
    blocks: dict[int, bytes] = field(default_factory=dict)
    roots: dict[int, int] = field(default_factory=dict)
    counts: dict[int, int] = field(default_factory=dict)
    _same: dict[tuple[object, ...], int] = field(default_factory=dict)

    def read(self, number: int) -> bytes:
        return self.blocks[number]

    def add(self, volume: int, mappings: Mappings, shape: random.Random, *, shared: float = 1.0) -> None:
        """Add a volume whose tree has a random shape.

        Args:
            volume: its number.
            mappings: what it maps.
            shape: decides where nodes end; equal states end them in equal places.
            shared: how likely a node that another volume has just so is that one.
        """
        values = {key: struct.pack("<Q", block << 24 | time) for key, (block, time) in mappings.items()}
        self.roots[volume] = self._tree(values, shape, shared)
        self.counts[volume] = len(mappings)

    def finished(self) -> int:
        """Add what leads to the volumes, and return the number of the block that a metadata snapshot has."""
        sure = random.Random(1)
        mappings = self._tree({key: struct.pack("<Q", root) for key, root in self.roots.items()}, sure, 0)
        facts = {key: struct.pack("<Q Q I I", count, 5, 0, 1) for key, count in self.counts.items()}
        details = self._tree(facts, sure, 0)
        number = len(self.blocks) + 1
        head = struct.pack("<I I Q 16s Q I I Q Q", 0, 0, number, b"", 27022010, 2, 1, 5, 0)
        tail = struct.pack("<Q Q I I Q I I I", mappings, details, CHUNK // 512, BLOCK // 512, 1 << 12, 0, 0, 0)
        self.blocks[number] = sealed((head + bytes(256) + tail).ljust(BLOCK, b"\0"), SUPERBLOCK_SALT)
        return number

    def _tree(self, entries: Mapping[int, bytes], shape: random.Random, shared: float) -> int:
        keys = sorted(entries)
        level = [(key, entries[key]) for key in keys]
        flags, salt, height = LEAF, shape.random(), 0
        while True:
            parts = self._parts(level, f"{salt} {height}")
            level = [self._node(flags, part, shape, shared) for part in parts]
            if len(level) == 1:
                return int.from_bytes(level[0][1], "little")
            flags, height = INTERNAL, height + 1

    def _parts(self, level: list[tuple[int, bytes]], salt: str) -> list[list[tuple[int, bytes]]]:
        parts: list[list[tuple[int, bytes]]] = [[]]
        for key, value in level:
            # By the key alone: trees of one salt part where they are alike.
            full = len(parts[-1]) == self.most
            if parts[-1] and (full or random.Random(f"{salt} {key}").random() < 2 / self.most):
                parts.append([])
            parts[-1].append((key, value))
        return parts if len(parts) < len(level) or len(level) <= 1 else [level[: self.most], *_halves(level, self.most)]

    def _node(
        self, flags: int, part: list[tuple[int, bytes]], shape: random.Random, shared: float
    ) -> tuple[int, bytes]:
        known = self._same.get((flags, *part))
        if known is None or shape.random() >= shared:
            known = len(self.blocks) + 1
            self.blocks[known] = node(known, flags, [key for key, _ in part], [value for _, value in part], self.most)
            self._same.setdefault((flags, *part), known)
        return (part[0][0] if part else 0), struct.pack("<Q", known)


def _halves(level: list[tuple[int, bytes]], most: int) -> list[list[tuple[int, bytes]]]:
    return [level[begin : begin + most] for begin in range(most, len(level), most)]
