"""The service: everything that the admin API and Docker's plugin protocol offer, in one place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from snapvol.api import ChangeInfo, Event, Plan, PoolInfo, SnapshotInfo, TrashInfo, VolumeInfo
from snapvol.service.holders import Client
from snapvol.settings import Settings


class Service:
    """What the daemon serves. Every method may be called from any thread and raises `SnapvolError`s only.

    Reading methods (`volumes`, `volume`, `mountpoint`, `snapshots`, `trash`, `pools`) answer from memory.

    Args:
        settings: the effective settings.

    Raises:
        SettingsError: a pool's settings or its default options are wrong.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def start(self) -> None:
        """Open the pools, load the catalog, read the holders, mark interrupted jobs."""

    def close(self) -> None:
        """Stop jobs and write what is not written. The volumes stay as they are."""

    # -- volumes ------------------------------------------------------------------------------------------------

    def volumes(self) -> list[VolumeInfo]:
        """List all volumes, the damaged ones too, by name."""
        raise NotImplementedError

    def volume(self, name: str) -> VolumeInfo:
        """Return one volume.

        Raises:
            NotFound: there is none. A volume of a pool that cannot be opened is known by what was last seen of it.
        """
        raise NotImplementedError

    def mountpoint(self, name: str) -> Path:
        """Return where the volume is, or would be, mounted."""
        raise NotImplementedError

    def create_volume(
        self, name: str, options: Mapping[str, str] | None = None, labels: Mapping[str, str] | None = None
    ) -> VolumeInfo:
        """Make a volume; return it also where it exists already with the same options.

        Raises:
            UsageError: the name or an option is wrong.
            AlreadyExists: there is one with other options; the message shows the difference.
        """
        raise NotImplementedError

    def remove_volume(self, name: str, *, dry_run: bool = False, permanent: bool = False) -> Plan:
        """Move a volume to the trash, or destroy it.

        Raises:
            NotFound: there is none.
            Protected: ``protect=true``, or a snapshot is held.
            InUse: the kernel shows somebody who has it mounted.
        """
        raise NotImplementedError

    def set_options(self, name: str, changes: Mapping[str, str | None]) -> VolumeInfo:
        """Change options; None takes one away."""
        raise NotImplementedError

    def rename_volume(self, name: str, to: str) -> VolumeInfo:
        """Give a volume another name; its snapshots and backups follow."""
        raise NotImplementedError

    def resize_volume(self, name: str, size: str) -> VolumeInfo:
        """Set a volume's size, such as ``10G``."""
        raise NotImplementedError

    def mount(self, name: str, holder: str = "", client: Client | None = None) -> Path:
        """Make a volume available and note who holds it; return its mountpoint.

        Raises:
            NotReady: it is being restored, or its restore failed.
        """
        raise NotImplementedError

    def unmount(self, name: str, holder: str = "", client: Client | None = None) -> None:
        """End one mount of ``holder``. One that is not known is no error."""
        raise NotImplementedError

    def rollback(self, name: str, snapshot: str, *, dry_run: bool = False) -> Plan:
        """Make a volume's contents those of its snapshot, after a snapshot of what they are now."""
        raise NotImplementedError

    def log(self, name: str) -> list[Event]:
        """Return what happened to a volume, oldest first."""
        raise NotImplementedError

    # -- snapshots ----------------------------------------------------------------------------------------------

    def snapshot(self, volumes: Sequence[str], name: str | None = None, message: str = "") -> list[SnapshotInfo]:
        """Snapshot several volumes under one name, at one instant where the storage can; all or none."""
        raise NotImplementedError

    def snapshots(self, volume: str | None = None) -> list[SnapshotInfo]:
        """List the snapshots of one volume, or of all, oldest first."""
        raise NotImplementedError

    def destroy_snapshot(self, volume: str, snapshot: str, *, dry_run: bool = False) -> Plan:
        """Destroy a snapshot.

        Raises:
            Protected: it is held; the message names the tags.
        """
        raise NotImplementedError

    def hold(self, volume: str, snapshot: str, tag: str = "user") -> SnapshotInfo:
        """Keep a snapshot from being destroyed."""
        raise NotImplementedError

    def release(self, volume: str, snapshot: str, tag: str = "user") -> SnapshotInfo:
        """Undo `hold`."""
        raise NotImplementedError

    def diff(self, a: str, b: str) -> list[ChangeInfo]:
        """Return what differs from ``VOLUME@A`` to ``VOLUME@B``, or to ``VOLUME`` as it is now."""
        raise NotImplementedError

    # -- trash --------------------------------------------------------------------------------------------------

    def trash(self) -> list[TrashInfo]:
        """List removed volumes, newest first."""
        raise NotImplementedError

    def undelete(self, ref: str, name: str | None = None) -> VolumeInfo:
        """Bring a removed volume back, by id or by name (the one removed last), under its own or another name."""
        raise NotImplementedError

    def empty_trash(self, ref: str | None = None, *, dry_run: bool = False) -> Plan:
        """Destroy what is in the trash: all of it, or what ``ref`` (id or name) names."""
        raise NotImplementedError

    def expire_trash(self) -> None:
        """Destroy what has been in the trash for longer than ``trash.keep``. For the daemon's housekeeping."""

    # -- pools and housekeeping ---------------------------------------------------------------------------------

    def pools(self) -> list[PoolInfo]:
        """List the pools as they were when last looked at."""
        raise NotImplementedError

    def config(self) -> dict[str, Any]:
        """Return the effective settings: dotted key → {value, origin}."""
        raise NotImplementedError

    def refresh_pools(self) -> None:
        """Look at every pool's health and try again to open those that could not be opened. Every ~10 s."""

    def refresh_users(self) -> None:
        """Ask the kernel who uses which volume, and drop the holders of dead clients that nobody backs. Every ~30 s."""

    def refresh_usage(self, name: str | None = None) -> None:
        """Measure what one volume, or every volume, takes. May take long."""
