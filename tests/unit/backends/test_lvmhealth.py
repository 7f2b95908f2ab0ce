"""What is said of a thin pool while it is worked on, and when LVM and the kernel do not agree on it."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from snapvol.backends import devicemapper
from snapvol.backends.devicemapper import ThinPool
from snapvol.backends.lvm import Lvm
from snapvol.backends.lvmreport import LogicalVolume
from snapvol.backends.lvmtools import Tools
from support.lvm_reports import THIN_POOL

POOL = THIN_POOL
STATE = ThinPool(
    transaction=26,
    metadata_used=0,
    metadata_size=32 << 20,
    data_used=0,
    data_size=16384,
    held=None,
    mode="rw",
    needs_check=False,
)


class Changing:
    """The kernel's thin pool, which is a transaction further with each report of LVM that somebody asks for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, first: int, step: int) -> None:
        self.transaction, self.step = first, step
        monkeypatch.setattr(devicemapper, "thin_pool", lambda _: replace(STATE, transaction=self.transaction))
        monkeypatch.setattr(Tools, "report", self.report)

    def report(self, *_: str) -> list[LogicalVolume]:
        self.transaction += self.step
        return [POOL]


@pytest.mark.parametrize(("first", "step"), [(26, 0), (26, 1), (25, 1), (24, 3)])
def test_a_pool_that_changes_while_it_is_looked_at_is_well(
    monkeypatch: pytest.MonkeyPatch, first: int, step: int
) -> None:
    Changing(monkeypatch, first=first, step=step)
    found = Lvm("default", {"volume_group": "vg0", "thin_pool": "pool"}).health()
    assert (found.ok, found.problem) == (True, None)


@pytest.mark.parametrize(("first", "step"), [(25, 0), (27, 0), (27, 1), (23, 2)])
def test_a_pool_that_lvm_and_the_kernel_disagree_on_is_not(
    monkeypatch: pytest.MonkeyPatch, first: int, step: int
) -> None:
    Changing(monkeypatch, first=first, step=step)
    problem = Lvm("default", {"volume_group": "vg0", "thin_pool": "pool"}).health().problem
    assert problem is not None
    assert "vg0/pool (transaction 26," in problem
