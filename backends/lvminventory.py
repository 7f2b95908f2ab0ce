"""What a report of LVM means: which logical volumes are ours, which is which volume's contents, what is damaged."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Mapping, Sequence, Set
from copy import copy

from msgspec import Struct
from msgspec.structs import replace

from snapvol.backends import devicemapper, lvmtags
from snapvol.backends.lvmreport import LogicalVolume
from snapvol.backends.lvmtags import FRESH, GONE, Record, Role
from snapvol.model import Damage, Snapshot, Volume

# lvm(8), "Reserved names"; they are forbidden anywhere in a name, or where it begins.
_RESERVED = re.compile(
    r"_(cdata|cmeta|corig|cpool|cvol|imeta|iorig|mimage|mlog|pmspare|rimage|rmeta|tdata|tmeta|vdata|vorigin|wcorig)"
    r"|pvmove|^snapshot"
)
_LONGEST = 120  # a device-mapper name has up to 127 bytes, and LVM adds to it
_READABLE = 60


class Item(Struct, frozen=True, kw_only=True):
    """A logical volume of ours.

    Attributes:
        lv: as reported.
        record: what its tags say; None where they are damaged.
        problem: why, then.
    """

    lv: LogicalVolume
    record: Record | None
    problem: str = ""

    @property
    def fresh(self) -> bool:
        """Whether it is not committed yet."""
        return FRESH in self.lv.tags

    @property
    def gone(self) -> bool:
        """Whether its removal has begun."""
        return GONE in self.lv.tags

    @property
    def volume(self) -> Volume:
        """The volume that it is, or is staged for."""
        assert self.record is not None
        assert self.record.volume is not None
        return self.record.volume

    @property
    def of(self) -> str:
        """The id of the volume that it belongs to; empty where that is not known."""
        if self.record is None:
            return ""
        if self.record.snapshot is not None:
            return self.record.snapshot.volume_id
        return self.record.volume.id if self.record.volume is not None else ""

    def snapshot(self, volume: str) -> Snapshot:
        """Return the snapshot that it is, of a volume that has this name now."""
        assert self.record is not None
        assert self.record.snapshot is not None
        return replace(self.record.snapshot, volume=volume, id=identity(self.lv))


def identity(lv: LogicalVolume) -> str:
    """Return what a snapshot's id is made of: LVM's name for it, the thin pool's, and the pool's transaction then.

    LVM writes the transaction when it makes the volume, and never again: renamed, tagged, resized, taken anew by
    `freeze`, in a pool that was repaired it is the same. Metadata of LVM that somebody has restored may give one's UUID
    and number to another; not its transaction as well. The size is not in it, because people may change it:
    `image_changes` compares it, and the engine that of the image.
    """
    return f"{lv.uuid}/{lv.thin_id}/{lv.transaction_id}"


def name_for(group: str, *words: str) -> str:
    """Return a new name for a logical volume: one that people recognise as far as LVM allows, and that is free (T4).

    Args:
        group: the volume group.
        words: what it is to be recognised by.
    """
    token = secrets.token_hex(4)
    readable = "_".join(words)[:_READABLE]
    if _RESERVED.search(readable):
        readable = "v"
    while len(devicemapper.name(group, f"{readable}_{token}")) > _LONGEST and len(readable) > 1:
        readable = readable[:-1]
    return f"{readable}_{token}"


class Inventory:
    """The logical volumes of one pool. Threads may look while another notes a change: they see all of it or nothing.

    Args:
        group: all of the volume group.
        thin_pool: the pool's.
        unseen: names of those at which somebody is still at work: nobody sees them whatever their tags say.
    """

    def __init__(self, group: Sequence[LogicalVolume], thin_pool: str, unseen: Set[str] = frozenset()) -> None:
        self._unseen = unseen
        self.thin_pool = next((lv for lv in group if lv.name == thin_pool), None)
        tags = self.thin_pool.tags if self.thin_pool is not None else ()
        self.id = next((tag.removeprefix(lvmtags.POOL) for tag in tags if tag.startswith(lvmtags.POOL)), None)
        # Replaced as a whole, never changed: somebody may be going through them.
        self._group: Mapping[str, LogicalVolume] = {lv.uuid: lv for lv in group}
        self._items: Mapping[str, Item] = {lv.uuid: item for lv in group if (item := self._item(lv)) is not None}

    def put(self, lv: LogicalVolume) -> None:
        """Note a logical volume as it is now. Only one thread at a time may note something."""
        item = self._item(lv)
        self._group = {**self._group, lv.uuid: lv}
        if item is not None:
            self._items = {**self._items, lv.uuid: item}
        elif lv.uuid in self._items:
            self._items = {uuid: it for uuid, it in self._items.items() if uuid != lv.uuid}

    def _item(self, lv: LogicalVolume) -> Item | None:
        """Return what it is, where it is one of ours."""
        if self.thin_pool is None or lv.pool_lv != self.thin_pool.name or self.id is None:
            return None
        if not lvmtags.belongs(lv.tags, self.id):
            return None
        try:
            return Item(lv=lv, record=lvmtags.decode(lv.tags))
        except lvmtags.Unreadable as error:
            return Item(lv=lv, record=None, problem=str(error))

    def drop(self, lvs: Iterable[LogicalVolume]) -> None:
        """Note that logical volumes are no more; see `put`."""
        gone = {lv.uuid for lv in lvs}
        self._group = {uuid: lv for uuid, lv in self._group.items() if uuid not in gone}
        self._items = {uuid: item for uuid, item in self._items.items() if uuid not in gone}

    @property
    def items(self) -> list[Item]:
        """All of ours, whatever state they are in."""
        return list(self._items.values())

    @property
    def strays(self) -> list[LogicalVolume]:
        """Those in the thin pool with tags of some snapvol pool that this one is not."""
        return [
            lv
            for lv in self._group.values()
            if lv.segtype == "thin"
            and lv.uuid not in self._items
            and self.thin_pool is not None
            and lv.pool_lv == self.thin_pool.name
            and any(tag.startswith(lvmtags.POOL) for tag in lv.tags)
        ]

    def find(self, uuid: str) -> Item | None:
        """Return one of ours."""
        return self._items.get(uuid)

    # -- what people see ----------------------------------------------------------------------------------------

    def contents(self) -> dict[str, Item]:
        """Return what holds each volume, live or in the trash, by the volume's id."""
        found: dict[str, Item] = {}
        for item in sorted(self._committed(Role.VOLUME), key=_rank):
            found[item.of] = item
        gone = self._gone()
        return {volume: item for volume, item in found.items() if volume not in gone}

    def snapshots(self, volume_id: str) -> list[Item]:
        """Return a volume's snapshots, oldest first."""
        found = [item for item in self._committed(Role.SNAPSHOT) if item.of == volume_id]
        return sorted(found, key=lambda item: (item.snapshot("").created, item.lv.transaction_id or 0))

    def staged(self, volume_id: str) -> Item | None:
        """Return what is staged for a volume."""
        return next((item for item in self._committed(Role.STAGED) if item.of == volume_id), None)

    def volumes(self, pool: str, *, trash: bool) -> list[Volume | Damage]:
        """Return the volumes; what is damaged is listed among the live ones.

        Args:
            pool: the name that they get.
            trash: those in the trash, instead of the live ones.
        """
        still = copy(self)  # as it is now: what is compared is of one time
        contents = still.contents()
        found: list[Volume | Damage] = [
            replace(item.volume, pool=pool) for item in contents.values() if (item.volume.deleted is not None) == trash
        ]
        return found if trash else [*found, *still._damages(pool, contents)]

    def _damages(self, pool: str, contents: dict[str, Item]) -> list[Damage]:
        found = [
            Damage(name=item.lv.name, reason=item.problem, pool=pool, path=item.lv.path)
            for item in self.items
            if item.record is None and not item.fresh and not item.gone
        ]
        for item in self._committed(Role.VOLUME):
            other = contents.get(item.of)
            if other is not None and other is not item and _rank(other)[0] == _rank(item)[0]:
                reason = f"its tags are a copy of those of volume '{item.volume.name}' ({other.lv.name})"
                found.append(Damage(name=item.lv.name, reason=reason, pool=pool, path=item.lv.path))
        live = {item.volume.name for item in contents.values() if item.volume.deleted is None}
        orphans: dict[str, list[Snapshot]] = {}
        for item in self._committed(Role.SNAPSHOT):
            if item.of not in contents and item.of not in self._gone():
                assert item.record is not None
                assert item.record.snapshot is not None
                orphans.setdefault(item.of, []).append(item.record.snapshot)
        for volume_id, snapshots in orphans.items():
            name = snapshots[0].volume if snapshots[0].volume not in live else volume_id
            kept = ", ".join(sorted(snapshot.name for snapshot in snapshots))
            reason = f"its logical volume is missing; what is left of it: snapshots {kept}"
            found.append(Damage(name=name, reason=reason, pool=pool))
        return found

    def _committed(self, role: Role) -> list[Item]:
        return [
            item
            for item in self._items.values()
            if item.record is not None
            and item.record.role is role
            and not item.fresh
            and not item.gone
            and item.lv.name not in self._unseen
        ]

    def _gone(self) -> set[str]:
        return {item.of for item in self._items.values() if item.gone and item.record is not None}

    # -- what a kill has left -----------------------------------------------------------------------------------

    def unfinished(self) -> tuple[list[Item], list[Item]]:
        """Return what is to be removed, and what is to be committed, because a kill came between.

        Snapshots that were made together are committed where one of them is. What is damaged is left alone.
        """
        gone, contents = self._gone(), self.contents()
        groups = {item.record.group for item in self.items if item.record and not item.fresh} - {""}
        remove: list[Item] = []
        commit: list[Item] = []
        for item in self.items:
            if item.record is None:
                continue
            if item.of in gone:
                remove.append(item)
            elif item.fresh:
                (commit if item.record.group in groups else remove).append(item)
            elif item.record.role is Role.STAGED or (
                item.record.role is Role.VOLUME and _rank(item)[0] < _rank(contents[item.of])[0]
            ):
                remove.append(item)
        return remove, commit

    def newest(self) -> Item | None:
        """Return the one of ours that was made last."""
        return max(self.items, key=lambda item: item.lv.transaction_id or 0, default=None)


def _rank(item: Item) -> tuple[int, int]:
    # Among equals, which only copies by hand can be, the oldest.
    return (item.record.generation if item.record is not None else 0, -(item.lv.thin_id or 0))
