"""A tree with all that T34 names."""

from __future__ import annotations

import os
import stat

from support.trees import SAMPLE_ACL, SAMPLE_CAPABILITY, Entry, directory, file, symlink

DEEP = [b"d" * 249] * 15


def everything() -> dict[bytes, Entry]:
    """Return a plan with all of T34 that a path that restic can still reach may hold."""
    noise = bytes(range(256)) * 4096
    plan: dict[bytes, Entry] = {
        b"empty": file(),
        b"plain": file(b"contents", uid=1000, gid=1000, mode=0o640),
        b"not-utf8-\xff\xfe\x80": file(b"1"),
        b"surrogate-\xed\xa0\x80": file(b"2"),
        b"new\nline\ttab\x1b[31m": file(b"3"),
        b'quote"back\\slash`$(x)': file(b"4"),
        "ü\u2028\u2029\u200b\U0001f600<&>".encode(): file(b"5"),
        b"n" * 255: file(b"6"),
        b"-rf": file(b"7"),
        b"big": file(noise * 3, b"end"),
        b"sparse": file(3 << 20, b"middle", 5 << 20, noise, 1 << 20),
        b"only-a-hole": file(7 << 20),
        b"zeros-written": file(bytes(300_000)),
        b"setuid": file(b"x", mode=0o6755),
        b"sticky": directory(mode=0o1777),
        b"no-access": directory(mode=0),
        b"no-access/inside": file(b"x", mode=0),
        b"read-only": directory(mode=0o555, mtime=-1),
        b"read-only/inside": file(b"x", mode=0o444),
        b"empty-dir": directory(mtime=1),
        b"before-1970": file(b"x", mtime=-1_000_000_001),
        b"1901": file(b"x", mtime=-(2**31) * 10**9),
        b"2446": file(b"x", mtime=15_032_385_535 * 10**9 + 999_999_999),
        b"nanoseconds": file(b"x", mtime=1_234_567_890_123_456_789),
        b"owner": file(b"x", uid=2**32 - 2, gid=2**31),
        b"xattrs": file(b"x", xattrs={"user.a": b"\x00\xff", "user.empty": b"", "trusted.t": b"t", "user.<&>ü": b"u"}),
        b"capability": file(b"x", mode=0o755, xattrs={"security.capability": SAMPLE_CAPABILITY}),
        b"acl": file(b"x", mode=0o664, xattrs={"system.posix_acl_access": SAMPLE_ACL}),
        b"acl-dir": directory(xattrs={"system.posix_acl_default": SAMPLE_ACL, "user.d": b"d"}),
        b"acl-dir/inside": file(b"x"),
        b"fifo": Entry(stat.S_IFIFO, mode=0o622, uid=3),
        b"socket": Entry(stat.S_IFSOCK, mode=0o755),
        b"null": Entry(stat.S_IFCHR, mode=0o666, device=os.makedev(1, 3)),
        b"disk": Entry(stat.S_IFBLK, mode=0o660, gid=6, device=os.makedev(300, 70_000), xattrs={"trusted.t": b"t"}),
        b"link": symlink(b"plain", uid=5, mtime=99),
        b"absolute": symlink(b"/etc/passwd"),
        b"dangling": symlink(b"../../nowhere"),
        b"link-not-utf8": symlink(b"\xff\xe2\x82"),
        b"hard-1": file(b"linked", mtime=12345),
        b"sub": directory(),
        b"sub/hard-2": Entry("link", target=b"hard-1"),
        b"hard-empty": file(mtime=2),
        b"sub/hard-empty": Entry("link", target=b"hard-empty"),
        b"sub/hard-symlink": Entry("link", target=b"link"),
        b"sub/hard-fifo": Entry("link", target=b"fifo"),
    }
    for depth in range(1, len(DEEP) + 1):
        plan[b"/".join(DEEP[:depth])] = directory(mtime=depth)
    plan[b"/".join([*DEEP, b"bottom"])] = file(b"deep down")
    return plan
