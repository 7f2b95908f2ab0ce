"""Copies are exact (T34), removal gets everything (T9), and what containers do in their volumes disturbs neither."""

from __future__ import annotations

import os
import socket
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import pytest
from msgspec import Struct

from snapvol.backend import Backend
from snapvol.errors import NoSpace, Refused, StorageFailed
from snapvol.model import Volume, new_id
from support import filesystems, storage
from support.process import run
from support.scale import scaled
from support.storage import LAB, VARIANTS, Pool, Variant, contents, parameters, record

pytestmark = pytest.mark.root
ACL = bytes.fromhex(  # u::rwx u:1000:r-x g::r-x m::rwx o::r-x
    "02000000 01000700ffffffff 02000500e8030000 04000500ffffffff 10000700ffffffff 20000500ffffffff"
)
CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")
NAMES = [b"\xff\xfe", b"new\nline", b"-rf", b" ", b"n" * 255, "ünï".encode(), b"back\\slash", b"$(x)'\""]


class Facts(Struct, frozen=True):
    """What must be the same in a copy."""

    mode: int
    uid: int
    gid: int
    device: int
    links: int
    mtime: int
    xattrs: dict[str, bytes]
    contents: bytes | None
    blocks: int | None


def facts(root: bytes) -> dict[bytes, Facts]:
    """Return everything below and at ``root`` by relative path, walked by descriptors so that depth does not matter."""
    found: dict[bytes, Facts] = {}
    for path in walk(root):
        status = os.lstat(path)
        text = None
        if stat.S_ISREG(status.st_mode):
            with open(path, "rb") as file:
                text = file.read(1 << 20)
        elif stat.S_ISLNK(status.st_mode):
            text = os.readlink(path)
        names = os.listxattr(path, follow_symlinks=False)
        found[os.path.relpath(path, root)] = Facts(
            mode=status.st_mode,
            uid=status.st_uid,
            gid=status.st_gid,
            device=status.st_rdev,
            links=0 if stat.S_ISDIR(status.st_mode) else status.st_nlink,
            mtime=status.st_mtime_ns,
            xattrs={name: os.getxattr(path, name, follow_symlinks=False) for name in names},
            contents=text,
            blocks=status.st_blocks if stat.S_ISREG(status.st_mode) and status.st_size > 1 << 20 else None,
        )
    return found


def walk(root: bytes) -> Iterator[bytes]:
    pending = [root]
    while pending:
        path = pending.pop()
        yield path
        if stat.S_ISDIR(os.lstat(path).st_mode):
            pending += [os.path.join(path, name) for name in os.listdir(path)]


def fill(root: Path, *, acls: bool = True) -> None:
    """Make one of everything that a file system can hold; a dataset has POSIX ACLs only where its options say so."""
    top = os.fsencode(root)
    for number, name in enumerate(NAMES):
        path = os.path.join(top, name)
        with open(path, "wb") as file:
            file.write(name * 10)
        os.utime(path, ns=(5, -(10**9) * 86400 * 365 * number - 7 if number % 2 else 1_700_000_000_123_456_789))
    os.mkdir(root / "dir")
    (root / "dir/empty").mkdir(mode=0o000)
    os.link(os.path.join(top, NAMES[0]), root / "dir/hard")
    os.symlink("/nowhere/at all", root / "dangling")
    os.symlink("dir", root / "link")
    os.lchown(root / "link", 12, 34)
    os.mkfifo(root / "fifo", 0o620)
    os.mknod(root / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    os.mknod(root / "disk", 0o660 | stat.S_IFBLK, os.makedev(7, 200))
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(root / "socket"))
    (root / "script").write_text("#!/bin/sh")
    os.chown(root / "script", 1234, 5678)
    os.chmod(root / "script", 0o6755)
    os.setxattr(root / "script", "security.capability", CAPABILITY)
    if acls:
        os.setxattr(root / "dir", "system.posix_acl_default", ACL)
        os.setxattr(root / "dir", "system.posix_acl_access", ACL)
    os.setxattr(root / "dir", "user.note", b"\x00\xff")
    os.setxattr(root / "dir", "trusted.note", b"t")
    with open(root / "sparse", "wb") as file:
        file.write(b"head")
        file.truncate(1 << 34)
        file.seek(1 << 33)
        file.write(b"middle")
    os.chown(root, 99, 98)
    os.chmod(root, 0o1770)
    os.setxattr(root, "user.root", b"r")
    os.utime(root / "dir", ns=(1, 999_999_999))
    os.utime(root, ns=(1, 1_234_567_890_987_654_321))


COPYING = ("directory-xfs", "directory-ext4-full", "directory-btrfs", "btrfs", *LAB)


@pytest.fixture(params=parameters({name: variant for name, variant in VARIANTS.items() if name in COPYING}))
def trees(request: pytest.FixtureRequest, opening: Callable[[Variant], Pool]) -> Iterator[Pool]:
    pool = opening(request.param)
    yield pool
    assert pool.names() == set(), "each test removes its volumes: that is part of what is tested"
    assert pool.leaks() == []
    assert pool.subvolumes() == []
    pool.backend.close()
    if not pool.variant.mounts:
        run("rm", "-rf", pool.tree)


def test_a_copy_is_exact(trees: Pool) -> None:
    """T34, for snapshots, clones and rollbacks."""
    web = trees.volume("web")
    with trees.mounted(web) as root:
        fill(root, acls=trees.variant.backend != "zfs")
        os.sync()
        before = facts(os.fsencode(root))
        assert before[b"sparse"].blocks is not None
        snapshot = trees.snapshot(web, "s1")
        (root / "later").write_text("x")
    with trees.backend.open_snapshot(snapshot) as tree:
        assert facts(os.fsencode(tree.root)) == before
    trees.backend.create(trees.record("clone"), source=snapshot)
    clone = trees.stored("clone")
    with trees.mounted(clone) as root:
        assert facts(os.fsencode(root)) == before
    trees.backend.rollback(web, snapshot)
    with trees.mounted(web) as root:
        assert facts(os.fsencode(root)) == before
    for volume in (clone, web):
        trees.backend.destroy(volume)


def deep(root: Path, length: int) -> int:
    """Make nested directories whose path below ``root`` has about ``length`` bytes; return how many."""
    descriptor = os.open(root, os.O_DIRECTORY)
    levels = length // 2
    for _ in range(levels):
        os.mkdir("d", dir_fd=descriptor)
        inner = os.open("d", os.O_DIRECTORY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = inner
    file = os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=descriptor)
    os.write(file, os.urandom(9000))
    os.close(file)
    os.close(descriptor)
    return levels


def test_paths_of_4000_bytes_are_copied_measured_and_removed(trees: Pool) -> None:
    """T34: 2,000 levels, in a pool whose own path is not short."""
    web = trees.volume("w" * 200)
    with trees.mounted(web) as root:
        levels = deep(root, 4000)
    snapshot = trees.snapshot(web, "s1")
    trees.backend.create(trees.record("clone"), source=snapshot)
    clone = trees.stored("clone")
    with trees.mounted(clone) as root:
        found = run("find", ".", "-name", "file", "-printf", "%d", cwd=root).stdout
    assert int(found) == levels + 1
    if not trees.backend.features.quota:
        assert trees.backend.usage(clone).used >= 9000
    for volume in (clone, web):
        trees.backend.destroy(volume)


def test_what_resists_removal_is_removed(trees: Pool) -> None:
    """T9's other half: immutable and append-only files, locked directories, 3,000 files in one place."""
    web = trees.volume("web")
    with trees.mounted(web) as root:
        (root / "locked/inner").mkdir(parents=True)
        for name in ("locked/fixed", "log"):
            (root / name).write_text("x")
        for number in range(scaled(3000)):
            (root / f"f{number}").touch()
        run("chattr", "+i", root / "locked/fixed")
        run("chattr", "+i", root / "locked/inner")
        run("chattr", "+a", root / "log")
        os.chmod(root / "locked", 0)
    trees.backend.destroy(web)


def test_a_link_out_of_a_volume_is_not_followed(trees: Pool) -> None:
    web = trees.volume("web")
    precious = Path(tempfile.mkdtemp(dir=trees.root))
    (precious / "f").write_text("x")
    with trees.mounted(web) as root:
        (root / "out").symlink_to(precious)
    before = precious.stat()
    trees.backend.destroy(web)
    assert contents(precious) == {"f": b"x"}
    assert precious.stat().st_mode == before.st_mode


@pytest.mark.parametrize("name", ["plain", "new\nID 256 gen 7 top level 5 path x"])
def test_subvolumes_that_containers_make_are_removed_with_their_volume(
    filesystem: Callable[[str], Path], name: str
) -> None:
    """They are no part of a snapshot, and must not keep a volume from being removed."""
    pool = storage.open_pool(storage.EVERYTHING["btrfs"], filesystem("btrfs") / "nested")
    web, other = pool.volume("web"), pool.volume("other")
    outer = pool.backend.mount(web) / name
    run("btrfs", "subvolume", "create", outer)
    (outer / "dir").mkdir()
    run("btrfs", "subvolume", "create", outer / "dir/inner")
    (outer / "dir/inner/f").write_text("x")
    run("btrfs", "subvolume", "snapshot", "-r", outer, pool.backend.mount(web) / "read-only")
    snapshot = pool.snapshot(web, "s1")
    with pool.backend.open_snapshot(snapshot) as tree:
        assert contents(tree.root) == {}
    pool.backend.destroy(web)
    assert pool.names() == {"other"}
    assert pool.leaks() == []
    pool.backend.destroy(other)
    assert pool.subvolumes() == []
    pool.backend.close()


@pytest.mark.parametrize("variant", ["btrfs", "directory-btrfs"])
def test_what_no_snapshot_keeps_is_told_and_never_destroyed_by_new_contents(
    filesystem: Callable[[str], Path], variant: str
) -> None:
    """T35: subvolumes that a container made are not in the snapshot that is to make a rollback undoable."""
    pool = storage.open_pool(storage.EVERYTHING[variant], filesystem("btrfs") / "kept")
    web, other = pool.volume("web"), pool.volume("other")
    root = pool.backend.mount(web)
    (root / "a/b").mkdir(parents=True)
    for path in (root / "a/b/inner\n", pool.backend.mount(other) / "theirs"):
        run("btrfs", "subvolume", "create", path)
    (root / "a/b/inner\n/precious").write_text("x")
    snapshot = pool.snapshot(web, "s1")
    assert (pool.backend.left_out(web), pool.backend.left_out(other)) == (["a/b/inner\\n"], ["theirs"])
    with pytest.raises(Refused, match="it holds what no snapshot keeps: a/b/inner"):
        pool.backend.rollback(web, snapshot)
    pool.backend.stage(web)
    with pytest.raises(Refused, match="it holds what no snapshot keeps"):
        pool.backend.adopt_stage(web)
    pool.backend.discard_stage(web)
    assert (root / "a/b/inner\n/precious").read_text() == "x"
    run("btrfs", "subvolume", "delete", root / "a/b/inner\n")
    assert pool.backend.left_out(web) == []
    pool.backend.rollback(web, snapshot)
    for volume in (web, other):
        pool.backend.destroy(volume)
    assert pool.leaks() == []
    pool.backend.close()


def test_files_that_come_and_go_do_not_fail_a_copy(filesystem: Callable[[str], Path]) -> None:
    """A file that is replaced all the time is in the copy, whole; those that vanish may be missing."""
    pool = storage.open_pool(storage.EVERYTHING["directory-xfs"], filesystem("xfs") / "busy")
    web = pool.volume("web")
    root = pool.backend.mount(web)
    for number in range(300):
        (root / f"still{number}").write_text("x")
    (root / "always").write_text("0")
    ended = threading.Event()

    def churn() -> None:
        number = 0
        while not ended.is_set():
            number += 1
            for slot in range(20):
                (root / f"t{slot}.{number}").write_text("x" * 100)
                (root / f"t{slot}.{number}").unlink()
            (root / "fresh").write_text(str(number))
            os.replace(root / "fresh", root / "always")

    writer = threading.Thread(target=churn)
    writer.start()
    try:
        made = [pool.snapshot(web, f"s{number}") for number in range(8)]
    finally:
        ended.set()
        writer.join()
    for snapshot in made:
        with pool.backend.open_snapshot(snapshot) as tree:
            files = contents(tree.root)
            assert {f"still{number}" for number in range(300)} | {"always"} <= set(files)
            assert files["always"].isdigit()
    pool.backend.destroy(web)
    assert pool.leaks() == []
    pool.backend.close()


def test_a_copy_that_does_not_fit_leaves_nothing(filesystem: Callable[[str], Path]) -> None:
    """T39: the storage fills up in the middle of a snapshot, a clone, a rollback."""
    pool = storage.open_pool(storage.EVERYTHING["directory-ext4-full"], filesystem("ext4") / "small")
    web = pool.volume("web")
    root = pool.backend.mount(web)
    (root / "small").write_text("x")
    first = pool.snapshot(web, "s1")
    (root / "large").write_bytes(os.urandom(30 << 20))
    before = contents(root)
    calls: list[Callable[[], object]] = [
        lambda: pool.snapshot(web, "s2"),
        lambda: pool.backend.snapshot([pool.stored("other"), web], "s2"),
    ]
    pool.volume("other")
    for call in calls:
        with pytest.raises(NoSpace, match=r"web@s2 cannot be made: .*No space left"):
            call()
        assert pool.leaks() == []
        assert [snapshot.name for snapshot in pool.snapshots(web)] == ["s1"]
    pool.backend.rollback(web, first)
    second = pool.snapshot(web, "s2")
    (root / "large").write_bytes(before["large"])
    pool.backend.destroy_snapshot(second)
    pool.backend.destroy(pool.stored("other"))
    pool.backend.destroy(web)
    assert pool.leaks() == []
    pool.backend.close()


@pytest.mark.parametrize("kind", ["directory-xfs", "btrfs"])
def test_a_full_disk_does_not_keep_volumes_from_being_destroyed(place: Path, kind: str) -> None:
    """T39: that is when they must be."""
    variant = storage.EVERYTHING[kind]
    assert variant.filesystem
    # Of its own, because a btrfs that was full once takes its time to be roomy again.
    size = storage.SIZES[variant.filesystem]
    with filesystems.mounted(variant.filesystem, place / new_id()[:8], size) as mount:
        pool = storage.open_pool(variant, mount / "pool")
        web = pool.volume("web")
        (pool.backend.mount(web) / "small").write_text("x")
        pool.snapshot(web, "s1")
        fill_up(pool.backend, web)
        with pytest.raises((NoSpace, StorageFailed)):
            pool.backend.create(record("new"))
        pool.reopen()
        assert pool.names() == {"web"}
        pool.backend.destroy(web)
        assert pool.names() == set()
        assert pool.leaks() == []
        pool.backend.close()


def fill_up(backend: Backend, volume: Volume) -> None:
    def write(file: BinaryIO, size: int) -> None:
        while True:
            file.write(os.urandom(size))

    with open(backend.mount(volume) / "filler", "wb", buffering=0) as file:
        for size in (8 << 20, 1 << 20, 4096):
            with pytest.raises(OSError, match="No space left"):
                write(file, size)
