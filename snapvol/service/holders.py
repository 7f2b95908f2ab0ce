"""Who said that it mounts a volume. Hints only: the kernel is the truth, and no hint ever blocks anything.

Docker announces every mount with an ID. Its IDs come back (``docker cp`` mounts with a running container's own ID,
a killed dockerd mounts again with the old one), so what is kept is a count for each volume, ID and *instance* of the
client: the process that asked, told from a later one by its start time. A count of an instance that is gone is worth
something only while the kernel still shows a user of the volume.
"""

from __future__ import annotations

from msgspec import Struct


class Client(Struct, frozen=True, kw_only=True):
    """The process on the other side of a socket (``SO_PEERCRED``).

    Attributes:
        pid: its process id.
        start: its start time in clock ticks since boot (field 22 of ``/proc/PID/stat``): tells it from a later
            process with the same pid.
        program: its name (``/proc/PID/comm``).
    """

    pid: int
    start: int
    program: str = ""
