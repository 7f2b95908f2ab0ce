"""The directory that a pool of trees lives in: its marker, its lock, its parts.

::

    POOL/.snapvol-pool.json              the marker: this pool's id
    POOL/volumes/NAME/volume.json        the sidecar: a live volume
    POOL/volumes/NAME/data               its root
    POOL/volumes/NAME/snapshots/NAME/    snapshot.json and data
    POOL/trash/VOLUME-ID/                a whole volume directory
    POOL/tmp/UUID/                       where everything is made, and goes to be removed
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec
from msgspec import Struct

from snapvol.backends import durable
from snapvol.backends.failures import explained
from snapvol.errors import NoSpace, PoolUnavailable, SettingsError, nearest
from snapvol.model import Health, new_id
from snapvol.names import snapshot_name, volume_name

VERSION = 1
MARKER = ".snapvol-pool.json"
LOCK = ".snapvol-pool.lock"
# What a directory may hold and still count as empty: what mkfs makes, and what a kill left of our first `open`.
_NOTHING = {"lost+found", LOCK, MARKER + durable.FRESH}

Reserve = Annotated[int, msgspec.Meta(ge=0, le=90)]
Settings = TypeVar("Settings", bound=Struct)


class Marker(Struct, frozen=True, kw_only=True):
    """What tells a pool's directory from any other, such as the empty one below a disk that is not mounted."""

    id: str
    version: int


def read_settings(pool: str, settings: Mapping[str, object], kind: type[Settings]) -> Settings:
    """Return a pool's settings checked against ``kind``.

    Raises:
        SettingsError: a key is unknown, missing or of the wrong type.
    """
    known = kind.__struct_fields__
    for key in settings:
        if key not in known:
            raise SettingsError(f"[pools.{pool}] has no setting '{key}'", nearest(key, known))
    try:
        return msgspec.convert(dict(settings), kind)
    except msgspec.ValidationError as error:
        raise SettingsError(f"[pools.{pool}] {str(error).replace('Object missing', 'lacks the')}") from error


def absolute(pool: str, path: str) -> Path:
    """Return the setting ``path``.

    Raises:
        SettingsError: it is not absolute.
    """
    if not os.path.isabs(path) or "\0" in path:
        raise SettingsError(f"[pools.{pool}] path = {path!r} is not absolute", "start it with '/'")
    return Path(os.path.normpath(path))


class Place:
    """One pool's directory.

    Args:
        pool: the pool's name, for messages.
        root: the directory.
        reserve: the share of the storage, in percent, below which nothing new is made.
    """

    def __init__(self, pool: str, root: Path, reserve: int) -> None:
        self.pool = pool
        self.root = root
        self.reserve = reserve
        self.volumes = root / "volumes"
        self.trash = root / "trash"
        self.tmp = root / "tmp"
        self.id: str | None = None
        self._lock: int | None = None

    def volume(self, name: str) -> Path:
        """Return where the live volume ``name`` is. Checks the name once more: it becomes part of a path (T5)."""
        return self.volumes / volume_name(name)

    def trashed(self, volume_id: str) -> Path:
        """Return where the trashed volume with this identity is."""
        return self.trash / volume_name(volume_id)

    @staticmethod
    def snapshot(volume: Path, name: str) -> Path:
        """Return where the snapshot ``name`` of the volume directory ``volume`` is."""
        return volume / "snapshots" / snapshot_name(name)

    def work(self) -> Path:
        """Make a directory in tmp, for something that will be renamed to its place or removed."""
        path = self.tmp / new_id()
        os.mkdir(path, 0o700)
        return path

    # -- opening ------------------------------------------------------------------------------------------------

    def open(self, expected: str | None) -> str:
        """Find the pool, or make it where there is nothing yet and ``expected`` is None; take its lock.

        Returns:
            The pool's id.

        Raises:
            PoolUnavailable: it is not there, is another one, is somebody else's directory, or cannot be written.
        """
        with explained(f"pool '{self.pool}' cannot be opened"):
            if not durable.exists(self.root):
                self._refuse_expected(expected, "does not exist")
                self._make_root()
            marker = self._marker()
            if marker is None:
                self._refuse_expected(expected, f"has no {MARKER}")
                self._refuse_foreign()
            elif expected is not None and marker.id != expected:
                raise PoolUnavailable(
                    f"pool '{self.pool}': {self.root} is another pool ({marker.id}, not {expected})",
                    "mount the right disk there, or give the other pool its own name in the settings",
                )
            if os.statvfs(self.root).f_flag & os.ST_RDONLY:
                raise PoolUnavailable(f"pool '{self.pool}': {self.root} is read-only", "look at `dmesg`, `findmnt`")
            self._take_lock()
            if marker is None:
                marker = Marker(id=new_id(), version=VERSION)
                durable.write(self.root / MARKER, marker)
            for part in (self.volumes, self.trash, self.tmp):
                part.mkdir(mode=0o700, exist_ok=True)
            durable.sync_directory(self.root)
        self.id = marker.id
        return marker.id

    def close(self) -> None:
        """Let go of the lock."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def check(self) -> None:
        """Make sure that the pool is still the one that was opened, and not the directory below an unmounted disk.

        Raises:
            PoolUnavailable: it is not.
        """
        marker = self._marker()
        if marker is None:
            raise PoolUnavailable(
                f"pool '{self.pool}': {self.root} has no {MARKER}", f"mount its storage at {self.root}"
            )
        if self.id is not None and marker.id != self.id:
            raise PoolUnavailable(
                f"pool '{self.pool}': {self.root} has become another pool ({marker.id})", "restart snapvol"
            )

    def _make_root(self) -> None:
        try:
            # 0700: what volumes and snapshots hold (set-user-id programs too) is out of reach of local users.
            os.mkdir(self.root, 0o700)
        except FileNotFoundError as error:
            raise PoolUnavailable(
                f"pool '{self.pool}': {self.root.parent} does not exist",
                f"mount its storage, or mkdir {self.root.parent}",
            ) from error
        durable.sync_directory(self.root.parent)

    def _marker(self) -> Marker | None:
        try:
            marker = durable.read(self.root / MARKER, Marker)
        except FileNotFoundError:
            return None
        except durable.Unreadable as error:
            raise PoolUnavailable(f"pool '{self.pool}': {self.root}/{error}", "look at the storage") from error
        if marker.version != VERSION:
            raise PoolUnavailable(
                f"pool '{self.pool}': {self.root} has version {marker.version}, this snapvol knows {VERSION}",
                "install a newer snapvol",
            )
        return marker

    def _refuse_expected(self, expected: str | None, why: str) -> None:
        if expected is not None:
            raise PoolUnavailable(
                f"pool '{self.pool}': {self.root} {why}, but the pool was in use before",
                f"mount its storage at {self.root}",
            )

    def _refuse_foreign(self) -> None:
        if not self.root.is_dir():
            raise PoolUnavailable(f"pool '{self.pool}': {self.root} is not a directory")
        found = sorted(set(os.listdir(self.root)) - _NOTHING)
        if "volumes" in found:
            raise PoolUnavailable(
                f"pool '{self.pool}': {self.root} has volumes but no {MARKER}",
                f"restore {MARKER}, or move the volumes away",
            )
        if found:
            raise PoolUnavailable(
                f"pool '{self.pool}': {self.root} is in use for something else ('{found[0]}')",
                "give the pool an empty directory of its own",
            )

    def _take_lock(self) -> None:
        if self._lock is not None:
            return
        self._lock = _locked(self.root / LOCK)
        if self._lock is None:
            raise PoolUnavailable(
                f"pool '{self.pool}': {self.root} is open in another daemon", "stop it, or use another path"
            )

    # -- condition ----------------------------------------------------------------------------------------------

    def require_room(self, what: str) -> None:
        """Refuse to make something new in a pool that is nearly full (T39).

        Raises:
            NoSpace: less than the reserve is free.
        """
        with explained(what):
            facts = os.statvfs(self.root)
        size, free = facts.f_blocks * facts.f_frsize, facts.f_bavail * facts.f_frsize
        if free * 100 < size * self.reserve:
            raise NoSpace(
                f"{what}: pool '{self.pool}' has {free >> 20} MiB of {size >> 20} MiB free,"
                f" less than its reserve of {self.reserve} %",
                f"free space, or lower `reserve` in [pools.{self.pool}]",
            )

    def health(self) -> Health:
        """Return capacity and condition; see `Backend.health`."""
        try:
            self.check()
            facts = os.statvfs(self.root)
        except PoolUnavailable as error:
            return Health(ok=False, problem=str(error))
        except OSError as error:
            return Health(ok=False, problem=f"{self.root}: {error.strerror}")
        size, free = facts.f_blocks * facts.f_frsize, facts.f_bavail * facts.f_frsize
        problem = None
        if facts.f_flag & os.ST_RDONLY:
            problem = f"{self.root} is read-only; look at `dmesg`"
        elif free * 100 < size * self.reserve:
            problem = f"{free >> 20} MiB of {size >> 20} MiB free, less than the reserve of {self.reserve} %"
        return Health(ok=problem is None, size=size, free=free, problem=problem)


def _locked(path: Path) -> int | None:
    """Return a descriptor that holds the lock file at ``path``, or None where another one does."""
    # Open for reading only, so that the storage can still be remounted read-only; NFS insists on a writer.
    for access in (os.O_RDONLY, os.O_RDWR):
        lock = os.open(path, access | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                os.close(lock)
                return None
            if error.errno == errno.EBADF and access == os.O_RDONLY:
                os.close(lock)
                continue
            # A share without locks still makes a pool: keeping other daemons out is then up to its owner.
        break
    return lock
