"""One instant for several thin snapshots: all origins are halted, snapshotted in the pool, and go on.

LVM halts and snapshots one volume after the other, hundreds of milliseconds apart, and refuses to where somebody else
has frozen the file system (EBUSY, Linux 6.1) or halted the device. So LVM first makes the snapshots, each at its own
time; then the origins are halted together, and the kernel takes the contents of each snapshot anew, under the number in
the pool that LVM knows: LVM's metadata stays right. The origins stand still for milliseconds.

A shell beside us lets the origins go on whatever becomes of us.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from signal import SIGKILL

from msgspec import Struct

from snapvol import shell
from snapvol.backends import devicemapper
from snapvol.backends.failures import explained
from snapvol.errors import StorageFailed

SECONDS = 30  # that the origins may stand still
# It writes a dot ten times a second, which fails once our end of the pipe is gone.
_WATCH = """\
trap '' PIPE
left=$1
shift
while [ "$left" -gt 0 ] && printf . 2>/dev/null; do
  sleep 0.1
  left=$((left - 1))
done
for device; do
  dmsetup resume --noudevsync "$device"
done
"""


class Pair(Struct, frozen=True, kw_only=True):
    """A snapshot to be taken anew.

    Attributes:
        device: what device-mapper calls the origin, which is active.
        origin: the origin's number in the pool.
        snapshot: the snapshot's number in the pool; it is not active.
    """

    device: str
    origin: int
    snapshot: int


def retake(pool: str, pairs: Sequence[Pair]) -> None:
    """Make all snapshots those of one instant.

    Args:
        pool: what device-mapper calls the thin pool.
        pairs: origins and their snapshots.

    Raises:
        StorageFailed: some snapshots may be gone from the pool, see `remake`; no origin stands still any more.
    """
    devices = [pair.device for pair in pairs]
    with explained("the volumes cannot be halted for an instant"), _watched(devices) as still:
        try:
            for device in devices:
                devicemapper.suspend(device)
            for pair in pairs:
                devicemapper.message(pool, f"delete {pair.snapshot}")
                devicemapper.message(pool, f"create_snap {pair.snapshot} {pair.origin}")
            if not still():
                raise StorageFailed(f"the volumes had to go on after {SECONDS} s", "try again with less load")
        finally:
            for device in devices:
                devicemapper.resume(device)


def remake(pool: str, number: int) -> None:
    """Put an empty volume where `retake` was killed between two steps, so that LVM can remove what it knows.

    Raises:
        StorageFailed: the kernel refuses.
    """
    with explained(f"volume {number} of {pool} cannot be made again"):
        try:
            devicemapper.message(pool, f"create_thin {number}")
        except OSError as error:
            if error.errno != errno.EEXIST:
                raise


@contextmanager
def _watched(devices: Sequence[str]) -> Iterator[Callable[[], bool]]:
    watch = shell.Child(["/bin/sh", "-c", _WATCH, "sh", str(SECONDS * 10), *devices], environment=shell.ENVIRONMENT)
    try:
        os.read(watch.stdout, 1)  # it is there
        yield lambda: watch.wait(0) is None
    finally:
        with suppress(ProcessLookupError):
            watch.signal(SIGKILL)
        watch.close()
