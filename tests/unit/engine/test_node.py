from __future__ import annotations

import json
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapvol.engine import gotext, node
from snapvol.engine.node import Attribute, Kind, Node
from snapvol.errors import Damaged

# Written by Debian's restic 0.14: every kind, an attribute without a value, names that need quoting.
RECORDED = (
    b'{"nodes":['
    b'{"name":"\\\\x01\\\\xff","type":"file","mode":420,"mtime":"2026-11-23T03:30:29.894219919Z",'
    b'"atime":"2026-11-23T03:30:29.894219919Z","ctime":"2026-11-23T03:30:29.894219919Z","uid":0,"gid":0,"user":"root",'
    b'"group":"root","inode":2147132,"device_id":65024,"size":1,"links":1,'
    b'"content":["2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"]},'
    b'{"name":"\\u003c\\u0026\\u003e","type":"dir","mode":2148532735,"mtime":"1970-01-01T00:00:05.12Z",'
    b'"atime":"1970-01-01T00:00:05.12Z","ctime":"2026-11-23T03:30:29.89425507Z","uid":0,"gid":0,"user":"root",'
    b'"group":"root","inode":2147135,"device_id":65024,"content":null,'
    b'"subtree":"ac08ce34ba4f8123618661bef2425f7028ffb9ac740578a3ee88684d2523fee8"},'
    b'{"name":"chr","type":"chardev","mode":69206400,"mtime":"2026-11-23T03:30:29.89425507Z",'
    b'"atime":"2026-11-23T03:30:29.89425507Z","ctime":"2026-11-23T03:30:29.89425507Z","uid":0,"gid":0,"user":"root",'
    b'"group":"root","inode":2147137,"device_id":65024,"links":1,"device":259,"content":null},'
    b'{"name":"empty","type":"file","mode":420,"mtime":"1969-12-31T23:59:59.999999999Z",'
    b'"atime":"1969-12-31T23:59:59.999999999Z","ctime":"2026-11-23T03:30:29.89425507Z","uid":0,"gid":0,"user":"root",'
    b'"group":"root","inode":2147142,"device_id":65024,"links":1,"content":[]},'
    b'{"name":"plain","type":"file","mode":420,"mtime":"1970-01-01T00:00:00.123456789Z",'
    b'"atime":"1970-01-01T00:00:00.123456789Z","ctime":"2026-11-23T03:30:29.89425507Z","uid":0,"gid":0,"user":"root",'
    b'"group":"root","inode":2147124,"device_id":65024,"size":1,"links":2,'
    b'"extended_attributes":[{"name":"user.x","value":"AHY="},{"name":"user.e","value":""}],'
    b'"content":["2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"]},'
    b'{"name":"sym","type":"symlink","mode":134218239,"mtime":"2026-11-23T03:30:29.89425507Z",'
    b'"atime":"2026-11-23T03:30:29.89425507Z","ctime":"2026-11-23T03:30:29.89425507Z","uid":0,"gid":0,"user":"root",'
    b'"group":"root","inode":2147140,"device_id":65024,"links":1,"linktarget":"tar\\u003cget\\"\\u2028","content":null}'
    b"]}\n"
)


def again(data: bytes) -> bytes:
    return node.encode_tree(map(node.encode, node.decode_tree(data)))


def test_a_tree_of_stock_restic_comes_back_byte_for_byte() -> None:
    assert again(RECORDED) == RECORDED
    assert [entry.name for entry in node.decode_tree(RECORDED)] == [
        b"\x01\xff",
        b"<&>",
        b"chr",
        b"empty",
        b"plain",
        b"sym",
    ]


def test_fields_that_only_later_versions_know_come_back() -> None:
    later = (
        b'{"nodes":[{"name":"a","type":"file","mtime":"2020-01-01T00:00:00Z","atime":"2020-01-01T00:00:00Z",'
        b'"ctime":"2020-01-01T00:00:00Z","uid":0,"gid":0,"linktarget":"\\ufffd","linktarget_raw":"/w==",'
        b'"generic_attributes":{"windows.file_attributes":32},"content":null,"error":"no \\u003c",'
        b'"invented":[1,{"b":2}]}]}\n'
    )
    (entry,) = node.decode_tree(later)
    assert entry.target == b"\xff"
    assert again(later) == later


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{",
        b'{"nodes":{}}',
        b'{"nodes":[1]}',
        b'{"nodes":[{"type":"file"}]}',
        b'{"nodes":[{"name":"a","type":"file","size":-1}]}',
        b'{"nodes":[{"name":"a","type":"file","uid":4294967296}]}',
        b'{"nodes":[{"name":"a","type":"file","content":["x"]}]}',
        b'{"nodes":[{"name":"a","type":"file","content":"' + b"0" * 64 + b'"}]}',
        b'{"nodes":[{"name":"a","type":"dir","subtree":"../../etc/passwd"}]}',
        b'{"nodes":[{"name":"a","type":"file","extended_attributes":[{"name":"a","value":"%"}]}]}',
        b'{"nodes":[{"name":"\xff","type":"file"}]}',
    ],
)
def test_t44_what_is_no_tree_is_damage(data: bytes) -> None:
    with pytest.raises(Damaged, match="a tree object cannot be read"):
        node.decode_tree(data)


def test_t44_a_name_that_cannot_be_read_is_damage() -> None:
    (entry,) = node.decode_tree(b'{"nodes":[{"name":"\\\\q","type":"file"}]}')
    with pytest.raises(Damaged, match="name cannot be read"):
        entry.name  # noqa: B018


def test_an_empty_tree_is_a_list() -> None:
    assert node.encode_tree([]) == b'{"nodes":[]}\n'
    assert node.decode_tree(b'{"nodes":null}\n') == []


@pytest.mark.parametrize(
    ("mode", "kind", "go"),
    [
        (stat.S_IFREG | 0o644, Kind.FILE, 420),
        (stat.S_IFREG | 0o6755, Kind.FILE, 12583405),
        (stat.S_IFDIR | 0o1777, Kind.DIRECTORY, 2148532735),
        (stat.S_IFLNK | 0o777, Kind.SYMLINK, 134218239),
        (stat.S_IFCHR | 0o600, Kind.CHARACTER_DEVICE, 69206400),
        (stat.S_IFBLK | 0o600, Kind.BLOCK_DEVICE, 67109248),
        (stat.S_IFIFO | 0o644, Kind.FIFO, 33554852),
        (stat.S_IFSOCK | 0o755, Kind.SOCKET, 16777709),
    ],
)
def test_modes_are_those_of_go(mode: int, kind: Kind, go: int) -> None:
    assert node.kind_and_mode(mode) == (kind, go)
    assert node.permissions(go) == stat.S_IMODE(mode)


@given(st.integers(0, 0o7777))
def test_every_mode_comes_back(bits: int) -> None:
    assert node.permissions(node.kind_and_mode(stat.S_IFREG | bits)[1]) == bits


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
UNSIGNED = st.integers(0, 2**64 - 1)
IDS = st.binary(min_size=32, max_size=32).map(bytes.hex)
NODES = st.builds(
    Node,
    quoted=st.binary(min_size=1).map(gotext.quote),
    type=st.sampled_from(list(map(str, Kind))),
    mode=st.integers(0, 2**32 - 1),
    mtime=st.integers(-(2**60), 2**62).map(gotext.time),
    uid=st.integers(0, 2**32 - 1),
    user=TEXT,
    group=TEXT,
    inode=UNSIGNED,
    device_id=UNSIGNED,
    size=UNSIGNED,
    links=UNSIGNED,
    linktarget=TEXT,
    extended_attributes=st.lists(st.builds(Attribute, TEXT, st.binary()), min_size=1, max_size=3) | st.none(),
    device=UNSIGNED,
    content=st.lists(IDS, max_size=3) | st.none(),
    subtree=IDS | st.none(),
    error=TEXT,
)


@given(st.lists(NODES, max_size=3))
def test_every_tree_comes_back_and_is_json(nodes: list[Node]) -> None:
    data = node.encode_tree(map(node.encode, nodes))
    assert node.decode_tree(data) == nodes
    assert len(json.loads(data)["nodes"]) == len(nodes)
    assert not set(b"<>&") & set(data)
    assert again(data) == data
