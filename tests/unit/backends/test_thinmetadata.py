"""What two thin volumes do not share is found in their trees, of whatever shape; damage is never an answer (T31)."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapvol.backends.thinmetadata import Metadata, reading
from snapvol.errors import StorageFailed
from support import thin_trees
from support.thin_trees import BLOCK, CHUNK, INTERNAL, LEAF, NODE_SALT, SUPERBLOCK_SALT, Mappings, node, sealed

KEYS = st.one_of(st.integers(0, 60), st.integers(0, 600), st.integers(2**40, 2**40 + 9))
MAPPINGS = st.dictionaries(KEYS, st.tuples(st.integers(1, 5), st.integers(0, 2)), max_size=120)
EDITS = st.dictionaries(KEYS, st.one_of(st.none(), st.tuples(st.integers(1, 5), st.integers(0, 2))), max_size=40)


def edited(mappings: Mappings, edits: Iterable[tuple[int, tuple[int, int] | None]]) -> Mappings:
    found = dict(mappings)
    for key, value in edits:
        if value is None:
            found.pop(key, None)
        else:
            found[key] = value
    return found


def chunks(runs: Iterable[tuple[int, int]]) -> list[int]:
    return [chunk for first, count in runs for chunk in range(first, first + count)]


def expected(old: Mappings, new: Mappings) -> list[int]:
    blocks = [{key: block for key, (block, _) in side.items()} for side in (old, new)]
    return sorted(key for key in {*old, *new} if blocks[0].get(key) != blocks[1].get(key))


@given(
    MAPPINGS,
    EDITS,
    st.sampled_from([3, 6, 12, 252]),
    st.tuples(st.integers(0, 3), st.integers(0, 3)),
    st.sampled_from([1.0, 0.7, 0.0]),
)
def test_differences_are_those_of_the_mappings(
    old: Mappings, edits: Mappings, most: int, shapes: tuple[int, int], shared: float
) -> None:
    """Of trees with other ends of nodes and other heights too, and whatever blocks they share."""
    new = edited(old, edits.items())
    disk = thin_trees.Metadata(most)
    for volume, mappings, shape in ((1, old, shapes[0]), (2, new, shapes[1]), (7, old, shapes[1])):
        disk.add(volume, mappings, random.Random(shape), shared=shared)
    metadata = Metadata(disk.read, disk.finished())
    assert metadata.chunk == CHUNK
    assert metadata.volumes() == {1, 2, 7}
    for volume, mappings in ((1, old), (2, new), (7, old)):
        assert chunks(metadata.mapped(volume)) == sorted(mappings)
    for one, other in ((1, 2), (2, 1), (2, 7), (7, 2)):
        assert chunks(metadata.differing(one, other)) == expected(old, new)
    assert chunks(metadata.differing(1, 7)) == chunks(metadata.differing(1, 1)) == []


def sample(
    changed: int = 30, *, mappings: int = 9000, most: int = 252
) -> tuple[thin_trees.Metadata, Mappings, Mappings]:
    """Return metadata with two volumes, and what they map."""
    chance = random.Random(5)
    old: Mappings = {key: (key + 1, 0) for key in range(mappings)}
    new = edited(old, [(chance.randrange(mappings), (mappings + turn + 1, 1)) for turn in range(changed)])
    disk = thin_trees.Metadata(most)
    disk.add(1, old, random.Random(1))
    disk.add(2, new, random.Random(1))
    return disk, old, new


def test_what_both_have_is_not_read() -> None:
    disk, old, new = sample(changed=1, most=12)
    reads: list[int] = []

    def read(number: int) -> bytes:
        reads.append(number)
        return disk.read(number)

    metadata = Metadata(read, disk.finished())
    reads.clear()
    assert chunks(metadata.differing(1, 2)) == expected(old, new)
    assert len(disk.blocks) > 1000
    assert len(reads) < 60


@given(st.data())
def test_a_byte_that_is_wrong_is_never_another_answer(data: st.DataObject) -> None:
    disk, old, new = sample(mappings=300)
    held = disk.finished()
    number = data.draw(st.sampled_from(sorted(disk.blocks)))
    block = bytearray(disk.blocks[number])
    block[data.draw(st.integers(0, BLOCK - 1))] ^= data.draw(st.integers(1, 255))
    disk.blocks[number] = bytes(block)
    with suppress(StorageFailed):
        metadata = Metadata(disk.read, held)
        assert metadata.volumes() == {1, 2}
        assert chunks(metadata.mapped(1)) == sorted(old)
    with suppress(StorageFailed):
        assert chunks(Metadata(disk.read, held).differing(1, 2)) == expected(old, new)


Damage = Callable[[bytearray], None]


def at(offset: int, form: str, value: int) -> Damage:
    return lambda block: struct.pack_into(form, block, offset, value)


def swapped(block: bytearray) -> None:
    block[32:40], block[40:48] = block[40:48], block[32:40]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (at(8, "<Q", 77), "says that it is 77"),
        (at(4, "<I", 0), "no part of a tree"),
        (at(4, "<I", INTERNAL | LEAF), "no part of a tree"),
        (at(16, "<I", 300), "cannot have 300 of 252 entries"),
        (at(20, "<I", 255), "cannot have"),
        (at(24, "<I", 16), "another kind"),
        (swapped, "not in order"),
        (at(32, "<Q", 1 << 50), "not in order"),
    ],
)
def test_a_block_that_is_strange_is_refused_though_its_checksum_is_right(damage: Damage, message: str) -> None:
    disk, *_ = sample()
    held = disk.finished()
    number = disk.roots[1]
    block = bytearray(disk.blocks[number])
    damage(block)
    disk.blocks[number] = sealed(bytes(block), NODE_SALT)
    with pytest.raises(StorageFailed, match=message):
        chunks(Metadata(disk.read, held).differing(1, 2))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (at(32, "<Q", 27022011), "not known"),
        (at(40, "<I", 3), r"not known \(version 3\)"),
        (at(360, "<I", 1), "not known"),
        (at(340, "<I", 16), "not known"),
    ],
)
def test_metadata_of_another_kind_is_refused(damage: Damage, message: str) -> None:
    disk, *_ = sample()
    held = disk.finished()
    block = bytearray(disk.blocks[held])
    damage(block)
    disk.blocks[held] = sealed(bytes(block), SUPERBLOCK_SALT)
    with pytest.raises(StorageFailed, match=message):
        Metadata(disk.read, held)


def test_a_tree_that_leads_back_to_itself_is_refused() -> None:
    disk = thin_trees.Metadata()
    disk.blocks[1] = node(1, INTERNAL, [0], [struct.pack("<Q", 1)], 6)
    disk.roots[1], disk.counts[1] = 1, 0
    with pytest.raises(StorageFailed, match="has no end"):
        chunks(Metadata(disk.read, disk.finished()).mapped(1))


def test_leaves_at_two_heights_are_refused() -> None:
    disk = thin_trees.Metadata()
    disk.blocks[1] = node(1, LEAF, [0], [struct.pack("<Q", 1 << 24)], 6)
    disk.blocks[2] = node(2, INTERNAL, [9], [struct.pack("<Q", 1)], 6)
    disk.blocks[3] = node(3, INTERNAL, [0, 9], [struct.pack("<Q", block) for block in (1, 2)], 6)
    disk.roots[1], disk.counts[1] = 3, 2
    with pytest.raises(StorageFailed, match="another kind"):
        chunks(Metadata(disk.read, disk.finished()).mapped(1))


@pytest.mark.parametrize("wrong", [1, 2])
def test_a_number_of_mappings_that_the_kernel_did_not_count_is_refused(wrong: int) -> None:
    """A part of a tree that was lost without a trace would be a change that is lost from the backup."""
    disk, *_ = sample()
    disk.counts[wrong] += 1
    metadata = Metadata(disk.read, disk.finished())
    with pytest.raises(StorageFailed, match="and says"):
        chunks(metadata.differing(1, 2))
    with pytest.raises(StorageFailed, match="and says"):
        chunks(metadata.mapped(wrong))


def test_a_volume_that_is_not_there_has_not_no_mappings() -> None:
    disk, *_ = sample()
    metadata = Metadata(disk.read, disk.finished())
    for call in (metadata.mapped(3), metadata.differing(1, 3), metadata.differing(3, 1)):
        with pytest.raises(StorageFailed, match="does not have the volume 3"):
            chunks(call)


def test_blocks_are_read_from_a_device_and_none_beyond_it(tmp_path: Path) -> None:
    disk, old, new = sample(mappings=900)
    held = disk.finished()
    path = tmp_path / "metadata"
    path.write_bytes(b"".join(disk.blocks.get(number, bytes(BLOCK)) for number in range(max(disk.blocks) + 1)))
    with reading(path) as read:
        assert chunks(Metadata(read, held).differing(1, 2)) == expected(old, new)
        for number in (0, max(disk.blocks) + 1, 1 << 60):
            with pytest.raises(StorageFailed, match=f"has no block {number}"):
                read(number)
