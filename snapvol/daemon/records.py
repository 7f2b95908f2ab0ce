"""What requests of the admin API carry in bodies and query strings; what they are answered is in `snapvol.api`."""

from __future__ import annotations

from msgspec import Struct, field


class Strict(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A record in which an unknown field is an error (T16)."""


class Nothing(Strict, frozen=True):
    """No fields."""


class DryRun(Strict, frozen=True):
    """With ``dry_run`` nothing is done: the answer says what would be."""

    dry_run: bool = False


class OfVolume(Strict, frozen=True):
    """Only what belongs to one volume."""

    volume: str | None = None


class OfRepository(Strict, frozen=True):
    """Only one volume's, from another repository than the default."""

    volume: str | None = None
    repository: str | None = None


class Removal(Strict, frozen=True):
    """``permanent`` goes past the trash."""

    dry_run: bool = False
    permanent: bool = False


class Emptying(Strict, frozen=True):
    """``name``: only this volume, by name or id."""

    name: str | None = None
    dry_run: bool = False


class Points(Strict, frozen=True):
    """``VOLUME@SNAPSHOT`` and, for ``b``, also ``VOLUME`` as it is now."""

    a: str
    b: str


class Measuring(Strict, frozen=True):
    """``measure`` finds out anew what the volume takes, which may take long."""

    measure: bool = False


class NewVolume(Strict, frozen=True):
    """A volume to create: its options (see the manual) and Docker's labels."""

    name: str
    options: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)


class Options(Strict, frozen=True):
    """Options to change; null takes one away."""

    options: dict[str, str | None]


class Name(Strict, frozen=True):
    """A new name."""

    name: str


class NameOrOwn(Strict, frozen=True):
    """A new name; without one it keeps its own."""

    name: str | None = None


class Size(Strict, frozen=True):
    """Binary units: ``10G``."""

    size: str


class Holder(Strict, frozen=True):
    """Who mounts: any text, given again to unmount."""

    id: str = "api"


class Mounted(Struct, frozen=True, kw_only=True):
    """Where a volume's contents are."""

    mountpoint: str


class Rollback(Strict, frozen=True):
    """Which snapshot to go back to."""

    snapshot: str
    dry_run: bool = False


class NewSnapshots(Strict, frozen=True):
    """Volumes to snapshot at one instant; without a name, one is made of the time."""

    volumes: list[str]
    name: str | None = None
    message: str = ""


class Tag(Strict, frozen=True):
    """Holds of different tags do not know of one another."""

    tag: str = "user"


class NewBackups(Strict, frozen=True):
    """Volumes or snapshots (``VOLUME@NAME``) to back up, or ``all`` volumes."""

    objects: list[str] = field(default_factory=list)
    all: bool = False
    repository: str | None = None


class Restore(Strict, frozen=True):
    """A backup (id, ``VOLUME``, ``VOLUME@TIME``) to a new volume, or ``in_place`` into the volume itself."""

    backup: str
    volume: str | None = None
    in_place: bool = False
    path: str | None = None
    repository: str | None = None
    dry_run: bool = False


class Verification(Strict, frozen=True):
    """Backups to read and check whole."""

    backups: list[str]
    repository: str | None = None


class Forgetting(Strict, frozen=True):
    """Backups to remove; ``force`` also takes the last good one of a volume."""

    backups: list[str]
    repository: str | None = None
    dry_run: bool = False
    force: bool = False


class Changes(Strict, frozen=True):
    """Keys of a policy to change, as in the settings; null takes one away."""

    fields: dict[str, str | None]


class ByPolicy(Strict, frozen=True):
    """Which repository; with ``dry_run`` nothing is done."""

    repository: str | None = None
    dry_run: bool = False


class Lines(Struct, frozen=True, kw_only=True):
    """A log."""

    lines: list[str]
