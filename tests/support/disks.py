"""A volume group and a zpool on the lab guest's disks, and what their own tools list in them."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from support import needs
from support.process import run, wait_until

GROUP, POOL = "snapvoltest", "pool"  # on the first disk
MORE = "snapvolmore"  # on the second, for pools by the dozen
TANK, PARENT = "snapvoltest", "volumes"
_PROVISIONING = Path(__file__).resolve().parents[2] / "packaging/vm"


def given() -> list[str]:
    """Return the lab's disks; without any, tests of LVM and ZFS cannot be."""
    disks = os.environ.get("SNAPVOL_TEST_DISKS", "").split()
    if not disks:
        needs.missing("lab", "no disks: run this in a guest (make test-lvm, make test-zfs)")
    return disks


_made: set[str] = set()
_numbers = itertools.count(1)


def pool(backend: str) -> dict[str, object]:
    """Return the settings of the session's pool of a backend, for tests that leave it empty.

    It is made when first asked for, and gone with the guest.
    """
    needs.root(backend)
    if backend == "zfs":
        _once("zfs", "zfs-pool", "--name", TANK, given()[0])
        return {"dataset": f"{TANK}/{PARENT}"}
    _once("lvm", "lvm-pool", "--group", GROUP, "--pool", POOL, given()[0])
    return {"volume_group": GROUP, "thin_pool": POOL}


def _once(program: str, script: str, *arguments: str) -> None:
    if script not in _made:
        needs.program(program)
        run(_PROVISIONING / script, *arguments, seconds=120)
        _made.add(script)


def another(backend: str, size: str = "2G") -> dict[str, object]:
    """Return the settings of a new pool, with ``size`` of real space on LVM; `drop` removes it."""
    if backend == "zfs":
        pool("zfs")
        return {"dataset": f"{TANK}/{PARENT}{next(_numbers)}"}
    needs.root(backend)
    needs.program("lvm")
    if MORE not in _made:
        run("vgcreate", MORE, given()[1])
        _made.add(MORE)
    name = f"pool{next(_numbers)}"
    run(
        *("lvcreate", "--type", "thin-pool", "--size", size, "--poolmetadatasize", "16M", "--chunksize", "64k"),
        *("--poolmetadataspare", "n", "--name", name, MORE),
    )
    return {"volume_group": MORE, "thin_pool": name}


def drop(settings: Mapping[str, object]) -> None:
    """Remove a pool of `another` with all that is in it, mounted or not."""
    if "dataset" in settings:
        dataset = str(settings["dataset"])
        _unmount([dataset])
        if run("zfs", "list", dataset, check=False).code == 0:
            wait_until(lambda: run("zfs", "destroy", "-R", dataset, check=False).code == 0, 20, f"{dataset} to go")
        return
    group, name = str(settings["volume_group"]), str(settings["thin_pool"])
    _unmount([f"/dev/mapper/{group}-", f"/dev/{group}/"])
    # A mount that was given up lazily may still be on its way out.
    removed = ("lvremove", "--yes", "--force", "--force", f"{group}/{name}")
    wait_until(lambda: run(*removed, check=False).code == 0, 20, lambda: str(run(*removed, check=False)))


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


def strays(settings: Mapping[str, object]) -> set[int]:
    """Return the numbers of what lies in a thin pool and is no logical volume, while nobody works there."""
    group, pool = str(settings["volume_group"]), str(settings["thin_pool"])
    selected = ("--all", "--noheadings", "--select", f"pool_lv={pool}", "--options", "thin_id", group)
    called = f"{group}-{pool}"
    device = f"{called}-tpool" if run("dmsetup", "info", f"{called}-tpool", check=False).code == 0 else called
    run("dmsetup", "message", device, "0", "reserve_metadata_snap")
    try:
        words = ("thin_ls", "--metadata-snap", "--no-headers", "--format", "DEV", f"/dev/mapper/{called}_tmeta")
        there = run(*words).stdout.split()
    finally:
        run("dmsetup", "message", device, "0", "release_metadata_snap")
    return {int(number) for number in there} - {int(number) for number in run("lvs", *selected).stdout.split()}


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


@contextmanager
def away(settings: Mapping[str, object]) -> Iterator[None]:
    """Take a pool's storage away as its owner would, to carry it to another machine, and bring it back."""
    if "dataset" in settings:
        run("zpool", "export", TANK)
        try:
            yield
        finally:
            run("zpool", "import", "-N", "-d", "/dev", TANK)
        return
    group = str(settings["volume_group"])
    run("vgchange", "--activate", "n", group)
    run("vgexport", group)
    try:
        yield
    finally:
        run("vgimport", group)


def _unmount(sources: Sequence[str]) -> None:
    for point in mounted(sources)[::-1]:
        if run("umount", point, check=False).code:
            run("umount", "--lazy", point)


def below(root: Path) -> list[str]:
    """Return the mount points below a directory."""
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [point for point in points if point.startswith(f"{root}/")]
