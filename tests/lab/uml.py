"""A machine made of processes: Debian's user-mode Linux, which computes at the host's speed; LVM thin comes with it.

Its root shows the host's files, and its system calls are some 20 times slower than ours. There is no udev.
"""

from __future__ import annotations

import hashlib
import os
import select
import shutil
from pathlib import Path
from typing import ClassVar

from lab.guest import TREE, Guest, GuestFailed
from support.process import run
from support.scale import patient

PROGRAM = "linux.uml"
_SOURCE = Path(__file__).with_name("uml-ptrace.c")
_BUILD = 1800  # seconds, where others work too
_SCRATCH = "16G"  # what the guest can write besides its disks; sparse, in the host's memory
# Process and mount namespaces of its own, so that whatever it started ends with it, and so that memory and scratch do
# not depend on the size of the machine's /dev/shm, and vanish. The shell stays, because an init cannot abort.
_START = """\
set -eu
ulimit -c 0
mount -t tmpfs -o size=64G lab /dev/shm
truncate --size="$1" /dev/shm/scratch
mkfs.ext4 -q -F -m 0 -O ^has_journal -E nodiscard /dev/shm/scratch
preload=$2
shift 2
status=0
LD_PRELOAD=$preload TMPDIR=/dev/shm "$@" || status=$?
exit "$status"
"""


class Uml(Guest):
    """The guest; see `lab.guest.Guest`."""

    environment: ClassVar = {"DM_DISABLE_UDEV": "1"}  # LVM makes its own device nodes
    _last: int | None = None  # the reading end of a pipe that is open while any of the guest's processes lives

    def boot(self) -> None:
        self._last, held = os.pipe()
        try:
            self._unshare(held)
        finally:
            os.close(held)

    def kill(self) -> None:
        # The process that we started ends first, those in its namespace by themselves, and they still write meanwhile.
        super().kill()
        if self._last is not None:
            gone, _, _ = select.select([self._last], [], [], patient(20))
            os.close(self._last)
            self._last = None
            if not gone:
                raise GuestFailed(self._says("it lives on after its end"))

    def _unshare(self, held: int) -> None:
        disks = [f"ubd{number}={disk}" for number, disk in enumerate([Path("/dev/shm/scratch"), *self.disks])]
        self._serve(
            *("unshare", "--mount", "--propagation=slave", "--pid", "--fork", "--kill-child=KILL"),
            *("sh", "-c", _START, "sh"),
            *(_SCRATCH, os.fspath(_preload()), PROGRAM, *disks, f"mem={self.memory >> 20}M", "root=/dev/root", "ro"),
            *("rootfstype=hostfs", "rootflags=/", f"init={TREE}/tests/lab/uml-init", "con=null", "con0=null,fd:1"),
            *("quiet", "loglevel=3", f"umid=lab-{self.place.name}", f"uml_dir={self.place}/"),
            *(f"LAB_TREE={TREE}", f"LAB_PLACE={self.place}", *self._words()),
            log=self._console,
            stdin=held,
        )

    def _words(self) -> list[str]:
        """Return what else the kernel's command line tells `uml-init`."""
        return []

    def device(self, number: int) -> str:
        return f"/dev/ubd{chr(ord('b') + number)}"


class UmlZfs(Uml):
    """The same machine with ZFS, whose modules `zfs-kernel` builds once for it."""

    def _words(self) -> list[str]:
        return [f"LAB_KERNEL={zfs_kernel('uml')}"]


def zfs_kernel(kind: str) -> Path:
    """Return the folder with what guests of ``kind``, "uml" or "qemu", need for ZFS, built if need be."""
    return Path(run(TREE / "tests" / "lab" / "zfs-kernel", kind, seconds=_BUILD).stdout.strip())


def cache() -> Path:
    """Return the directory for what is built once for the lab's guests."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("SNAPVOL_TEST_LAB_CACHE") or home / "snapvol-lab")


def _preload() -> Path:
    """Return the library that lets an old user-mode Linux run on a new processor, built if need be."""
    library = cache() / f"uml-ptrace-{hashlib.sha256(_SOURCE.read_bytes()).hexdigest()[:16]}.so"
    if not library.exists():
        library.parent.mkdir(parents=True, exist_ok=True)
        fresh = library.with_suffix(f".{os.getpid()}")
        run(shutil.which("cc") or "gcc", "-O2", "-shared", "-fPIC", "-o", fresh, _SOURCE)
        fresh.replace(library)
    return library
