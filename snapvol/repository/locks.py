"""restic's lock protocol: a lock is an object that its holder writes anew every five minutes.

Many shared locks may be held together, an exclusive one only alone. Whoever takes one lists the locks, writes its own,
waits, and lists again. A lock that nobody refreshed for half an hour is stale: its holder died, or sleeps. A holder
that wakes again therefore has to find out that it is late before it writes anything that counts.
"""

from __future__ import annotations

import getpass
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Protocol

from msgspec import Struct

from snapvol.errors import Damaged, NotFound, RepositoryLocked, SnapvolError
from snapvol.model import now
from snapvol.repository import unpacked
from snapvol.repository.sealing import MasterKey
from snapvol.stores.base import Store

log = logging.getLogger(__name__)

REFRESH = 5 * 60.0  # seconds
RETRY = 30.0  # seconds after a refresh that failed
STALE = timedelta(minutes=30)
LATE = 25 * 60.0  # seconds without a refresh after which a holder must not rely on its lock
SETTLE = 0.2  # seconds in which two that lock at once come to see each other


class LockDocument(Struct, kw_only=True, omit_defaults=True):
    """A lock as the format has it."""

    time: datetime
    exclusive: bool = False
    hostname: str
    username: str = ""
    pid: int
    uid: int = 0
    gid: int = 0


class Clocks(Protocol):
    """The clocks by which a lock's age is measured."""

    def now(self) -> datetime:
        """Return the time of day."""

    def readings(self) -> tuple[float, ...]:
        """Return the seconds that different clocks show. One that stands still or jumps is not believed alone."""


class SystemClocks:
    """This machine's clocks: one that counts on in suspend, one that nobody sets, and the time of day."""

    def now(self) -> datetime:
        """See `Clocks.now`."""
        return now()

    def readings(self) -> tuple[float, ...]:
        """See `Clocks.readings`."""
        return time.monotonic(), time.clock_gettime(time.CLOCK_BOOTTIME), time.time()


class Lock:
    """A lock that is held.

    Attributes:
        exclusive: whether nobody else may hold one.
    """

    def __init__(self, store: Store, key: MasterKey, exclusive: bool, clocks: Clocks) -> None:
        self.exclusive = exclusive
        self._store = store
        self._key = key
        self._clocks = clocks
        self._mutex = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep_fresh, name="snapvol-lock", daemon=True)
        self._refreshed = clocks.readings()
        self.id = self._write()

    def check(self) -> None:
        """Make sure that nobody can have taken the lock for stale: to be asked before anything that counts is written.

        Raises:
            RepositoryLocked: the last refresh is more than 25 minutes ago, or somebody removed the lock.
        """
        with self._mutex:
            late = max(after - before for after, before in zip(self._clocks.readings(), self._refreshed, strict=True))
            if late > LATE:
                raise RepositoryLocked(
                    f"the lock on {self._store.location} was not refreshed for {late / 60:.0f} min",
                    "others may have changed the repository meanwhile: run it again",
                )
            try:
                self._store.size(f"locks/{self.id}")
            except NotFound:
                raise RepositoryLocked(
                    f"somebody removed the lock on {self._store.location}",
                    "others may have changed the repository meanwhile: run it again",
                ) from None

    def refresh(self) -> None:
        """Write the lock anew, then delete the old one.

        Raises:
            RepositoryLocked: it is too late for that, see `check`.
        """
        self.check()
        with self._mutex:
            old = self.id
            readings = self._clocks.readings()  # before the write: what others see is not younger than this
            self.id = self._write()
            self._refreshed = readings
            self._store.delete([f"locks/{old}"])

    def start(self) -> None:
        """Begin to refresh."""
        self._thread.start()

    def release(self) -> None:
        """Stop refreshing and delete the lock. A failure is only logged: the lock goes stale by itself."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        try:
            self._store.delete([f"locks/{self.id}"])
        except SnapvolError as error:
            log.warning("cannot remove lock %s: %s", self.id[:8], error)

    def _write(self) -> str:
        document = LockDocument(
            time=self._clocks.now(),
            exclusive=self.exclusive,
            hostname=socket.gethostname(),
            username=_user(),
            pid=os.getpid(),
            uid=os.getuid(),
            gid=os.getgid(),
        )
        return unpacked.write(self._store, self._key, "locks", document)

    def _keep_fresh(self) -> None:
        wait = REFRESH
        while not self._stop.wait(wait):
            try:
                self.refresh()
                wait = REFRESH
            except RepositoryLocked as error:
                log.error("%s", error)
                return  # check() says so to whoever relies on it
            except SnapvolError as error:
                log.warning("cannot refresh the lock on %s: %s", self._store.location, error)
                wait = RETRY


class NoLock(Lock):
    """What stands for a lock where the repository cannot or should not be written to: it allows reading only."""

    def __init__(self, location: str) -> None:
        self.exclusive = False
        self.id = ""
        self._location = location

    def check(self) -> None:
        """Refuse: nothing may be written.

        Raises:
            RepositoryLocked: always.
        """
        raise RepositoryLocked(f"{self._location} is open for reading without a lock", "leave out --no-lock to write")


@contextmanager
def held(
    store: Store, key: MasterKey, *, exclusive: bool, wait: float = 0.0, clocks: Clocks | None = None
) -> Iterator[Lock]:
    """Hold a lock.

    Args:
        store: where the repository lies.
        key: its key.
        exclusive: whether nobody else may hold one.
        wait: seconds to wait for others.
        clocks: the machine's own by default.

    Raises:
        RepositoryLocked: somebody else holds a lock that excludes this one.
    """
    _survive_hangup()
    lock = _acquire(store, key, exclusive, wait, clocks or SystemClocks())
    try:
        lock.start()
        yield lock
    finally:
        lock.release()


def _survive_hangup() -> None:
    """Stock restic tries whether a lock's holder on its machine lives by sending it SIGHUP, which would end us."""
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_DFL:
        return
    if threading.current_thread() is threading.main_thread():
        # A handler rather than SIG_IGN, which the programs that this process runs would inherit.
        signal.signal(signal.SIGHUP, lambda number, frame: None)
    else:
        log.warning("SIGHUP ends this process, and a stock restic on this machine sends it to holders of locks")


def _acquire(store: Store, key: MasterKey, exclusive: bool, wait: float, clocks: Clocks) -> Lock:
    deadline = time.monotonic() + wait
    while True:
        try:
            _refuse(store, key, exclusive, clocks, own="")
            lock = Lock(store, key, exclusive, clocks)
            try:
                time.sleep(SETTLE)
                _refuse(store, key, exclusive, clocks, own=lock.id)
            except BaseException:
                lock.release()
                raise
            return lock
        except RepositoryLocked:
            if time.monotonic() >= deadline:
                raise
            time.sleep(min(5.0, max(0.1, deadline - time.monotonic())))


def others(store: Store, key: MasterKey, own: str = "") -> Iterator[tuple[str, LockDocument | None]]:
    """Yield every lock but ``own`` with its id; None for one that cannot be read."""
    for entry in list(store.list("locks/")):
        name = entry.name.removeprefix("locks/")
        if name == own:
            continue  # it need not be read: a request less
        try:
            yield name, unpacked.read(store, key, entry.name, LockDocument, entry.size)
        except NotFound:
            continue  # released or refreshed since it was listed
        except Damaged:
            yield name, None


def is_stale(lock: LockDocument, clocks: Clocks) -> bool:
    """Say whether the holder of ``lock`` cannot be at work: silent for half an hour, or dead on this machine."""
    return clocks.now() - lock.time > STALE or is_dead(lock)


def is_dead(lock: LockDocument) -> bool:
    """Say whether the holder of ``lock`` was a process on this machine that has ended: no clock can make this wrong."""
    if lock.hostname != socket.gethostname():
        return False
    try:
        os.kill(lock.pid, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False  # it lives and is somebody else's
    return False


def remove(store: Store, key: MasterKey, *, everything: bool = False, clocks: Clocks | None = None) -> int:
    """Remove stale locks, or all of them, and return how many."""
    clocks = clocks or SystemClocks()
    names = [name for name, lock in others(store, key) if everything or (lock is not None and is_stale(lock, clocks))]
    store.delete([f"locks/{name}" for name in names])
    return len(names)


def shared(store: Store, key: MasterKey, own: str) -> bool:
    """Say whether anybody else may hold a lock. One that is old counts: by a wrong clock every lock is."""
    return any(lock is None or not is_dead(lock) for _, lock in others(store, key, own))


def _refuse(store: Store, key: MasterKey, exclusive: bool, clocks: Clocks, own: str) -> None:
    for name, lock in others(store, key, own):
        if lock is None:
            raise RepositoryLocked(
                f"lock {name[:8]} on {store.location} cannot be read",
                "if nobody works there: snapvol repo unlock --all",
            )
        if (exclusive or lock.exclusive) and not is_stale(lock, clocks):
            kind = "exclusively " if lock.exclusive else ""
            since = lock.time.isoformat(timespec="seconds")
            raise RepositoryLocked(
                f"{store.location} is {kind}locked by process {lock.pid} on {lock.hostname} since {since}",
                "wait for it; after a crash: snapvol repo unlock",
            )


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # an account without a name
        return str(os.getuid())
