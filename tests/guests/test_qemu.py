"""The guest with a ZFS kernel as a machine for tests; what all guests share, `test_uml` tests on a faster one."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lab.guest import TREE, GuestFailed
from lab.qemu import PROGRAM, VIRTIOFSD, Qemu
from support import leftovers, needs
from support.process import Server, run, wait_until

pytestmark = pytest.mark.root
Boot = Callable[..., Qemu]
UP = 120  # seconds until a command runs, where others compute too


@pytest.fixture
def boot(tmp_path: Path) -> Boot:
    """Make a guest that runs a shell script, with a place of its own."""
    needs.root("qemu")
    needs.program(PROGRAM, VIRTIOFSD, "mkfs.ext4", "setpriv", what="qemu")
    run(TREE / "tests/lab/zfs-kernel", "qemu", seconds=1800)
    count = iter(range(100))

    def made(script: str, **options: object) -> Qemu:
        place = tmp_path / f"boot{next(count)}"
        place.mkdir()
        return Qemu(["bash", "-euc", script], place=place, **{"seconds": UP * 2, **options})  # type: ignore[arg-type]

    return made


def says(guest: Qemu, output: io.BytesIO, line: bytes) -> Callable[[], bool]:
    def said() -> bool:
        guest.show()
        return line in output.getvalue()

    return said


def test_a_command_runs_in_the_tree_sees_the_host_and_leaves_it_alone(boot: Boot, tmp_path: Path) -> None:
    (tmp_path / "seen").write_text("host\n")
    script = f"""
        pwd; cat {tmp_path}/seen || echo hidden
        touch /etc/made-in-a-guest {TREE}/made-in-a-guest
        setfattr -n user.a -v 1 /tmp && echo attributes
        echo kept >{tmp_path}/boot0/kept
        zpool version
        printf 'tab\\there\\n\\377' >&2; seq 20000
        exit 37
    """
    output = io.BytesIO()
    with boot(script, output=output, env={"OWN": "two words"}) as guest:
        assert guest.wait() == 37, output.getvalue()
    lines = output.getvalue()
    assert f"{TREE}\n".encode() in lines
    assert b"hidden\n" in lines
    assert b"attributes\n" in lines
    assert b"tab\there\n\xff" in lines
    assert b"".join(b"%d\n" % number for number in range(1, 20001)) in lines
    library, kernel = (line.partition(b"zfs-")[2] for line in lines.splitlines() if line.startswith(b"zfs-"))
    assert kernel == b"kmod-" + library
    assert (tmp_path / "boot0/kept").read_text() == "kept\n"
    for made in (TREE / "made-in-a-guest", Path("/etc/made-in-a-guest")):
        assert not made.exists()


def test_a_pool_survives_the_power_cut(boot: Boot, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    run("truncate", "--size=2G", disk)
    output = io.BytesIO()
    pool = "packaging/vm/zfs-pool $SNAPVOL_TEST_DISKS; zfs mount -a"
    make = f"{pool}; {pool}; zfs create tank/v; echo kept >/tank/v/f; zfs snapshot tank/v@s; echo made; sleep 600"
    with boot(make, disks=[disk], output=output) as guest:
        wait_until(says(guest, output, b"made\n"), UP, lambda: output.getvalue().decode())
        assert guest.running
        guest.kill()
        assert not guest.running
        assert not leftovers.processes(guest.place)
    with boot(f"{pool}; cat /tank/v/.zfs/snapshot/s/f", disks=[disk], output=output) as guest:
        assert guest.wait() == 0
    assert output.getvalue().endswith(b"kept\n")


def test_the_provisioning_of_the_vagrantfile_makes_both_pools_and_settings_for_them(boot: Boot, tmp_path: Path) -> None:
    needs.program("lvm", what="lvm")
    disks = [tmp_path / "lvm", tmp_path / "zfs"]
    run("truncate", "--size=2G", *disks)
    script = f"""
        for again in 1 2; do packaging/vm/pools $SNAPVOL_TEST_DISKS; done
        lvs --noheadings --options lv_attr vg0/pool
        zpool list -H -o health tank
        {sys.executable} -m snapvol config
    """
    output = io.BytesIO()
    with boot(script, disks=disks, output=output) as guest:
        assert guest.wait() == 0, output.getvalue().decode()
    for word in ("  twi-a", "\nONLINE\n", "tank/volumes", "thin_pool"):
        assert word in output.getvalue().decode()


def test_a_machine_that_dies_is_no_exit_status(boot: Boot) -> None:
    with (
        boot("echo c >/proc/sysrq-trigger; sleep 600", output=io.BytesIO()) as guest,
        pytest.raises(GuestFailed, match=r"ended before its command did[^$]*panic"),
    ):
        guest.wait()


def test_a_guest_is_killed_at_its_limit(boot: Boot) -> None:
    with (
        boot("sleep 600", seconds=2, output=io.BytesIO()) as guest,
        pytest.raises(GuestFailed, match=r"sleep 600.*killed: it still ran after 2 s"),
    ):
        guest.wait()
    assert not leftovers.processes(guest.place)


def test_the_guest_of_a_killed_parent_ends(boot: Boot, tmp_path: Path) -> None:
    parent = Server(
        [TREE / "tests/lab/qemu", "--", "sleep", "600"], log=tmp_path / "log", env={"TMPDIR": str(tmp_path)}
    )
    wait_until(lambda: any(PROGRAM in line for line in leftovers.processes(tmp_path).values()), 30, PROGRAM)
    parent.kill_9()
    wait_until(lambda: not leftovers.processes(tmp_path), 10, "all of the guest to end")
