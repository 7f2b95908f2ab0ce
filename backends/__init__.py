"""The kinds of storage, by the word that ``backend = "…"`` takes in the settings."""

from __future__ import annotations

from collections.abc import Mapping

from snapvol.backend import Backend
from snapvol.backends.btrfs import Btrfs
from snapvol.backends.directory import Directory
from snapvol.backends.lvm import Lvm
from snapvol.backends.zfs import Zfs

BACKENDS: Mapping[str, type[Backend]] = {
    "btrfs": Btrfs,
    "directory": Directory,
    "lvm": Lvm,
    "zfs": Zfs,
}
