"""A backend that keeps its records in dictionaries: for tests of what is built on backends, and of the contract.

Files need a place all the same, for mounts and snapshots are paths: they lie in a temporary directory.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from msgspec.structs import replace

from snapvol.backend import Backend, Change, Features, Tree
from snapvol.errors import AlreadyExists, NotFound, PoolUnavailable, Protected, Refused, SettingsError, Unsupported
from snapvol.model import Damage, Health, Snapshot, Usage, Volume, new_id, now
from snapvol.names import snapshot_name, volume_name
from snapvol.settings import ROOT


class Memory(Backend):
    """A pool that lasts as long as the object."""

    kind = "memory"

    def __init__(
        self, pool: str = "memory", settings: Mapping[str, object] | None = None, *, root: Path = ROOT
    ) -> None:
        for key in settings or {}:
            raise SettingsError(f"[pools.{pool}] has no setting '{key}'")
        self.pool = pool
        self.id = new_id()
        self._root = Path(tempfile.mkdtemp(prefix="snapvol-memory-"))
        weakref.finalize(self, shutil.rmtree, self._root, ignore_errors=True)
        self._volumes: dict[str, Volume] = {}
        self._snapshots: dict[str, list[Snapshot]] = {}
        self._staged: set[str] = set()

    def open(self, *, expected: str | None = None) -> str:
        if expected not in (None, self.id):
            raise PoolUnavailable(f"pool '{self.pool}' is another pool")
        for volume in self._volumes.values():
            self.discard_stage(volume)
        return self.id

    def close(self) -> None:
        pass

    @property
    def features(self) -> Features:
        return Features(
            snapshots=True,
            instant=False,
            quota=False,
            resize=False,
            shared_blocks=False,
            stable_inodes=False,
            reason="the memory backend keeps no quotas",
        )

    def health(self) -> Health:
        return Health(ok=True, size=1 << 30, free=1 << 30)

    # -- volumes ------------------------------------------------------------------------------------------------

    def volumes(self) -> Sequence[Volume | Damage]:
        return [volume for volume in self._volumes.values() if volume.deleted is None]

    def _get(self, volume: Volume) -> Volume:
        found = self._volumes.get(volume.id)
        if found is None or found.name != volume.name or (found.deleted is None) != (volume.deleted is None):
            raise NotFound(f"no volume '{volume.name}'")
        return found

    def _free(self, name: str) -> str:
        volume_name(name)
        if any(volume.name == name for volume in self._live()):
            raise AlreadyExists(f"'{name}' exists")
        return name

    def _live(self) -> list[Volume]:
        return [volume for volume in self._volumes.values() if volume.deleted is None]

    def _data(self, owner: str) -> Path:
        return self._root / owner

    def _tree(self, owner: str, volume: Volume | None = None) -> Path:
        path = self._data(owner)
        path.mkdir()
        mode = volume.options.get("mode") if volume else None
        path.chmod(0o755 if mode is None else int(mode, 8))
        if volume and os.getuid() == 0:
            os.chown(path, int(volume.options.get("uid", -1)), int(volume.options.get("gid", -1)))
        return path

    def create(self, volume: Volume, *, size: int | None = None, source: Snapshot | None = None) -> None:
        self._free(volume.name)
        if size is not None:
            raise Unsupported(f"volume '{volume.name}': no quotas", self.features.reason)
        if source is None:
            self._tree(volume.id, volume)
        else:
            _copy(self._data(self._known(source).id), self._data(volume.id))
        self._volumes[volume.id] = replace(volume, pool=self.pool)
        self._snapshots[volume.id] = []

    def record(self, volume: Volume) -> None:
        self._get(volume)
        self._volumes[volume.id] = replace(volume, pool=self.pool)

    def rename(self, volume: Volume, name: str) -> Volume:
        return self._change(volume, name=self._free(name))

    def _change(self, volume: Volume, name: str, deleted: datetime | None = None) -> Volume:
        changed = replace(self._get(volume), name=name, deleted=deleted)
        self._volumes[volume.id] = changed
        self._snapshots[volume.id] = [replace(snapshot, volume=name) for snapshot in self._snapshots[volume.id]]
        return changed

    def resize(self, volume: Volume, size: int) -> None:
        raise Unsupported(f"volume '{volume.name}': no quotas", self.features.reason)

    def usage(self, volume: Volume) -> Usage:
        root = self._data(self._get(volume).id)
        return Usage(used=sum(path.lstat().st_blocks * 512 for path in root.rglob("*")))

    def destroy(self, volume: Volume) -> None:
        self._get(volume)
        for snapshot in self._snapshots[volume.id]:
            if snapshot.holds:
                raise Refused(f"{snapshot.full_name} is held ({', '.join(snapshot.holds)})", "release it")
        self.discard_stage(volume)
        for snapshot in self._snapshots.pop(volume.id):
            shutil.rmtree(self._data(snapshot.id))
        shutil.rmtree(self._data(volume.id))
        del self._volumes[volume.id]

    # -- trash --------------------------------------------------------------------------------------------------

    def trash(self, volume: Volume, when: datetime) -> None:
        self._change(volume, volume.name, when)

    def trashed(self) -> Sequence[Volume | Damage]:
        return [volume for volume in self._volumes.values() if volume.deleted is not None]

    def undelete(self, volume: Volume, name: str) -> Volume:
        return self._change(volume, self._free(name))

    # -- mounting -----------------------------------------------------------------------------------------------

    def mountpoint(self, volume: Volume) -> Path:
        return self._data(volume.id)

    def mount(self, volume: Volume) -> Path:
        return self._data(self._get(volume).id)

    def unmount(self, volume: Volume) -> None:
        pass

    # -- snapshots ----------------------------------------------------------------------------------------------

    def snapshots(self, volume: Volume) -> Sequence[Snapshot | Damage]:
        return list(self._snapshots[self._get(volume).id])

    def snapshot(
        self, volumes: Sequence[Volume], name: str, *, message: str = "", made_by: str = "user"
    ) -> Sequence[Snapshot]:
        snapshot_name(name)
        for volume in volumes:
            if any(snapshot.name == name for snapshot in self._snapshots[self._get(volume).id]):
                raise AlreadyExists(f"'{volume.name}@{name}' exists")
        created = now()
        made = [
            Snapshot(
                volume=volume.name,
                volume_id=volume.id,
                name=name,
                id=new_id(),
                created=created,
                message=message,
                made_by=made_by,
            )
            for volume in volumes
        ]
        for snapshot in made:
            _copy(self._data(snapshot.volume_id), self._data(snapshot.id))
            self._snapshots[snapshot.volume_id].append(snapshot)
        return made

    def _known(self, snapshot: Snapshot) -> Snapshot:
        for found in self._snapshots.get(snapshot.volume_id, []):
            if found.id == snapshot.id and found.name == snapshot.name:
                return found
        raise NotFound(f"no snapshot '{snapshot.full_name}'")

    def destroy_snapshot(self, snapshot: Snapshot) -> None:
        found = self._known(snapshot)
        if found.holds:
            raise Protected(f"{found.full_name} is held ({', '.join(found.holds)})", "release it")
        self._snapshots[snapshot.volume_id].remove(found)
        shutil.rmtree(self._data(snapshot.id))

    def hold(self, snapshot: Snapshot, tag: str) -> None:
        found = self._known(snapshot)
        if tag not in found.holds:
            self._hold(found, (*found.holds, tag))

    def release(self, snapshot: Snapshot, tag: str) -> None:
        found = self._known(snapshot)
        self._hold(found, tuple(other for other in found.holds if other != tag))

    def _hold(self, found: Snapshot, holds: tuple[str, ...]) -> None:
        kept = self._snapshots[found.volume_id]
        kept[kept.index(found)] = replace(found, holds=holds)

    def rollback(self, volume: Volume, snapshot: Snapshot) -> None:
        self._get(volume)
        _replace(self._data(self._known(snapshot).id), self._data(volume.id))

    @contextmanager
    def open_snapshot(self, snapshot: Snapshot) -> Iterator[Tree]:
        yield Tree(root=self._data(self._known(snapshot).id), identity=snapshot.id, stable_inodes=False)

    def changes(self, base: Snapshot, snapshot: Snapshot) -> Iterable[Change] | None:
        return None

    # -- replacing contents -------------------------------------------------------------------------------------

    def stage(self, volume: Volume) -> Path:
        self.discard_stage(volume)
        self._staged.add(volume.id)
        return self._tree(f"{volume.id}.new", volume)

    def adopt_stage(self, volume: Volume) -> None:
        if self._get(volume).id not in self._staged:
            raise NotFound(f"nothing was staged for '{volume.name}'")
        _replace(self._data(f"{volume.id}.new"), self._data(volume.id))
        self.discard_stage(volume)

    def discard_stage(self, volume: Volume) -> None:
        if self._get(volume).id in self._staged:
            shutil.rmtree(self._data(f"{volume.id}.new"))
            self._staged.remove(volume.id)


def _copy(old: Path, new: Path) -> None:
    shutil.copytree(old, new, symlinks=True)


def _replace(old: Path, new: Path) -> None:
    shutil.rmtree(new)
    _copy(old, new)
