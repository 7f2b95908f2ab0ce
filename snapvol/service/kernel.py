"""Who uses a volume, by the kernel's account: every mount namespace, so every container, whoever started it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from snapvol.mountinfo import Mounts, MountUser


class Kernel(Protocol):
    """What the service asks of the kernel."""

    def users(self, path: Path) -> list[str]:
        """Return who has ``path``, something in it or something on it mounted, each in words; none if it is absent.

        Raises:
            StorageFailed: the kernel's account cannot be read in full.
        """

    def survey(self, paths: Mapping[str, Path]) -> dict[str, list[str]]:
        """Return the same for many paths at one time, by their keys; those without users are left out."""


class Proc:
    """The kernel as ``/proc`` shows it."""

    def users(self, path: Path) -> list[str]:
        """See `Kernel`."""
        return self.survey({"": path}).get("", [])

    def survey(self, paths: Mapping[str, Path]) -> dict[str, list[str]]:
        """See `Kernel`."""
        mounts = Mounts.read()
        found: dict[str, list[str]] = {}
        for key, path in paths.items():
            try:
                users = mounts.users(path)
            except FileNotFoundError:
                continue
            if users:
                found[key] = list(dict.fromkeys(_in_words(user) for user in users))
        return found


def _in_words(user: MountUser) -> str:
    process = f"process {user.pid} {user.command}"
    if user.container:
        return f"container {user.container[:12]} ({process})"
    # On the host itself a mount belongs to no process: its place is what helps to find and end it.
    return f"the mount at {user.mountpoint}" if user.here else f"{process} (at {user.mountpoint})"
