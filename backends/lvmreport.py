"""What LVM reports, in JSON: one line for each logical volume of a group."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from snapvol.backends import devicemapper
from snapvol.errors import StorageFailed

Count = Annotated[int, Meta(ge=0)]


class LogicalVolume(Struct, frozen=True, kw_only=True, rename={"name": "lv_name", "uuid": "lv_uuid"}):
    """One logical volume. Sizes are bytes.

    Attributes:
        name: unique in the group.
        uuid: its identity.
        lv_tags: separated by commas.
        lv_size: of the device.
        segtype: ``thin``, ``thin-pool``, ``linear``, …
        pool_lv: the thin pool that it is in.
        thin_id: by which the thin pool knows it.
        transaction_id: of a thin volume, the pool's when it was made; of a pool, the present one.
        lv_permissions: ``writeable``, ``read-only``.
        lv_health_status: what is wrong with it.
        lv_metadata_size: of a thin pool's metadata.
        chunk_size: of a thin pool.
        zero: whether a thin pool hands out blocks that are all zeros.
        vg_uuid: the group's identity.
        vg_extent_size: what sizes are multiples of.
    """

    name: str
    uuid: str
    lv_tags: str
    lv_size: int
    segtype: str
    pool_lv: str
    thin_id: int | None
    transaction_id: int | None
    lv_health_status: str
    lv_metadata_size: int | None
    chunk_size: int | None
    zero: str
    vg_name: str
    vg_uuid: str
    vg_extent_size: int

    @property
    def tags(self) -> tuple[str, ...]:
        """The tags, one by one."""
        return tuple(self.lv_tags.split(",")) if self.lv_tags else ()

    @property
    def device(self) -> str:
        """What device-mapper calls it."""
        return devicemapper.name(self.vg_name, self.name)

    @property
    def path(self) -> Path:
        """Its node, where it is active."""
        return devicemapper.path(self.device)

    @property
    def number(self) -> str | None:
        """``MAJOR:MINOR``, where it is active."""
        return devicemapper.number(
            self.device, f"LVM-{self.vg_uuid}{self.uuid}".replace("-", "").replace("LVM", "LVM-")
        )


COLUMNS = ",".join(str(field) for field in LogicalVolume.__struct_encode_fields__)


class _Lines(Struct, frozen=True):
    lv: list[LogicalVolume]


class _Report(Struct, frozen=True):
    report: list[_Lines]


def parse(text: str) -> list[LogicalVolume]:
    """Return the logical volumes of a report; empty columns are None.

    Args:
        text: what ``lvs --reportformat json --units b --nosuffix --options`` `COLUMNS` printed.

    Raises:
        StorageFailed: it is not understood.
    """
    try:
        raw = msgspec.json.decode(text)
        for part in raw["report"]:
            for line in part["lv"]:
                line.update({key: line[key] or None for key in ("thin_id", "transaction_id", "lv_metadata_size")})
                line["chunk_size"] = line["chunk_size"] or None
        report = msgspec.convert(raw, _Report, strict=False)
    except (msgspec.MsgspecError, KeyError, TypeError, AttributeError) as error:
        raise StorageFailed(f"the report of lvs is not understood: {error}", "update lvm2") from error
    return [volume for part in report.report for volume in part.lv]


class _Disk(Struct, frozen=True):
    pv_name: str


class _Disks(Struct, frozen=True):
    vg: list[_Disk]


class _DiskReport(Struct, frozen=True):
    report: list[_Disks]


def parse_disks(text: str) -> list[str]:
    """Return the physical volumes of a report of ``vgs --reportformat json --options pv_name``.

    Raises:
        StorageFailed: it is not understood.
    """
    try:
        report = msgspec.json.decode(text, type=_DiskReport)
    except msgspec.MsgspecError as error:
        raise StorageFailed(f"the report of vgs is not understood: {error}", "update lvm2") from error
    return [disk.pv_name for part in report.report for disk in part.vg]
