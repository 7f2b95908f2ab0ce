"""What is read of a volume group's metadata without LVM: only what is certain is believed."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from snapvol.backends import lvmheader
from snapvol.backends.devicemapper import ThinPool
from snapvol.backends.lvmcondition import Condition, LvmSettings
from snapvol.backends.lvmheader import Room
from snapvol.errors import NoSpace

AREA = 1044480
LARGEST = 521472  # "exceeds maximum metadata size (521472 bytes)", says LVM 2.03.16 with an area of that size
STATE = ThinPool(
    transaction=1,
    metadata_used=0,
    metadata_size=1 << 20,
    data_used=0,
    data_size=100,
    held=None,
    mode="rw",
    needs_check=False,
)


def disk(path: Path, length: int, *, flags: int = 0, area: int = AREA) -> str:
    head = b"\0" * 4 + b" LVM2 x[5A%r0N*>" + struct.pack("<I Q Q", 1, 4096, area)
    head += struct.pack("<Q Q I I", 512, length, 0, flags)
    path.write_bytes(b"\0" * 4096 + head.ljust(8192, b"\0"))
    return str(path)


def test_the_disk_with_the_least_room_left_counts(place: Path) -> None:
    one, two = disk(place / "one", 1000), disk(place / "two", 900, area=AREA * 16)
    assert lvmheader.room([one]) == lvmheader.room([two, one]) == Room(used=1000, size=LARGEST)
    ignored, none = disk(place / "ignored", 500_000, flags=1), disk(place / "none", 0)
    assert lvmheader.room([ignored, none, one]) == Room(used=1000, size=LARGEST)


def test_what_cannot_be_told_is_not_guessed(place: Path) -> None:
    (place / "other").write_bytes(b"\0" * 16384)
    for disks in ([], [str(place / "other")], [str(place / "missing")]):
        assert lvmheader.room(disks) is None


def test_nothing_new_is_made_in_a_group_whose_metadata_has_no_room() -> None:
    """T39: LVM would refuse half way through, and then even to note what is to be removed."""
    condition = Condition("default", LvmSettings(volume_group="vg0", thin_pool="pool"))
    condition.require_room("volume 'web' cannot be created", STATE)
    condition.require_room("volume 'web' cannot be created", STATE, Room(used=89, size=100))
    with pytest.raises(NoSpace, match=r"volume group vg0 is 90.0 % full \(90 of 100 bytes\), its mark is 90 %") as seen:
        condition.require_room("volume 'web' cannot be created", STATE, Room(used=90, size=100))
    assert "pvcreate(8), --metadatasize" in str(seen.value.hint)


METADATA = """\
vg0 {
id = "0Sfu2S-iNrj-uXbS-suWM-fHys-ayTW-Y5KJY5"
seqno = 137
logical_volumes {

pool {
id = "vPU7Jy-RxX7-c9cn-kWhN-5XSc-Cjbm-cv5oPk"
status = ["READ", "WRITE", "VISIBLE"]
segment_count = 1

segment1 {
start_extent = 0
extent_count = 50
type = "thin-pool"
transaction_id = 45
MESSAGES}
}

other {
id = "wPU7Jy-RxX7-c9cn-kWhN-5XSc-Cjbm-cv5oPk"
segment1 {
type = "thin-pool"
OTHERS}
}
}
}
"""
MESSAGE = 'message1 {\ncreate = "web_s2_0a1b2c3d"\n}\n'


@pytest.mark.parametrize(
    ("own", "others", "pending"), [("", "", False), (MESSAGE, "", True), ("", MESSAGE, False), (MESSAGE, MESSAGE, True)]
)
def test_messages_to_the_thin_pool_that_may_not_have_arrived_are_seen(
    place: Path, own: str, others: str, pending: bool
) -> None:
    text = METADATA.replace("MESSAGES", own).replace("OTHERS", others).encode() + b"\0"
    path = disk(place / "one", len(text))
    with (place / "one").open("r+b") as file:
        file.seek(4096 + 512)
        file.write(text.ljust(8192, b"\0"))
    assert lvmheader.pending([path], "pool") == pending
    assert lvmheader.pending([path], "missing")


def test_a_disk_that_cannot_be_read_may_have_messages(place: Path) -> None:
    assert lvmheader.pending([str(place / "missing")], "pool")
    assert lvmheader.pending([], "pool")
