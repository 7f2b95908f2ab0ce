"""The settings of a pool of thin volumes, and whether its thin pool is well by them."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from snapvol.backends.devicemapper import ThinPool
from snapvol.backends.lvmheader import Room
from snapvol.backends.lvmreport import LogicalVolume
from snapvol.errors import NoSpace, PoolUnavailable
from snapvol.model import Health

Percent = Annotated[int, Meta(ge=1, le=100)]
# In percent: beyond that LVM could soon not even note that a volume is in the trash, or that a snapshot is held.
_GROUP_MARK = 90


class LvmSettings(Struct, frozen=True, kw_only=True):
    """``[pools.NAME]`` of an `lvm` pool.

    Attributes:
        volume_group: the group; it is not made.
        thin_pool: the thin pool in it; it is not made.
        data_mark: in percent; with more of the pool's space in use, no new volume or snapshot is made.
        metadata_mark: likewise, of the space for its metadata.
    """

    volume_group: str
    thin_pool: str
    data_mark: Percent = 90
    metadata_mark: Percent = 80


class Condition:
    """What the states of a thin pool mean.

    Args:
        pool: the pool's name, for messages.
        settings: its settings.
    """

    def __init__(self, pool: str, settings: LvmSettings) -> None:
        self._pool = pool
        self._settings = settings
        self._called = f"{settings.volume_group}/{settings.thin_pool}"

    def health(
        self,
        pool: LogicalVolume,
        before: ThinPool | None,
        state: ThinPool | None,
        room: Room | None = None,
        leftovers: str | None = None,
    ) -> Health:
        """Return capacity and condition.

        Args:
            pool: the thin pool, as LVM reports it.
            before: as the kernel had it before LVM reported; None where it was not active.
            state: as the kernel has it since; likewise.
            room: for the group's metadata; None where that is not known.
            leftovers: what to tell of those in the thin pool, while nothing is worse.
        """
        if state is None:
            problem: str | None = f"the thin pool {self._called} is not active; lvchange -ay {self._called}"
            return Health(ok=False, size=pool.lv_size, problem=problem, metadata_size=pool.lv_metadata_size)
        problem = self._unwell(state) or self._beyond_marks(state) or self._crowded(room)
        if pool.lv_health_status and problem is None:
            problem = f"the thin pool {self._called} is {pool.lv_health_status}; look at `dmesg`"
        # LVM reports nothing that it is still at, but the next change may have come just before it, or after.
        if pool.transaction_id not in (None, *range((before or state).transaction, state.transaction + 1)):
            problem = (
                f"LVM and the kernel disagree on the thin pool {self._called} (transaction {pool.transaction_id},"
                f" {state.transaction}); see lvmthin(7), Metadata check and repair"
            )
        chunk = pool.chunk_size or 0
        return Health(
            ok=problem is None,
            size=state.data_size * chunk,
            free=(state.data_size - state.data_used) * chunk,
            problem=problem or leftovers,
            metadata_size=state.metadata_size,
            metadata_free=state.metadata_size - state.metadata_used,
        )

    def require_room(self, what: str, state: ThinPool, room: Room | None = None) -> None:
        """Refuse to make something new in a pool that is nearly full (T39).

        Args:
            what: cannot be done, for the message.
            state: as the kernel has the thin pool.
            room: for the group's metadata; None where that is not known.

        Raises:
            NoSpace: a mark is passed, with the numbers, or the pool is full.
            PoolUnavailable: nothing can be written.
        """
        unwell, beyond = self._unwell(state), self._beyond_marks(state) or self._crowded(room)
        if unwell:
            message, _, hint = unwell.partition("; ")
            raise (NoSpace if state.mode == "out_of_data_space" else PoolUnavailable)(f"{what}: {message}", hint)
        if beyond:
            message, _, hint = beyond.partition("; ")
            raise NoSpace(f"{what}: {message}", hint)

    def _unwell(self, state: ThinPool) -> str | None:
        if state.needs_check:
            return f"the metadata of the thin pool {self._called} needs repair; lvconvert --repair {self._called}"
        if state.mode == "out_of_data_space":
            return f"the thin pool {self._called} is full; lvextend -L +SIZE {self._called}"
        if state.mode != "rw":
            return f"the thin pool {self._called} is read-only; look at `dmesg`, lvmthin(7)"
        return None

    def _crowded(self, room: Room | None) -> str | None:
        if room is None or room.used * 100 < room.size * _GROUP_MARK:
            return None
        return (
            f"the metadata of the volume group {self._settings.volume_group} is {room.used * 100 / room.size:.1f} %"
            f" full ({room.used} of {room.size} bytes), its mark is {_GROUP_MARK} %; remove volumes or snapshots, or"
            " give it more: pvcreate(8), --metadatasize"
        )

    def _beyond_marks(self, state: ThinPool) -> str | None:
        settings = self._settings
        for what, key, used, size, mark in (
            ("data", "data_mark", state.data_used, state.data_size, settings.data_mark),
            ("metadata", "metadata_mark", state.metadata_used, state.metadata_size, settings.metadata_mark),
        ):
            if used * 100 >= size * mark:
                return (
                    f"the {what} of the thin pool {self._called} is {used * 100 / size:.1f} % full, its mark is"
                    f" {mark} %; free space, lvextend it, or raise `{key}` in [pools.{self._pool}]"
                )
        return None
