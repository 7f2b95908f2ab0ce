"""What goes over the admin API: the records that daemon and client share. Times are aware, sizes are bytes."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from msgspec import Struct, field

from snapvol.model import State


class BackupRef(Struct, frozen=True, kw_only=True):
    """The newest backup of a volume, as far as this daemon knows."""

    id: str
    time: datetime
    repository: str


class VolumeInfo(Struct, frozen=True, kw_only=True):
    """A volume as people see it.

    Attributes:
        mounted: somebody uses it: a holder that Docker or Podman announced, or any mount the kernel shows.
        holders: how many mounts were announced and not yet ended.
        users: who uses it by the kernel's account, where that was asked.
        progress: from 0 to 1 while it is being restored.
        used: bytes, as measured at ``used_at``; None where never measured.
        damaged: its metadata cannot be read; ``error`` says why.
    """

    id: str
    name: str
    pool: str
    backend: str
    state: State
    mountpoint: str
    created: datetime | None = None
    mounted: bool = False
    holders: int = 0
    users: list[str] = field(default_factory=list)
    options: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    parent: str | None = None
    job: str | None = None
    progress: float | None = None
    eta_seconds: float | None = None
    error: str | None = None
    size: int | None = None
    used: int | None = None
    used_at: datetime | None = None
    snapshots: int = 0
    last_snapshot: datetime | None = None
    last_backup: BackupRef | None = None
    damaged: bool = False


BASE_HOLD = "base-"  # with a repository's name: the next backup to it reads what has changed since that snapshot


class SnapshotInfo(Struct, frozen=True, kw_only=True):
    """A snapshot as people see it."""

    volume: str
    name: str
    id: str
    created: datetime | None
    message: str = ""
    holds: tuple[str, ...] = ()
    made_by: str = "user"
    error: str | None = None


class BackupInfo(Struct, frozen=True, kw_only=True):
    """A backup as people see it.

    Attributes:
        volume: the volume's name; None where another program made it.
        size: bytes of the files in it, or of the image; None where not recorded.
        kind: files or image.
        incomplete: files could not be read when it was made.
        policy: that asked for it, and may forget it; None where somebody did.
    """

    id: str
    time: datetime
    repository: str
    volume: str | None = None
    volume_id: str | None = None
    host: str = ""
    tags: tuple[str, ...] = ()
    size: int | None = None
    files: int | None = None
    added: int | None = None
    incomplete: bool = False
    kind: str = "files"
    policy: str | None = None


class JobState(StrEnum):
    """Where a job stands; the last four are ends."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"

    @property
    def ended(self) -> bool:
        """Nothing more will happen."""
        return self not in (JobState.QUEUED, JobState.RUNNING)


class JobProgress(Struct, frozen=True, kw_only=True):
    """How far a job is; totals are 0 while they are not known. Rates are per second."""

    phase: str = ""
    bytes_done: int = 0
    bytes_total: int = 0
    files_done: int = 0
    files_total: int = 0
    rate: float = 0.0
    eta_seconds: float | None = None

    @property
    def fraction(self) -> float:
        """From 0 to 1, by bytes where known, else by files."""
        done, total = (self.bytes_done, self.bytes_total) if self.bytes_total else (self.files_done, self.files_total)
        return min(done / total, 1.0) if total else 0.0


class JobInfo(Struct, frozen=True, kw_only=True):
    """A job as people see it.

    Attributes:
        kind: backup, restore or verify.
        object: the volume or backup it works on.
        result: what it found out or made; keys depend on the kind.
        error: why it failed, in a line, with ``hint``.
        warnings: what went wrong without failing it, a line each.
    """

    id: str
    kind: str
    object: str
    state: JobState
    created: datetime
    started: datetime | None = None
    ended: datetime | None = None
    progress: JobProgress = field(default_factory=JobProgress)
    result: dict[str, Any] = field(default_factory=dict)
    error: str | None = None
    error_kind: str | None = None
    hint: str | None = None
    warnings: list[str] = field(default_factory=list)


class Action(Struct, frozen=True, kw_only=True):
    """One step of a plan.

    Attributes:
        verb: what is done, as one says it to somebody: "move".
        object: to what: "volume wiki".
        target: where that goes, if anywhere: "to the trash". The three read as a sentence.
        detail: what people should know besides.
    """

    verb: str
    object: str
    target: str = ""
    detail: str = ""


class Plan(Struct, frozen=True, kw_only=True):
    """What an operation that deletes or overwrites will do, or (``done``) has done."""

    actions: list[Action]
    done: bool


class TrashInfo(Struct, frozen=True, kw_only=True):
    """A removed volume that can still be brought back."""

    id: str
    name: str
    pool: str
    deleted: datetime | None
    expires: datetime | None = None
    error: str | None = None


class Event(Struct, frozen=True, kw_only=True):
    """Something that happened to a volume."""

    time: datetime
    kind: str
    object: str
    message: str


class ChangeInfo(Struct, frozen=True, kw_only=True):
    r"""A path that differs: ``kind`` is added, removed or modified. Bytes that are not UTF-8 show as ``\xNN``."""

    path: str
    kind: str


class Level(StrEnum):
    """How much a finding matters."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


class Finding(Struct, frozen=True, kw_only=True):
    """Something to know, and the command that mends it."""

    level: Level
    subject: str
    message: str
    command: str | None = None


class PoolInfo(Struct, frozen=True, kw_only=True):
    """A pool as people see it.

    Attributes:
        metadata_size: bytes for the storage's own bookkeeping, where that can fill up by itself (thin pools).
        metadata_free: bytes of that which are left.
    """

    name: str
    backend: str
    ok: bool
    default: bool
    size: int = 0
    free: int = 0
    metadata_size: int | None = None
    metadata_free: int | None = None
    problem: str | None = None
    features: dict[str, bool] = field(default_factory=dict)


class RepositoryInfo(Struct, frozen=True, kw_only=True):
    """A repository as people see it; ``ok`` is None where it was not asked yet."""

    name: str
    url: str
    ok: bool | None = None
    problem: str | None = None


class VolumeStatus(Struct, frozen=True, kw_only=True):
    """How well one volume is protected.

    Attributes:
        would_lose: seconds of work that exist nowhere but in the live volume; None where there is no point at all.
        would_lose_off_host: the same, counting backups only.
        policy: that protects it; None for none.
        next_snapshot: when the policy takes one; in the past where that is late.
        next_backup: likewise.
    """

    name: str
    state: State
    last_snapshot: datetime | None = None
    last_backup: BackupRef | None = None
    would_lose: float | None = None
    would_lose_off_host: float | None = None
    policy: str | None = None
    next_snapshot: datetime | None = None
    next_backup: datetime | None = None


class Protected(Struct, frozen=True, kw_only=True):
    """A volume that a policy protects; times in the past are late."""

    volume: str
    last_snapshot: datetime | None = None
    next_snapshot: datetime | None = None
    last_backup: datetime | None = None
    next_backup: datetime | None = None


class PolicyInfo(Struct, frozen=True, kw_only=True):
    """A policy as people see it.

    Attributes:
        origin: the settings, or the command that set it.
        fields: dotted keys and values, as in the settings.
        volumes: what it protects.
    """

    name: str
    origin: str
    fields: dict[str, Any]
    volumes: list[Protected] = field(default_factory=list)


class Forecast(Struct, frozen=True, kw_only=True):
    """What a policy will have kept of a volume.

    Attributes:
        what: snapshots or backups.
        after: from now, in words.
        points: how many.
        oldest: the time of the oldest.
        bytes: that they take, about; None where nothing is known of what changes.
    """

    volume: str
    what: str
    after: str
    points: int
    oldest: datetime | None = None
    bytes: int | None = None


class Status(Struct, frozen=True, kw_only=True):
    """The answer to: is everything all right? ``ok`` is false where a finding is a warning or an error."""

    ok: bool
    volumes: list[VolumeStatus] = field(default_factory=list)
    pools: list[PoolInfo] = field(default_factory=list)
    repositories: list[RepositoryInfo] = field(default_factory=list)
    jobs: list[JobInfo] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
