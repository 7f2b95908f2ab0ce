"""What is in a backup, without restoring it. Needs no daemon, only the repository."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click

from snapvol.cli import output
from snapvol.cli.access import Access, access_options
from snapvol.cli.command import command
from snapvol.cli.output import Column
from snapvol.cli.parameters import BACKUP, json_option
from snapvol.cli.session import Session, pass_session

if TYPE_CHECKING:
    from snapvol.cli.direct import FileInfo


@command("files", "snapvol files wiki", "snapvol files wiki@2026-11-20T03:00 /uploads -l", "snapvol files -r 1a2b3c4d")
@click.argument("backup", type=BACKUP)
@click.argument("path", required=False, default="/", metavar="[PATH]")
@click.option("-r", "--recursive", is_flag=True, help="What is in its directories too.")
@click.option("-l", "--long", "long_", is_flag=True, help="Modes, owners, sizes and times too.")
@access_options
@json_option
@pass_session
def files(
    session: Session, backup: str, path: str, recursive: bool, long_: bool, access: Access, as_json: bool
) -> None:
    r"""List the files in a backup.

    BACKUP is an ID, a VOLUME (its newest backup) or VOLUME@TIME. Bytes that are not printable show as \xNN.
    """
    from snapvol.cli import direct

    found = direct.files(session, access, backup, os.fsencode(path), recursive=recursive)
    if as_json:
        output.print_json(list(found))
    elif long_:
        output.listing(list(found), _long_columns())
    else:
        for file in found:
            print(output.printable(_name(file)))


def _name(file: FileInfo) -> str:
    return f"{file.path}/" if file.type == "dir" else file.path


def _target(file: FileInfo) -> str:
    return f"{_name(file)} -> {file.target}" if file.target is not None else _name(file)


def _long_columns() -> tuple[Column[FileInfo], ...]:
    return (
        Column("MODE", lambda file: f"{file.mode:04o}"),
        Column("OWNER", lambda file: f"{file.uid}:{file.gid}"),
        Column("SIZE", lambda file: "-" if file.size is None else str(file.size), right=True),
        Column("MODIFIED", lambda file: file.mtime),
        Column("TYPE", lambda file: file.type),
        Column("NAME", _target),
    )


@command("cat", "snapvol cat wiki /LocalSettings.php", "snapvol cat 1a2b3c4d /dump.sql.gz | gunzip | less")
@click.argument("backup", type=BACKUP)
@click.argument("path")
@access_options
@pass_session
def cat(session: Session, backup: str, path: str, access: Access) -> None:
    """Write a file of a backup to standard output.

    Every piece is checked before it is written.
    """
    from snapvol.cli import direct

    for piece in direct.cat(session, access, backup, os.fsencode(path)):
        sys.stdout.buffer.write(piece)
    sys.stdout.buffer.flush()
