"""The service: everything that the admin API and Docker's plugin protocol offer, in one place."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from snapvol.api import ChangeInfo, Event, Plan, PoolInfo, SnapshotInfo, TrashInfo, VolumeInfo
from snapvol.backend import Backend
from snapvol.backends import BACKENDS
from snapvol.errors import NotReady, PoolUnavailable, SnapvolError
from snapvol.service import restored_options, views
from snapvol.service.backups import Backups
from snapvol.service.catalog import Catalog, Entry
from snapvol.service.context import Context
from snapvol.service.creation import Creation
from snapvol.service.effective import effective
from snapvol.service.holders import Client, Holders
from snapvol.service.kernel import Kernel, Proc
from snapvol.service.locks import Locks
from snapvol.service.policies import Policies
from snapvol.service.policy_desk import PolicyDesk
from snapvol.service.pool import Seen
from snapvol.service.pools import Pools, configured
from snapvol.service.protection import Protection
from snapvol.service.removal import Removal
from snapvol.service.reports import Reports
from snapvol.service.snapshots import Snapshots
from snapvol.service.state import StateDatabase
from snapvol.service.trash import Trash
from snapvol.service.volumes import Volumes
from snapvol.settings import Settings

log = logging.getLogger(__name__)


class Service:
    """What the daemon serves. Every method may be called from any thread and raises `SnapvolError`s only.

    Reading methods (`volumes`, `volume`, `mountpoint`, `snapshots`, `trash`, `pools`) answer from memory.

    Attributes:
        settings: the effective settings.
        state: the history.
        backups: all that is done with repositories.
        jobs: long work.
        policies: what people do with them.
        protection: carries them out.
        reports: what is protected, and what needs attention.

    Args:
        settings: see above.
        kinds: the kinds of storage; all that there are where None.
        kernel: who says what is in use; the real one where None.

    Raises:
        SettingsError: a pool's settings or its default options are wrong.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        kinds: Mapping[str, type[Backend]] | None = None,
        kernel: Kernel | None = None,
    ) -> None:
        kinds = BACKENDS if kinds is None else kinds
        self._policies = Policies(settings.policies, settings.daemon.root / "policies.json")
        self.settings = settings = msgspec.structs.replace(settings, policies=dict(self._policies.all()))
        catalog = Catalog(configured(settings, kinds))
        self.state = StateDatabase(settings.daemon.root / "state.db")
        self.backups = Backups(settings, self.state)
        self.jobs = self.backups.jobs
        self._context = Context(
            settings,
            state=self.state,
            catalog=catalog,
            locks=Locks(),
            holders=Holders(settings.daemon.runtime / "holders.json"),
            kernel=kernel or Proc(),
            restorer=self.backups,
        )
        self._announced: tuple[object, list[Seen]] | None = None
        self._pools = Pools(catalog)
        self._volumes = Volumes(self._context, kinds)
        self._snapshots = Snapshots(self._context)
        self.protection = Protection(self._context, self._policies, self._snapshots, self.backups)
        self.policies = PolicyDesk(self._context, self._policies, self.protection, self.backups, self._take_up)
        self.reports = Reports(self._context, self.backups, self.protection)
        self._trash = Trash(self._context)
        self._creation = Creation(self._context, kinds, self._snapshots)
        self._removal = Removal(self._context, self._trash)
        self.backups.connect(self._context, lambda name, options, fill: self._creation.create(name, options, {}, fill))

    def start(self) -> None:
        """Open the pools, load the catalog, read the holders, mark interrupted jobs."""
        self._context.holders.load()
        self._pools.open()
        self.backups.start()
        self._volumes.give_up_lost_restores()
        try:
            self._volumes.refresh_users()
        except SnapvolError as error:
            log.warning("who uses which volume is not known yet: %s", error)

    def close(self) -> None:
        """Stop the jobs, let go of the pools, close the history. The volumes stay as they are."""
        self.backups.close()
        self._pools.close()
        self.state.close()

    # -- volumes ------------------------------------------------------------------------------------------------

    def volumes(self) -> list[VolumeInfo]:
        """List all volumes, the damaged ones too, by name."""
        catalog = self._context.catalog
        infos = [views.volume(self._context, entry) for entry in catalog.entries()]
        infos += [views.damaged(damage, catalog.pools[damage.pool]) for damage in catalog.damages()]
        infos += [views.missing(self._context, seen, pool) for pool, seen in catalog.missing()]
        return sorted(infos, key=lambda info: (info.name, info.damaged))

    def announced(self) -> list[Seen]:
        """Return the names and mountpoints of all volumes, each name once: the same list until something changes."""
        catalog = self._context.catalog
        found = catalog.entries(), catalog.damages(), catalog.missing()
        if self._announced is None or self._announced[0] != found:
            infos = {info.name: info for info in reversed(self.volumes())}  # of two with one name, the first has it
            seen = [Seen(id=it.id, name=it.name, created=it.created, mountpoint=it.mountpoint) for it in infos.values()]
            self._announced = found, seen[::-1]
        return self._announced[1]

    def volume(self, name: str) -> VolumeInfo:
        """Return one volume.

        Raises:
            NotFound: there is none. A volume of a pool that cannot be opened is known by what was last seen of it.
        """
        catalog = self._context.catalog
        try:
            return views.volume(self._context, catalog.get(name))
        except NotReady:
            for damage in catalog.damages():
                if damage.name == name:
                    return views.damaged(damage, catalog.pools[damage.pool])
            raise
        except PoolUnavailable:
            for pool, seen in catalog.missing():
                if name in (seen.name, seen.id):
                    return views.missing(self._context, seen, pool)
            raise

    def mountpoint(self, name: str) -> Path:
        """Return where the volume is, or would be, mounted."""
        return Path(self.volume(name).mountpoint)

    def create_volume(
        self, name: str, options: Mapping[str, str] | None = None, labels: Mapping[str, str] | None = None
    ) -> VolumeInfo:
        """Make a volume; return it also where it exists already with the same options.

        Raises:
            UsageError: the name or an option is wrong.
            AlreadyExists: there is one with other options; the message shows the difference.
        """
        return self._info(self._creation.create(name, options or {}, labels or {}))

    def remove_volume(self, name: str, *, dry_run: bool = False, permanent: bool = False) -> Plan:
        """Move a volume to the trash, or destroy it.

        Raises:
            NotFound: there is none.
            Protected: ``protect=true``, or a snapshot is held.
            InUse: the kernel shows somebody who has it mounted.
        """
        return self._removal.remove(name, dry_run=dry_run, permanent=permanent)

    def set_options(self, name: str, changes: Mapping[str, str | None]) -> VolumeInfo:
        """Change options; None takes one away."""
        return self._info(self._volumes.set_options(name, changes))

    def rename_volume(self, name: str, to: str) -> VolumeInfo:
        """Give a volume another name; its snapshots and backups follow."""
        return self._info(self._volumes.rename(name, to))

    def resize_volume(self, name: str, size: str) -> VolumeInfo:
        """Set a volume's size, such as ``10G``."""
        return self._info(self._volumes.resize(name, size))

    def mount(self, name: str, holder: str = "", client: Client | None = None) -> Path:
        """Make a volume available and note who holds it; return its mountpoint.

        Raises:
            NotReady: it is being restored, or its restore failed.
        """
        return self._volumes.mount(name, holder, client)

    def unmount(self, name: str, holder: str = "", client: Client | None = None) -> None:
        """End one mount of ``holder``. One that is not known is no error."""
        self._volumes.unmount(name, holder, client)

    def rollback(self, name: str, snapshot: str, *, dry_run: bool = False) -> Plan:
        """Make a volume's contents those of its snapshot, after a snapshot of what they are now."""
        return self._snapshots.rollback(name, snapshot, dry_run=dry_run)

    def log(self, name: str) -> list[Event]:
        """Return what happened to a volume, oldest first."""
        info = self.volume(name)
        return self.state.events(name, info.id)

    # -- snapshots ----------------------------------------------------------------------------------------------

    def snapshot(self, volumes: Sequence[str], name: str | None = None, message: str = "") -> list[SnapshotInfo]:
        """Snapshot several volumes under one name, at one instant where the storage can; all or none."""
        return list(self._snapshots.snapshot(volumes, name, message))

    def snapshots(self, volume: str | None = None) -> list[SnapshotInfo]:
        """List the snapshots of one volume, or of all, oldest first."""
        return list(self._snapshots.list(volume))

    def destroy_snapshot(self, volume: str, snapshot: str, *, dry_run: bool = False) -> Plan:
        """Destroy a snapshot.

        Raises:
            Protected: it is held; the message names the tags.
        """
        return self._snapshots.destroy(volume, snapshot, dry_run=dry_run)

    def hold(self, volume: str, snapshot: str, tag: str = "user") -> SnapshotInfo:
        """Keep a snapshot from being destroyed."""
        return self._snapshots.hold(volume, snapshot, tag)

    def release(self, volume: str, snapshot: str, tag: str = "user") -> SnapshotInfo:
        """Undo `hold`."""
        return self._snapshots.release(volume, snapshot, tag)

    def diff(self, a: str, b: str) -> list[ChangeInfo]:
        """Return what differs from ``VOLUME@A`` to ``VOLUME@B``, or to ``VOLUME`` as it is now."""
        return list(self._snapshots.diff(a, b))

    # -- trash --------------------------------------------------------------------------------------------------

    def trash(self) -> list[TrashInfo]:
        """List removed volumes, newest first."""
        return list(self._trash.list())

    def undelete(self, ref: str, name: str | None = None) -> VolumeInfo:
        """Bring a removed volume back, by id or by name (the one removed last), under its own or another name."""
        entry = self._trash.undelete(ref, name)
        volume = entry.volume
        given = restored_options.given(volume.options, volume.parent, entry.pool)
        if volume.labels or given:  # Docker forgot both when the volume was removed
            self.backups.docker.adopt(volume.name, volume.labels, given)
        return self._info(entry)

    def empty_trash(self, ref: str | None = None, *, dry_run: bool = False) -> Plan:
        """Destroy what is in the trash: all of it, or what ``ref`` (id or name) names."""
        return self._trash.empty(ref, dry_run=dry_run)

    def expire_trash(self) -> None:
        """Destroy what has been in the trash for longer than ``trash.keep``. For the daemon's housekeeping."""
        self._trash.expire()

    # -- pools and housekeeping ---------------------------------------------------------------------------------

    def pools(self) -> list[PoolInfo]:
        """List the pools as they were when last looked at."""
        default = self.settings.default_pool
        return [views.pool(pool, default=pool.name == default) for pool in self._context.catalog.pools.values()]

    def config(self) -> dict[str, Any]:
        """Return the effective settings: dotted key → {value, origin}."""
        return effective(self.settings)

    def reload(self, settings: Settings) -> None:
        """Take up the policies of changed settings; everything else is read at the start only."""
        self._policies.reload(settings.policies)
        self._take_up()

    def _take_up(self) -> None:
        policies = dict(self._policies.all())
        self.settings = self._context.settings = msgspec.structs.replace(self.settings, policies=policies)

    def refresh_pools(self) -> None:
        """Look at every pool's health and try again to open those that could not be opened. Every ~10 s."""
        if self._pools.refresh():
            self.backups.clean()
            self._volumes.give_up_lost_restores()

    def refresh_users(self) -> None:
        """Ask the kernel who uses which volume, and drop the holders of dead clients that nobody backs. Every ~30 s."""
        self._volumes.refresh_users()

    def refresh_usage(self, name: str | None = None) -> None:
        """Measure what one volume, or every volume, takes. May take long."""
        self._volumes.refresh_usage(name)

    def _info(self, entry: Entry) -> VolumeInfo:
        return views.volume(self._context, entry)
