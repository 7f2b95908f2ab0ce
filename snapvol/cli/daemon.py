"""Running the daemon."""

from __future__ import annotations

from pathlib import Path

import click

from snapvol.cli.command import command
from snapvol.cli.parameters import pairs
from snapvol.cli.session import Session, pass_session

LEVELS = ["debug", "info", "warning", "error"]


@command(
    "daemon",
    "snapvol daemon                                  # as systemd does",
    "SNAPVOL_ROOT=$HOME/trial snapvol daemon         # without root",
    "snapvol daemon --set daemon.jobs=4 --log-level debug",
    exits="0 stopped in an orderly way, 1 failed, 2 the settings are wrong, 4 a daemon runs already.",
)
@click.option("--config", type=click.Path(path_type=Path), metavar="FILE", help="Settings file.")
@click.option(
    "--set", "flags", multiple=True, metavar="KEY=VALUE", help="A setting, over file and environment; repeatable."
)
@click.option("--log-level", type=click.Choice(LEVELS), help="How much to log; info without it.")
@pass_session
def daemon(session: Session, config: Path | None, flags: tuple[str, ...], log_level: str | None) -> None:
    """Run the daemon.

    It serves Docker's volume plugin protocol and the socket that the other commands talk to, and logs to standard
    error. SIGTERM or Ctrl-C stops it; volumes that are in use stay mounted.
    """
    from snapvol.daemon import run
    from snapvol.settings import load

    given = pairs(flags, "setting")
    if log_level is not None:
        given["daemon.log_level"] = log_level
    run(load(config or session.config, flags=given))
