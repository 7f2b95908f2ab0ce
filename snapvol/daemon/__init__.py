"""The daemon's edge: Docker's volume plugin protocol, the admin API, sockets, housekeeping, start and stop.

The only asynchronous code of snapvol. Everything that may block runs in threads; what the plugin's Get, List and Path
answer comes from memory.
"""

from __future__ import annotations

from snapvol.settings import Settings


def run(settings: Settings) -> None:
    """Run the daemon until SIGTERM or SIGINT; returns after an orderly stop.

    Raises:
        InUse: another daemon serves this root or answers at one of the sockets.
        SnapvolError: it could not start; nothing is left behind.
    """
    from snapvol.daemon.server import run as serve  # aiohttp and apscheduler load only where a daemon runs

    serve(settings)
