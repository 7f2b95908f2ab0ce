"""Random trees with everything that a directory can hold (T34), for hypothesis."""

from __future__ import annotations

import os
import random
import stat
from dataclasses import replace

from hypothesis import strategies as st

from support.trees import SAMPLE_ACL, SAMPLE_CAPABILITY, Entry, Plan

# ext4 with 256-byte inodes: December 1901 to May 2446.
EARLIEST, LATEST = -(2**31), 2**33
_PLAIN = st.sampled_from([b"a", b"b.txt", b"data", b"x y", b"-rf", b"~", b"#1", b"snapvol.json", b"volume"])
_BYTES = st.binary(min_size=1, max_size=24).map(lambda name: name.replace(b"/", b"_").replace(b"\0", b"0"))
_TEXT = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=12).map(
    str.encode
)
_LONG = st.integers(200, 255).map(lambda length: b"n" * length)
NAMES = st.one_of(_PLAIN, _BYTES, _TEXT, _LONG).filter(lambda name: name not in (b".", b".."))
TIMES = st.one_of(
    st.integers(EARLIEST * 10**9, LATEST * 10**9),
    st.sampled_from([0, -1, 1, 999_999_999, -999_999_999, 10**9, 1_600_000_000_000_000_000]),
)
OWNERS = st.sampled_from([0, 1, 1000, 65534, 2**31, 2**32 - 2])
MODES = st.integers(0, 0o7777)
_ATTRIBUTES = st.dictionaries(
    st.sampled_from(["user.x", "user.<&>", "user.ü", "trusted.t"]), st.binary(max_size=40), max_size=2
)


def _noise(size: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(size)


@st.composite
def _parts(draw: st.DrawFn) -> tuple[bytes | int, ...]:
    """Contents: mostly small, sometimes with holes, seldom of several blobs."""
    kind = draw(st.integers(0, 19))
    if kind < 4:
        return ()
    if kind < 14:
        return (draw(st.binary(max_size=64)),)
    if kind < 16:
        return (_noise(draw(st.integers(4000, 70_000)), draw(st.integers(0, 9))),)
    if kind < 17:
        return (_noise(draw(st.integers(400_000, 2_000_000)), draw(st.integers(0, 3))),)
    if kind < 18:
        return (bytes(draw(st.integers(1, 20_000))), b"x", bytes(draw(st.integers(1, 20_000))))
    hole = st.sampled_from([4096, 65536, 524_288, 600_001, 1 << 20, 3 << 20])
    parts: list[bytes | int] = []
    for _ in range(draw(st.integers(1, 3))):
        parts += [draw(hole), _noise(draw(st.integers(0, 9000)), 7)]
    return tuple(parts)


@st.composite
def _entry(draw: st.DrawFn, nodes: list[bytes]) -> Entry:
    choice = draw(st.integers(0, 15))
    owned = Entry(stat.S_IFREG, uid=draw(OWNERS), gid=draw(OWNERS), mtime=draw(TIMES))
    if choice < 7:
        xattrs = dict(draw(_ATTRIBUTES))
        mode = draw(MODES)
        special = draw(st.integers(0, 9))
        if special == 0:
            xattrs["system.posix_acl_access"] = SAMPLE_ACL
            mode = mode & 0o7000 | 0o664  # the mode of a file with an ACL is part of the ACL
        elif special == 1:
            xattrs["security.capability"] = SAMPLE_CAPABILITY
        return replace(owned, mode=mode, parts=draw(_parts()), xattrs=xattrs)
    if choice < 10:
        xattrs = dict(draw(_ATTRIBUTES))
        if draw(st.integers(0, 9)) == 0:
            xattrs["system.posix_acl_default"] = SAMPLE_ACL
        return replace(owned, kind=stat.S_IFDIR, mode=draw(MODES), xattrs=xattrs)
    if choice < 12:
        target = draw(st.one_of(st.just(b"/etc/passwd"), st.just(b"../../x"), _TEXT, _BYTES))
        return replace(owned, kind=stat.S_IFLNK, target=target, mode=0o777)
    if choice < 14 and nodes:
        return Entry("link", target=draw(st.sampled_from(nodes)))
    kind = draw(st.sampled_from([stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK]))
    device = os.makedev(draw(st.integers(1, 400)), draw(st.integers(0, 70_000)))
    device = device if kind in (stat.S_IFCHR, stat.S_IFBLK) else 0
    return replace(owned, kind=kind, mode=draw(MODES), device=device)


@st.composite
def plans(draw: st.DrawFn, most: int = 12) -> Plan:
    """Return a plan for `support.trees.grow`."""
    plan: dict[bytes, Entry] = {}
    directories: list[bytes] = [b""]
    nodes: list[bytes] = []
    for _ in range(draw(st.integers(0, most))):
        above = draw(st.sampled_from(directories))
        name = draw(NAMES)
        path = above + b"/" + name if above else name
        if path in plan:
            continue
        entry = draw(_entry(nodes))
        plan[path] = entry
        if entry.kind == stat.S_IFDIR:
            if path.count(b"/") < 5:
                directories.append(path)
        elif entry.kind != "link":
            nodes.append(path)
    return plan
