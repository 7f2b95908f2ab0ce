"""Removing several logical volumes, which LVM does one by one in its own order, and mending what a kill has left."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime

import pytest
from msgspec.structs import replace

from snapvol.backends import devicemapper, lvmtags
from snapvol.backends.lvm import Lvm
from snapvol.backends.lvminventory import Inventory
from snapvol.backends.lvmrecovery import Recovery
from snapvol.backends.lvmreport import LogicalVolume
from snapvol.backends.lvmtags import GONE, Record, Role
from snapvol.backends.lvmtools import Tools
from snapvol.backends.mountpoints import Mountpoints
from snapvol.errors import StorageFailed
from snapvol.model import Damage, Snapshot, Volume
from support.lvm_reports import THIN_POOL

WHEN = datetime(2026, 11, 20, 3, 0, tzinfo=UTC)
POOL = replace(THIN_POOL, uuid="uuid-pool", lv_tags="snapvol.pool=ours", transaction_id=3, vg_uuid="uuid-group")
WEB = Volume(id="id-web", name="web", created=WHEN)


def lv(name: str, record: Record, number: int, *marks: str) -> LogicalVolume:
    tags = [f"{lvmtags.POOL}ours", *lvmtags.encode(record), *marks]
    return replace(
        POOL,
        name=name,
        uuid=f"uuid-{name}",
        lv_tags=",".join(tags),
        segtype="thin",
        pool_lv="pool",
        thin_id=number,
        transaction_id=number,
    )


def contents(*marks: str, generation: int = 1, number: int = 1) -> LogicalVolume:
    record = Record(role=Role.VOLUME, filesystem="xfs", volume=WEB, generation=generation)
    return lv(f"web_{number}", record, number, *marks)


def snapshot(number: int, *holds: str) -> LogicalVolume:
    made = Snapshot(volume="web", volume_id="id-web", name=f"s{number}", id="", created=WHEN, holds=holds)
    return lv(f"web_s_{number}", Record(role=Role.SNAPSHOT, filesystem="xfs", snapshot=made), number)


class Group(Tools):
    """A volume group that fails when so many logical volumes of it have been removed."""

    def __init__(self, lvs: Sequence[LogicalVolume], removals: int = 100, stubborn: str = "") -> None:
        super().__init__("default", "vg0")
        self.lvs = list(lvs)
        self.removals = removals
        self.stubborn = stubborn
        self.activated: list[str] = []

    def report(self, *names: str) -> list[LogicalVolume]:
        return [POOL, *self.lvs]

    def retag(self, names: Sequence[str], *, add: Sequence[str] = (), remove: Sequence[str] = ()) -> None:
        for at, known in enumerate(self.lvs):
            if known.name in names:
                tags = [tag for tag in known.tags if tag not in remove]
                self.lvs[at] = replace(known, lv_tags=",".join([*tags, *add]))

    def remove(self, names: Sequence[str]) -> None:
        # As lvremove 2.03.16: in the order of the group's metadata, each with a commit of its own.
        for known in list(self.lvs):
            if known.name in names and known.name != self.stubborn:
                if not self.removals:
                    raise StorageFailed("killed")
                self.removals -= 1
                self.lvs.remove(known)
        if self.stubborn in names:
            raise StorageFailed(f"{self.stubborn} is in use")

    def activate(self, name: str) -> None:
        self.activated.append(name)
        raise StorageFailed("there is no device")

    def inventory(self) -> Inventory:
        return Inventory(self.report(), "pool")


@pytest.fixture(autouse=True)
def _no_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devicemapper, "_asked", lambda *_: None)


def recovered(group: Group) -> Inventory:
    inventory = group.inventory()
    Recovery("default", group, "vg0-pool-tpool", inventory).run()
    return inventory


@pytest.mark.parametrize("removals", range(5))
def test_a_removal_that_was_killed_after_any_logical_volume_is_finished(
    monkeypatch: pytest.MonkeyPatch, removals: int
) -> None:
    """Or snapshots of what was destroyed would stay for ever, and nobody would know that they are to go."""
    monkeypatch.setattr(Mountpoints, "unmount", lambda *_: None)
    for lvs in (
        [contents(), snapshot(2), snapshot(3), snapshot(4)],
        [snapshot(2), contents(number=5, generation=2), snapshot(3), snapshot(4)],
    ):
        group = Group(lvs, removals)
        backend = Lvm("default", {"volume_group": "vg0", "thin_pool": "pool"})
        monkeypatch.setattr(backend, "_tools", group)
        with suppress(StorageFailed):
            backend.destroy(WEB)
        again = Group(group.lvs, 1)  # and once more, while that is mended
        recovered(again)
        seen = recovered(Group(again.lvs))
        assert seen.items == []
        assert not [it for it in seen.volumes("default", trash=False) if isinstance(it, Damage)]


def test_what_says_that_a_volume_is_gone_stays_while_something_of_it_is_left() -> None:
    group = Group([contents(GONE), snapshot(2), snapshot(3)], stubborn="web_s_2")
    assert [item.lv.name for item in recovered(group).items] == ["web_1", "web_s_2"]
    group.stubborn = ""
    assert recovered(group).items == []


def test_a_snapshot_that_somebody_holds_stays_as_it_was_read() -> None:
    """T31: the file system of a base that was backed up is not played back; else it differs from the backup."""
    group = Group([contents(), snapshot(2, "base-main")])
    recovered(group)
    assert group.activated == []
    group = Group([contents(), snapshot(2)])
    recovered(group)
    assert group.activated == ["web_s_2"]
