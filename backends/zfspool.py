"""The dataset below which a pool's volumes are: its settings, its marker, its room, and whether its zpool is there."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

from msgspec import Struct

from snapvol import shell
from snapvol.backends import zfsfamily, zfsnames, zfsrecords
from snapvol.backends.claim import Claim
from snapvol.backends.place import Reserve
from snapvol.backends.zfsrecords import Marker
from snapvol.backends.zfstool import READING, Tool, Value, absent, explained, pairs
from snapvol.errors import NoSpace, PoolUnavailable, SettingsError, StorageFailed, ToolFailed
from snapvol.model import Health, new_id

VERSION = 1
# Of every imported zpool. Reading it starts no program and cannot hang, not even for a zpool without its disks.
_STATES = Path("/proc/spl/kstat/zfs")
_PARENT = re.compile(r"[a-zA-Z][a-zA-Z0-9_.:-]*(/[a-zA-Z0-9_.:-]+)*\Z")
_FRESH = 5.0  # seconds for which figures are taken for true; ZFS itself counts that often (zfs_txg_timeout)


class ZfsSettings(Struct, frozen=True, kw_only=True):
    """``[pools.NAME]`` of a `zfs` pool.

    Attributes:
        dataset: below which the volumes are, such as ``tank/volumes``; made on first use where its parent exists.
        reserve: in percent of the storage; with less free, no new volume or snapshot is made.
    """

    dataset: str
    reserve: Reserve = 2


class Room(Struct, frozen=True, kw_only=True):
    """What there is, in bytes."""

    size: int
    free: int


class Parent:
    """One pool's dataset.

    Attributes:
        name: whole.
        zpool: the first part of it.
        properties: its native properties, which are all that this ZFS has; empty while it is not open.

    Args:
        pool: the pool's name, for messages.
        settings: the pool's.
        tool: for the pool.

    Raises:
        SettingsError: the dataset's name is none.
    """

    def __init__(self, pool: str, settings: ZfsSettings, tool: Tool) -> None:
        self.pool = pool
        self.name = settings.dataset
        self.reserve = settings.reserve
        self.zpool = self.name.partition("/")[0]
        self.properties: Mapping[str, Value] = {}
        self.id: str | None = None
        self._tool = tool
        self._room: tuple[float, Room] | None = None
        self._claim = Claim(pool, f"zfs-{sha256(self.name.encode()).hexdigest()[:32]}")
        if not _PARENT.match(self.name):
            raise SettingsError(f"[pools.{pool}] dataset = {self.name!r} is no dataset", "write it like tank/volumes")
        if len(self.name) > zfsnames.LONGEST_PARENT:
            raise SettingsError(
                f"[pools.{pool}] dataset = {self.name!r} has {len(self.name)} characters",
                f"at most {zfsnames.LONGEST_PARENT} leave room for the names of volumes and snapshots",
            )

    def below(self, leaf: str) -> str:
        """Return the whole name of a dataset right below."""
        return f"{self.name}/{leaf}"

    # -- opening ------------------------------------------------------------------------------------------------

    def open(self, expected: str | None) -> str:
        """Find the pool, or make it where there is nothing yet and ``expected`` is None; claim it.

        Returns:
            The pool's id.

        Raises:
            PoolUnavailable: it is not there, is another one, is somebody else's dataset, or cannot be written.
            SettingsError: it is no file system.
        """
        self.check()
        self._claim.take()
        self._tool.descriptor = self._claim.descriptor
        self._refuse_read_only()
        properties = self._look()
        marker = None if properties is None else self._marker(properties)
        if marker is None:
            self._refuse_expected(expected, properties)
            marker = self._make(existing=properties is not None)
            properties = self._look()
        elif expected is not None and marker.id != expected:
            raise PoolUnavailable(
                f"pool '{self.pool}': {self.name} is another pool ({marker.id}, not {expected})",
                "import the right zpool, or give the other pool its own name in the settings",
            )
        self.properties = properties or {}
        self.id = marker.id
        return marker.id

    def close(self) -> None:
        """Let go of the claim."""
        self._claim.release()
        self._tool.descriptor = None

    def check(self) -> None:
        """Make sure that the zpool is imported and answers; starts no program.

        Raises:
            PoolUnavailable: it is not, or does not.
        """
        what = f"pool '{self.pool}'"
        if not _STATES.parent.exists():
            raise PoolUnavailable(f"{what}: ZFS is not loaded", "modprobe zfs; without it: apt install zfs-dkms")
        try:
            state = (_STATES / self.zpool / "state").read_text().strip()
        except OSError as error:
            raise PoolUnavailable(
                f"{what}: zpool '{self.zpool}' is not imported", f"zpool import {self.zpool}"
            ) from error
        if state not in ("ONLINE", "DEGRADED"):
            raise PoolUnavailable(
                f"{what}: zpool '{self.zpool}' is {state}",
                f"mend its disks, then: zpool clear {self.zpool}; see: zpool status -v {self.zpool}",
            )

    def _refuse_read_only(self) -> None:
        what = f"pool '{self.pool}'"
        try:
            text = shell.run("zpool", "list", "-Hp", "-o", "readonly", self.zpool, seconds=READING)
        except ToolFailed as error:
            if error.code is None:
                raise PoolUnavailable(f"{what}: {error.message}", "apt install zfsutils-linux") from error
            raise explained(what, error) from error
        if text.strip() == "on":
            raise PoolUnavailable(
                f"{what}: zpool '{self.zpool}' is imported read-only",
                f"zpool export {self.zpool} && zpool import {self.zpool}",
            )

    def _look(self) -> dict[str, Value] | None:
        """Return the dataset's properties; None where it does not exist."""
        try:
            return self._tool.get(["all"], [self.name])[self.name]
        except ToolFailed as error:
            if absent(error):
                return None
            raise explained(f"pool '{self.pool}' cannot be looked at", error) from error

    def _marker(self, properties: Mapping[str, Value]) -> Marker | None:
        if properties["type"].text != "filesystem":
            raise SettingsError(
                f"[pools.{self.pool}] dataset: {self.name} is a {properties['type'].text}", "name a file system"
            )
        found = properties.get(zfsrecords.POOL)
        if found is None or found.own is None:
            return None
        marker = zfsrecords.read_marker(found.own)
        if isinstance(marker, str):
            raise PoolUnavailable(f"pool '{self.pool}': {self.name}: {marker}", f"see: zfs get {zfsrecords.POOL}")
        if marker.version != VERSION:
            raise PoolUnavailable(
                f"pool '{self.pool}': {self.name} has version {marker.version}, this snapvol knows {VERSION}",
                "install a newer snapvol",
            )
        return marker

    def _refuse_expected(self, expected: str | None, properties: Mapping[str, Value] | None) -> None:
        if expected is not None:
            why = "does not exist" if properties is None else f"has no {zfsrecords.POOL}"
            raise PoolUnavailable(
                f"pool '{self.pool}': {self.name} {why}, but the pool was in use before",
                f"import the zpool that has it; see: zfs get -r {zfsrecords.POOL} {self.zpool}",
            )

    def _make(self, *, existing: bool) -> Marker:
        what = f"pool '{self.pool}' cannot be made"
        marker = Marker(id=new_id(), version=VERSION)
        words = zfsrecords.marker_properties(marker)
        if existing:
            self._refuse_foreign()
            self._tool.change(what, "set", *(f"{name}={value}" for name, value in words.items()), self.name)
        else:
            own = {"canmount": "off", "mountpoint": "none", **words}
            try:
                self._tool.change(what, "create", *pairs(own), self.name)
            except StorageFailed as error:
                parent = self.name.rpartition("/")[0]
                raise PoolUnavailable(error.message, f"where its parent does not exist: zfs create {parent}") from error
        return marker

    def _refuse_foreign(self) -> None:
        what = f"pool '{self.pool}'"
        try:
            found = zfsfamily.read_all(self._tool, self.name, points=False)
        except ToolFailed as error:
            raise explained(f"{what} cannot be looked at", error) from error
        if any(dataset.record is not None for dataset in found):
            raise PoolUnavailable(
                f"{what}: {self.name} has volumes but no {zfsrecords.POOL}",
                f'restore it: zfs set {zfsrecords.POOL}=\'{{"id":"…","version":{VERSION}}}\' {self.name}',
            )
        if found:
            raise PoolUnavailable(
                f"{what}: {self.name} is in use for something else ('{found[0].leaf}')",
                "give the pool an empty dataset of its own",
            )

    # -- condition ----------------------------------------------------------------------------------------------

    def require_room(self, what: str) -> None:
        """Refuse to make something new in a pool that is nearly full (T39).

        Raises:
            NoSpace: less than the reserve is free.
        """
        room = self._fresh_room()
        if room.free * 100 < room.size * self.reserve:
            raise NoSpace(f"{what}: {self._little(room)}", f"free space, or lower `reserve` in [pools.{self.pool}]")

    def _little(self, room: Room) -> str:
        return (
            f"pool '{self.pool}' has {room.free >> 20} MiB of {room.size >> 20} MiB free,"
            f" less than its reserve of {self.reserve} %"
        )

    def _fresh_room(self) -> Room:
        if self._room is None or time.monotonic() - self._room[0] > _FRESH:
            self._measure()
        assert self._room is not None
        return self._room[1]

    def _measure(self) -> Room:
        try:
            rows = self._tool.get(("used", "available", "quota"), sorted({self.name, self.zpool}))
        except ToolFailed as error:
            raise explained(f"pool '{self.pool}' cannot be measured", error) from error
        own, whole = rows[self.name], rows[self.zpool]
        size = own["quota"].number or whole["used"].number + whole["available"].number
        room = Room(size=size, free=min(size, own["available"].number))
        self._room = (time.monotonic(), room)
        return room

    def health(self) -> Health:
        """Return capacity and condition; see `Backend.health`."""
        try:
            self.check()
            words = shell.run("zpool", "list", "-Hp", "-o", "health,readonly", self.zpool, seconds=READING).split()
            room = self._measure()
        except (PoolUnavailable, StorageFailed) as error:
            return Health(ok=False, problem=str(error).removeprefix(f"pool '{self.pool}': "))
        state, read_only = words
        problem, ok = None, True
        if read_only == "on":
            problem, ok = f"zpool '{self.zpool}' is imported read-only", False
        elif room.free * 100 < room.size * self.reserve:
            problem, ok = self._little(room), False
        elif state != "ONLINE":
            problem = f"zpool '{self.zpool}' is {state}: it works, but has lost redundancy; see: zpool status -v"
        return Health(ok=ok, size=room.size, free=room.free, problem=problem)
