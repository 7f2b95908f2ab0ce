"""Who said that it mounts a volume. Hints only: the kernel is the truth, and no hint ever blocks anything.

Docker announces every mount with an ID. Its IDs come back (``docker cp`` mounts with a running container's own ID,
a killed dockerd mounts again with the old one), so what is kept is a count for each volume, ID and *instance* of the
client: the process that asked, told from a later one by its start time. A count of an instance that is gone is worth
something only while the kernel still shows a user of the volume. So is one that an earlier daemon noted: its end may
have been announced while no daemon ran.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
from msgspec import Struct, field

log = logging.getLogger(__name__)

CARRIED_SECONDS = 120.0  # for which a count of an earlier daemon is believed: its container may just be starting

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


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


def start_time(pid: int) -> int | None:
    """Return a process's start time in clock ticks since boot; None where there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The second field, the name, may hold blanks and brackets: count from its last bracket.
    return int(text.rpartition(b")")[2].split()[19])


def alive(client: Client) -> bool:
    """Tell whether that very process still runs."""
    return start_time(client.pid) == client.start


class Hold(Struct, kw_only=True):
    """The mounts that one client announced with one ID and has not ended."""

    holder: str
    client: Client | None
    count: int


class _File(Struct, kw_only=True):
    boot: str
    volumes: dict[str, list[Hold]] = field(default_factory=dict)


class Holders:
    """Counts of announced mounts, by volume identity. Thread-safe; changes are on disk at once, where they can be.

    Args:
        path: the file, in a directory that a reboot may empty. A reboot that does not is told by the boot's id.
        alive: whether a client's process still runs.
        boot: the id of this boot; the kernel's own where None.
    """

    def __init__(self, path: Path, *, alive: Callable[[Client], bool] = alive, boot: str | None = None) -> None:
        self._path = path
        self._alive = alive
        self._lock = threading.Lock()
        self._file = _File(boot=_BOOT_ID.read_text().strip() if boot is None else boot)
        self._carried: set[tuple[str, str, Client | None]] = set()
        self._loaded = time.monotonic()

    def load(self) -> None:
        """Read what an earlier daemon of this boot wrote. An unreadable file is worth nothing, and no obstacle."""
        try:
            found = msgspec.json.decode(self._path.read_bytes(), type=_File)
        except FileNotFoundError:
            return
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            log.warning(
                "%s: %s; mounts announced before are forgotten, those in use are seen anyway", self._path, error
            )
            return
        if found.boot == self._file.boot:
            with self._lock:
                self._file.volumes = found.volumes
                self._loaded = time.monotonic()
                self._carried = {
                    (volume_id, hold.holder, hold.client)
                    for volume_id, holds in found.volumes.items()
                    for hold in holds
                }

    def count(self, volume_id: str) -> int:
        """Return how many mounts of a volume were announced and not ended."""
        return sum(hold.count for hold in self._file.volumes.get(volume_id, ()))

    def add(self, volume_id: str, holder: str, client: Client | None) -> None:
        """Note a mount."""
        with self._lock:
            self._carried.discard((volume_id, holder, client))
            holds = self._file.volumes.setdefault(volume_id, [])
            for hold in holds:
                if hold.holder == holder and hold.client == client:
                    hold.count += 1
                    break
            else:
                holds.append(Hold(holder=holder, client=client, count=1))
            self._write()

    def drop(self, volume_id: str, holder: str, client: Client | None) -> None:
        """Note the end of a mount; nothing is known of it: nothing happens.

        The client's own count goes down first; else one with the same ID: a container that outlived its dockerd is
        stopped by the next one, and Podman ends in one process what it began in another.
        """
        with self._lock:
            holds = self._file.volumes.get(volume_id, [])
            same = [hold for hold in holds if hold.holder == holder]
            if not same:
                return
            chosen = next((hold for hold in same if hold.client == client), same[0])
            chosen.count -= 1
            self._keep(volume_id, [hold for hold in holds if hold.count > 0])
            self._write()

    def forget(self, volume_id: str) -> None:
        """Drop everything about a volume."""
        with self._lock:
            if self._file.volumes.pop(volume_id, None) is not None:
                self._write()

    def forget_gone(self, volume_id: str) -> None:
        """Drop the counts of clients that are gone; what another one announces just now stays."""
        with self._lock:
            holds = self._file.volumes.get(volume_id, [])
            left = [hold for hold in holds if not self._gone(hold)]
            if len(left) < len(holds):
                self._keep(volume_id, left)
                self._write()

    def orphaned(self, volume_id: str) -> bool:
        """Tell whether mounts are noted, and all of them by clients that are gone."""
        holds = list(self._file.volumes.get(volume_id, ()))
        return bool(holds) and all(self._gone(hold) for hold in holds)

    def drop_orphans(self, unused: Callable[[str], bool]) -> list[str]:
        """Drop the counts that nobody may end any more, for volumes that are unused by the kernel's account.

        These are the counts of clients that are gone, and after `CARRIED_SECONDS` those of an earlier daemon.

        Args:
            unused: whether the kernel shows no user of the volume with this identity.

        Returns:
            The identities of the volumes whose last counts were dropped.
        """
        freed, changed = [], False
        with self._lock:
            for volume_id, holds in list(self._file.volumes.items()):
                left = [hold for hold in holds if not self._gone(hold) and not self._expired(volume_id, hold)]
                if len(left) < len(holds) and unused(volume_id):
                    self._keep(volume_id, left)
                    changed = True
                    if not left:
                        freed.append(volume_id)
            if changed:
                self._write()
        return freed

    def _gone(self, hold: Hold) -> bool:
        # Without a client (the CLI, a test) nothing can tell that the holder is gone, so it is believed.
        return hold.client is not None and not self._alive(hold.client)

    def _expired(self, volume_id: str, hold: Hold) -> bool:
        carried = hold.client is not None and (volume_id, hold.holder, hold.client) in self._carried
        return carried and time.monotonic() - self._loaded >= CARRIED_SECONDS

    def _keep(self, volume_id: str, holds: list[Hold]) -> None:
        if holds:
            self._file.volumes[volume_id] = holds
        else:
            self._file.volumes.pop(volume_id, None)

    def _write(self) -> None:
        # Not synced: the file must outlive the daemon, not the machine; after a reboot it is not believed anyway.
        new = self._path.with_name(f"{self._path.name}.new")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            new.write_bytes(msgspec.json.encode(self._file))
            os.replace(new, self._path)
        except OSError as error:
            # No obstacle to a mount, and least of all to an unmount (G7): the next daemon sees who uses what anyway.
            log.warning("%s: %s; mounts are remembered until snapvol is restarted", self._path, error)
