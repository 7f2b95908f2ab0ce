"""The power goes while volumes are made, snapshotted, rolled back, resized, restored and removed; nothing is lost."""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

import pytest

from lab import qemu, run, uml
from lab.cuts import cuts
from support import needs
from support.process import run as execute
from support.scale import patient

pytestmark = pytest.mark.root
CUTS = 4  # by default
SEED = os.environ.get("SNAPVOL_TEST_SEED", "1")
GUESTS = {"lvm": "uml", "zfs": os.environ.get("SNAPVOL_TEST_GUEST", "uml-zfs")}
LONGEST = {"uml": 5.0, "uml-zfs": 5.0, "qemu": 30.0}  # seconds before a cut; a step takes a second or several
PROGRAMS = {"uml": uml.PROGRAM, "uml-zfs": uml.PROGRAM, "qemu": qemu.PROGRAM}
CHOSEN = os.environ.get("SNAPVOL_TEST_STORAGE")


@pytest.mark.parametrize("kind", [CHOSEN] if CHOSEN else list(GUESTS))
def test_after_each_power_cut_every_volume_is_whole_or_absent(tmp_path: Path, kind: str) -> None:
    """T14, T38; `SNAPVOL_TEST_CUTS=50` for a long evening."""
    needs.root(kind)
    guest = GUESTS[kind]
    needs.program(PROGRAMS[guest], what=kind)
    disks = [tmp_path / "pool", tmp_path / "kept"]
    for disk in disks:
        execute("truncate", "--size=16G", disk)
    chance = random.Random(SEED)
    number = int(os.environ.get("SNAPVOL_TEST_CUTS", CUTS))
    moments = [chance.uniform(0.05, LONGEST[guest]) for _ in range(number)]
    command = [sys.executable, "-m", "support.power"]
    boots = cuts(
        run.machine(guest),
        prepare=[*command, "prepare"],
        check=[*command, "check"],
        moments=moments,
        place=tmp_path,
        disks=disks,
        seconds=patient(300),
        env={
            "PYTHONPATH": str(Path(__file__).parents[1]),
            "SNAPVOL_TEST_STORAGE": kind,
            "SNAPVOL_TEST_SEED": SEED,
            "SNAPVOL_TEST_CUTS": str(number),
        },
    )
    worked = 0
    for boot in boots:
        print(f"boot {boot.number}, seed {SEED}, cut after {boot.moment} s\n{boot.before}{boot.work}", flush=True)
        worked += boot.work.count("begun ")
    assert worked, "the cuts came before anything was begun"
