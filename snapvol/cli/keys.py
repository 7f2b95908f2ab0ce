"""The passwords of a repository. A password comes from a file or the terminal, never from an option (T42)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from snapvol.cli import output
from snapvol.cli.access import Access, access_options, opened, prompted
from snapvol.cli.command import Entry, Group, command
from snapvol.cli.output import Column
from snapvol.cli.parameters import json_option, quiet_option
from snapvol.cli.session import Session, pass_session
from snapvol.errors import UsageError

if TYPE_CHECKING:
    from snapvol.repository.keys import KeyInfo


@command("add", "snapvol repo key add", "snapvol repo key add --new-password-file /media/usb/password")
@click.option(
    "--new-password-file", type=click.Path(path_type=Path), metavar="FILE", help="Its first line is the new password."
)
@access_options
@pass_session
def add(session: Session, access: Access, new_password_file: Path | None) -> None:
    """Let another password open the repository.

    It is asked for twice, or read from a file. The other passwords stay.
    """
    name, _ = access.resolve(session)
    with opened(session, access) as repository:
        print(repository.add_key(_new_password(name, new_password_file))[:8])


def _new_password(repository: str, file: Path | None) -> str:
    if file is not None:
        from snapvol.service.repositories import password
        from snapvol.settings import RepositorySettings

        return password(repository, RepositorySettings(url=repository, password_file=file))
    secret = prompted("New password: ", "no new password", "give it by --new-password-file FILE")
    if prompted("Once more: ", "", "") != secret:
        raise UsageError("the two passwords differ", "type the same one twice")
    return secret


@command("ls", "snapvol repo key ls")
@access_options
@json_option
@quiet_option
@pass_session
def ls(session: Session, access: Access, as_json: bool, quiet: bool) -> None:
    """List the keys of a repository.

    Each password has one. The recovery key is the one made by 'recovery'.
    """
    columns: tuple[Column[KeyInfo], ...] = (
        Column("ID", lambda key: key.id[:8]),
        Column("CREATED", lambda key: output.ago(key.created)),
        Column("BY", lambda key: key.username),
        Column("HOST", lambda key: key.hostname),
        Column("", lambda key: "in use now" if key.in_use else ""),
    )
    with opened(session, access) as repository:
        output.listing(repository.list_keys(), columns, as_json=as_json, quiet=quiet)


@command("rm", "snapvol repo key rm 1a2b3c4d", exits="0 removed, 3 no such key, 4 it is the last, or the one in use.")
@click.argument("key")
@access_options
@pass_session
def rm(session: Session, access: Access, key: str) -> None:
    """Take a password away.

    The password in use, and so the last one, is refused.
    """
    with opened(session, access) as repository:
        repository.remove_key(key)
    print(f"{key}: removed")


@command("confirm", "snapvol repo key confirm")
@access_options
@pass_session
def confirm(session: Session, access: Access) -> None:
    """Say that the recovery key is stored away from this machine.

    'snapvol doctor' then stops asking for it.
    """
    if access.direct:
        raise UsageError("only a configured repository's recovery key is asked for", "leave out --repository URL")
    name, _ = access.resolve(session)
    from snapvol.service.repositories import confirm_recovery_key

    confirm_recovery_key(session.settings, name)
    print(f"{name}: the recovery key is stored away")


key = Group(
    "key",
    help="Manage the passwords of a repository.\n\nAny of them opens it.",
    examples=("snapvol repo key ls", "snapvol repo key add"),
    sections={
        "Commands": {
            "add": Entry("keys", "Let another password open the repository."),
            "ls": Entry("keys", "List the keys of a repository."),
            "rm": Entry("keys", "Take a password away."),
            "confirm": Entry("keys", "Say that the recovery key is stored away from this machine."),
        }
    },
)
