"""Who has a pool open that lies on no directory in which a lock could be: one process at a time.

The lock lasts as long as a process holds the descriptor. Programs that change the storage are started with it
(`Claim.descriptor`, see `shell.run`), so that whoever opens the pool after a kill waits until those have ended too.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from snapvol.backends.failures import explained
from snapvol.errors import PoolUnavailable
from snapvol.names import volume_name

LOCKS = Path("/run/lock/snapvol")
_PATIENCE = 60.0  # seconds that programs may take which a killed daemon has left running
_PAUSE = 0.05


class Claim:
    """The right to change a pool.

    Args:
        pool: the pool's name, for messages.
        key: what the storage is called: two pools with one key are one pool.
        directory: where the locks are; emptied by a reboot.
    """

    def __init__(self, pool: str, key: str, directory: Path = LOCKS) -> None:
        self._pool = pool
        self._path = directory / volume_name(key)
        self.descriptor: int | None = None

    def take(self) -> None:
        """Take the lock. Held already: does nothing.

        Raises:
            PoolUnavailable: another process has it.
        """
        if self.descriptor is not None:
            return
        with explained(f"pool '{self._pool}' cannot be locked"):
            os.makedirs(self._path.parent, mode=0o700, exist_ok=True)
            lock = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                self._lock(lock)
                os.ftruncate(lock, 0)
                os.pwrite(lock, _process(os.getpid()).encode(), 0)
            except BaseException:
                os.close(lock)
                raise
        os.set_inheritable(lock, True)  # only programs that are told so keep it: see `shell.run`
        self.descriptor = lock

    def _lock(self, lock: int) -> None:
        end = time.monotonic() + _PATIENCE
        while True:
            try:
                return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                owner = os.pread(lock, 100, 0).decode("ascii", "replace")
                number = owner.partition(" ")[0]
                if number.isdigit() and _process(int(number)) == owner:
                    raise PoolUnavailable(
                        f"pool '{self._pool}' is open in another daemon (process {number})",
                        "stop it, or use another storage",
                    ) from error
                if time.monotonic() > end:
                    raise PoolUnavailable(
                        f"pool '{self._pool}': a program that a killed daemon had started still works on it",
                        f"look at: fuser -v {self._path}",
                    ) from error
            time.sleep(_PAUSE)

    def release(self) -> None:
        """Let go of the lock. Not held: does nothing."""
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None


def _process(number: int) -> str:
    """Return what tells the process from a later one with its number; empty where there is none."""
    try:
        facts = Path(f"/proc/{number}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    state, *rest = facts.rpartition(")")[2].split()
    return "" if state == "Z" else f"{number} {rest[18]}"  # field 22: when it began
