"""A configured pool, open or not, and what was last seen in it."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from snapvol.backend import Backend
from snapvol.errors import PoolUnavailable
from snapvol.model import Health, Volume

log = logging.getLogger(__name__)
_MOST_MOUNTPOINTS = 20_000


class Seen(Struct, frozen=True, kw_only=True):
    """A volume as it was last seen: what is known of it while its pool cannot be opened."""

    id: str
    name: str
    created: datetime | None
    mountpoint: str


class _Identity(Struct, frozen=True, kw_only=True):
    id: str


class Pool:
    """A pool and its backend.

    Attributes:
        name: in the settings.
        backend: usable while `problem` is None.
        defaults: the options of its volumes that nobody gave.
        problem: why it is not open; None once it is.
        health: as last looked at.
        seen: the volumes of an earlier time, while it is not open.

    Args:
        memory: the directory that remembers each pool's id, so that an empty directory where a disk is missing is
            never taken for the pool, and its volumes' names.
    """

    def __init__(self, name: str, backend: Backend, defaults: dict[str, str], memory: Path) -> None:
        self.name = name
        self.backend = backend
        self.defaults = defaults
        self.problem: str | None = "it has not been opened yet"
        self.health = Health(ok=False, problem=self.problem)
        self.seen: list[Seen] = []
        self._mountpoints: dict[str, str] = {}
        self._writing = threading.Lock()
        self._identity = memory / f"{name}.json"
        self._seen = memory / f"{name}.seen.json"

    @property
    def kind(self) -> str:
        """The kind of storage."""
        return self.backend.kind

    def mountpoint(self, volume: Volume) -> str:
        """Return where the volume is, or would be, mounted: remembered, for Docker asks for all of them at once."""
        known = self._mountpoints.get(volume.name)
        if known is None:
            if len(self._mountpoints) > _MOST_MOUNTPOINTS:
                self._mountpoints.clear()
            known = self._mountpoints[volume.name] = str(self.backend.mountpoint(volume))
        return known

    def open(self, load: Callable[[Pool], Callable[[], None]], turn: Callable[[], None]) -> None:
        """Open the backend and read what it has; a pool that cannot be opened is remembered with its problem.

        Args:
            load: reads the volumes of a pool whose backend is open, and returns what takes them in.
            turn: waits until the pools before this one have taken in theirs.

        Raises:
            SnapvolError: why it cannot.
        """
        try:
            expected = self._expected()
            found = self.backend.open(expected=expected)
            if expected is None:
                _write(self._identity, _Identity(id=found), sync=True)
            self.health = self._looked()
            take_in = load(self)
            turn()
            take_in()
        except Exception as error:
            self.problem = (str(error) or type(error).__name__).removeprefix(f"pool '{self.name}': ")
            self.health = Health(ok=False, problem=self.problem)
            self.seen = self._last_seen()
            raise
        self.problem = None

    def check(self) -> None:
        """Look at the health of an open pool."""
        self.health = self._looked()

    def _looked(self) -> Health:
        health = self.backend.health()
        if health.problem is None:
            return health
        return replace(health, problem=health.problem.removeprefix(f"pool '{self.name}': "))

    def require(self) -> Backend:
        """Return the backend of an open pool.

        Raises:
            PoolUnavailable: it is not open.
        """
        if self.problem is not None:
            raise PoolUnavailable(f"pool '{self.name}' is not available: {self.problem}")
        return self.backend

    def remember(self, volumes: list[Volume]) -> None:
        """Keep the names of its volumes for a time when it cannot be opened. Losing them loses convenience only."""
        seen = [
            Seen(
                id=volume.id, name=volume.name, created=volume.created, mountpoint=str(self.backend.mountpoint(volume))
            )
            for volume in volumes
        ]
        try:
            with self._writing:
                _write(self._seen, seen, sync=False)
        except OSError as error:
            log.warning("%s: %s", self._seen, error)

    def _expected(self) -> str | None:
        try:
            return msgspec.json.decode(self._identity.read_bytes(), type=_Identity).id
        except FileNotFoundError:
            return None
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise PoolUnavailable(
                f"{self._identity} cannot be read: {error}", "if the pool is the right one, remove that file"
            ) from error

    def _last_seen(self) -> list[Seen]:
        try:
            return msgspec.json.decode(self._seen.read_bytes(), type=list[Seen])
        except FileNotFoundError:
            return []
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            log.warning("%s: %s", self._seen, error)
            return []


def _write(path: Path, record: object, *, sync: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f"{path.name}.new")
    with new.open("wb") as file:
        file.write(msgspec.json.encode(record))
        if sync:
            file.flush()
            os.fsync(file.fileno())
    os.replace(new, path)
    if sync:
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
