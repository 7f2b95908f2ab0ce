"""What makes a logical volume one of ours, in its tags.

A tag has up to 1,024 bytes of few characters: a record is JSON in base64, cut into numbered pieces that all begin with
the digest of the whole, so that a mixture of two records is none. One LVM command replaces all tags of a volume at
once.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from enum import StrEnum

import msgspec
from msgspec import Struct

from snapvol import units
from snapvol.errors import UsageError
from snapvol.model import Snapshot, Volume
from snapvol.names import snapshot_name, volume_name

POOL = "snapvol.pool="
FRESH = "snapvol.fresh"  # not committed yet: removed when the pool is opened
GONE = "snapvol.gone"  # destroyed: its removal is finished when the pool is opened
SETTLED = "snapvol.settled"  # seen whole after the program that made it may have been killed
_PIECE = "snapvol.record="
_ROOM = 900  # characters of base64 in one tag
_FORM = re.compile(r"(\d+)/(\d+)/([0-9a-f]{16})/([A-Za-z0-9_=-]*)\Z")
_FIRST_YEAR, _LAST_YEAR = 1970, 9998


class Role(StrEnum):
    """What a logical volume is for."""

    VOLUME = "volume"
    SNAPSHOT = "snapshot"
    STAGED = "staged"


class Record(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is known of a logical volume of ours.

    Attributes:
        role: what it is for.
        filesystem: what is on it, as the ``fs`` option names it; empty for a staged image.
        volume: its volume's metadata; None for a snapshot.
        snapshot: its metadata; the id is the storage's, so it is not stored.
        generation: of several with one volume's id the highest is its contents.
        group: what is the same in the snapshots that are made together.
    """

    role: Role
    filesystem: str
    volume: Volume | None = None
    snapshot: Snapshot | None = None
    generation: int = 1
    group: str = ""


class Unreadable(Exception):
    """The tags of one of ours cannot be understood; the text says why."""


def encode(record: Record) -> list[str]:
    """Return the tags that say ``record``."""
    data = msgspec.json.encode(record)
    text = base64.urlsafe_b64encode(data).decode()
    digest = hashlib.sha256(data).hexdigest()[:16]
    pieces = [text[start : start + _ROOM] for start in range(0, len(text), _ROOM)]
    return [f"{_PIECE}{number}/{len(pieces)}/{digest}/{piece}" for number, piece in enumerate(pieces)]


def pieces(tags: Iterable[str]) -> list[str]:
    """Return those of ``tags`` that say what `encode` wrote."""
    return [tag for tag in tags if tag.startswith(_PIECE)]


def belongs(tags: Iterable[str], pool: str) -> bool:
    """Return whether tags are those of one of ours in the pool with this id."""
    return f"{POOL}{pool}" in tags


def decode(tags: Sequence[str]) -> Record:
    """Return what the tags say.

    Raises:
        Unreadable: they are damaged, or say what nobody can work with.
    """
    found = [_FORM.match(tag.removeprefix(_PIECE)) for tag in pieces(tags)]
    if not found:
        raise Unreadable("its tags have no record")
    parts = [match for match in found if match is not None]
    if len(parts) < len(found):
        raise Unreadable("a tag of its record is cut short or altered")
    counts = {(int(match[2]), match[3]) for match in parts}
    if len(counts) > 1:
        raise Unreadable("its tags are of two records")
    ((count, digest),) = counts
    by_number: Mapping[int, str] = {int(match[1]): match[4] for match in parts}
    if sorted(by_number) != list(range(count)) or len(parts) != count:
        raise Unreadable(f"it has {len(parts)} of the {count} tags of its record")
    try:
        data = base64.urlsafe_b64decode("".join(by_number[number] for number in range(count)))
    except ValueError as error:
        raise Unreadable(f"its record is not base64: {error}") from error
    if hashlib.sha256(data).hexdigest()[:16] != digest:
        raise Unreadable("its record is not what its digest says")
    return _sound(data)


def _sound(data: bytes) -> Record:
    try:
        record = msgspec.json.decode(data, type=Record)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Unreadable(f"its record is not understood: {error}") from error
    try:
        if record.volume is not None:
            volume_name(record.volume.id)
            volume_name(record.volume.name)
            if "size" in record.volume.options:
                units.size(record.volume.options["size"])
        if record.snapshot is not None:
            snapshot_name(record.snapshot.name)
    except UsageError as error:
        raise Unreadable(f"its record has what cannot be: {error.message}") from error
    if (record.snapshot if record.role is Role.SNAPSHOT else record.volume) is None:
        raise Unreadable(f"its record says nothing of the {record.role}")
    for time in (
        record.volume.created if record.volume else None,
        record.volume.deleted if record.volume else None,
        record.snapshot.created if record.snapshot else None,
    ):
        _check_time(time)
    return record


def _check_time(time: datetime | None) -> None:
    if time is None:
        return
    if time.tzinfo is None:
        raise Unreadable("its record has a time without a zone")
    if not _FIRST_YEAR <= time.year <= _LAST_YEAR:
        raise Unreadable(f"its record has a time in the year {time.year}")
