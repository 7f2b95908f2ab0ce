"""Looking at one thing whole."""

from __future__ import annotations

import re

import click

from snapvol.api import BackupInfo, SnapshotInfo, VolumeInfo
from snapvol.cli import output
from snapvol.cli.command import command
from snapvol.cli.parameters import BACKUP
from snapvol.cli.session import Session, pass_session
from snapvol.client import Client
from snapvol.errors import NotFound, UsageError
from snapvol.names import split_snapshot, volume_name

_ID = re.compile(r"[0-9a-f]{4,64}\Z")


@command("inspect", "snapvol inspect wiki", "snapvol inspect wiki@before", "snapvol inspect 1a2b3c4d | jq .host")
@click.argument("object", type=BACKUP, metavar="OBJECT")
@click.option("--repository", metavar="NAME", help="Where to look for a backup; the default repository otherwise.")
@click.option("--measure", is_flag=True, help="Find out anew what the volume takes; may take long.")
@click.option("--json", is_flag=True, expose_value=False, help="What it prints anyway.")
@pass_session
def inspect(session: Session, object: str, repository: str | None, measure: bool) -> None:
    """Show a volume, a snapshot or a backup whole, as JSON.

    OBJECT is VOLUME, VOLUME@SNAPSHOT, or the beginning of a backup's ID. A volume goes before a backup.
    """
    output.print_json(_found(session.client, object, repository, measure))


def _found(client: Client, text: str, repository: str | None, measure: bool) -> VolumeInfo | SnapshotInfo | BackupInfo:
    if "@" in text:
        volume, name = split_snapshot(text)
        for snapshot in client.snapshots(volume):
            if snapshot.name == name:
                return snapshot
        raise NotFound(f"snapshot '{text}' does not exist", f"see: snapvol snapshots {volume}")
    try:
        return client.volume(volume_name(text), measure=measure)
    except NotFound:
        if not _ID.match(text):
            raise
    backups = [backup for backup in client.backups(repository=repository) if backup.id.startswith(text)]
    if len(backups) > 1:
        raise UsageError(f"'{text}' begins the IDs of {len(backups)} backups", "write more of it")
    if not backups:
        raise NotFound(f"no volume or backup is called '{text}'", "see: snapvol ls, snapvol backups")
    return backups[0]
