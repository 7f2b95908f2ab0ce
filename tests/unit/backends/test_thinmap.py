"""What the tools of thin pools say, as ranges of bytes; nothing that is not understood is passed over (T31)."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from snapvol.backends import devicemapper
from snapvol.backends.devicemapper import ThinPool
from snapvol.backends.thinmap import ThinMap, _difference, _elements, _mapping, _ranges
from snapvol.errors import StorageFailed

CHUNK = 65536
# thin_dump and thin_delta 0.9.0, of a volume that was written here and there.
DUMP = """\
<superblock uuid="" time="11" transaction="23" flags="0" version="2" data_block_size="128" nr_data_blocks="0">
  <device dev_id="1" mapped_blocks="11" transaction="0" creation_time="0" snap_time="11">
    <single_mapping origin_block="0" data_block="17" time="11"/>
    <range_mapping origin_begin="1" data_begin="4" length="7" time="0"/>
    <range_mapping origin_begin="10" data_begin="20" length="2" time="11"/>
    <single_mapping origin_block="2048" data_block="12" time="0"/>
  </device>
</superblock>
"""
DELTA = """\
<superblock uuid="" time="2" transaction="3" data_block_size="128" nr_data_blocks="98304">
  <diff left="1" right="2">
    <same begin="0" length="4"/>
    <different begin="4" length="1"/>
    <left_only begin="5" length="2"/>
    <right_only begin="100" length="3"/>
    <same begin="103" length="4"/>
  </diff>
</superblock>
"""


def said(tmp_path: Path, text: str) -> Iterator[tuple[str, dict[str, str]]]:
    (tmp_path / "said").write_text(text)
    return _elements("cat", tmp_path / "said")


def test_mappings_are_joined_and_cut_off_at_the_end(tmp_path: Path) -> None:
    assert _ranges(said(tmp_path, DUMP), _mapping, CHUNK, 2049 * CHUNK - 5) == (
        (0, 8 * CHUNK),
        (10 * CHUNK, 2 * CHUNK),
        (2048 * CHUNK, CHUNK - 5),
    )
    assert _ranges(said(tmp_path, DUMP), _mapping, CHUNK, 11 * CHUNK)[-1] == (10 * CHUNK, CHUNK)


def test_what_only_one_side_maps_is_a_difference(tmp_path: Path) -> None:
    assert _ranges(said(tmp_path, DELTA), _difference, CHUNK, 1 << 40) == (
        (4 * CHUNK, 3 * CHUNK),
        (100 * CHUNK, 3 * CHUNK),
    )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("left_only", "moved", "'moved', which is not understood"),
        ('data_block_size="128"', 'data_block_size="256"', "chunk size"),
        ("</superblock>", "", "is not understood"),
        ('begin="100"', 'begin="5"', "not ascending"),
        ("diff", "doff", "'doff'"),
    ],
)
def test_what_is_not_as_expected_is_an_error(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in DELTA
    with pytest.raises(StorageFailed, match=message):
        _ranges(said(tmp_path, DELTA.replace(old, new)), _difference, CHUNK, 1 << 40)


def test_a_volume_that_is_not_there_has_not_no_mappings(tmp_path: Path) -> None:
    head, _, tail = DUMP.partition("  <device")
    with pytest.raises(StorageFailed, match="does not have the volume"):
        _ranges(said(tmp_path, head + tail.partition("</device>\n")[2]), _mapping, CHUNK, 1 << 40)


def test_a_tool_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(StorageFailed, match=r"cat failed: cat: .*No such file"):
        list(_elements("cat", tmp_path / "nothing"))


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

    state = ThinPool(
        transaction=1,
        metadata_used=0,
        metadata_size=1,
        data_used=0,
        data_size=1,
        held=None,
        mode="rw",
        needs_check=False,
    )
    monkeypatch.setattr(devicemapper, "message", message)
    monkeypatch.setattr(devicemapper, "thin_pool", lambda _: replace(state, held=held[0] if held else None))
    metadata = ThinMap("pool", tmp_path / "metadata", tmp_path / "lock")
    with pytest.raises(StorageFailed, match="busy"):
        metadata.mapped(1, CHUNK, CHUNK)
    assert messages == ["reserve_metadata_snap"]
    assert (tmp_path / "lock").read_text() == ""  # it does not say that it is ours
