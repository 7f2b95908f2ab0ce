"""Streams of `btrfs send`, made by hand: what real ones seldom have. For real ones see `contract.test_changes`."""

from __future__ import annotations

import io
import struct
from uuid import UUID, uuid4

import google_crc32c
import pytest

from snapvol.backends.sendchanges import Names
from snapvol.backends.sendstream import Field, Unknown, Verb, commands

BASE, SNAPSHOT = str(uuid4()), str(uuid4())


def command(verb: int, **fields: bytes | int) -> bytes:
    body = b""
    for name, value in fields.items():
        data = value if isinstance(value, bytes) else struct.pack("<Q", value)
        length = b"" if name == "DATA" else struct.pack("<H", len(data))
        body += struct.pack("<H", Field[name]) + length + data
    head = struct.pack("<IHI", len(body), verb, 0)
    checksum = google_crc32c.extend(0xFFFFFFFF, head + body) ^ 0xFFFFFFFF
    return head[:6] + struct.pack("<I", checksum) + body


def followed(*made: bytes, version: int = 2, base: str = BASE) -> dict[bytes, tuple[bool, bool, list[tuple[int, int]]]]:
    """Return by path whether something is there, whether it was moved there, and its ranges."""
    begin = command(Verb.SNAPSHOT, PATH=b"s", UUID=UUID(SNAPSHOT).bytes, BASE_UUID=UUID(base).bytes)
    stream = b"btrfs-stream\0" + struct.pack("<I", version) + begin + b"".join(made) + command(Verb.END)
    names = Names(SNAPSHOT, BASE)
    names.follow(commands(io.BytesIO(stream)))
    return {it.path: (it.entry is not None, it.moved, it.entry.ranges if it.entry else []) for it in names.found()}


def test_names_that_are_used_for_a_while_leave_nothing_but_a_missing_name() -> None:
    found = followed(
        command(Verb.MAKE_FILE, PATH=b"o257-8-0"),
        command(Verb.RENAME, PATH=b"o257-8-0", PATH_TO=b"d/new"),
        command(Verb.RENAME, PATH=b"d", PATH_TO=b"e"),
        command(Verb.TIMES, PATH=b"e/new"),
        command(Verb.TIMES, PATH=b"e/old"),
    )
    assert found == {
        b"o257-8-0": (False, False, []),
        b"d": (False, False, []),
        b"e": (True, True, []),
        b"e/new": (True, True, []),
        b"e/old": (True, True, []),
    }


def test_there_and_back_is_the_same_place() -> None:
    found = followed(
        command(Verb.RENAME, PATH=b"a", PATH_TO=b"o1"),
        command(Verb.RENAME, PATH=b"o1", PATH_TO=b"a"),
        command(Verb.CHANGE_MODE, PATH=b"a/f"),
    )
    assert found == {b"o1": (False, False, []), b"a/f": (True, False, [])}


def test_every_command_that_writes_has_its_range() -> None:
    found = followed(
        command(Verb.WRITE, PATH=b"f", OFFSET=0, DATA=b"x" * 70_000),
        command(Verb.CLONE, OFFSET=1 << 20, PATH=b"f", CLONE_LENGTH=4096),
        command(Verb.ENCODED_WRITE, PATH=b"f", OFFSET=2 << 20, UNENCODED_LENGTH=131072, DATA=b"z" * 10),
        command(Verb.ALLOCATE, PATH=b"f", OFFSET=3 << 20, SIZE=10),
        command(Verb.UPDATE_EXTENT, PATH=b"f", OFFSET=4 << 20, SIZE=11),
        command(Verb.TRUNCATE, PATH=b"g", SIZE=11),
        command(Verb.FLAGS, PATH=b"h"),
        command(Verb.VERITY, PATH=b"i"),
    )
    assert found[b"f"][2] == [(0, 70_000), (1 << 20, 4096), (2 << 20, 131072), (3 << 20, 10), (4 << 20, 11)]
    assert found.keys() == {b"f", b"g", b"h", b"i"}


@pytest.mark.parametrize(
    ("made", "why"),
    [
        ([command(99, PATH=b"f")], "a command 99"),
        ([command(Verb.TIMES)], "has no PATH"),
        ([command(Verb.UPDATE_EXTENT, PATH=b"f", OFFSET=b"1", SIZE=1)], "no number"),
        ([command(Verb.UNLINK, PATH=b"f"), command(Verb.TIMES, PATH=b"f")], "not there at that moment"),
        ([command(Verb.MAKE_DIRECTORY, PATH=b"d"), command(Verb.TIMES, PATH=b"d/f")], "not there at that moment"),
        ([command(Verb.MAKE_FILE, PATH=b"../f")], "empty name"),
        ([command(Verb.REMOVE_DIRECTORY, PATH=b"")], "takes the root away"),
        ([command(Verb.SUBVOLUME, PATH=b"s", UUID=UUID(SNAPSHOT).bytes)], "has no BASE_UUID"),
        ([command(Verb.SNAPSHOT, PATH=b"s")], "not the changes of one snapshot"),
    ],
)
def test_what_is_not_understood_is_unknown_and_no_guess(made: list[bytes], why: str) -> None:
    with pytest.raises(Unknown, match=why):
        followed(*made)


def test_another_version_and_other_snapshots_are_unknown() -> None:
    with pytest.raises(Unknown, match="version 3"):
        followed(version=3)
    with pytest.raises(Unknown, match="other snapshots"):
        followed(base=str(uuid4()))


def test_many_names_are_not_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("snapvol.backends.sendchanges.MOST", 3)
    with pytest.raises(Unknown, match="more than 3 names"):
        followed(*[command(Verb.MAKE_FILE, PATH=b"f%d" % number) for number in range(4)])
