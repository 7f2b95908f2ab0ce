"""Backups: make, list, verify, forget."""

from __future__ import annotations

import click

from snapvol.api import BackupInfo, JobInfo, Plan
from snapvol.cli import output, waiting
from snapvol.cli.access import Access, access_options
from snapvol.cli.command import command
from snapvol.cli.output import Column
from snapvol.cli.parameters import (
    BACKUP,
    OBJECT,
    VOLUME,
    ObjectRef,
    detach_option,
    dry_run_option,
    json_option,
    quiet_option,
    yes_option,
)
from snapvol.cli.session import Session, pass_session
from snapvol.errors import DaemonUnreachable, Damaged, SnapvolError, UsageError


def _remark(backup: BackupInfo) -> str:
    if backup.incomplete:
        return "incomplete"
    return "" if backup.volume is not None else f"not made by snapvol: {' '.join(backup.tags)}".rstrip(": ")


def _files(backup: BackupInfo) -> str:
    if backup.kind == "image":
        return "image"
    return "-" if backup.files is None else str(backup.files)


BACKUP_COLUMNS = (
    Column[BackupInfo]("ID", lambda backup: backup.id[:8]),
    Column[BackupInfo]("VOLUME", lambda backup: backup.volume or "-"),
    Column[BackupInfo]("MADE", lambda backup: output.ago(backup.time)),
    Column[BackupInfo]("TIME", lambda backup: output.exactly(backup.time)),
    Column[BackupInfo]("HOST", lambda backup: backup.host),
    Column[BackupInfo]("REPOSITORY", lambda backup: backup.repository),
    Column[BackupInfo]("SIZE", lambda backup: output.size(backup.size), right=True),
    Column[BackupInfo]("FILES", _files, right=True),
    Column[BackupInfo]("", _remark),
)

BACKUP_COLUMNS_OF_ONE = tuple(column for column in BACKUP_COLUMNS if column.title != "REPOSITORY")


@command(
    "backup",
    "snapvol backup wiki",
    "snapvol backup wiki@before db",
    "snapvol backup --all",
    exits="0 done, 1 failed or incomplete, 3 no such volume, 4 busy or locked, 5 daemon or repository unreachable.",
)
@click.argument("objects", type=OBJECT, nargs=-1, metavar="VOLUME[@SNAPSHOT]...")
@click.option("--all", "every", is_flag=True, help="All volumes.")
@click.option(
    "--repository", metavar="NAME", help="A configured repository; each volume's own, or the default, without."
)
@detach_option
@json_option
@pass_session
def backup(
    session: Session, objects: tuple[ObjectRef, ...], every: bool, repository: str | None, detach: bool, as_json: bool
) -> None:
    """Back volumes or snapshots up.

    A volume is snapshotted and the snapshot backed up; it stays in use. What the repository has already is not
    uploaded again. A file that cannot be read makes the backup incomplete: it is kept, marked, and the command fails.

    Ctrl-C cancels. What was uploaded by then is used by the next backup.
    """
    if every == bool(objects):
        raise UsageError("name volumes, or say --all", "snapvol backup VOLUME…, or: snapvol backup --all")
    jobs = session.client.back_up([str(each) for each in objects], every=every, repository=repository)
    if not jobs and not as_json:
        output.note("there is nothing to back up: no volumes")
    waiting.settle(session.client, jobs, detach=detach, as_json=as_json, done=_backed_up)


def _backed_up(job: JobInfo) -> str:
    what = f"backup {job.result['id'][:8]} of {job.object}"
    if job.result.get("incomplete"):
        problems = output.count(len(job.result["problems"]), "problem")
        raise SnapvolError(f"{what} is incomplete: {problems}", f"see: snapvol job show {job.id}")
    return f"{what}: {waiting.figures(job)}"


@command("backups", "snapvol backups wiki", "snapvol backups --repository s3://backups/host1 --password-file F")
@click.argument("volume", type=VOLUME, required=False)
@access_options
@json_option
@quiet_option
@pass_session
def backups(session: Session, volume: str | None, access: Access, as_json: bool, quiet: bool) -> None:
    """List the backups.

    Of one volume, or all; in one repository, or all of the settings; those that other hosts or stock restic made too.
    Works without a daemon.
    """
    found = _listed(session, access, volume)
    empty = f"no backups; make one: snapvol backup {volume or 'VOLUME'}"
    several = len({backup.repository for backup in found}) > 1
    output.listing(
        found, BACKUP_COLUMNS if several else BACKUP_COLUMNS_OF_ONE, as_json=as_json, quiet=quiet, empty=empty
    )


def _listed(session: Session, access: Access, volume: str | None) -> list[BackupInfo]:
    if not access.direct:
        try:
            return session.client.backups(volume, access.name)
        except DaemonUnreachable as error:
            alone(error)
    from snapvol.cli import direct

    return direct.backups(session, access, volume)


def alone(error: DaemonUnreachable) -> None:
    """Say that the daemon does not answer, and that this process does the work."""
    output.note(f"{error.message}; using the repository without it")


@command(
    "verify",
    "snapvol verify wiki                    # its newest backup",
    "snapvol verify 1a2b3c4d 5e6f7a8b",
    exits="0 whole, 1 damaged, 3 no such backup, 5 repository unreachable.",
)
@click.argument("chosen", type=BACKUP, nargs=-1, required=True, metavar="BACKUP...")
@access_options
@detach_option
@json_option
@pass_session
def verify(session: Session, chosen: tuple[str, ...], access: Access, detach: bool, as_json: bool) -> None:
    """Read backups whole and check every byte.

    BACKUP is an ID, a VOLUME (its newest backup) or VOLUME@TIME. Files hit by damage are named. Works without a daemon.
    """
    if not access.direct:
        try:
            jobs = session.client.verify(chosen, access.name)
            return waiting.settle(session.client, jobs, detach=detach, as_json=as_json, done=_verified)
        except DaemonUnreachable as error:
            alone(error)
    if detach:
        raise UsageError("--detach needs the daemon", "leave it out, or leave out --repository URL")
    from snapvol.cli import direct

    return direct.verify(session, access, chosen, as_json=as_json)


def _verified(job: JobInfo) -> str:
    problems = job.result.get("problems", [])
    if problems:
        raise Damaged(
            f"backup {job.object} is damaged: {output.count(len(problems), 'problem')}",
            f"see: snapvol job show {job.id}; make a new one: snapvol backup",
        )
    return f"{job.object}: whole, {waiting.figures(job)}"


@command(
    "forget",
    "snapvol forget --dry-run 1a2b3c4d",
    "snapvol forget --yes 1a2b3c4d 5e6f7a8b",
    exits="0 done, 3 no such backup, 4 the last good one, or not confirmed, 5 repository unreachable.",
)
@click.argument("chosen", type=BACKUP, nargs=-1, required=True, metavar="BACKUP...")
@click.option("--force", is_flag=True, help="Also the last good backup of a volume.")
@access_options
@dry_run_option
@yes_option
@json_option
@pass_session
def forget(
    session: Session, chosen: tuple[str, ...], force: bool, access: Access, dry_run: bool, yes: bool, as_json: bool
) -> None:
    """Take backups out of their repository.

    Each BACKUP is an ID, or the beginning of one. Asks before it does, or needs --yes where nobody can be asked. The
    newest complete backup of a volume is refused without --force. The space is freed by 'snapvol repo prune'.
    Works without a daemon.
    """
    if not dry_run and not yes:
        output.confirm(_forget(session, access, chosen, dry_run=True, force=force), "forgetting backups")
    output.plan(_forget(session, access, chosen, dry_run=dry_run, force=force), as_json=as_json)
    if not dry_run:
        output.note("what only they needed stays until: snapvol repo prune")


def _forget(session: Session, access: Access, chosen: tuple[str, ...], *, dry_run: bool, force: bool) -> Plan:
    if not access.direct:
        return session.client.forget(chosen, access.name, dry_run=dry_run, force=force)
    from snapvol.cli import direct

    return direct.forget(session, access, chosen, dry_run=dry_run, force=force)
