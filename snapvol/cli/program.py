"""The program: its global options, where its commands are, and the one place that turns errors into exit codes."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from snapvol import __version__
from snapvol.cli.command import Entry, Group
from snapvol.cli.session import Session
from snapvol.errors import SnapvolError

SECTIONS = {
    "Every day": {
        "status": Entry("reports", "Show what is protected, what would be lost now, and what needs attention."),
        "ls": Entry("volumes", "List the volumes."),
        "inspect": Entry("inspection", "Show a volume, a snapshot or a backup whole, as JSON."),
        "log": Entry("volumes", "Show what happened to a volume."),
    },
    "Volumes": {
        "create": Entry("creation", "Create a volume: empty, from a snapshot or from a backup."),
        "clone": Entry("creation", "Create a volume from a snapshot, or from another volume as it is now."),
        "rm": Entry("volumes", "Move volumes to the trash, or destroy snapshots."),
        "rename": Entry("volumes", "Give a volume another name."),
        "resize": Entry("volumes", "Change a volume's size."),
        "set": Entry("volumes", "Change a volume's options."),
        "mount": Entry("mounts", "Mount a volume without Docker and print where."),
        "unmount": Entry("mounts", "Undo a mount and print where it was."),
    },
    "Snapshots": {
        "snapshot": Entry("snapshots", "Take a snapshot of volumes, of all at one instant."),
        "snapshots": Entry("snapshots", "List the snapshots."),
        "diff": Entry("snapshots", "Show which files differ between two points in time."),
        "rollback": Entry("snapshots", "Take a volume back to a snapshot."),
        "hold": Entry("snapshots", "Keep a snapshot from being removed."),
        "release": Entry("snapshots", "Take a hold away."),
    },
    "Backups": {
        "backup": Entry("backups", "Back volumes or snapshots up."),
        "backups": Entry("backups", "List the backups."),
        "restore": Entry("restores", "Restore a backup: as a volume, in place, or into a directory."),
        "files": Entry("contents", "List the files in a backup."),
        "cat": Entry("contents", "Write a file of a backup to standard output."),
        "verify": Entry("backups", "Read backups whole and check every byte."),
        "forget": Entry("backups", "Take backups out of their repository."),
        "repo": Entry("repositories", "Make, check, prune, copy, mend and unlock repositories, and manage their keys."),
    },
    "Trash": {
        "trash": Entry("trash", "List the removed volumes that can still be brought back."),
        "undelete": Entry("trash", "Bring a removed volume back."),
        "empty-trash": Entry("trash", "Remove what is in the trash for good."),
    },
    "Jobs": {
        "jobs": Entry("jobs", "List the jobs."),
        "job": Entry("jobs", "Show, wait for, cancel or retry a job."),
    },
    "The installation": {
        "daemon": Entry("daemon", "Run the daemon."),
        "doctor": Entry("reports", "Look for what is wrong with this installation."),
        "notify": Entry("notifications", "See who is told what needs attention, and try it."),
        "config": Entry("reports", "Show the effective settings and where each came from."),
        "completion": Entry("completion", "Print the script that completes commands and names in a shell."),
    },
}


def _options(ctx: click.Context, config: Path | None, socket: Path | None) -> None:
    ctx.obj = Session(config, socket)


FILE = click.Path(path_type=Path)

program = Group(
    "snapvol",
    sections=SECTIONS,
    examples=(
        "snapvol create wiki                    # or: docker volume create -d snapvol wiki",
        "snapvol snapshot wiki -n before        # an undo for the next hour",
        "snapvol rollback wiki@before",
        "snapvol repo init; snapvol backup wiki # a copy that outlives this machine",
        "snapvol status",
    ),
    help="Docker volumes with snapshots, and backups that outlive the tool that made them.\n\n"
    "'snapvol COMMAND --help' explains a command and shows how it is used.",
    callback=click.pass_context(_options),
    context_settings={"help_option_names": ["-h", "--help"]},
    params=[
        click.Option(["--config"], type=FILE, metavar="FILE", help="Settings file. [env: SNAPVOL_CONFIG]"),
        click.Option(["--socket"], type=FILE, metavar="PATH", help="The daemon's socket. [env: SNAPVOL_SOCKET]"),
    ],
)
program = click.version_option(__version__, message="snapvol %(version)s")(program)


def run(arguments: Sequence[str]) -> int:
    """Run the program and return its exit status; every expected failure is one line on standard error."""
    try:
        result = program.main(list(arguments), prog_name="snapvol", standalone_mode=False)
        sys.stdout.flush()
    except SnapvolError as error:
        return _fail(str(error), error.exit_code)
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message(), file=sys.stderr)
        return error.exit_code
    except click.ClickException as error:
        return _fail(_usage(error), error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        return _fail("interrupted", 1)
    except BrokenPipeError:
        # Whoever read our output has seen enough. Python flushes again at exit, to nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return result if isinstance(result, int) else 0


def _fail(message: str, code: int) -> int:
    from snapvol.cli import output

    output.note(" ".join(message.split()))
    return code


def _usage(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    message = _complaint(error)
    if context is None:
        return message
    path = context.command_path.removeprefix("snapvol").strip()
    message = f"{path}: {message}" if path else message
    return message if ";" in message else f"{message}; see: {context.command_path} --help"


def _complaint(error: click.ClickException) -> str:
    if isinstance(error, click.NoSuchOption):
        message = f"no such option '{error.option_name}'"
        if error.option_name in ("--config", "--socket", "--version"):
            return f"{message}; write it before the command: snapvol {error.option_name} …"
        return f"{message}; did you mean '{error.possibilities[0]}'?" if error.possibilities else message
    if isinstance(error, click.BadParameter) and not isinstance(error, click.MissingParameter) and error.param:
        name = error.param.opts[-1] if isinstance(error.param, click.Option) else error.param.human_readable_name
        return f"{name if name.startswith('-') else str(error.param.name).upper()}: {error.message.rstrip('.')}"
    message = error.format_message().rstrip(".")
    return f"{message[0].lower()}{message[1:]}"
