"""Who may work on which volume now. One operation at a time on each volume, never one for all.

A claim takes all its volumes at once or waits with none, so two claims cannot block each other for ever, and nobody
waits longer than a few seconds without being told what is in the way.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from snapvol.errors import InUse

WAIT = 4.0  # seconds: Podman gives up after 5


class _Claim:
    """An operation in progress: what it does, since when, and whether mounts may go on beside it."""

    def __init__(self, doing: str, mountable: bool) -> None:
        self.doing = doing
        self.mountable = mountable
        self.since = time.monotonic()


class Locks:
    """The claims on volumes, by name. A claim belongs to no thread: it may be given up by another one.

    Args:
        wait: seconds that a claim waits for operations in progress, where it does not say otherwise.
    """

    def __init__(self, wait: float = WAIT) -> None:
        self.wait = wait
        self._changed = threading.Condition()
        self._claims: dict[str, _Claim] = {}
        self._mounts: dict[str, _Claim] = {}

    @contextmanager
    def volumes(
        self, *names: str, doing: str = "another operation", wait: float | None = None, mountable: bool = False
    ) -> Iterator[None]:
        """Claim volumes, existing or about to exist, for one operation.

        Args:
            names: all of them; none twice needed, any order.
            doing: what others are told meanwhile: "removal", "restore job 12 …".
            wait: seconds to wait for operations in progress; see above where None.
            mountable: mount and unmount may go on meanwhile: for what only reads the volume's contents.

        Raises:
            InUse: an operation on one of them is still running after ``wait``.
        """
        wanted = dict.fromkeys(names)
        claim = _Claim(doing, mountable)
        self._await(
            lambda: self._obstacle(wanted, mountable), wait, lambda: self._claims.update(dict.fromkeys(wanted, claim))
        )
        try:
            yield
        finally:
            self._free(self._claims, wanted)

    @contextmanager
    def mounting(self, name: str, *, wait: float | None = None) -> Iterator[None]:
        """Claim a volume for a mount or unmount: beside readers of its contents, never beside another mount.

        Raises:
            InUse: what excludes it is still running after ``wait``.
        """
        claim = _Claim("a mount or unmount", True)
        self._await(lambda: self._mount_obstacle(name), wait, lambda: self._mounts.update({name: claim}))
        try:
            yield
        finally:
            self._free(self._mounts, {name: None})

    def doing(self, name: str) -> str | None:
        """Return what is being done to a volume now; None for nothing."""
        claim = self._claims.get(name)
        return claim.doing if claim else None

    def _obstacle(self, names: dict[str, None], mountable: bool) -> tuple[str, _Claim] | None:
        for name in names:
            claim = self._claims.get(name) or (None if mountable else self._mounts.get(name))
            if claim:
                return name, claim
        return None

    def _mount_obstacle(self, name: str) -> tuple[str, _Claim] | None:
        claim = self._mounts.get(name)
        if claim is None:
            claim = self._claims.get(name)
            if claim is not None and claim.mountable:
                return None
        return (name, claim) if claim else None

    def _await(
        self, obstacle: Callable[[], tuple[str, _Claim] | None], wait: float | None, take: Callable[[], None]
    ) -> None:
        with self._changed:
            self._changed.wait_for(lambda: obstacle() is None, timeout=self.wait if wait is None else wait)
            found = obstacle()
            if found is not None:
                name, claim = found
                seconds = time.monotonic() - claim.since
                raise InUse(
                    f"another operation on '{name}' is running: {claim.doing}, for {seconds:.0f} s",
                    "try again when it has ended",
                )
            take()

    def _free(self, claims: dict[str, _Claim], names: dict[str, None]) -> None:
        with self._changed:
            for name in names:
                del claims[name]
            self._changed.notify_all()
