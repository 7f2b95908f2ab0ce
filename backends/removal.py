"""Removing a tree, of any depth and whatever its permissions, but never through a mountpoint."""

from __future__ import annotations

from pathlib import Path

from snapvol import shell
from snapvol.errors import InUse, ToolFailed
from snapvol.mountinfo import mounted_below


def refuse_mounted(path: Path, what: str) -> None:
    """Make sure that nothing is mounted at or below ``path`` (T9).

    Raises:
        InUse: something is.
    """
    below = mounted_below(path)
    if below:
        raise InUse(f"{what}: something is mounted at {below[0]}", f"umount {below[0]}")


def remove_tree(path: Path) -> None:
    """Remove ``path`` and all below it; nothing there is fine.

    Raises:
        InUse: something is mounted in it; nothing was removed.
        ToolFailed: not all of it could be removed.
    """
    refuse_mounted(path, f"{path} is not removed")
    try:
        shell.run("rm", "-rf", "--one-file-system", "--", path)
    except ToolFailed:
        # Immutable files and locked directories (as an unprivileged user) need their owner's consent first. The
        # second pass also enters nested btrfs subvolumes, which look like other file systems.
        _unlock(path)
        refuse_mounted(path, f"{path} is not removed")
        shell.run("rm", "-rf", "--", path)


def _unlock(path: Path) -> None:
    for command in (("chmod", "-R", "u+rwX"), ("chattr", "-R", "-f", "-i", "-a")):
        try:
            shell.run(*command, "--", path)
        except ToolFailed:
            continue  # rm has the last word
