"""LVM's programs, on one volume group."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from snapvol import shell
from snapvol.backends import lvmreport
from snapvol.backends.lvmreport import COLUMNS, LogicalVolume
from snapvol.errors import NoSpace, PoolUnavailable, SnapvolError, StorageFailed, ToolFailed

_NO_UDEV = "activation{udev_sync=0 udev_rules=0}"  # LVM then makes and removes the nodes itself
_ABSENT = re.compile(r"olume group .*not found|is exported|annot process volume group|couldn't find device|is missing")
_UNKNOWN = re.compile(r"olume group .*not found")
_TAKEN = re.compile(r"Thin pool (\S+) .*already contain thin device with device_id (\d+)")
_FULL = re.compile(r"reached threshold|nsufficient free (space|extents)")


class Tools:
    """Runs LVM's programs on a volume group.

    Args:
        pool: the pool's name, for messages.
        group: the volume group.
    """

    def __init__(self, pool: str, group: str) -> None:
        self._pool = pool
        self.group = group

    def report(self, *names: str) -> list[LogicalVolume]:
        """Return the logical volumes of the group, or those with these names.

        Raises:
            PoolUnavailable: the group is not there.
            StorageFailed: LVM does not tell, or one of ``names`` is not there.
        """
        try:
            text = self._run("lvs", *_REPORT, *(self._full(name) for name in names or ("",)))
        except ToolFailed as error:
            raise self._explained(error) from error
        return lvmreport.parse(text)

    def numbers(self, thin_pool: str) -> set[int]:
        """Return by which numbers a thin pool knows its logical volumes, those included that LVM hides.

        Raises:
            PoolUnavailable: the group is not there.
            StorageFailed: LVM does not tell.
        """
        words = ("--all", "--noheadings", "--select", f"pool_lv={thin_pool}", "--options", "thin_id", self.group)
        try:
            text = self._run("lvs", *words)
        except ToolFailed as error:
            raise self._explained(error) from error
        return {int(word) for word in text.split()}

    def disks(self) -> list[str]:
        """Return the devices of the group's physical volumes.

        Raises:
            PoolUnavailable: the group is not there.
            StorageFailed: LVM does not tell.
        """
        try:
            text = self._run("vgs", "--reportformat", "json", "--options", "pv_name", self.group)
        except ToolFailed as error:
            raise self._explained(error) from error
        return lvmreport.parse_disks(text)

    def create(self, name: str, *words: str) -> None:
        """Run lvcreate; nothing is made where it fails.

        Raises:
            NoSpace: the thin pool is too full.
            PoolUnavailable: the group is not there.
            StorageFailed: LVM refuses.
        """
        try:
            self._run("lvcreate", "--yes", "--name", name, *words)
        except ToolFailed as error:
            self._undo(name)
            raise self._explained(error) from error

    def change(self, program: str, *words: str) -> None:
        """Run a program that changes what is there.

        Raises:
            NoSpace: the thin pool is too full.
            PoolUnavailable: the group is not there.
            StorageFailed: LVM refuses.
        """
        try:
            self._run(program, *words)
        except ToolFailed as error:
            raise self._explained(error) from error

    def retag(self, names: Sequence[str], *, add: Sequence[str] = (), remove: Sequence[str] = ()) -> None:
        """Change tags: of each logical volume all at once, or none.

        Raises:
            PoolUnavailable: the group is not there.
            StorageFailed: LVM refuses.
        """
        words = [word for tag in remove for word in ("--deltag", tag)]
        words += [word for tag in add for word in ("--addtag", tag)]
        if words:
            self.change("lvchange", *words, *(self._full(name) for name in names))

    def remove(self, names: Sequence[str]) -> None:
        """Remove logical volumes, one after the other.

        Raises:
            PoolUnavailable: the group is not there.
            StorageFailed: LVM refuses; some may be gone.
        """
        self.change("lvremove", "--yes", *(self._full(name) for name in names))

    def activate(self, name: str) -> None:
        """Make the device of a logical volume, also of one that LVM itself skips.

        Raises:
            PoolUnavailable: the group is not there.
            StorageFailed: LVM refuses.
        """
        self.change("lvchange", "--activate", "y", "--ignoreactivationskip", self._full(name))

    def deactivate(self, names: Sequence[str]) -> None:
        """Take the devices of logical volumes away.

        Raises:
            PoolUnavailable: the group is not there.
            StorageFailed: LVM refuses.
        """
        self.change("lvchange", "--activate", "n", *(self._full(name) for name in names))

    def make_nodes(self) -> None:
        """Make the device nodes that are missing, or another device's.

        Raises:
            StorageFailed: LVM refuses.
        """
        self.change("vgmknodes", self.group)

    def _undo(self, name: str) -> None:
        try:
            self._run("lvremove", "--yes", self._full(name))
        except SnapvolError:
            return  # it was not made: that is what was asked

    def _full(self, name: str) -> str:
        return f"{self.group}/{name}" if name else self.group

    @staticmethod
    def _run(program: str, *words: str) -> str:
        settings = [] if os.path.exists("/run/udev/control") else ["--config", _NO_UDEV]
        return shell.run(program, "--quiet", *settings, *words)

    def _explained(self, error: ToolFailed) -> SnapvolError:
        if error.code is None:
            return PoolUnavailable(f"pool '{self._pool}': {error.message}", "apt install lvm2 thin-provisioning-tools")
        said = _warnings_last(error.stderr)
        if _ABSENT.search(error.stderr):
            more = "" if _UNKNOWN.search(error.stderr) else f": {said}"
            return PoolUnavailable(
                f"pool '{self._pool}': volume group '{self.group}' is not there{more}",
                f"look at: vgs; bring its disks back, vgimport {self.group}, vgchange -ay {self.group}",
            )
        if _FULL.search(error.stderr):
            return NoSpace(f"pool '{self._pool}': {said}", f"free space, or lvextend the thin pool in {self.group}")
        if taken := _TAKEN.search(error.stderr):
            return StorageFailed(
                f"{error.argv[0]} failed: thin pool {taken[1]} has a volume {taken[2]} that no logical volume is",
                f"if `lvs -a -o lv_name,thin_id {self.group}` does not list it: dmsetup message {taken[1]} 0"
                f" 'delete {taken[2]}'",
            )
        return StorageFailed(f"{error.argv[0]} failed (exit {error.code}): {said}", error.hint)


_REPORT = ("--reportformat", "json", "--units", "b", "--nosuffix", "--options", COLUMNS)


def _warnings_last(stderr: str) -> str:
    lines = [" ".join(line.split()) for line in stderr.splitlines() if line.strip()]
    return "; ".join(sorted(lines, key=lambda line: line.startswith("WARNING"))) or "no message"
