"""systemd's conventions, each in a few lines: sockets that are handed over, news of readiness, and the watchdog."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable

from snapvol.errors import Refused

FIRST = 3  # sd_listen_fds(3): the first descriptor that is handed over


def handed_sockets() -> list[tuple[str, socket.socket]]:
    """Return the sockets that systemd listens on for us, each with its name there, and forget the variables.

    Programs that we start must not take them for their own.

    Raises:
        Refused: what is handed over is no socket.
    """
    pid, count = os.environ.pop("LISTEN_PID", ""), os.environ.pop("LISTEN_FDS", "")
    names = os.environ.pop("LISTEN_FDNAMES", "").split(":")
    if pid != str(os.getpid()) or not count.isdecimal():
        return []
    found = []
    for index in range(int(count)):
        name = names[index] if index < len(names) else ""
        try:
            os.set_inheritable(FIRST + index, False)
            found.append((name, socket.socket(fileno=FIRST + index)))
        except OSError as error:
            raise Refused(
                f"LISTEN_FDS promises {count} sockets, but descriptor {FIRST + index} is none: {error.strerror}",
                "start the daemon by its unit: systemctl start snapvol",
            ) from None
    return found


class Notifier:
    """Tells systemd how we are; does nothing where nobody listens."""

    def __init__(self) -> None:
        self._address = os.environ.pop("NOTIFY_SOCKET", "")
        pid, microseconds = os.environ.pop("WATCHDOG_PID", ""), os.environ.pop("WATCHDOG_USEC", "")
        ours = pid in ("", str(os.getpid())) and microseconds.isdecimal()
        self._watchdog_seconds = int(microseconds) / 1e6 if ours else 0.0

    def tell(self, news: str) -> None:
        """Send one state, such as ``READY=1``. A lost message is not worth dying for."""
        if not self._address:
            return
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as outlet:
                outlet.settimeout(1)
                outlet.sendto(news.encode(), address)
        except OSError:
            return

    async def beat(self, alive: Callable[[], bool]) -> None:
        """Tell the watchdog that we live, for as long as we do; for ever. Returns at once where there is none.

        It runs in the event loop, so that a loop which is stuck says nothing.

        Args:
            alive: asked each time; what it answers must not depend on one storage, which restarts do not mend.
        """
        while self._watchdog_seconds:
            if alive():
                self.tell("WATCHDOG=1")
            await asyncio.sleep(self._watchdog_seconds / 4)
