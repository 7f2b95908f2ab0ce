"""The file systems on block devices: ext4 and XFS, made, looked at, cleaned, grown, and given their volume's UUID.

None of it needs a place in the tree of directories: what must be mounted for a moment is mounted nowhere.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import re
import shlex
import struct
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from uuid import UUID, uuid5

from msgspec import Struct

from snapvol import shell, units
from snapvol.backends import mounting
from snapvol.backends.failures import explained
from snapvol.backends.ownership import Ownership
from snapvol.errors import Refused, StorageFailed, ToolFailed, UsageError

_UUIDS = UUID("5b1d3f0e-6a3c-4d0b-9c52-0f6f1c0a7e11")  # what the UUIDs of volumes' file systems are made in
EXT4, XFS = "ext4", "xfs"
KINDS = (EXT4, XFS)
XFS_SMALLEST = 300 << 20  # bytes: mkfs.xfs(8) makes none below since 5.19
# The volume's own: what files no longer need goes back to the pool. nouuid: copies may have their origin's UUID (T11).
_CALM = "errors=remount-ro"  # an image that somebody made may say errors=panic in its superblock (T44)
MOUNT: Mapping[str, tuple[str, ...]] = {EXT4: ("discard", _CALM), XFS: ("discard", "nouuid")}
# A snapshot's: nothing is replayed into it, and nobody runs what is in it.
READ: Mapping[str, tuple[str, ...]] = {
    EXT4: ("ro", "noload", _CALM, "nosuid", "nodev", "noexec"),
    XFS: ("ro", "norecovery", "nouuid", "nosuid", "nodev", "noexec"),
}
# What newer mkfs.xfs turn on, and Linux 6.1 cannot mount. (The files that come with it for this it cannot even read in
# Debian 12.)
_XFS_TOO_NEW = (("-i", "nrext64"), ("-i", "exchange"), ("-n", "parent"))
_EXT4_FEATURES = "metadata_csum_seed"  # or a new UUID would mean new checksums everywhere
# A thin pool hands out zeroed blocks. Writing zeros over them would only take space.
_EXT4_EXTENDED = "nodiscard,assume_storage_prezeroed=1"
_WORDS = {EXT4: "-b -C -E -g -G -i -I -J -L -m -N -O -T", XFS: "-b -d -i -l -L -m -n -s"}
_VALUE = re.compile(r"[A-Za-z0-9_,.=^:/+-]+\Z")
_FORBIDDEN = re.compile(
    r"(^|,)(device|offset|file|name|size|logdev|rtdev|uuid|root_owner|test_fs|nodiscard|discard)(=|,|$)"
)
_SIZE_OF_LOG = re.compile(r"size=\w+\Z")
_EXT4_RESIZE = 0x40086610  # EXT4_IOC_RESIZE_FS
_XFS_GEOMETRY, _XFS_GROW = 0x80705864, 0x4010586E  # XFS_IOC_FSGEOMETRY_V1, XFS_IOC_FSGROWFSDATA
_XFS_FACTS = struct.Struct("=8I Q 64x 8x")


class Facts(Struct, frozen=True, kw_only=True):
    """What a superblock says.

    Attributes:
        kind: ``ext4`` or ``xfs``.
        size: of the file system, in bytes.
        block: its block size, in bytes.
        unclean: something may have to be replayed before it can be read.
        uuid: of the file system, as it shows itself to others.
        bound: ext4's checksums are made from its UUID: with another, all of them would be others.
        can_note_seed: but it can note what they are made from, in its superblock alone.
    """

    kind: str
    size: int
    block: int
    unclean: bool
    uuid: UUID
    bound: bool = False
    can_note_seed: bool = False


def uuid_for(volume: str) -> UUID:
    """Return the UUID that a volume's file system has: always the same, and no other volume's (T11).

    Args:
        volume: the volume's id.
    """
    return uuid5(_UUIDS, volume)


def probe(device: Path) -> Facts | None:
    """Return what is on a device; None where that is neither ext4 nor XFS.

    Raises:
        OSError: it cannot be read.
    """
    head = _head(device)
    if head[:4] == b"XFSB":
        block, blocks = struct.unpack_from(">I Q", head, 4)
        uuid = UUID(bytes=head[32:48])
        return Facts(kind=XFS, size=block * blocks, block=block, uuid=uuid, unclean=True)  # it does not tell
    if struct.unpack_from("<H", head, 1024 + 56)[0] != 0xEF53:
        return None
    (low,), (exponent,) = struct.unpack_from("<I", head, 1024 + 4), struct.unpack_from("<I", head, 1024 + 24)
    (features,), (high,) = struct.unpack_from("<I", head, 1024 + 96), struct.unpack_from("<I", head, 1024 + 336)
    block = 1024 << exponent
    blocks = low | (high << 32 if features & 0x80 else 0)  # INCOMPAT_64BIT
    (optional,) = struct.unpack_from("<I", head, 1024 + 100)
    summed = bool(optional & 0x400)  # METADATA_CSUM
    sums = summed or optional & 0x10 or features & 0x400  # GDT_CSUM, EA_INODE
    return Facts(
        kind=EXT4,
        size=block * blocks,
        block=block,
        unclean=bool(features & 4),  # INCOMPAT_RECOVER
        uuid=UUID(bytes=head[1024 + 104 : 1024 + 120]),
        bound=bool(sums and not features & 0x2000),  # CSUM_SEED
        can_note_seed=summed,
    )


def _head(device: Path) -> bytes:
    # Past the page cache, which a mounted file system need not write through; that takes an aligned buffer.
    descriptor = os.open(device, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
    try:
        with mmap.mmap(-1, mmap.PAGESIZE) as page:
            os.preadv(descriptor, [page], 0)
            return page[: mmap.PAGESIZE]
    finally:
        os.close(descriptor)


def in_use(device: Path) -> bool:
    """Return whether a block device is mounted, in whichever namespace, or claimed otherwise.

    Raises:
        OSError: it is not there.
    """
    try:
        os.close(os.open(device, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC))
    except OSError as error:
        if error.errno == errno.EBUSY:
            return True
        raise
    return False


# -- making -----------------------------------------------------------------------------------------------------


def check_words(volume: str, kind: str, text: str) -> list[str]:
    """Return the words of the option ``lvm.mkfs``.

    Raises:
        UsageError: mkfs would not understand them, or they would make something else than an empty file system.
    """
    what, allowed = f"volume '{volume}': lvm.mkfs = '{text}'", _WORDS[kind].split()
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UsageError(f"{what} is not understood: {error}") from error
    for position in range(0, len(words), 2):
        pair = words[position : position + 2]
        if pair[0] not in allowed:
            raise UsageError(f"{what}: '{pair[0]}' is not an option for {kind} here", f"valid: {' '.join(allowed)}")
        if len(pair) < 2 or not _VALUE.match(pair[1]):
            raise UsageError(f"{what}: '{pair[0]}' has no proper value", "write it like '-i size=1024'")
        log_size = pair[0] in ("-l", "-J", "-i", "-b", "-n", "-s") and _SIZE_OF_LOG.match(pair[1])
        if _FORBIDDEN.search(pair[1]) and not log_size:
            raise UsageError(f"{what}: '{pair[1]}' cannot be chosen", "leave it out")
    return words


def make(device: Path, kind: str, words: list[str], uuid: UUID) -> None:
    """Make an empty file system on a device that is all zeros.

    Args:
        device: where.
        kind: ``ext4`` or ``xfs``.
        words: what `check_words` let pass.
        uuid: that it gets.

    Raises:
        StorageFailed: mkfs refuses.
    """
    pairs = [(words[position], words[position + 1]) for position in range(0, len(words), 2)]
    if kind == EXT4:
        settings = ["-q", "-m", "0", "-U", str(uuid)]
        if all(option != "-b" for option, _ in pairs):
            settings += ["-b", "4096"]  # by itself mkfs takes less where it is small, and it may grow
        for option, ours in (("-O", _EXT4_FEATURES), ("-E", _EXT4_EXTENDED)):
            given = [value for key, value in pairs if key == option]
            settings += [option, ",".join([ours, *given])]
        settings += [word for pair in pairs if pair[0] not in ("-O", "-E") for word in pair]
    else:
        settings = ["-q", "-K", "-m", f"uuid={uuid}", *_xfs_settings(), *words]
    try:
        shell.run(f"mkfs.{kind}", *settings, device)
    except ToolFailed as error:
        if error.code is None:
            package = "e2fsprogs" if kind == EXT4 else "xfsprogs"
            raise StorageFailed(error.message, f"apt install {package}") from error
        said = next((line.strip() for line in error.stderr.splitlines() if line.strip()), "no message")
        raise StorageFailed(f"mkfs.{kind} failed: {said}", "look at the option lvm.mkfs" if words else None) from error


@cache
def _xfs_settings() -> tuple[str, ...]:
    try:
        usage = shell.run("mkfs.xfs")
    except ToolFailed as error:
        usage = error.stderr
    return tuple(word for option, key in _XFS_TOO_NEW if f"{key}=" in usage for word in (option, f"{key}=0"))


# -- changing ---------------------------------------------------------------------------------------------------


@contextmanager
def mounted(device: Path, kind: str) -> Iterator[int]:
    """Give a descriptor of the root while the context lasts; afterwards, nothing is left to be replayed.

    Raises:
        StorageFailed: it cannot be mounted.
    """
    with ExitStack() as stack:
        with explained(f"the {kind} on {device} cannot be mounted"):
            mount = stack.enter_context(mounting.detached(str(device), kind, MOUNT[kind]))
            root = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=mount)  # a mount's takes no ioctl
            stack.callback(os.close, root)
        yield root


def empty(root: int, owner: Ownership) -> None:
    """Make a new file system's root what a new volume's is."""
    with suppress(FileNotFoundError):
        os.rmdir("lost+found", dir_fd=root)
    owner.give(Path(f"/proc/self/fd/{root}"), fresh=True)


def give(root: int, owner: Ownership) -> None:
    """Apply what options name to the root of a copy."""
    owner.give(Path(f"/proc/self/fd/{root}"), fresh=False)


def grow(root: int, kind: str, size: int) -> None:
    """Make a mounted file system as large as its device.

    Args:
        root: a descriptor of its root.
        kind: ``ext4`` or ``xfs``.
        size: of the device, in bytes.

    Raises:
        OSError: the kernel refuses.
    """
    if kind == EXT4:
        fcntl.ioctl(root, _EXT4_RESIZE, struct.pack("=Q", size // os.fstatvfs(root).f_bsize))
        return
    facts = bytearray(_XFS_FACTS.size)
    fcntl.ioctl(root, _XFS_GEOMETRY, facts)
    block, *_, percent, blocks = _XFS_FACTS.unpack(facts)
    if size // block > blocks:
        fcntl.ioctl(root, _XFS_GROW, struct.pack("=Q I 4x", size // block, percent))


def fill(device: Path, size: int, slack: int) -> None:
    """Grow a file system, mounted or not, whose device has grown before a kill came.

    Args:
        device: that it is on.
        size: of the device, in bytes.
        slack: bytes that a file system may leave.

    Raises:
        OSError: the kernel refuses.
        StorageFailed: it cannot be mounted.
    """
    facts = probe(device)
    if facts is not None and size - facts.size >= slack:
        with mounted(device, facts.kind) as root:
            grow(root, facts.kind, size)


def own(device: Path, uuid: UUID) -> None:
    """Give a file system that nobody has mounted the UUID of its volume: a copy has its origin's (T11).

    Of ext4 nothing but superblocks changes: wherever it is killed, the file system is whole, and the next call goes on.
    XFS has a moment in which its log is the new one's already and its superblock not yet: killed there, it is lost. An
    ext4 that nobody makes any more, of which more would have to change, keeps its UUID: it can be mounted beside its
    origin.

    Args:
        device: that it is on.
        uuid: see `uuid_for`.

    Raises:
        OSError: the device cannot be read.
        StorageFailed: there is none, its journal cannot be replayed, or the tool refuses.
    """
    facts = probe(device)
    if facts is None:
        raise StorageFailed(f"neither ext4 nor XFS is on {device}")
    if facts.uuid == uuid or (facts.bound and not facts.can_note_seed) or in_use(device):
        return
    if facts.unclean:
        with mounted(device, facts.kind):
            pass
    if facts.kind == EXT4:
        seed = ("-O", _EXT4_FEATURES) if facts.bound else ()
        shell.run("tune2fs", "-f", *seed, "-U", str(uuid), device)
    else:
        shell.run("xfs_admin", "-U", str(uuid), device)


def smallest(volume: str, kind: str, size: int) -> None:
    """Refuse a size that the file system cannot have.

    Raises:
        Refused: it is too small.
    """
    least = XFS_SMALLEST if kind == XFS else 1 << 20
    if size < least:
        raise Refused(
            f"volume '{volume}': {kind} takes at least {units.spelled(least)}, not {units.spelled(size)}",
            "give it a larger size: 10G, 512M",
        )
