"""What a test session left behind, and its removal.

A session has one directory, its *place*, for everything its tests make, and passes the place's name to every program
it starts, in ``SNAPVOL_TEST_PLACE``. So processes, mounts and loop devices of this session can be told from all
others. Run as a program, this module waits for its standard input to close, which also happens when the test runner
is killed, and then ends and removes all of it. ``SNAPVOL_TEST_KEEP=1`` leaves the files for a look at logs.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from support.process import run
from support.scale import patient

MARK = "SNAPVOL_TEST_PLACE"
PLACE: pytest.StashKey[Path] = pytest.StashKey()


def processes(place: Path) -> dict[int, str]:
    """Return the command lines of this session's processes by pid: marked, or below a marked one; never our own."""
    table = dict(_table(place))
    ours = {pid for pid, (_, _, marked) in table.items() if marked}
    while more := {pid for pid, (parent, _, _) in table.items() if parent in ours} - ours:
        ours |= more
    return {pid: table[pid][1] for pid in sorted(ours - {os.getpid()})}


def _table(place: Path) -> Iterator[tuple[int, tuple[int, str, bool]]]:
    mark = f"{MARK}={place}\0".encode()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        # Processes end while we look, and those of other users do not show their environment.
        with suppress(OSError):
            state, parent = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[:2]
            command = (entry / "cmdline").read_bytes()
            try:
                environment = (entry / "environ").read_bytes() + b"\0"
            except PermissionError:
                environment = b""
            if state != "Z":
                marked = mark in environment or os.fsencode(f"{place}/") in command
                yield int(entry.name), (int(parent), command.replace(b"\0", b" ").decode(errors="replace"), marked)


def mounts(place: Path) -> list[str]:
    """Return the mount points below ``place``, the last made first."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        point = line.split()[4].encode(errors="surrogateescape").decode("unicode_escape")
        if point == str(place) or point.startswith(f"{place}/"):
            found.append(point)
    return found[::-1]


def loops(place: Path) -> dict[str, str]:
    """Return the loop devices whose files lie, or lay, below ``place``: device → file."""
    found = {}
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        with suppress(OSError):
            file = backing.read_text().strip()
            if file.startswith(f"{place}/"):
                found[f"/dev/{backing.parts[3]}"] = file
    return found


def report(place: Path, seconds: float = 15.0) -> list[str]:
    """Return a line for each process, mount and loop device that is still there after at most ``seconds``.

    The kernel takes its time over lazy unmounts and over the loop devices below them.
    """
    deadline = time.monotonic() + min(patient(seconds), max(seconds, 40))
    while (left := _left(place)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return left


def _left(place: Path) -> list[str]:
    return [
        # LVM's own monitor stays, whoever made LVM start it.
        *(f"process {pid}: {command}" for pid, command in processes(place).items() if "dmeventd" not in command),
        *(f"mount {point}" for point in mounts(place) if point != str(place)),
        *(f"loop device {device}: {file}" for device, file in loops(place).items()),
    ]


def sweep(place: Path) -> None:
    """End, unmount and detach everything of the session, and remove its place."""
    for _ in range(100):
        remaining = processes(place)
        for pid in remaining:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if not remaining:
            break
        time.sleep(0.05)
    for point in mounts(place):
        if run("umount", "--", point, check=False).code:
            run("umount", "--lazy", "--", point, check=False)
    for device in loops(place):
        run("losetup", "--detach", device, check=False)
    if not os.environ.get("SNAPVOL_TEST_KEEP"):
        shutil.rmtree(place, ignore_errors=True)


def main(place: Path, seconds: float) -> None:
    """Wait until standard input closes or ``seconds`` pass, then sweep."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    select.select([sys.stdin], [], [], seconds)
    sweep(place)


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]))
