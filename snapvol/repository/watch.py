"""Who else is at work, for whoever deletes: a lock that looks old may only be one that a wrong clock dated."""

from __future__ import annotations

import time
from collections.abc import Callable

from snapvol.errors import RepositoryLocked
from snapvol.repository import locks
from snapvol.repository.locks import Lock, LockDocument
from snapvol.repository.sealing import MasterKey
from snapvol.stores.base import Store

QUIET = locks.LATE + 60.0  # seconds after which a holder that could not write its lock anew does not rely on it


class Watch:
    """Sees the locks of others over time (T29).

    A lock's age is the difference of two machines' clocks, and by one that is a day off every lock is stale. Here
    one counts as dead only when its process on this machine is, or when it was seen for so long that its holder, were
    it alive, would have replaced it.

    Args:
        store: where the repository lies.
        key: its key.
        clock: seconds that nobody sets.
    """

    def __init__(self, store: Store, key: MasterKey, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._key = key
        self._clock = clock
        self._first_seen: dict[str, float] = {}

    def look(self) -> list[tuple[str, LockDocument | None]]:
        """Note which locks there are now, and return them with their ids."""
        at = self._clock()
        found = list(locks.others(self._store, self._key))
        self._first_seen = {name: self._first_seen.get(name, at) for name, _ in found}
        return found

    def others(self, own: Lock | None = None) -> list[tuple[str, LockDocument | None]]:
        """Return all locks but ``own`` that are not known to be a dead one's.

        Raises:
            RepositoryLocked: ``own`` is late or gone.
        """
        names = set() if own is None else {own.id}
        found = self.look()
        if own is not None:
            own.check()  # waits for a refresh that is under way, which writes a lock of another name
            names.add(own.id)
        quiet = self._clock() - QUIET
        recent = [(name, lock) for name, lock in found if name not in names and self._first_seen[name] > quiet]
        return [(name, lock) for name, lock in recent if lock is None or not locks.is_dead(lock)]

    def refuse_others(self, own: Lock) -> None:
        """Make sure that ``own`` holds and that nobody else is at work.

        Raises:
            RepositoryLocked: it does not, or somebody may be.
        """
        for name, lock in self.others(own):
            raise RepositoryLocked(*self.explained(name, lock))

    def explained(self, name: str, lock: LockDocument | None) -> tuple[str, str]:
        """Return what to say of a lock that is in the way, and what to do."""
        holder = "somebody" if lock is None else f"process {lock.pid} on {lock.hostname}"
        return (
            f"{self._store.location} is locked by {holder} ({name[:8]}), which may be at work",
            "wait for it: --wait 30m; if it is gone: snapvol repo unlock",
        )
