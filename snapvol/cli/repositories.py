"""Repositories: make, unlock, and the group of all that is done with one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from snapvol.cli import output
from snapvol.cli.access import Access, access_options, opened, prompted
from snapvol.cli.command import Entry, Group, command
from snapvol.cli.session import Session, pass_session
from snapvol.errors import UsageError

if TYPE_CHECKING:
    from snapvol.settings import RepositorySettings


@command(
    "init",
    "snapvol repo init                      # the repository of the settings",
    "snapvol repo init --repository offsite",
    "snapvol repo init --repository s3://backups/host1 --endpoint https://s3.example.com --password-file F",
    exits="0 made, 2 wrong settings, 4 there is one already, 5 its storage does not answer.",
)
@access_options
@pass_session
def init(session: Session, access: Access) -> None:
    """Make a repository and print its recovery key.

    Where its password file does not exist, a password is made up and written there. The recovery key is a second
    password, and it is shown this once: without a password that is kept away from this machine nobody can read the
    backups when the machine is gone.
    """
    name, settings = access.resolve(session)
    if access.url is None:
        import msgspec

        from snapvol.service.repositories import initialise

        # What the flags add holds for this command only.
        chosen = {**session.settings.repositories, name: settings}
        made = initialise(msgspec.structs.replace(session.settings, repositories=chosen), name)
        print(f"made repository {made.id[:8]} at {made.location}")
        print(f"password: {'made up, ' if made.password_made else ''}in {made.password_file}")
        _explain(made.recovery_key, "then say: snapvol repo key confirm")
    else:
        _create(name, settings)


def _create(name: str, settings: RepositorySettings) -> None:
    from snapvol.repository import Repository
    from snapvol.service.repositories import password
    from snapvol.stores import open_store

    if settings.password_file is not None:
        secret = password(name, settings)
    else:
        secret = prompted(f"New password for {name}: ", f"no password for {name}", "give it by --password-file FILE")
        if prompted("Once more: ", "", "") != secret:
            raise UsageError("the two passwords differ", "type the same one twice")
    repository, recovery_key = Repository.create(open_store(settings), secret)
    with repository:
        print(f"made repository {repository.id[:8]} at {repository.store.location}")
    _explain(recovery_key, "it is not shown again")


def _explain(recovery_key: str, then: str) -> None:
    print()
    print(f"    recovery key: {recovery_key}")
    print()
    print("It opens the repository when this machine and its password file are lost. Store it in a password manager")
    print(f"or on paper, away from this machine; {then}.")


@command("unlock", "snapvol repo unlock", "snapvol repo unlock --all")
@click.option("--all", "everything", is_flag=True, help="The locks of living holders too: only where none is at work.")
@access_options
@pass_session
def unlock(session: Session, access: Access, everything: bool) -> None:
    """Remove locks whose holders are gone.

    A lock that was not refreshed for half an hour, or whose process is dead, does not stop others anyway; this tidies
    up. --all takes a lock from a backup that is running: it then fails.
    """
    with opened(session, access) as repository:
        print(f"{output.count(repository.unlock(everything), 'lock')} removed")


repo = Group(
    "repo",
    help="Make, check, prune, copy, mend and unlock repositories, and manage their keys.\n\n"
    "All of it works without a daemon. Repositories are in restic's format: stock restic can do the same to them.",
    examples=("snapvol repo init", "snapvol repo check", "snapvol repo prune --dry-run"),
    sections={
        "Commands": {
            "init": Entry("repositories", "Make a repository and print its recovery key."),
            "check": Entry("checks", "Look for damage in a repository, and name the backups that it hits."),
            "prune": Entry("pruning", "Free the space of what no backup needs any more."),
            "stats": Entry("statistics", "Show what the space of a repository goes to."),
            "copy": Entry("copying", "Copy backups to another repository, which gets only what it does not have."),
            "repair": Entry("repairs", "Mend a repository in which 'snapvol repo check' found damage."),
            "unlock": Entry("repositories", "Remove locks whose holders are gone."),
            "key": Entry("keys", "Manage the passwords of a repository."),
        }
    },
)
