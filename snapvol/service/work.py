"""What the daemon and its worker processes say to each other: one request on standard input, JSON lines back.

No secret is ever in them: a worker reads the repository's password from its file itself (T42).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct, field

from snapvol.backend import Change, Image, Range
from snapvol.engine.manifest import VolumeMeta
from snapvol.settings import CacheSettings, RepositorySettings


class Place(Struct, frozen=True, kw_only=True):
    """A repository: its name in the settings, how to reach it, and where what is known about it is kept.

    Attributes:
        name: in the settings.
        settings: how to reach it.
        root: the daemon's directory.
        cache: where copies of it may be kept.
    """

    name: str
    settings: RepositorySettings
    root: Path
    cache: CacheSettings = CacheSettings(size="0")


class BackUp(Struct, frozen=True, kw_only=True, tag="backup"):
    """Back up the tree at ``source``; see `snapvol.backend.Tree` for the next two.

    Attributes:
        base: the identity of the snapshot with which ``changes`` compares; None for none.
        changes: what may differ from that.
    """

    repository: Place
    source: Path
    identity: str
    stable_inodes: bool
    meta: VolumeMeta
    host: str
    base: str | None = None
    changes: tuple[Change, ...] | None = None


class BackUpImage(Struct, frozen=True, kw_only=True, tag="backup-image"):
    """Back up an open image of a snapshot.

    Attributes:
        chunk: bytes of a piece; None for the engine's choice.
        base: the identity of the snapshot with which ``changed`` compares; None for none.
        changed: what may differ from that.
    """

    repository: Place
    image: Image
    meta: VolumeMeta
    host: str
    chunk: int | None = None
    base: str | None = None
    changed: tuple[Range, ...] | None = None


class Restore(Struct, frozen=True, kw_only=True, tag="restore"):
    """Fill ``target``, an existing directory, from a backup.

    Attributes:
        backup: its full id.
        path: only this file or subtree of the volume, at the same path below ``target``.
        exact: what else is in ``target`` (below ``path``, where given) is removed.
    """

    repository: Place
    backup: str
    target: Path
    path: bytes | None = None
    exact: bool = False


class RestoreImage(Struct, frozen=True, kw_only=True, tag="restore-image"):
    """Write the image that a backup is of to ``target``: a block device of zeros, or a file to be made."""

    repository: Place
    backup: str
    target: Path


class Extract(Struct, frozen=True, kw_only=True, tag="extract"):
    """Fill ``target``, an existing directory, with the files in the image that a backup is of.

    Attributes:
        backup: its full id.
        scratch: the directory where the image is made; whoever asked removes it.
        filesystem: what is in the image.
        mounts: the directory below which the daemon mounts volumes: none but ``target`` is to be kept busy.
        target: empty, unless ``path`` is given.
        path: only this file or subtree, at the same path below ``target``, in place of what is there.
    """

    repository: Place
    backup: str
    scratch: Path
    filesystem: str
    mounts: Path
    target: Path
    path: bytes | None = None


class Verify(Struct, frozen=True, kw_only=True, tag="verify"):
    """Read and check every byte of a backup."""

    repository: Place
    backup: str


class List(Struct, frozen=True, kw_only=True, tag="list"):
    """List all backups."""

    repository: Place


class Describe(Struct, frozen=True, kw_only=True, tag="describe"):
    """Find the backup that ``backup`` means (id, ``VOLUME``, ``VOLUME@TIME``) and read what it says of its volume."""

    repository: Place
    backup: str


class Forget(Struct, frozen=True, kw_only=True, tag="forget"):
    """Remove the backups with these full ids; what only they need becomes free at the next prune."""

    repository: Place
    backups: list[str]


class Probe(Struct, frozen=True, kw_only=True, tag="probe"):
    """Open the repository and say nothing but that."""

    repository: Place


Work = BackUp | BackUpImage | Restore | RestoreImage | Extract | Verify | List | Describe | Forget | Probe


class Request(Struct, frozen=True, kw_only=True):
    """What a worker reads: what to do, and for whom: without its parent it ends."""

    parent: int
    work: Work


class Progressed(Struct, frozen=True, kw_only=True, tag="progress"):
    """How far it is, counted from the start; totals are 0 while they are not known."""

    phase: str = ""
    bytes_done: int = 0
    bytes_total: int = 0
    files_done: int = 0
    files_total: int = 0


class Said(Struct, frozen=True, kw_only=True, tag="log"):
    """A line for the log, or a warning, which people see with the job."""

    line: str
    warning: bool = False


class Finished(Struct, frozen=True, kw_only=True, tag="result"):
    """The last line of a worker that did what it was asked."""

    result: dict[str, Any] = field(default_factory=dict)


class Failed(Struct, frozen=True, kw_only=True, tag="error"):
    """The last line of a worker that did not: ``kind`` is the class in `snapvol.errors`."""

    kind: str
    message: str
    hint: str | None = None


Message = Progressed | Said | Finished | Failed


def encode(record: Request | Message) -> bytes:
    """Return one line of JSON, with its end."""
    return msgspec.json.encode(record, enc_hook=_plain) + b"\n"


def decode_request(data: bytes) -> Request:
    """Read what `encode` wrote.

    Raises:
        msgspec.MsgspecError: it is something else.
    """
    return msgspec.json.decode(data, type=Request, dec_hook=_path)


def decode_message(line: bytes) -> Message:
    """Read what `encode` wrote.

    Raises:
        msgspec.MsgspecError: it is something else.
    """
    message: Message = msgspec.json.decode(line, type=Message)
    return message


def _plain(value: object) -> object:
    if isinstance(value, Path):
        return str(value)
    raise NotImplementedError(type(value).__name__)


def _path(kind: type[object], value: object) -> object:
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise NotImplementedError(kind.__name__)
