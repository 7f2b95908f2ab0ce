"""The power cuts of the lab, on a volume whose owner counts: no number that was acknowledged is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.cuts import cuts
from lab.guest import GuestFailed
from lab.uml import PROGRAM, Uml
from support import needs
from support.process import run

pytestmark = pytest.mark.root
MOUNT = "vgchange -qq -ay vg0; mount -m /dev/vg0/v /tmp/v"
PREPARE = "packaging/vm/lvm-pool $SNAPVOL_TEST_DISKS; lvcreate -qq -V 1G -T vg0/pool -n v; mkfs.ext4 -q /dev/vg0/v"
SEEN = "/tmp/v/$SNAPVOL_TEST_BOOT"
COUNT = f"n=0; while :; do n=$((n + 1)); echo $n >/tmp/v/new; sync; mv /tmp/v/new {SEEN}; sync; echo $n; done"


def shell(*lines: str) -> list[str]:
    return ["bash", "-euc", "\n".join(lines)]


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    needs.root("uml")
    needs.program(PROGRAM, what="uml")
    run("truncate", "--size=2G", tmp_path / "disk")
    return tmp_path / "disk"


def test_what_was_synced_is_there_after_each_cut(tmp_path: Path, disk: Path) -> None:
    check = shell(MOUNT, "cat /tmp/v/$((SNAPVOL_TEST_BOOT - 1)) || echo 0")
    boots = list(
        cuts(
            Uml,
            prepare=shell(PREPARE, MOUNT),
            driver=shell(COUNT),
            check=check,
            moments=[1.5, 0.7],
            place=tmp_path,
            disks=[disk],
        )
    )
    assert [(boot.number, boot.moment) for boot in boots] == [(0, 1.5), (1, 0.7), (2, None)]
    promised = [max(map(int, boot.work.split()), default=0) for boot in boots[:-1]]
    assert sum(promised)
    for number, boot in zip(promised, boots[1:], strict=True):
        assert int(boot.before.split()[-1]) >= number


def test_a_failed_check_tells_the_cut_before_it(tmp_path: Path, disk: Path) -> None:
    boots = cuts(
        Uml,
        prepare=["true"],
        driver=["sleep", "600"],
        check=shell("echo two volumes lost", "false"),
        moments=[0.25, 1],
        place=tmp_path,
        disks=[disk],
    )
    assert next(boots).number == 0
    with pytest.raises(GuestFailed, match=r"boot 1, after a cut at 0\.250 s: [^$]*two volumes lost"):
        next(boots)
