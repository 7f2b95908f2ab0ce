"""The words of the domain as immutable records. Times are aware UTC datetimes, sizes are bytes."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from uuid import uuid4

from msgspec import Struct, field


def now() -> datetime:
    """Return the present time, aware, in UTC."""
    return datetime.now(UTC)


def new_id() -> str:
    """Return a new identity: a UUID in its usual spelling."""
    return str(uuid4())


class State(StrEnum):
    """Whether a volume can be mounted."""

    READY = "ready"
    RESTORING = "restoring"
    FAILED = "failed"


class Volume(Struct, frozen=True, kw_only=True):
    """What makes a volume a volume, as the storage itself records it.

    Attributes:
        id: the identity, which renames do not change.
        name: for people and Docker.
        pool: the pool it lies in; not stored, filled in by the backend.
        created: when.
        options: the volume options in force (DESIGN §7), the pool's defaults included.
        labels: Docker's labels, where they are known.
        parent: what it was made from: ``VOLUME@SNAPSHOT``, or a backup's id.
        state: anything but ready refuses to be mounted.
        job: the id of the job that restores it.
        error: why it failed, in a line.
        deleted: when it went to the trash; None for a live volume.
    """

    id: str
    name: str
    created: datetime
    pool: str = ""
    options: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    parent: str | None = None
    state: State = State.READY
    job: str | None = None
    error: str | None = None
    deleted: datetime | None = None


class Snapshot(Struct, frozen=True, kw_only=True):
    """A read-only point in time of a volume, in its pool.

    Attributes:
        volume: the volume's name.
        volume_id: the volume's identity.
        name: unique in its volume.
        id: what the storage itself calls it (btrfs subvolume UUID, ZFS guid, …): tells ``s1`` from a later ``s1``.
        created: when.
        message: what people wrote about it.
        holds: tags that keep it from being destroyed.
        made_by: "user", or what made it ("backup", "rollback", "restore").
    """

    volume: str
    volume_id: str
    name: str
    id: str
    created: datetime
    message: str = ""
    holds: tuple[str, ...] = ()
    made_by: str = "user"

    @property
    def full_name(self) -> str:
        """``VOLUME@NAME``."""
        return f"{self.volume}@{self.name}"


class Damage(Struct, frozen=True, kw_only=True):
    """A volume or snapshot of ours whose metadata cannot be read: listed with its reason, never guessed at."""

    name: str
    reason: str
    pool: str = ""
    path: Path | None = None


class Usage(Struct, frozen=True, kw_only=True):
    """What a volume takes.

    Attributes:
        used: bytes that its present contents refer to.
        exclusive: bytes that only it refers to, where the storage knows.
        limit: the size option in bytes, where one is in force.
    """

    used: int
    exclusive: int | None = None
    limit: int | None = None


class Health(Struct, frozen=True, kw_only=True):
    """The state of a pool.

    Attributes:
        ok: volumes can be created, written and snapshotted.
        problem: what is wrong, in a line: why it is not, or what to look at although it is (a lost disk).
        size: bytes in all.
        free: bytes that can still be written.
        metadata_size: bytes for the storage's own bookkeeping, where that can fill up by itself (thin pools).
        metadata_free: bytes of that which are left.
    """

    ok: bool
    size: int = 0
    free: int = 0
    problem: str | None = None
    metadata_size: int | None = None
    metadata_free: int | None = None
