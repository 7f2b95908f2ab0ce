"""A thin pool's mappings as ranges of bytes, from a metadata snapshot that is let go of whatever happens (T31)."""

from __future__ import annotations

import errno
import random
from pathlib import Path

import pytest
from msgspec.structs import replace

from snapvol.backends import devicemapper
from snapvol.backends.devicemapper import ThinPool
from snapvol.backends.thinmap import ThinMap
from snapvol.errors import StorageFailed
from support import thin_trees

CHUNK = 65536
STATE = ThinPool(
    transaction=1,
    metadata_used=0,
    metadata_size=1,
    data_used=0,
    data_size=1,
    held=None,
    mode="rw",
    needs_check=False,
)


class Kernel:
    """A thin pool that takes messages, and where its metadata snapshot is then."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
        self.messages: list[str] = []
        self.number = number
        self.held: int | None = None
        monkeypatch.setattr(devicemapper, "message", self.message)
        monkeypatch.setattr(devicemapper, "thin_pool", lambda _: replace(STATE, held=self.held))

    def message(self, _: str, text: str) -> None:
        self.messages.append(text)
        self.held = self.number if text.startswith("reserve") else None


@pytest.fixture
def disk(tmp_path: Path) -> tuple[Path, int]:
    """A metadata device with two volumes, and the block of its metadata snapshot."""
    disk = thin_trees.Metadata()
    old = {key: (key + 1, 0) for key in (0, 1, 2, 3, 10, 11, 2048)}
    disk.add(1, old, random.Random(1))
    disk.add(2, {**old, 1: (90, 1), 2: (91, 1), 2048: (92, 1)}, random.Random(1))
    held = disk.finished()
    path = tmp_path / "metadata"
    path.write_bytes(b"".join(disk.blocks.get(number, bytes(4096)) for number in range(held + 1)))
    return path, held


def test_chunks_become_ranges_that_are_cut_off_at_the_end(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, disk: tuple[Path, int]
) -> None:
    path, held = disk
    kernel = Kernel(monkeypatch, held)
    metadata = ThinMap("pool", path, tmp_path / "lock")
    size = 2049 * CHUNK - 5
    assert metadata.mapped(1, CHUNK, size) == ((0, 4 * CHUNK), (10 * CHUNK, 2 * CHUNK), (2048 * CHUNK, CHUNK - 5))
    assert metadata.mapped(1, CHUNK, 11 * CHUNK) == ((0, 4 * CHUNK), (10 * CHUNK, CHUNK))
    assert metadata.differing(1, 2, CHUNK, size) == ((CHUNK, 2 * CHUNK), (2048 * CHUNK, CHUNK - 5))
    assert metadata.differing(1, 2, CHUNK, 2048 * CHUNK) == ((CHUNK, 2 * CHUNK),)
    assert metadata.volumes() == {1, 2}
    assert kernel.messages == ["reserve_metadata_snap", "release_metadata_snap"] * 5


def test_metadata_of_other_chunks_than_lvm_s_is_refused_and_let_go_of(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, disk: tuple[Path, int]
) -> None:
    path, held = disk
    kernel = Kernel(monkeypatch, held)
    with pytest.raises(StorageFailed, match="the metadata of pool cannot be read: the chunk size"):
        ThinMap("pool", path, tmp_path / "lock").mapped(1, 2 * CHUNK, CHUNK)
    kernel.number = held - 1  # no superblock
    with pytest.raises(StorageFailed, match="wrong checksum"):
        ThinMap("pool", path, tmp_path / "lock").mapped(1, CHUNK, CHUNK)
    assert kernel.held is None
    assert (tmp_path / "lock").read_text() == ""


def test_a_metadata_snapshot_that_is_gone_again_is_not_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    kernel = Kernel(monkeypatch, 5)
    monkeypatch.setattr(devicemapper, "thin_pool", lambda _: STATE)
    with pytest.raises(StorageFailed, match="has lost its metadata snapshot"):
        ThinMap("pool", tmp_path / "metadata", tmp_path / "lock").mapped(1, CHUNK, CHUNK)
    assert kernel.messages == ["reserve_metadata_snap"]


def test_a_metadata_snapshot_that_another_program_has_just_reserved_stays(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    messages: list[str] = []
    held: list[int] = []

    def message(_: str, text: str) -> None:
        messages.append(text)
        if text.startswith("reserve"):
            held.append(7)  # by the other one
            raise OSError(errno.EBUSY, "Device or resource busy")

    monkeypatch.setattr(devicemapper, "message", message)
    monkeypatch.setattr(devicemapper, "thin_pool", lambda _: replace(STATE, held=held[0] if held else None))
    metadata = ThinMap("pool", tmp_path / "metadata", tmp_path / "lock")
    with pytest.raises(StorageFailed, match="busy"):
        metadata.mapped(1, CHUNK, CHUNK)
    assert messages == ["reserve_metadata_snap"]
    assert (tmp_path / "lock").read_text() == ""  # it does not say that it is ours
