"""What `zfs` prints and says, as Debian 12's 2.1.11 did, and what becomes of it."""

from __future__ import annotations

import pytest

from snapvol.backends.zfstool import Value, batches, explained, parse
from snapvol.errors import (
    AlreadyExists,
    InUse,
    NoSpace,
    PoolUnavailable,
    Refused,
    SnapvolError,
    StorageFailed,
    ToolFailed,
)

RECORDED = (
    "tank/v/web\torg.snapvol:volume\t{\"a\":\"wéb\tx\\n\"}\tlocal\n"
    "tank/v/web\tuserrefs\t-\t-\n"
    "tank/v/web@s1\tguid\t10500463541889634312\t-\n"
    "tank/v/web@s1\torg.snapvol:volume\t{\"g\":1}\tinherited from tank/v/web\n"
    "tank/v/x\torg.snapvol:volume\ta\tb\nc\tlocal\n"
    "tank/v/y\torg.snapvol:volume\t\tlocal\n"
    "tank/v/y\trefquota\t16777216\treceived\n"
)  # fmt: skip


def test_output_is_read_by_its_columns_whatever_values_hold() -> None:
    """T41: tabs and newlines too."""
    assert parse(RECORDED) == {
        "tank/v/web": {"org.snapvol:volume": Value('{"a":"wéb\tx\\n"}', "local"), "userrefs": Value("-", "-")},
        "tank/v/web@s1": {
            "guid": Value("10500463541889634312", "-"),
            "org.snapvol:volume": Value('{"g":1}', "inherited from tank/v/web"),
        },
        "tank/v/x": {"org.snapvol:volume": Value("a\tb\nc", "local")},
        "tank/v/y": {"org.snapvol:volume": Value("", "local"), "refquota": Value("16777216", "received")},
    }
    assert parse("") == {}


def test_only_what_was_set_right_there_is_a_dataset_s_own() -> None:
    """T6."""
    sources = ("local", "received", "inherited from tank", "default", "temporary", "-")
    assert [source for source in sources if Value("x", source).own is not None] == ["local", "received"]


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("cannot create 'tank/v/cl': out of space", NoSpace),
        ("cannot create 'tank/v/web': dataset already exists", AlreadyExists),
        ("cannot destroy snapshot tank/v/.id.0@s2: dataset is busy", InUse),
        ("cannot set property for 'tank/v': pool is read-only", PoolUnavailable),
        ("cannot create snapshots : pool is read-only", PoolUnavailable),
        ("cannot create snapshots : pool I/O is currently suspended", PoolUnavailable),
        ("cannot set property for 'tank/v/web': size is less than current used or reserved space", Refused),
        ("cannot open 'tank/v': dataset does not exist", StorageFailed),
        ("cannot create 'tank/v/x': 'used' is readonly", StorageFailed),
    ],
)
def test_what_zfs_says_becomes_an_error_with_a_way_out(said: str, kind: type[SnapvolError]) -> None:
    error = explained("volume 'web' cannot be made", ToolFailed(["zfs"], 1, f"{said}\n"))
    assert type(error) is kind
    assert error.message == f"volume 'web' cannot be made: {said}"
    assert error.hint or kind is StorageFailed


def test_many_snapshots_are_named_in_words_that_are_not_too_long() -> None:
    leaves = [f"autosnap_{number:05}_with_a_longer_name" for number in range(9000)]
    words = batches("tank/v/web", leaves)
    assert all(len(word) < 128 * 1024 for word in words)
    assert [leaf for word in words for leaf in word.removeprefix("tank/v/web@").split(",")] == leaves
    assert batches("tank/v/web", []) == []
