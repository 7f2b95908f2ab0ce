"""Runs one command in a guest: ``python -m lab.run KIND [--disk SIZE]… [--seconds N] [--memory MIB] COMMAND…``."""

from __future__ import annotations

import argparse
import importlib
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from lab.guest import Guest, GuestFailed
from support.process import run

_MACHINES = {"uml": ("uml", "Uml"), "uml-zfs": ("uml", "UmlZfs"), "qemu": ("qemu", "Qemu")}  # module, class


def machine(name: str) -> type[Guest]:
    """Return the class of the guests called ``name``: "uml", "uml-zfs" or "qemu"."""
    module, kind = _MACHINES[name]
    found: type[Guest] = getattr(importlib.import_module(f"lab.{module}"), kind)
    return found


def main(words: list[str]) -> int:
    kind, *words = words
    parser = argparse.ArgumentParser(prog=f"tests/lab/{kind}", description="Runs COMMAND in a guest of this kind.")
    parser.add_argument("--disk", action="append", default=[], metavar="SIZE", help="an empty disk, such as 4G")
    parser.add_argument("--seconds", type=float, default=900, help="when to kill it (default: %(default)s)")
    parser.add_argument("--memory", type=int, default=3072, metavar="MIB", help="(default: %(default)s)")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND")
    wanted = parser.parse_args(words)
    command = wanted.command[wanted.command[:1] == ["--"] :] or ["bash"]
    place = Path(tempfile.mkdtemp(prefix="snapvol-lab-", dir=os.environ.get("TMPDIR", "/tmp")))
    try:
        disks = [place / f"disk{number}" for number in range(len(wanted.disk))]
        for disk, size in zip(disks, wanted.disk, strict=True):
            run("truncate", f"--size={size}", disk)
        made = machine(kind)(command, place=place, disks=disks, seconds=wanted.seconds, memory=wanted.memory << 20)
        with made as guest:
            return guest.wait()
    except GuestFailed as error:
        print(str(error).splitlines()[0], file=sys.stderr)  # the rest has been shown
        return 125
    finally:
        shutil.rmtree(place, ignore_errors=True)


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    sys.exit(main(sys.argv[1:]))
