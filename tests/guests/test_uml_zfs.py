"""User-mode Linux with ZFS as a machine for tests; what it shares with the one without, `test_uml` tests."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from lab.uml import PROGRAM, UmlZfs
from support import needs
from support.process import run, wait_until

pytestmark = pytest.mark.root


def machine(script: str, place: Path, disk: Path, output: io.BytesIO) -> UmlZfs:
    place.mkdir()
    return UmlZfs(["bash", "-euc", script], place=place, disks=[disk], output=output, seconds=240)


def test_zfs_works_as_tests_need_it_and_keeps_what_was_synced_when_the_power_is_cut(tmp_path: Path) -> None:
    needs.root("uml-zfs")
    needs.program(PROGRAM, "mkfs.ext4", what="uml-zfs")
    disk = tmp_path / "disk"
    run("truncate", "--size=2G", disk)
    pool = "packaging/vm/zfs-pool $SNAPVOL_TEST_DISKS; zpool version"
    make = f"""
        for again in 1 2; do {pool}; done
        zfs create tank/v; zfs mount tank/v || true
        seq 100000 >/tank/v/f
        zfs snapshot tank/v@s
        zfs clone tank/v@s tank/clone
        head -c 32 /dev/urandom >/tmp/key
        zfs create -o encryption=aes-256-gcm -o keyformat=raw -o keylocation=file:///tmp/key tank/sealed
        echo more >>/tank/v/f; sync
        zfs diff -FHh tank/v@s tank/v
        zfs send -i @s tank/v@$(zfs snapshot tank/v@t && echo t) | zstream dump -v | grep -c WRITE
        zpool sync; echo ready; sleep 600
    """
    output = io.BytesIO()
    with machine(make, tmp_path / "first", disk, output) as guest:

        def ready() -> bool:
            guest.show()
            return b"ready\n" in output.getvalue()

        wait_until(ready, 120, lambda: output.getvalue().decode())
        guest.kill()
    read = f"{pool}; seq 100000 | cmp - /tank/v/.zfs/snapshot/s/f; zpool scrub -w tank; zpool status -x"
    with machine(read, tmp_path / "second", disk, output) as guest:
        assert guest.wait() == 0, output.getvalue().decode()
    assert b"\nM\tF\t/tank/v/f\n" in output.getvalue()
    assert output.getvalue().endswith(b"all pools are healthy\n")
