"""What the parts of the service share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

from snapvol.api import JobInfo
from snapvol.errors import InUse, NotReady
from snapvol.model import State, Volume
from snapvol.service.catalog import Catalog, Entry
from snapvol.service.contents import Contents
from snapvol.service.holders import Holders
from snapvol.service.kernel import Kernel, Site
from snapvol.service.locks import Locks
from snapvol.service.state import StateDatabase
from snapvol.settings import Settings


class Restorer(Protocol):
    """What volumes need of jobs: `snapvol.service.backups` offers it."""

    def fill(
        self, volume: Volume, backup: str, repository: str | None, asked: Mapping[str, str] | None = None
    ) -> JobInfo:
        """Begin to restore a backup into a volume that was just made for it; ``asked`` are the options given with it.

        Raises:
            SnapvolError: there is no such backup, or its repository cannot be used.
        """

    def active(self, volume_id: str) -> JobInfo | None:
        """Return the queued or running job that works on a volume. Reads memory only."""

    def cancel(self, volume_id: str) -> None:
        """Stop the job that works on a volume, and wait for its end."""


class Context:
    """The service's shared parts.

    Attributes:
        users: by volume identity, who used it when the kernel was last asked about all.
        contents: mounts what is read or written without Docker.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        state: StateDatabase,
        catalog: Catalog,
        locks: Locks,
        holders: Holders,
        kernel: Kernel,
        restorer: Restorer,
    ) -> None:
        self.settings = settings
        self.state = state
        self.catalog = catalog
        self.locks = locks
        self.holders = holders
        self.kernel = kernel
        self.restorer = restorer
        self.users: dict[str, list[str]] = {}
        self.contents = Contents(catalog, locks, holders)

    def note(self, kind: str, volume: Volume, message: str) -> None:
        """Add to a volume's history."""
        self.state.add_event(kind, volume.name, message, volume.id)

    @contextmanager
    def claim(self, name: str, doing: str, *, mountable: bool = False) -> Iterator[Entry]:
        """Claim an existing volume whose contents can be used; see `Locks.volumes`.

        Raises:
            NotFound: there is none.
            NotReady: see `require_ready`. Said at once: a restore claims its volume for long.
            InUse: another operation works on it.
        """
        entry = self.catalog.get(name)
        self.require_ready(entry)
        with self.locks.volumes(entry.key, doing=doing, mountable=mountable):
            entry = self.catalog.get(name)
            self.require_ready(entry)
            yield entry

    def refuse_used(self, entry: Entry, to: str) -> None:
        """Check that nobody uses a volume: by the kernel's account, and by that of the jobs.

        Args:
            entry: the volume.
            to: what was to be done: "remove it".

        Raises:
            InUse: somebody does, named in the message.
        """
        volume = entry.volume
        self.refuse_worked_on(entry, to)
        users = self.kernel_users(entry)
        if users:
            self.users[volume.id] = users
            more = f" and {len(users) - 3} more" if len(users) > 3 else ""
            raise InUse(
                f"volume '{volume.name}' is in use by {', '.join(users[:3])}{more}",
                f"stop or unmount that first to {to}",
            )
        self.users.pop(volume.id, None)

    def site(self, entry: Entry) -> Site:
        """Return what the kernel is asked about to learn who uses a volume.

        Raises:
            SnapvolError: its storage does not say.
        """
        backend = entry.backend
        return Site(path=backend.mountpoint(entry.volume), sources=backend.sources(entry.volume))

    def kernel_users(self, entry: Entry) -> list[str]:
        """Return who uses a volume, by the kernel's account.

        Raises:
            SnapvolError: that cannot be found out in full.
        """
        return self.kernel.users(self.site(entry))

    def refuse_worked_on(self, entry: Entry, to: str) -> None:
        """Check that no job works on a volume. Reads memory only.

        Raises:
            InUse: one does, named in the message.
        """
        job = self.restorer.active(entry.volume.id)
        if job is not None:
            raise InUse(
                f"volume '{entry.volume.name}' is in use by {job.kind} job {job.id}",
                f"to {to}, wait for it or stop it: snapvol job cancel {job.id}",
            )

    def require_ready(self, entry: Entry) -> None:
        """Check that a volume's contents can be used.

        Raises:
            NotReady: it is being restored (with how far that is), or its restore failed.
            PoolUnavailable: its pool is not open.
        """
        volume = entry.volume
        entry.pool.require()
        if volume.state is State.FAILED:
            again = f"snapvol job retry {volume.job}" if volume.job else "create it again"
            raise NotReady(
                f"volume '{volume.name}' could not be restored: {volume.error or 'no reason is known'}",
                f"try again: {again}; or remove it: snapvol rm {volume.name}",
            )
        job = self.restorer.active(volume.id)
        if volume.state is State.RESTORING or (job is not None and job.kind == "restore"):
            raise NotReady(f"volume '{volume.name}' is being restored{_how_far(job)}")


def _how_far(job: JobInfo | None) -> str:
    if job is None:
        return ", try again in a minute"
    seconds = job.progress.eta_seconds
    if seconds is None:
        when = "in a minute"
    elif seconds < 90:
        when = f"in about {max(1, round(seconds))} s"
    else:
        when = f"in about {round(seconds / 60)} min"
    return f": {job.progress.fraction * 100:.0f} %, try again {when}"
