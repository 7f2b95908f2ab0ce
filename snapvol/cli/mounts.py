"""Mounting without Docker."""

from __future__ import annotations

import click

from snapvol.cli.command import command
from snapvol.cli.parameters import VOLUME
from snapvol.cli.session import Session, pass_session

HOLDER = "cli"

id_option = click.option("--id", "holder", default=HOLDER, show_default=True, help="On whose behalf; any word.")


@command("mount", "ls $(snapvol mount wiki)", "snapvol mount wiki --id backup-script")
@click.argument("volume", type=VOLUME)
@id_option
@pass_session
def mount(session: Session, volume: str, holder: str) -> None:
    """Mount a volume without Docker and print where.

    It stays mounted until 'snapvol unmount', or until the machine restarts. This alone keeps nobody from removing
    the volume or taking it back to a snapshot, which containers and mounts made by hand do.
    """
    print(session.client.mount(volume, holder))


@command("unmount", "snapvol unmount wiki")
@click.argument("volume", type=VOLUME)
@id_option
@pass_session
def unmount(session: Session, volume: str, holder: str) -> None:
    """Undo a mount and print where it was.

    Containers that use the volume keep it mounted.
    """
    where = session.client.volume(volume).mountpoint
    session.client.unmount(volume, holder)
    print(where)
