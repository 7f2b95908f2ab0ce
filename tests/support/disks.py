"""A volume group and a zpool on the lab guest's disks, and what their own tools list in them."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from support import needs
from support.process import run

GROUP, POOL = "snapvoltest", "pool"
TANK, PARENT = "snapvoltest", "volumes"
_PROVISIONING = Path(__file__).resolve().parents[2] / "packaging/vm"


def given() -> list[str]:
    """Return the lab's disks; without any, tests of LVM and ZFS cannot be."""
    disks = os.environ.get("SNAPVOL_LAB_DISKS", "").split()
    if not disks:
        needs.missing("lab", "no disks: run this in a guest (make test-lvm, make test-zfs)")
    return disks


class Disks:
    """What a session's pools lie on: made when first asked for, gone with the guest.

    Tests of one pool at a time share a thin pool and a zpool; `another` gives pools of their own to those that need
    two, or that break theirs.
    """

    def __init__(self) -> None:
        self._made: set[str] = set()

    def lvm(self) -> dict[str, object]:
        """Return the settings of a pool on the session's thin pool."""
        if "lvm" not in self._made:
            needs.root("lvm")
            needs.program("lvm", "thin_check", what="lvm")
            run(_PROVISIONING / "lvm-pool", "--group", GROUP, "--pool", POOL, *given(), seconds=120)
            self._made.add("lvm")
        return {"volume_group": GROUP, "thin_pool": POOL}

    def zfs(self) -> dict[str, object]:
        """Return the settings of a pool on the session's zpool."""
        if "zfs" not in self._made:
            needs.root("zfs")
            needs.program("zfs", "zpool", what="zfs")
            run(_PROVISIONING / "zfs-pool", "--name", TANK, *given(), seconds=120)
            self._made.add("zfs")
        return {"dataset": f"{TANK}/{PARENT}"}

    def settings(self, backend: str) -> dict[str, object]:
        """Return the settings of a pool of that backend."""
        return {"lvm": self.lvm, "zfs": self.zfs}[backend]()


@dataclass(frozen=True)
class LogicalVolume:
    """What `lvs` says of one."""

    name: str
    tags: tuple[str, ...]
    pool: str
    origin: str
    attributes: str


def logical_volumes(group: str = GROUP) -> list[LogicalVolume]:
    """Return the logical volumes of a group, without the thin pool itself and what it is made of."""
    fields = "lv_name,lv_tags,pool_lv,origin,lv_attr"
    told = run("lvs", "--reportformat", "json", "--options", fields, group).stdout
    found = [
        LogicalVolume(
            name=line["lv_name"],
            tags=tuple(line["lv_tags"].split(",")) if line["lv_tags"] else (),
            pool=line["pool_lv"],
            origin=line["origin"],
            attributes=line["lv_attr"],
        )
        for line in json.loads(told)["report"][0]["lv"]
    ]
    return [volume for volume in found if not volume.attributes.startswith("t")]


def datasets(parent: str, kind: str = "filesystem") -> list[str]:
    """Return what lies below a dataset: ``filesystem``, ``volume``, ``snapshot``, or several of them."""
    told = run("zfs", "list", "-Hp", "-r", "-t", kind, "-o", "name", parent).stdout
    return [name for name in told.splitlines() if name != parent]


def mounted(sources: Sequence[str]) -> list[str]:
    """Return the mount points of devices and datasets whose names begin with one of ``sources``."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        words = line.split()
        source = words[words.index("-") + 2]
        if source.startswith(tuple(sources)):
            found.append(words[4].encode(errors="surrogateescape").decode("unicode_escape"))
    return found


def below(root: Path) -> list[str]:
    """Return the mount points below a directory."""
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [point for point in points if point.startswith(f"{root}/")]
