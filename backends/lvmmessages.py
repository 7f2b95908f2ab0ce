"""What LVM tells the kernel's thin pool, where a power cut or a kill comes between.

LVM commits what it will tell (`create`, `delete`) with its metadata, tells it, and commits that it has been told. After
a cut, activating the pool tells what was not told yet, but leaves it noted. The next lvremove of another volume adds
its `delete`, takes the whole list for told, because the kernel's transaction is LVM's already, and forgets it: the
kernel keeps the volume for ever. Its number is given out again, to a snapshot, which fails (EEXIST), or to a new
volume, which then has the old contents. lvcreate notes what has been told before anything else. See `update_pool_lv` in
LVM's lib/metadata/thin_manip.c (2.03.16) and its callers.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence

from snapvol.backends import lvmheader, lvmtags
from snapvol.backends.lvminventory import name_for
from snapvol.backends.lvmreport import LogicalVolume
from snapvol.backends.lvmtags import FRESH, Record, Role
from snapvol.backends.lvmtools import Tools
from snapvol.errors import SnapvolError
from snapvol.model import Volume, new_id, now

log = logging.getLogger(__name__)

_NAME = "settling"


def settle(tools: Tools, disks: Sequence[str], pool: LogicalVolume, identity: str | None) -> None:
    """Let LVM note what has come to the thin pool, as must be before anything is removed.

    Where that fails, a warning says so: a pool that is too full is not emptied by refusing to remove.

    Args:
        tools: LVM's programs.
        disks: the group's physical volumes.
        pool: the thin pool, which is active.
        identity: the id of ours that its tag says.
    """
    if not lvmheader.pending(disks, pool.name):
        return
    try:
        tools.report(pool.name)  # which waits for whoever is at work there: it is theirs, mostly
        if lvmheader.pending(disks, pool.name):
            _make_and_remove(tools, pool, identity)
            log.info("thin pool %s/%s: LVM has noted now which messages were sent", tools.group, pool.name)
    except SnapvolError as error:
        log.warning("thin pool %s/%s keeps messages that were sent before: %s", tools.group, pool.name, error)


def _make_and_remove(tools: Tools, pool: LogicalVolume, identity: str | None) -> None:
    volume = Volume(id=new_id(), name=_NAME, created=now())
    tags = [f"{lvmtags.POOL}{identity}", *lvmtags.encode(Record(role=Role.VOLUME, filesystem="ext4", volume=volume))]
    name = name_for(tools.group, _NAME)
    words = ["--virtualsize", f"{pool.vg_extent_size}b", "--thinpool", f"{tools.group}/{pool.name}"]
    words += ["--wipesignatures", "n", *(word for tag in (*tags, FRESH) for word in ("--addtag", tag))]
    tools.create(name, *words)
    tools.remove([name])


def strays(device: str, group: str, numbers: Collection[int]) -> str | None:
    """Return what people are to know of thin volumes that no logical volume is; None where there are none.

    They are not removed by themselves: somebody may have brought back older metadata of LVM, and miss them.

    Args:
        device: what device-mapper calls the thin pool.
        group: the volume group.
        numbers: by which the pool knows them.
    """
    if not numbers:
        return None
    listed = ", ".join(str(number) for number in sorted(numbers))
    commands = "; ".join(f"dmsetup message {device} 0 'delete {number}'" for number in sorted(numbers))
    return (
        f"the thin pool has volumes that no logical volume is ({listed}), after a crash or with older metadata of LVM;"
        f" if `lvs -a -o lv_name,thin_id {group}` does not list them either: {commands}"
    )
