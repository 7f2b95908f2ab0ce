"""The user-mode Linux guest as a machine for tests: it boots for real, and what can go wrong around it does."""

from __future__ import annotations

import io
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from lab.guest import TREE, GuestFailed
from lab.uml import PROGRAM, Uml
from support import leftovers, needs
from support.process import Server, run, wait_until

pytestmark = pytest.mark.root
Boot = Callable[..., Uml]


@pytest.fixture
def boot(tmp_path: Path) -> Boot:
    """Make a guest that runs a shell script, with a place of its own and its output in ``tmp_path``'s ``output…``."""
    needs.root("uml")
    needs.program(PROGRAM, "cc", "mkfs.ext4", what="uml")
    count = iter(range(100))

    def made(script: str, **options: object) -> Uml:
        place = tmp_path / f"boot{next(count)}"
        place.mkdir()
        return Uml(["bash", "-euc", script], place=place, **{"seconds": 120, **options})  # type: ignore[arg-type]

    return made


def empty(disk: Path, size: str) -> Path:
    run("truncate", f"--size={size}", disk)
    return disk


def test_a_command_runs_in_the_tree_with_its_environment_and_its_status_comes_back(
    boot: Boot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SNAPVOL_TEST_WORD", "two words")
    monkeypatch.setenv("SNAPVOL_OTHER", "unseen")
    output = io.BytesIO()
    script = 'pwd; echo "$SNAPVOL_TEST_WORD,$OWN,${SNAPVOL_OTHER-none}"; printf "tab\\there\\n" >&2; exit 37'
    with boot(script, env={"OWN": "one"}, output=output) as guest:
        assert guest.wait() == 37
        assert not guest.running
    assert f"{TREE}\ntwo words,one,none\ntab\there\n" in output.getvalue().decode()


def test_output_comes_while_the_command_runs_and_a_kill_leaves_nothing(boot: Boot) -> None:
    output = io.BytesIO()
    with boot("echo now; sleep 600", output=output) as guest:

        def shown() -> bool:
            guest.show()
            return b"now\n" in output.getvalue()

        wait_until(shown, 60, "the first line")
        assert guest.running
        assert leftovers.processes(guest.place)
        guest.kill()
        assert not guest.running
        assert not leftovers.processes(guest.place)


def test_a_guest_that_hangs_is_killed_at_its_limit_and_says_so(boot: Boot) -> None:
    with (
        boot("sleep 600", seconds=4, output=io.BytesIO()) as guest,
        pytest.raises(GuestFailed, match=r"sleep 600.*killed: it still ran after 4 s"),
    ):
        guest.wait()
    assert not leftovers.processes(guest.place)


def test_a_machine_that_dies_is_no_exit_status(boot: Boot) -> None:
    with (
        boot("echo c >/proc/sysrq-trigger; sleep 600", output=io.BytesIO()) as guest,
        pytest.raises(GuestFailed, match=r"ended before its command did[^$]*panic"),
    ):
        guest.wait()


def test_the_guest_of_a_killed_parent_ends(tmp_path: Path) -> None:
    needs.program(PROGRAM, what="uml")
    parent = Server(
        [TREE / "tests/lab/uml", "--", "sh", "-c", "echo up; sleep 600"],
        log=tmp_path / "parent.log",
        env={"TMPDIR": str(tmp_path)},
    )
    parent.ready(lambda: "up\n" in parent.output(), 60)
    assert len(leftovers.processes(tmp_path)) > 2
    parent.kill_9()
    wait_until(lambda: not leftovers.processes(tmp_path), 10, "all of the guest to end")


def test_the_program_returns_the_status_and_cleans_up_also_when_it_is_asked_to_end(tmp_path: Path) -> None:
    needs.program(PROGRAM, what="uml")
    program, place = TREE / "tests/lab/uml", {"TMPDIR": str(tmp_path)}
    done = run(
        program,
        "--disk",
        "1G",
        "--",
        "sh",
        "-c",
        'lsblk -ndo SIZE "$SNAPVOL_TEST_DISKS"; exit 3',
        env=place,
        check=False,
    )
    assert (done.code, done.stdout.split()[0]) == (3, "1G")
    late = run(program, "--seconds", "5", "--", "sleep", "600", env=place, check=False)
    assert late.code == 125
    assert "killed: it still ran after 5 s" in late.stderr
    assert not list(tmp_path.iterdir())
    asked = Server([program, "--", "sleep", "600"], log=tmp_path / "log", env=place)
    wait_until(lambda: len(leftovers.processes(tmp_path)) > 2, 20, "the guest to start")
    asked.signal(signal.SIGTERM)
    assert asked.wait(10) == 128 + signal.SIGTERM
    assert [path.name for path in tmp_path.iterdir()] == ["log"]
    assert not leftovers.processes(tmp_path)


def test_a_disk_keeps_what_was_synced_when_the_power_is_cut(boot: Boot, tmp_path: Path) -> None:
    disk = empty(tmp_path / "disk", "2G")
    mount = "mkdir -p /tmp/m; mount /dev/vg0/v /tmp/m"
    make = "packaging/vm/lvm-pool $SNAPVOL_TEST_DISKS; lvcreate -qq -V 1G -T vg0/pool -n v; mkfs.ext4 -q /dev/vg0/v"
    output = io.BytesIO()
    with boot(
        f"{make}; {mount}; echo kept >/tmp/m/f; sync; echo ready; sleep 600", disks=[disk], output=output
    ) as guest:

        def ready() -> bool:
            guest.show()
            return b"ready\n" in output.getvalue()

        wait_until(ready, 120, lambda: output.getvalue().decode())
        guest.kill()
    with boot(f"vgchange -qq -ay; {mount}; cat /tmp/m/f", disks=[disk], output=output) as guest:
        assert guest.wait() == 0
    assert b"kept\n" in output.getvalue()


def test_two_guests_at_once_change_neither_the_host_nor_each_other(boot: Boot, tmp_path: Path) -> None:
    (tmp_path / "seen").write_text("host\n")
    touch = f"touch {TREE}/made-in-a-guest /etc/made-in-a-guest; sleep 4"
    script = f"mkdir -p {tmp_path}; cd {tmp_path}; ls; echo guest >seen; {touch}"
    outputs = [io.BytesIO(), io.BytesIO()]
    with boot(script, output=outputs[0]) as first, boot(script, output=outputs[1]) as second:
        assert (first.wait(), second.wait()) == (0, 0)
    assert (tmp_path / "seen").read_text() == "host\n"
    for made in (TREE / "made-in-a-guest", Path("/etc/made-in-a-guest")):
        assert not made.exists()


def test_a_tree_in_a_temporary_directory_is_seen_there(tmp_path: Path) -> None:
    needs.program(PROGRAM, what="uml")
    tree = tmp_path / "tree"
    for part in ("tests/lab", "tests/support", "packaging"):
        shutil.copytree(TREE / part, tree / part)
    done = run(tree / "tests/lab/uml", "--", "sh", "-c", "pwd; ls packaging/vm/lvm-pool", env={"TMPDIR": str(tmp_path)})
    assert done.stdout.startswith(f"{tree}\npackaging/vm/lvm-pool\n")


def test_lvm_thin_works_as_tests_need_it(boot: Boot, tmp_path: Path) -> None:
    script = """
        for again in 1 2; do packaging/vm/lvm-pool $SNAPVOL_TEST_DISKS; done
        lvcreate -qq -V 1G -T vg0/pool -n v
        mkfs.xfs -q /dev/vg0/v
        mount -m /dev/vg0/v /tmp/v
        dd if=/dev/urandom of=/tmp/v/f bs=1M count=2 status=none
        fsfreeze -f /tmp/v; fsfreeze -u /tmp/v
        lvcreate -qq -s -n s vg0/v
        lvchange -ay -K vg0/s
        mount -m -o ro,nouuid /dev/vg0/s /tmp/s
        cmp /tmp/v/f /tmp/s/f
        rm /tmp/v/f; sync; fstrim /tmp/v
        dmsetup message vg0-pool-tpool 0 reserve_metadata_snap
        thin_delta --metadata-snap --thin1 1 --thin2 2 /dev/mapper/vg0-pool_tmeta
        dmsetup message vg0-pool-tpool 0 release_metadata_snap
        echo other >/tmp/image; losetup -f --show /tmp/image; unshare --mount true
    """
    output = io.BytesIO()
    with boot(script, disks=[empty(tmp_path / "disk", "2G")], output=output) as guest:
        assert guest.wait() == 0, output.getvalue().decode()
    assert b"<right_only" in output.getvalue()
