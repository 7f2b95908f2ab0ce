"""Volumes that are directory trees side by side in one pool directory: what `directory` and `btrfs` share.

A subclass says how a root is made, copied and removed; this class keeps the layout (`place`) and makes every change
one rename. Reading methods work without `open`, for worker processes beside the daemon.
"""

from __future__ import annotations

import logging
import os
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from msgspec.structs import replace

from snapvol.backend import Backend, Change, Features, Tree
from snapvol.backends import durable, removal, volumedir
from snapvol.backends.failures import explained
from snapvol.backends.group import Group, finish_groups
from snapvol.backends.place import Place
from snapvol.backends.volumedir import DATA, SNAPSHOT, STAGED
from snapvol.errors import (
    AlreadyExists,
    NotFound,
    NotReady,
    PoolUnavailable,
    Protected,
    Refused,
    SnapvolError,
    Unsupported,
    UsageError,
)
from snapvol.model import Damage, Health, Snapshot, Usage, Volume, now

log = logging.getLogger(__name__)


class Trees(Backend):
    """A pool of directory trees."""

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

    @abstractmethod
    def _check_options(self, volume: Volume) -> None:
        """Refuse values of the storage's own options that cannot be served."""

    @abstractmethod
    def _make_root(self, root: Path) -> None:
        """Make an empty root at ``root``."""

    @abstractmethod
    def _copy_roots(self, pairs: Sequence[tuple[Path, Path]], *, read_only: bool) -> None:
        """Copy each root to a path that does not exist yet, and see the copies on the storage."""

    @abstractmethod
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

    @abstractmethod
    def _remove(self, path: Path) -> None:
        """Remove a directory in tmp, with the roots in it."""

    # -- the pool -----------------------------------------------------------------------------------------------

    def open(self, *, expected: str | None = None) -> str:
        """See `Backend.open`."""
        what = f"pool '{self.pool}' cannot be opened"
        with explained(what):
            self._before_open(expected)
        identity = self._place.open(expected)
        try:
            with explained(what):
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
            for directory in _entries(parent):
                try:
                    for tree in volumedir.settle(directory, trash=trash):
                        self._discard(tree)
                except OSError as error:
                    # One damaged volume must not keep the pool from opening.
                    log.warning("pool '%s': %s is left as it is: %s", self.pool, directory, error)
        finish_groups(self._place, self._live)
        for leftover in _entries(self._place.tmp):
            self._sweep(leftover)

    def _sweep(self, path: Path) -> None:
        """Remove what nobody sees any more; what cannot be removed now waits in tmp for the next `open`."""
        try:
            with explained(f"{path} cannot be removed"):
                self._remove(path)
        except SnapvolError as error:
            log.warning("pool '%s': %s", self.pool, error)

    def _discard(self, path: Path) -> None:
        """Take ``path`` out of sight by one rename, then remove it."""
        with explained(f"{path} cannot be removed"):
            grave = self._place.work()
            durable.move(path, grave / path.name)
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

    # -- volumes ------------------------------------------------------------------------------------------------

    def volumes(self) -> Sequence[Volume | Damage]:
        """See `Backend.volumes`."""
        return self._list(self._place.volumes, trash=False)

    def _list(self, parent: Path, *, trash: bool) -> Sequence[Volume | Damage]:
        self._place.check()
        with explained(f"the volumes of pool '{self.pool}' cannot be listed"):
            found = (volumedir.read_volume(entry, self.pool, trash=trash) for entry in _entries(parent))
            return [volume for volume in found if volume is not None]

    def _live(self) -> dict[str, Path]:
        """Return the directories of the live volumes, by identity."""
        return {volume.id: self._place.volume(volume.name) for volume in self.volumes() if isinstance(volume, Volume)}

    def _directory(self, volume: Volume) -> Path:
        """Return the directory of ``volume``, live or in the trash.

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
            raise NotFound(f"no volume '{volume.name}' with id {volume.id} in pool '{self.pool}'")
        return directory

    def _free_name(self, name: str) -> Path:
        directory = self._place.volume(name)
        if os.path.lexists(directory):
            raise AlreadyExists(f"'{name}' exists in pool '{self.pool}' already ({directory})", "choose another name")
        return directory

    def create(self, volume: Volume, *, size: int | None = None, source: Snapshot | None = None) -> None:
        """See `Backend.create`."""
        what = f"volume '{volume.name}' cannot be created"
        self._place.check()
        owner = _ownership(volume)
        self._check_options(volume)
        if size is not None:
            self._require_quota(what)
        origin = None if source is None else self._source(source, what)
        target = self._free_name(volume.name)
        self._place.require_room(what)
        with self._working(what) as work:
            made = work / "volume"
            os.mkdir(made, 0o700)
            os.mkdir(made / "snapshots", 0o700)
            if origin is None:
                self._make_root(made / DATA)
            else:
                self._copy_roots([(origin / DATA, made / DATA)], read_only=False)
            self._apply_options(made / DATA, volume)
            _own(made / DATA, *owner, fresh=origin is None)
            if size is not None:
                self._set_limit(made / DATA, size)
            durable.sync_directory(made / DATA)
            volumedir.write_volume(made, volume)
            durable.move(made, target)

    def _source(self, snapshot: Snapshot, what: str) -> Path:
        self._require_snapshots(what)
        return self._snapshot_directory(snapshot)

    def record(self, volume: Volume) -> None:
        """See `Backend.record`."""
        directory = self._directory(volume)
        with explained(f"the metadata of volume '{volume.name}' cannot be written"):
            volumedir.write_volume(directory, volume)

    def rename(self, volume: Volume, name: str) -> Volume:
        """See `Backend.rename`."""
        return self._move(volume, replace(volume, name=name), f"volume '{volume.name}' cannot be renamed")

    def _move(self, volume: Volume, moved: Volume, what: str) -> Volume:
        directory = self._directory(volume)
        target = self._free_name(moved.name) if moved.deleted is None else self._place.trashed(moved.id)
        with explained(what):
            volumedir.move(directory, target, moved)
        return replace(moved, pool=self.pool)

    def resize(self, volume: Volume, size: int) -> None:
        """See `Backend.resize`."""
        what = f"volume '{volume.name}' cannot be resized"
        self._require_quota(what)
        root = self._directory(volume) / DATA
        with explained(what):
            self._sync(root)  # counts lag behind until then
            used = self._usage(root).used
            if used > size:
                raise Refused(f"{what} to {size} bytes: {used} are in use", "remove files first")
            self._set_limit(root, size)

    def usage(self, volume: Volume) -> Usage:
        """See `Backend.usage`."""
        root = self._directory(volume) / DATA
        with explained(f"volume '{volume.name}' cannot be measured"):
            return self._usage(root)

    def destroy(self, volume: Volume) -> None:
        """See `Backend.destroy`."""
        what = f"volume '{volume.name}' cannot be removed"
        directory = self._directory(volume)
        for snapshot in self._snapshots(directory, volume):
            if isinstance(snapshot, Snapshot) and snapshot.holds:
                raise Refused(
                    f"{what}: {snapshot.full_name} is held ({', '.join(snapshot.holds)})",
                    f"snapvol release {snapshot.full_name}",
                )
        with explained(what):
            _refuse_foreign(directory, volume, what)
            removal.refuse_mounted(directory, what)
            self._discard(directory)

    # -- trash --------------------------------------------------------------------------------------------------

    def trash(self, volume: Volume, when: datetime) -> None:
        """See `Backend.trash`."""
        what = f"volume '{volume.name}' cannot be moved to the trash"
        self._move(volume, replace(volume, deleted=when), what)

    def trashed(self) -> Sequence[Volume | Damage]:
        """See `Backend.trashed`."""
        return self._list(self._place.trash, trash=True)

    def undelete(self, volume: Volume, name: str) -> Volume:
        """See `Backend.undelete`."""
        what = f"volume '{volume.name}' cannot be brought back"
        return self._move(volume, replace(volume, name=name, deleted=None), what)

    # -- mounting -----------------------------------------------------------------------------------------------

    def mountpoint(self, volume: Volume) -> Path:
        """See `Backend.mountpoint`: the contents are where they are, no mount is made."""
        return self._place.volume(volume.name) / DATA

    def mount(self, volume: Volume) -> Path:
        """See `Backend.mount`."""
        return self._directory(volume) / DATA

    def unmount(self, volume: Volume) -> None:
        """See `Backend.unmount`."""

    # -- snapshots ----------------------------------------------------------------------------------------------

    def snapshots(self, volume: Volume) -> Sequence[Snapshot | Damage]:
        """See `Backend.snapshots`."""
        return self._snapshots(self._directory(volume), volume)

    def _snapshots(self, directory: Path, volume: Volume) -> Sequence[Snapshot | Damage]:
        with explained(f"the snapshots of volume '{volume.name}' cannot be listed"):
            found = [volumedir.read_snapshot(entry, volume) for entry in _entries(directory / "snapshots")]
        good = [snapshot for snapshot in found if isinstance(snapshot, Snapshot)]
        return [
            *sorted(good, key=lambda snapshot: (snapshot.created, snapshot.name)),
            *(damage for damage in found if isinstance(damage, Damage)),
        ]

    def snapshot(
        self, volumes: Sequence[Volume], name: str, *, message: str = "", made_by: str = "user"
    ) -> Sequence[Snapshot]:
        """See `Backend.snapshot`."""
        what = f"snapshot {', '.join(f'{volume.name}@{name}' for volume in volumes)} cannot be made"
        self._require_snapshots(what)
        directories = [self._directory(volume) for volume in volumes]
        for volume, directory in zip(volumes, directories, strict=True):
            if os.path.lexists(self._place.snapshot(directory, name)):
                raise AlreadyExists(f"'{volume.name}@{name}' exists already", "choose another name")
        self._place.require_room(what)
        with self._working(what) as work:
            made = [work / volume.id for volume in volumes]
            for path in made:
                os.mkdir(path, 0o700)
            created = now()
            self._copy_roots(
                [(directory / DATA, path / DATA) for directory, path in zip(directories, made, strict=True)],
                read_only=True,
            )
            snapshots = [
                Snapshot(
                    volume=volume.name,
                    volume_id=volume.id,
                    name=name,
                    id=self._identity(path / DATA),
                    created=created,
                    message=message,
                    made_by=made_by,
                )
                for volume, path in zip(volumes, made, strict=True)
            ]
            for snapshot, path in zip(snapshots, made, strict=True):
                durable.write(path / SNAPSHOT, snapshot)
            Group(work, name, [volume.id for volume in volumes]).publish(directories)
        return snapshots

    def _snapshot_directory(self, snapshot: Snapshot) -> Path:
        """Return where ``snapshot`` is.

        Raises:
            NotFound: it is gone, or a later one has its name.
        """
        self._place.check()
        for directory in (self._place.volume(snapshot.volume), self._place.trashed(snapshot.volume_id)):
            path = self._place.snapshot(directory, snapshot.name)
            with explained(f"snapshot '{snapshot.full_name}' cannot be looked up"):
                try:
                    found = durable.read(path / SNAPSHOT, Snapshot)
                except (FileNotFoundError, durable.Unreadable):
                    continue
                if (found.id, found.volume_id) == (snapshot.id, snapshot.volume_id):
                    return path
        raise NotFound(f"no snapshot '{snapshot.full_name}' with id {snapshot.id} in pool '{self.pool}'")

    def destroy_snapshot(self, snapshot: Snapshot) -> None:
        """See `Backend.destroy_snapshot`."""
        what = f"snapshot '{snapshot.full_name}' cannot be removed"
        path = self._snapshot_directory(snapshot)
        with explained(what):
            holds = durable.read(path / SNAPSHOT, Snapshot).holds
            if holds:
                raise Protected(f"{what}: it is held ({', '.join(holds)})", f"snapvol release {snapshot.full_name}")
            removal.refuse_mounted(path, what)
            self._discard(path)

    def hold(self, snapshot: Snapshot, tag: str) -> None:
        """See `Backend.hold`."""
        self._set_hold(snapshot, tag, held=True)

    def release(self, snapshot: Snapshot, tag: str) -> None:
        """See `Backend.release`."""
        self._set_hold(snapshot, tag, held=False)

    def _set_hold(self, snapshot: Snapshot, tag: str, *, held: bool) -> None:
        path = self._snapshot_directory(snapshot) / SNAPSHOT
        with explained(f"the holds of '{snapshot.full_name}' cannot be changed"):
            stored = durable.read(path, Snapshot)
            if (tag in stored.holds) == held:
                return
            holds = (*stored.holds, tag) if held else tuple(other for other in stored.holds if other != tag)
            durable.write(path, replace(stored, holds=holds))

    def rollback(self, volume: Volume, snapshot: Snapshot) -> None:
        """See `Backend.rollback`."""
        what = f"volume '{volume.name}' cannot be rolled back to '{snapshot.name}'"
        self._require_snapshots(what)
        if snapshot.volume_id != volume.id:
            raise UsageError(f"{what}: '{snapshot.full_name}' is another volume's snapshot")
        directory = self._directory(volume)
        source = self._snapshot_directory(snapshot)
        self._place.require_room(what)
        with self._working(what) as work:
            self._copy_roots([(source / DATA, work / DATA)], read_only=False)
            self._inherit_limit(directory / DATA, work / DATA)
            self._swap(directory, work / DATA, what)

    def _swap(self, directory: Path, fresh: Path, what: str) -> None:
        removal.refuse_mounted(directory, what)
        if volumedir.is_directory(directory / volumedir.OLD):
            self._discard(directory / volumedir.OLD)
        old = volumedir.swap(directory, fresh)
        try:
            self._discard(old)
        except SnapvolError as error:
            # The new contents are in place; the next swap or `open` tries again.
            log.warning("pool '%s': %s", self.pool, error)

    def _inherit_limit(self, root: Path, fresh: Path) -> None:
        limit = self._limit(root)
        if limit is not None:
            self._set_limit(fresh, limit)

    @contextmanager
    def open_snapshot(self, snapshot: Snapshot) -> Iterator[Tree]:
        """See `Backend.open_snapshot`."""
        root = self._snapshot_directory(snapshot) / DATA
        yield Tree(root=root, identity=snapshot.id, stable_inodes=self._stable_inodes)

    _stable_inodes = False

    def changes(self, base: Snapshot, snapshot: Snapshot) -> Iterable[Change] | None:
        """See `Backend.changes`."""
        return None

    # -- replacing contents -------------------------------------------------------------------------------------

    def stage(self, volume: Volume) -> Path:
        """See `Backend.stage`."""
        self.discard_stage(volume)
        directory = self._directory(volume)
        what = f"new contents of volume '{volume.name}' cannot be prepared"
        self._place.require_room(what)
        with self._working(what) as work:
            self._make_root(work / DATA)
            self._apply_options(work / DATA, volume)
            _own(work / DATA, *_ownership(volume), fresh=True)
            self._inherit_limit(directory / DATA, work / DATA)
            durable.move(work / DATA, directory / STAGED)
        return directory / STAGED

    def adopt_stage(self, volume: Volume) -> None:
        """See `Backend.adopt_stage`."""
        directory = self._directory(volume)
        what = f"the new contents of volume '{volume.name}' cannot take their place"
        with explained(what):
            if not volumedir.is_directory(directory / STAGED):
                raise NotFound(f"{what}: nothing was staged")
            self._sync(directory / STAGED)
            self._swap(directory, directory / STAGED, what)

    def discard_stage(self, volume: Volume) -> None:
        """See `Backend.discard_stage`."""
        staged = self._directory(volume) / STAGED
        with explained(f"the staged contents of volume '{volume.name}' cannot be removed"):
            if volumedir.is_directory(staged):
                self._discard(staged)

    # -- refusals -----------------------------------------------------------------------------------------------

    def _require_snapshots(self, what: str) -> None:
        if not self.features.snapshots:
            raise Unsupported(f"{what}: pool '{self.pool}' has no snapshots", self.features.reason)

    def _require_quota(self, what: str) -> None:
        if not self.features.quota:
            raise Unsupported(f"{what}: pool '{self.pool}' has no quotas", self.features.reason)


def _entries(directory: Path) -> list[Path]:
    """Return what ``directory`` holds, sorted."""
    return sorted(directory / name for name in os.listdir(directory))


def _refuse_foreign(directory: Path, volume: Volume, what: str) -> None:
    """Refuse to remove a volume into which somebody has put things of their own (T6)."""
    foreign = [entry for entry in _entries(directory) if entry.name not in _PARTS]
    foreign += [entry for entry in _entries(directory / "snapshots") if volumedir.read_snapshot(entry, volume) is None]
    if foreign:
        raise Refused(f"{what}: {foreign[0]} is not snapvol's", f"move {foreign[0]} away")


_PARTS = {
    "snapshots",
    volumedir.SIDECAR,
    volumedir.NEXT,
    DATA,
    volumedir.OLD,
    STAGED,
    volumedir.SIDECAR + durable.FRESH,
    volumedir.NEXT + durable.FRESH,
}


def _ownership(volume: Volume) -> tuple[int | None, int | None, int | None]:
    """Return the options ``uid``, ``gid`` and ``mode`` as numbers."""

    def number(key: str, base: int, largest: int) -> int | None:
        text = volume.options.get(key)
        if text is None:
            return None
        try:
            value = int(text, base)
        except ValueError:
            value = -1
        if not 0 <= value <= largest:
            kind = "an octal mode such as 0750" if base == 8 else "a whole number"
            raise UsageError(f"volume '{volume.name}': {key}={text!r} is not {kind}")
        return value

    return number("uid", 10, 2**32 - 2), number("gid", 10, 2**32 - 2), number("mode", 8, 0o7777)


def _own(root: Path, uid: int | None, gid: int | None, mode: int | None, *, fresh: bool) -> None:
    if uid is not None or gid is not None:
        os.chown(root, -1 if uid is None else uid, -1 if gid is None else gid)
    if mode is not None or fresh:
        # After chown, which drops set-user-id bits; and not by mkdir, which the umask would change.
        os.chmod(root, 0o755 if mode is None else mode)
