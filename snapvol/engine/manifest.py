"""``/snapvol.json``: what is needed, beside the tree, to make the volume again."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

import msgspec
from msgspec import Struct, field

from snapvol.errors import Damaged

FILE = b"snapvol.json"
TREE = b"volume"


class BackupKind(StrEnum):
    """What a backup is of: the option ``backup.kind``."""

    FILES = "files"
    IMAGE = "image"


class ImageMeta(Struct, frozen=True, kw_only=True):
    """The block device that an image is of.

    Attributes:
        size: in bytes.
        filesystem: what is on it, as the `fs` option names it.
        chunk: bytes of every piece but the last.
    """

    size: int
    filesystem: str
    chunk: int


class VolumeMeta(Struct, frozen=True, kw_only=True):
    """The volume at the moment of the snapshot that is backed up.

    Attributes:
        id: the volume's identity.
        name: its name.
        created: when the volume was made.
        options: the volume options that were set.
        labels: Docker's labels.
        pool: the pool it was in.
        backend: that pool's kind of storage.
        snapshot: the name of the snapshot that was read, where there is one.
        source: the identity of what was read (the storage's own id).
        taken: when the snapshot was made, or the reading began: what changed shortly before is read again next time.
        size: the size option in bytes, where there is one.
        used: bytes in use, where that is known.
        parent: what the volume was made from.
        base: the id of the backup that unchanged files were taken from.
        problems: what is not in this backup although it was in the volume, one line each; at most a hundred.
        hooks: the results of what was run before and after.
        policy: that asked for this backup, and may forget it; None where somebody did.
        kind: what the backup is of: a tree of files, or an image of a block device.
        image: the device, where it is of one.
        lost: spans of bytes of the image, (start, end), that the repository had lost when this backup was made anew of
            the rest: they are zeros here, and were something else.
    """

    id: str
    name: str
    created: datetime
    taken: datetime
    options: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    pool: str = ""
    backend: str = ""
    snapshot: str | None = None
    source: str | None = None
    size: int | None = None
    used: int | None = None
    parent: str | None = None
    base: str | None = None
    problems: list[str] = field(default_factory=list)
    hooks: dict[str, str] = field(default_factory=dict)
    policy: str | None = None
    kind: BackupKind = BackupKind.FILES
    image: ImageMeta | None = None
    lost: list[tuple[int, int]] = field(default_factory=list)


def encode(meta: VolumeMeta) -> bytes:
    """Return the file's contents: JSON for people and programs."""
    return msgspec.json.format(msgspec.json.encode(meta), indent=2) + b"\n"


def decode(data: bytes) -> VolumeMeta:
    """Read the file's contents; fields of later versions are passed over.

    Raises:
        Damaged: it is not such a file.
    """
    try:
        return msgspec.json.decode(data, type=VolumeMeta)
    except msgspec.MsgspecError as error:
        raise Damaged(f"the backup's /snapvol.json cannot be read: {error}") from None
