"""The main job through the command line, against the real daemon, with btrfs under it."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess  # noqa: TID251
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.process import run, wait_until
from support.servers import Snapvol
from support.storage import KINDS

pytestmark = pytest.mark.root
Hosts = Callable[..., Snapvol]
LISTINGS = ["ls", "snapshots", "backups", "jobs", "trash", "doctor"]


@pytest.fixture
def host(snapvol: Hosts) -> Snapvol:
    """A daemon over btrfs, or the lab's storage, with a repository that was just made."""
    made = snapvol(KINDS[0])
    made.cli("repo", "init")
    return made


def root(host: Snapvol, volume: str) -> Path:
    """Where a volume's contents are."""
    return Path(host.json("inspect", volume)["mountpoint"])


def fill(place: Path) -> None:
    (place / "pages").mkdir()
    (place / "pages/home.md").write_text("# Home\n")
    (place / "data").write_bytes(os.urandom(3 << 20))


def contents(place: Path) -> dict[str, bytes]:
    return {str(path.relative_to(place)): path.read_bytes() for path in place.rglob("*") if path.is_file()}


def mounted(host: Snapvol, volume: str) -> dict[str, bytes]:
    """What a volume holds, which on some storages is there only while it is mounted."""
    found = contents(Path(host.out("mount", volume)))
    host.cli("unmount", volume)
    return found


def restored_to(place: Path, point: Path) -> dict[str, bytes]:
    """What a restore to a directory has given: files, or the image of a file system."""
    image = place / "wiki.img"
    if not image.exists():
        return contents(place)
    point.mkdir()
    run("mount", "-o", "ro,loop,noload", image, point)
    try:
        return contents(point)
    finally:
        run("umount", point)


@pytest.mark.storage
def test_the_main_job(host: Snapvol, tmp_path: Path) -> None:
    assert host.out("create", "wiki", "-o", "size=1G", "--label", "a=b") == "wiki"
    place = Path(host.out("mount", "wiki"))
    fill(place)
    before = contents(place)
    assert host.out("snapshot", "wiki", "-n", "before", "-m", "the upgrade") == "wiki@before"
    assert host.out("backup", "wiki@before").startswith("backup ")

    (place / "pages/home.md").unlink()
    (place / "data").write_bytes(b"scrambled")
    assert host.out("diff", "wiki@before").splitlines() == ["M data", "- pages/home.md"]
    host.cli("unmount", "wiki")
    host.cli("rollback", "wiki@before")
    assert mounted(host, "wiki") == before

    assert host.out("clone", "wiki@before", "copy") == "copy"
    assert mounted(host, "copy") == before
    host.cli("rm", "wiki", "copy")
    assert host.json("ls") == []
    assert host.out("undelete", "wiki") == "wiki"
    assert mounted(host, "wiki") == before
    host.cli("rm", "wiki")
    host.cli("empty-trash", "--yes")
    assert host.json("trash") == []

    assert host.out("restore", "wiki").startswith("wiki: ")
    assert mounted(host, "wiki") == before
    restored = host.json("inspect", "wiki")
    assert (restored["options"]["size"], restored["labels"]) == ("1G", {"a": "b"})
    host.cli("restore", "wiki", "--to", str(tmp_path / "plain"))
    assert restored_to(tmp_path / "plain", tmp_path / "image") == before


def test_volumes(host: Snapvol) -> None:
    host.cli("create", "a", "-o", "size=1G")
    assert host.out("resize", "a", "2G") == "a: 2.0 GiB"
    assert host.out("rename", "a", "b") == "b"
    assert "protect=true" in host.out("set", "b", "protect=true")
    assert host.cli("rm", "b", check=False).code == 4
    host.cli("set", "b", "protect=")
    assert "size" in host.json("inspect", "b", "--measure")
    assert host.out("rm", "--dry-run", "b").startswith("would ")
    assert [volume["name"] for volume in host.json("ls")] == ["b"]
    assert host.json("log", "b")[0]["message"] == "created"
    assert host.out("ls", "-q") == "b"


def test_snapshots(host: Snapvol) -> None:
    host.cli("create", "a")
    host.cli("create", "b")
    assert host.out("snapshot", "a", "b", "-n", "s").split() == ["a@s", "b@s"]
    assert host.out("hold", "a@s", "--tag", "audit") == "a@s: held by audit"
    assert host.cli("rm", "a@s", check=False).code == 4
    assert host.out("release", "a@s", "--tag", "audit") == "a@s: not held"
    host.cli("rm", "a@s")
    assert host.out("snapshots", "-q") == "b@s"
    assert host.json("inspect", "b@s")["name"] == "s"


def test_backups_and_restores(host: Snapvol, tmp_path: Path) -> None:
    host.cli("create", "wiki")
    place = root(host, "wiki")
    fill(place)
    before = contents(place)
    first = host.json("backup", "wiki")["result"]["id"]
    (place / "pages/new.md").write_text("new")
    assert host.out("backup", "--all").startswith("backup ")
    listed = host.json("backups", "wiki")
    assert listed[0]["id"] == first
    assert host.json("inspect", first[:12])["id"] == first
    assert host.out("files", first, "/pages") == "/pages/home.md"
    assert host.out("cat", "wiki", "/pages/new.md") == "new"
    assert "whole" in host.out("verify", "wiki", first)
    assert host.out("repo", "check").endswith("no damage found in 2 backups")

    assert host.out("restore", first, "--in-place", "--dry-run").startswith("would ")
    assert (place / "pages/new.md").exists()
    host.cli("restore", first, "--in-place")
    assert contents(place) == before
    assert any(name.startswith("wiki@before-restore-") for name in host.out("snapshots", "-q").split())
    (place / "pages/home.md").write_text("gone wrong")
    host.cli("restore", "wiki", "--in-place", "--path", "/pages/home.md")
    assert contents(place) == before
    assert host.out("create", "wiki2", "-o", f"backup={first}") == "wiki2"
    assert contents(root(host, "wiki2")) == before

    assert host.out("forget", "--yes", first).startswith("forgot backup ")
    assert len(host.json("backups")) == 1


def test_T37_a_restored_volume_works_by_its_options(host: Snapvol) -> None:
    host.out("create", "db", "-o", "btrfs.compression=zstd", "-o", "size=300M")
    fill(root(host, "db"))
    before = contents(root(host, "db"))
    host.out("backup", "db")
    host.out("restore", "db", "db2")
    copy = host.json("inspect", "db2")
    assert copy["options"]["btrfs.compression"] == "zstd"
    assert copy["size"] == 300 << 20
    place = Path(copy["mountpoint"])
    assert {os.getxattr(path, "btrfs.compression") for path in (place, place / "pages", place / "data")} == {b"zstd"}
    assert contents(place) == before
    with pytest.raises(OSError, match="quota"):
        (place / "too large").write_bytes(os.urandom(400 << 20))


def test_jobs(host: Snapvol) -> None:
    host.cli("create", "wiki")
    fill(root(host, "wiki"))
    job = host.out("backup", "wiki", "--detach")
    assert host.out("job", "wait", job) == "backup of wiki: done"
    assert host.json("job", "show", job[:4])["state"] == "done"
    assert "state" in host.out("job", "show", job)
    assert host.cli("job", "log", job).code == 0
    assert host.cli("job", "cancel", job, check=False).code == 4
    assert host.cli("job", "retry", job, check=False).code == 4
    assert host.out("jobs", "-q") == job


def test_reports(host: Snapvol) -> None:
    host.cli("create", "wiki")
    unprotected = host.cli("status", check=False)
    assert unprotected.code == 1
    assert "wiki" in unprotected.stdout
    host.cli("repo", "key", "confirm")
    host.cli("backup", "wiki")
    assert host.json("status", "wiki")["ok"] is True
    assert host.json("config")["daemon.root"]["origin"] == str(host.config)
    assert {finding["level"] for finding in host.json("doctor")} <= {"ok", "warning"}


@pytest.mark.parametrize("listing", LISTINGS)
def test_every_listing_is_an_array(host: Snapvol, listing: str) -> None:
    answer = host.cli(listing, "--json", check=False)
    assert answer.code in (0, 1)
    assert answer.stdout.startswith("[\n") or answer.stdout == "[]\n"


def test_ctrl_c_cancels_the_job_in_the_daemon(host: Snapvol) -> None:
    host.cli("create", "wiki")
    with (root(host, "wiki") / "big").open("wb") as file:
        for _ in range(600):
            file.write(os.urandom(1 << 20))
    program = subprocess.Popen(
        [sys.executable, "-m", "snapvol", "backup", "wiki"],
        env={**os.environ, **host.env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_until(lambda: any(job["progress"]["bytes_done"] for job in host.json("jobs")), what="the backup to begin")
        program.send_signal(signal.SIGINT)
        out, err = program.communicate(timeout=60)
    finally:
        program.kill()
        program.wait()
    assert (program.returncode, out) == (1, "")
    assert "snapvol: cancelling; press Ctrl-C again to leave without waiting\n" in err
    assert err.splitlines()[-1].startswith("snapvol: backup of wiki was cancelled; ")
    (job,) = host.json("jobs")
    assert job["state"] == "cancelled"
    assert host.json("backups") == []
    assert host.out("job", "retry", job["id"]) == "backup of wiki: done"


def typed(host: Snapvol, *argv: str, answer: str = "") -> tuple[int, str]:
    """Run the program on a terminal of its own; return its exit status and all that was shown."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update({**host.env, "TERM": "xterm", "COLUMNS": "120"})
        os.execv(sys.executable, [sys.executable, "-m", "snapvol", *argv])
    shown = b""
    end = time.monotonic() + 60
    try:
        while time.monotonic() < end:
            if not select.select([terminal], [], [], 0.1)[0]:
                continue
            try:
                shown += os.read(terminal, 65536)
            except OSError:  # the other end is closed
                break
            if answer and b"[y/N]" in shown:
                os.write(terminal, f"{answer}\n".encode())
                answer = ""
        _, status = os.waitpid(pid, 0)
    finally:
        os.close(terminal)
    return os.waitstatus_to_exitcode(status), shown.decode()


def test_on_a_terminal_there_is_a_bar_and_a_table(host: Snapvol) -> None:
    host.cli("create", "wiki")
    with (root(host, "wiki") / "big").open("wb") as file:
        for _ in range(150):
            file.write(os.urandom(1 << 20))
    code, shown = typed(host, "backup", "wiki")
    assert code == 0
    assert "backup of wiki" in shown
    assert "━" in shown
    assert re.search(r"\d+ %", shown)
    code, shown = typed(host, "ls")
    assert code == 0
    assert "\x1b[1m" in shown  # the titles are bold
    assert "wiki" in shown


@pytest.mark.parametrize(("answer", "code", "left"), [("n", 4, 1), ("y", 0, 0)])
def test_a_person_is_asked_before_the_trash_is_emptied(host: Snapvol, answer: str, code: int, left: int) -> None:
    host.cli("create", "wiki")
    host.cli("rm", "wiki")
    found, shown = typed(host, "empty-trash", answer=answer)
    assert (found, "Go on?" in shown) == (code, True)
    assert len(host.json("trash")) == left


def test_without_the_daemon(host: Snapvol, tmp_path: Path) -> None:
    host.cli("create", "wiki")
    fill(root(host, "wiki"))
    before = contents(root(host, "wiki"))
    host.cli("backup", "wiki")
    host.stop()
    note = f"snapvol: no daemon answers at {host.api_socket}; using the repository without it\n"
    listed = host.cli("backups", "--json")
    assert (len(listed.stdout.splitlines()), listed.stderr) == (3, note)
    assert host.cli("verify", "wiki").stderr.startswith(note)
    host.cli("restore", "wiki", "--to", str(tmp_path / "there"))
    assert contents(tmp_path / "there") == before
    gone = host.cli("ls", check=False)
    assert (gone.code, gone.stdout) == (5, "")
    assert gone.stderr == (
        f"snapvol: no daemon answers at {host.api_socket}; start it: systemctl start snapvol, or: snapvol daemon\n"
    )
    assert host.cli("doctor", check=False).code == 5


def test_names_are_completed(host: Snapvol) -> None:
    host.cli("create", "wiki")
    host.cli("snapshot", "wiki", "-n", "s")
    complete: dict[str, Any] = {"_SNAPVOL_COMPLETE": "bash_complete", "COMP_WORDS": "snapvol rm w", "COMP_CWORD": "2"}
    host.env.update(complete)
    assert host.out() == "plain,wiki\nplain,wiki@s"
