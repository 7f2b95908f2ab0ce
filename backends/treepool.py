"""A pool of directory trees: what every kind of tree storage must know, and the life of the pool itself."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from snapvol.backend import Backend, Features
from snapvol.backends import durable, volumedir
from snapvol.backends.failures import explained
from snapvol.backends.group import finish_groups
from snapvol.backends.place import Place
from snapvol.backends.volumedir import SNAPSHOT
from snapvol.errors import AlreadyExists, NotFound, NotReady, PoolUnavailable, SnapvolError, Unsupported
from snapvol.model import Damage, Health, Snapshot, Usage, Volume, new_id

log = logging.getLogger(__name__)


class TreePool(Backend):
    """One pool whose volumes are trees side by side in one directory.

    Args:
        pool: the pool's name.
        place: its directory.
    """

    def __init__(self, pool: str, place: Place) -> None:
        self.pool = pool
        self._place = place
        self._features: Features | None = None

    # -- what a subclass knows ----------------------------------------------------------------------------------

    def _before_open(self, expected: str | None) -> None:
        """Check what must hold before a new pool may be made."""

    @abstractmethod
    def _probe(self) -> Features:
        """Find out what the storage can do. The pool's directory is there, and locked."""

    def _check_options(self, volume: Volume) -> None:
        """Refuse values of the storage's own options that cannot be served."""

    @abstractmethod
    def _make_root(self, root: Path) -> None:
        """Make an empty root at ``root``."""

    @abstractmethod
    def _copy_roots(self, pairs: Sequence[tuple[Path, Path]], *, read_only: bool) -> None:
        """Copy each root to a path that does not exist yet, and see the copies on the storage."""

    def _apply_options(self, root: Path, volume: Volume) -> None:
        """Set the storage's own options on ``root``, where the volume has them."""

    @abstractmethod
    def _limit(self, root: Path) -> int | None:
        """Return the quota of ``root`` in bytes."""

    @abstractmethod
    def _set_limit(self, root: Path, size: int) -> None:
        """Set the quota of ``root``."""

    @abstractmethod
    def _usage(self, root: Path) -> Usage:
        """Measure ``root``."""

    @abstractmethod
    def _identity(self, root: Path) -> str:
        """Return what the storage calls the copy at ``root``, or a new identity where it has no name for it."""

    @abstractmethod
    def _sync(self, root: Path) -> None:
        """See the contents of ``root`` on the storage."""

    def _left_out(self, root: Path) -> Sequence[str]:
        """Return what copies of ``root`` do not have, as paths below it."""
        return ()

    @abstractmethod
    def _remove(self, path: Path) -> None:
        """Remove a directory in tmp, with the roots in it."""

    # -- the pool -----------------------------------------------------------------------------------------------

    def open(self, *, expected: str | None = None) -> str:
        """See `Backend.open`."""
        what = f"pool '{self.pool}' cannot be opened"
        try:
            with explained(what):
                self._before_open(expected)
                identity = self._place.open(expected)
                self._recover()
                self._features = self._probe()
        except SnapvolError:
            self._place.close()
            raise
        return identity

    def close(self) -> None:
        """See `Backend.close`."""
        self._place.close()

    @property
    def features(self) -> Features:
        """See `Backend.features`."""
        if self._features is None:
            raise PoolUnavailable(f"pool '{self.pool}' is not open")
        return self._features

    def health(self) -> Health:
        """See `Backend.health`."""
        return self._place.health()

    def _recover(self) -> None:
        for parent, trash in ((self._place.volumes, False), (self._place.trash, True)):
            for directory in volumedir.entries(parent):
                try:
                    for tree in volumedir.settle(directory, trash=trash):
                        self._discard(tree)
                except (OSError, SnapvolError) as error:
                    # One damaged volume must not keep the pool from opening.
                    log.warning("pool '%s': %s is left as it is: %s", self.pool, directory, error)
        finish_groups(self._place, self._live)
        for leftover in volumedir.entries(self._place.tmp):
            self._sweep(leftover)

    def _sweep(self, path: Path) -> None:
        """Remove what nobody sees any more; what cannot be removed now waits in tmp for the next `open`."""
        try:
            with explained(f"{path} cannot be removed"):
                self._remove(path)
        except SnapvolError as error:
            log.warning("pool '%s': %s", self.pool, error)

    def _discard(self, path: Path) -> None:
        """Take ``path`` out of sight by one rename, which a full disk allows too, then remove it."""
        grave = self._place.tmp / new_id()
        with explained(f"{path} cannot be removed"):
            durable.move(path, grave)
        self._sweep(grave)

    @contextmanager
    def _working(self, what: str) -> Iterator[Path]:
        """Give a directory in tmp to make something in; what is left in it is removed, whatever happens."""
        self._place.check()
        with explained(what):
            work = self._place.work()
            try:
                yield work
            finally:
                self._sweep(work)

    # -- finding volumes ------------------------------------------------------------------------------------------

    def _list(self, parent: Path, *, trash: bool) -> Sequence[Volume | Damage]:
        self._place.check()
        with explained(f"the volumes of pool '{self.pool}' cannot be listed"):
            found = (volumedir.read_volume(entry, self.pool, trash=trash) for entry in volumedir.entries(parent))
            if not volumedir.is_directory(parent):
                raise PoolUnavailable(f"pool '{self.pool}': {parent} is missing", "look at the storage")
            return [volume for volume in found if volume is not None]

    def _live(self) -> dict[str, Path]:
        """Return the directories of the live volumes, by identity."""
        return {volume.id: self._place.volume(volume.name) for volume in self.volumes() if isinstance(volume, Volume)}

    def _find(self, volume: Volume) -> tuple[Path, Volume]:
        """Return the directory of ``volume``, live or in the trash, and its metadata as stored.

        Raises:
            NotFound: it is gone, or another volume has its name.
            NotReady: its metadata cannot be read.
        """
        self._place.check()
        trash = volume.deleted is not None
        directory = self._place.trashed(volume.id) if trash else self._place.volume(volume.name)
        with explained(f"volume '{volume.name}' cannot be looked up"):
            found = volumedir.read_volume(directory, self.pool, trash=trash)
        if isinstance(found, Damage):
            raise NotReady(f"volume '{volume.name}' is damaged: {found.reason}", f"mend or remove {directory}")
        if found is None or found.id != volume.id:
            raise NotFound(f"no volume '{volume.name}' with id {volume.id} in pool '{self.pool}'", "snapvol ls")
        return directory, found

    def _directory(self, volume: Volume) -> Path:
        return self._find(volume)[0]

    def _snapshots(self, directory: Path, volume: Volume) -> Sequence[Snapshot | Damage]:
        with explained(f"the snapshots of volume '{volume.name}' cannot be listed"):
            found = [volumedir.read_snapshot(entry, volume) for entry in volumedir.entries(directory / "snapshots")]
        good = [snapshot for snapshot in found if isinstance(snapshot, Snapshot)]
        return [
            *sorted(good, key=lambda snapshot: (snapshot.created, snapshot.name)),
            *(damage for damage in found if isinstance(damage, Damage)),
        ]

    def _snapshot_directory(self, snapshot: Snapshot) -> Path:
        """Return where ``snapshot`` is.

        Raises:
            NotFound: it is gone, or a later one has its name.
        """
        self._place.check()
        damage = None
        for directory in (self._place.volume(snapshot.volume), self._place.trashed(snapshot.volume_id)):
            path = self._place.snapshot(directory, snapshot.name)
            with explained(f"snapshot '{snapshot.full_name}' cannot be looked up"):
                try:
                    found = durable.read(path / SNAPSHOT, Snapshot)
                except FileNotFoundError:
                    continue
                except durable.Unreadable as error:
                    damage = error
                    continue
                if (found.id, found.volume_id) == (snapshot.id, snapshot.volume_id):
                    return path
        if damage:
            raise NotReady(f"snapshot '{snapshot.full_name}' is damaged: {damage}", "mend it, or remove its volume")
        raise NotFound(f"no snapshot '{snapshot.full_name}' with id {snapshot.id} in pool '{self.pool}'")

    def _free_name(self, name: str) -> Path:
        directory = self._place.volume(name)
        if durable.exists(directory):
            raise AlreadyExists(f"'{name}' exists in pool '{self.pool}' already ({directory})", "choose another name")
        return directory

    def _require_snapshots(self, what: str) -> None:
        if not self.features.snapshots:
            raise Unsupported(f"{what}: pool '{self.pool}' has no snapshots", self.features.reason)

    def _require_quota(self, what: str) -> None:
        if not self.features.quota:
            raise Unsupported(f"{what}: pool '{self.pool}' has no quotas", self.features.reason)
