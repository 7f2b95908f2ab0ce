"""Who uses a volume, by the kernel's account: every mount namespace, so every container, whoever started it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from msgspec import Struct

from snapvol.mountinfo import Mounts, MountUser


class Site(Struct, frozen=True, kw_only=True):
    """What the kernel is asked about: a volume's contents.

    Attributes:
        path: where they are, or would be, mounted.
        sources: see `Backend.sources`.
    """

    path: Path
    sources: tuple[str, ...] = ()


class Survey(Struct, frozen=True, kw_only=True):
    """The kernel's account of many volumes at one time, by their keys.

    Attributes:
        users: who uses each, in words; those without users are left out.
        mounted: those at whose path something is mounted.
    """

    users: Mapping[str, list[str]]
    mounted: frozenset[str] = frozenset()


class Kernel(Protocol):
    """What the service asks of the kernel."""

    def users(self, site: Site) -> list[str]:
        """Return who uses the contents, each in words: who mounts them, a part of them, or something in them.

        The mount at the site's own path is no use of it, nor is what other namespaces got of that.

        Raises:
            StorageFailed: the kernel's account cannot be read in full.
        """

    def survey(self, sites: Mapping[str, Site]) -> Survey:
        """Return the same for many at one time."""


class Proc:
    """The kernel as ``/proc`` shows it."""

    def users(self, site: Site) -> list[str]:
        """See `Kernel`."""
        return self.survey({"": site}).users.get("", [])

    def survey(self, sites: Mapping[str, Site]) -> Survey:
        """See `Kernel`."""
        mounts = Mounts.read()
        found: dict[str, list[str]] = {}
        for key, site in sites.items():
            try:
                users = mounts.users(site.path, site.sources)
            except FileNotFoundError:
                continue
            if users:
                found[key] = list(dict.fromkeys(_in_words(user) for user in users))
        return Survey(users=found, mounted=frozenset(key for key, site in sites.items() if mounts.mounted(site.path)))


def _in_words(user: MountUser) -> str:
    process = f"process {user.pid} {user.command}"
    if user.container:
        return f"container {user.container[:12]} ({process})"
    # On the host itself a mount belongs to no process: its place is what helps to find and end it.
    return f"the mount at {user.mountpoint}" if user.here else f"{process} (at {user.mountpoint})"
