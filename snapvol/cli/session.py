"""What one run of the program knows: the global options, and from them the settings and the daemon's client."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from snapvol.client import Client
    from snapvol.settings import Settings


class Session:
    """One run.

    Args:
        config: the settings file, where one was named.
        socket: the daemon's admin socket, where one was named.
    """

    def __init__(self, config: Path | None = None, socket: Path | None = None) -> None:
        self.config = config
        self._socket = socket

    @cached_property
    def settings(self) -> Settings:
        """The effective settings. Raises `SettingsError`."""
        from snapvol.settings import load

        return load(self.config)

    @cached_property
    def socket(self) -> Path:
        """Where the daemon listens: as named, else as the settings say."""
        if self._socket is not None:
            return self._socket
        if os.environ.get("SNAPVOL_SOCKET"):
            return Path(os.environ["SNAPVOL_SOCKET"])
        from snapvol.settings import CONFIG_FILE, DaemonSettings

        named = self.config or os.environ.get("SNAPVOL_CONFIG") or os.environ.get("SNAPVOL_ROOT")
        if not named and CONFIG_FILE.exists() and not os.access(CONFIG_FILE, os.R_OK):
            # A member of the socket's group need not be allowed to read the settings.
            return DaemonSettings().api_socket
        return self.settings.daemon.api_socket

    @cached_property
    def client(self) -> Client:
        """The daemon."""
        return self.client_within(None)

    def client_within(self, seconds: float | None) -> Client:
        """Return the daemon, which must answer within ``seconds``."""
        from snapvol.client import Client

        return Client(self.socket, seconds)


pass_session = click.make_pass_decorator(Session, ensure=True)
