"""What snapvol writes into ZFS user properties: what makes a dataset a volume's, and a snapshot one of ours.

Children inherit user properties, so only one that was set right there counts. A property holds 8,191 bytes; what is
longer goes on in others, which are set together with the first in one step.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum

import msgspec
from msgspec import Struct

from snapvol.backends.volumedir import unsound_time, unsound_volume
from snapvol.backends.zfstool import Value
from snapvol.errors import UsageError
from snapvol.model import Volume
from snapvol.names import volume_name

SPACE = "org.snapvol:"
POOL = f"{SPACE}pool"
VOLUME = f"{SPACE}volume"
SNAPSHOT = f"{SPACE}snapshot"
_PART = 2000  # characters, of up to four bytes each
_MOST_PARTS = 32
_ID = re.compile(r'(?:\+\d+:)?\{"volume":\{"id":"([^"\\]+)"')


class Marker(Struct, frozen=True, kw_only=True):
    """What tells a pool's parent dataset from any other."""

    id: str
    version: int


class Role(StrEnum):
    """What a dataset of ours is."""

    VOLUME = "volume"  # a volume's contents, present or earlier ones
    STAGE = "stage"  # contents that nobody has adopted: removed by the next opening of the pool
    GONE = "gone"  # of a volume that was destroyed: likewise


class Record(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the property of a dataset says.

    Attributes:
        volume: whose contents it has, with the metadata of the time when these were its present contents.
        generation: the dataset with the highest one has a volume's present contents, the others earlier ones.
        role: what the dataset is.
    """

    volume: Volume
    generation: int = 0
    role: Role = Role.VOLUME

    @property
    def finished(self) -> bool:
        """Whether it counts as contents of a volume at all."""
        return self.role in (Role.VOLUME, Role.GONE)


class SnapshotRecord(Struct, frozen=True, kw_only=True):
    """What the property of a snapshot says; see `Snapshot`."""

    name: str
    created: datetime
    message: str = ""
    made_by: str = "user"


def properties(record: Record) -> dict[str, str]:
    """Return the properties that say ``record``.

    Raises:
        UsageError: it is too long.
    """
    text = msgspec.json.encode(msgspec.structs.replace(record, volume=_bare(record.volume))).decode()
    parts = [text[at : at + _PART] for at in range(0, len(text), _PART)]
    if len(parts) == 1:
        return {VOLUME: text}
    if len(parts) > _MOST_PARTS:
        raise UsageError(
            f"volume '{record.volume.name}': its options and labels take {len(text)} characters,"
            f" ZFS properties hold {_PART * _MOST_PARTS}",
            "use fewer or shorter labels",
        )
    rest = zip(further(len(parts)), parts[1:], strict=True)
    return {VOLUME: f"+{len(parts)}:{parts[0]}", **dict(rest)}


def further(parts: int) -> list[str]:
    """Return the properties in which a record of so many parts goes on."""
    return [f"{VOLUME}.{number}" for number in range(1, parts)]


def parts_of(text: str) -> int:
    """Return in how many properties the record lies that begins with ``text``."""
    number = text[1:].partition(":")[0] if text.startswith("+") else "1"
    return int(number) if number.isdigit() and 1 < int(number) <= _MOST_PARTS else 1


def read_volume(values: Mapping[str, Value]) -> Record | str | None:
    """Return what a dataset's properties say, what is wrong with them (T41), or None where it is not ours (T6)."""
    text = values[VOLUME].own
    if text is None:
        return None
    if text.startswith("+"):
        rest = [values[name].text for name in further(parts_of(text)) if name in values]
        text = text.partition(":")[2] + "".join(rest)
    if not text:
        return f"{VOLUME} is empty"
    try:
        record = msgspec.json.decode(_bytes(text), type=Record)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        return f"{VOLUME} is not understood: {error}"
    unsound = unsound_volume(record.volume) or _unsound_name(record.volume.name)
    return f"{VOLUME} has {unsound}" if unsound is not None else record


def _unsound_name(name: str) -> str | None:
    try:
        volume_name(name)  # it becomes part of a path
    except UsageError as error:
        return f"a name that is none: {error.message}"
    return None


def id_of(text: str) -> str | None:
    """Return the volume's id in the first part of a record; it stands first."""
    match = _ID.match(text)
    return match[1] if match else None


def snapshot_properties(record: SnapshotRecord) -> dict[str, str]:
    """Return the properties that say ``record``.

    Raises:
        UsageError: it is too long.
    """
    text = msgspec.json.encode(record).decode()
    if len(text.encode()) > 4 * _PART:
        raise UsageError(f"the message of snapshot '{record.name}' has {len(record.message)} characters", "shorten it")
    return {SNAPSHOT: text}


def read_snapshot(values: Mapping[str, Value]) -> SnapshotRecord | str | None:
    """Return what a snapshot's properties say, what is wrong with them (T41), or None where it is not ours (T6)."""
    text = values[SNAPSHOT].own
    if text is None:
        return None
    if not text:
        return f"{SNAPSHOT} is empty"
    try:
        record = msgspec.json.decode(_bytes(text), type=SnapshotRecord)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        return f"{SNAPSHOT} is not understood: {error}"
    unsound = unsound_time(record.created)
    return f"{SNAPSHOT} has {unsound}" if unsound is not None else record


def marker_properties(marker: Marker) -> dict[str, str]:
    """Return the properties that say ``marker``."""
    return {POOL: msgspec.json.encode(marker).decode()}


def read_marker(text: str) -> Marker | str:
    """Return what the parent dataset's property says, or what is wrong with it."""
    try:
        return msgspec.json.decode(_bytes(text), type=Marker)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        return f"{POOL} is not understood: {error}"


def _bare(volume: Volume) -> Volume:
    return msgspec.structs.replace(volume, pool="")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
