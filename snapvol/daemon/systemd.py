"""systemd's two conventions, each in a few lines: sockets that are handed over, and news of readiness."""

from __future__ import annotations

import os
import socket

FIRST = 3  # sd_listen_fds(3): the first descriptor that is handed over


def handed_sockets() -> list[tuple[str, socket.socket]]:
    """Return the sockets that systemd listens on for us, each with its name there, and forget the variables.

    Programs that we start must not take them for their own.
    """
    pid, count = os.environ.pop("LISTEN_PID", ""), os.environ.pop("LISTEN_FDS", "")
    names = os.environ.pop("LISTEN_FDNAMES", "").split(":")
    if pid != str(os.getpid()) or not count.isdecimal():
        return []
    found = []
    for index in range(int(count)):
        os.set_inheritable(FIRST + index, False)
        name = names[index] if index < len(names) else ""
        found.append((name, socket.socket(fileno=FIRST + index)))
    return found


class Notifier:
    """Tells systemd how we are; does nothing where nobody listens."""

    def __init__(self) -> None:
        self._address = os.environ.pop("NOTIFY_SOCKET", "")

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
