"""Metadata in LVM's tags: what fits comes back, and what was altered is never taken for whole (T41)."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapvol.backends import lvmtags
from snapvol.backends.lvmtags import Record, Role, Unreadable
from snapvol.model import Snapshot, Volume

WHEN = datetime(2026, 11, 20, 3, 0, tzinfo=UTC)
VOLUME = Volume(id="4a1b", name="web", created=WHEN, options={"size": "1G"})
SNAPSHOT = Snapshot(volume="web", volume_id="4a1b", name="s1", id="", created=WHEN, holds=("audit",))
RECORD = Record(role=Role.VOLUME, filesystem="ext4", volume=VOLUME, generation=3)
TAG = re.compile(r"[A-Za-z0-9_+./=!:&#-]{1,1024}\Z")  # lvm(8), "Valid names"


@given(st.dictionaries(st.text(max_size=50), st.text(max_size=2000), max_size=8), st.text(max_size=1000))
def test_everything_comes_back_from_tags_that_lvm_takes(labels: dict[str, str], message: str) -> None:
    volume = Volume(id="4a1b", name="n" * 255, created=WHEN, labels=labels, error=message)
    snapshot = Snapshot(volume="web", volume_id="4a1b", name="s1", id="", created=WHEN, message=message)
    for record in (
        Record(role=Role.VOLUME, filesystem="xfs", volume=volume),
        Record(role=Role.SNAPSHOT, filesystem="ext4", snapshot=snapshot, group="g"),
    ):
        tags = lvmtags.encode(record)
        assert all(TAG.match(tag) for tag in tags)
        assert lvmtags.decode(["theirs", *reversed(tags), lvmtags.FRESH]) == record


def test_a_mixture_of_two_records_is_none() -> None:
    """What a kill between two changes of tags could leave, if it were not one change."""
    big = Volume(id="4a1b", name="web", created=WHEN, labels={"a": "b" * 3000})
    old = lvmtags.encode(Record(role=Role.VOLUME, filesystem="ext4", volume=big))
    new = lvmtags.encode(Record(role=Role.VOLUME, filesystem="ext4", volume=big, generation=2))
    assert len(old) > 2
    for cut in range(1, len(old)):
        with pytest.raises(Unreadable, match="two records"):
            lvmtags.decode([*old[:cut], *new[cut:]])
    with pytest.raises(Unreadable, match="two records"):
        lvmtags.decode([*old, *new])
    for missing in old:
        with pytest.raises(Unreadable, match="of the"):
            lvmtags.decode([tag for tag in old if tag != missing])


def test_every_altered_character_is_noticed() -> None:
    (tag,) = lvmtags.encode(RECORD)
    for position in range(len("snapvol.record="), len(tag)):
        altered = tag[:position] + ("A" if tag[position] != "A" else "B") + tag[position + 1 :]
        with pytest.raises(Unreadable):
            lvmtags.decode([altered])
        with pytest.raises(Unreadable):
            lvmtags.decode([tag[:position]])


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (Record(role=Role.VOLUME, filesystem="ext4"), "says nothing of the volume"),
        (Record(role=Role.SNAPSHOT, filesystem="ext4", volume=VOLUME), "says nothing of the snapshot"),
        (
            Record(role=Role.VOLUME, filesystem="ext4", volume=Volume(id="../x", name="web", created=WHEN)),
            "not allowed",
        ),
        (
            Record(
                role=Role.VOLUME,
                filesystem="ext4",
                volume=Volume(id="x", name="web", created=WHEN, options={"size": "banana"}),
            ),
            "'banana' is not a size",
        ),
        (
            Record(
                role=Role.VOLUME, filesystem="ext4", volume=Volume(id="x", name="web", created=datetime(2026, 1, 1))
            ),
            "a time without a zone",
        ),
    ],
)
def test_what_nobody_can_work_with_is_told(record: Record, reason: str) -> None:
    with pytest.raises(Unreadable, match=reason):
        lvmtags.decode(lvmtags.encode(record))


def test_what_is_no_record_at_all_is_told() -> None:
    with pytest.raises(Unreadable, match="no record"):
        lvmtags.decode([lvmtags.POOL + "x"])


def test_only_tags_of_this_pool_make_something_ours() -> None:
    """T6."""
    assert lvmtags.belongs(["a", "snapvol.pool=one"], "one")
    assert not lvmtags.belongs(["snapvol.pool=one2"], "one")
    assert not lvmtags.belongs([], "one")
