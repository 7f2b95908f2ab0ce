"""What is protected, what is wrong, and how it is set up."""

from __future__ import annotations

import click

from snapvol.api import Finding, Level, PoolInfo, RepositoryInfo, Status, VolumeStatus
from snapvol.cli import output
from snapvol.cli.command import command
from snapvol.cli.jobs import JOB_COLUMNS
from snapvol.cli.output import Column
from snapvol.cli.parameters import VOLUME, json_option
from snapvol.cli.session import Session, pass_session
from snapvol.errors import DaemonUnreachable, NotFound, SnapvolError, nearest


def _lose(seconds: float | None) -> str:
    return "everything" if seconds is None else output.duration(seconds)


VOLUME_COLUMNS = (
    Column[VolumeStatus]("VOLUME", lambda volume: volume.name),
    Column[VolumeStatus]("STATE", lambda volume: str(volume.state)),
    Column[VolumeStatus]("LAST SNAPSHOT", lambda volume: output.ago(volume.last_snapshot)),
    Column[VolumeStatus](
        "LAST BACKUP", lambda volume: output.ago(volume.last_backup.time if volume.last_backup else None)
    ),
    Column[VolumeStatus]("LOST BY A MISTAKE", lambda volume: _lose(volume.would_lose)),
    Column[VolumeStatus]("LOST WITH THE MACHINE", lambda volume: _lose(volume.would_lose_off_host)),
)


def _metadata(pool: PoolInfo) -> str:
    if not pool.metadata_size or pool.metadata_free is None:
        return "-"
    return f"{100 - 100 * pool.metadata_free // pool.metadata_size} % full"


POOL_COLUMNS = (
    Column[PoolInfo]("POOL", lambda pool: f"{pool.name} (default)" if pool.default else pool.name),
    Column[PoolInfo]("BACKEND", lambda pool: pool.backend),
    Column[PoolInfo]("STATE", lambda pool: "ok" if pool.ok else "not ok"),
    Column[PoolInfo]("FREE", lambda pool: output.size(pool.free) if pool.size else "-", right=True),
    Column[PoolInfo]("SIZE", lambda pool: output.size(pool.size) if pool.size else "-", right=True),
    Column[PoolInfo]("METADATA", _metadata, right=True),
)


def _repository(repository: RepositoryInfo) -> str:
    return {True: "ok", False: repository.problem or "not ok", None: "not asked yet"}[repository.ok]


REPOSITORY_COLUMNS = (
    Column[RepositoryInfo]("REPOSITORY", lambda repository: repository.name),
    Column[RepositoryInfo]("URL", lambda repository: repository.url),
    Column[RepositoryInfo]("STATE", _repository),
)


@command(
    "status",
    "snapvol status",
    "snapvol status wiki --json",
    exits="0 all is well, 1 something needs attention, 3 no such volume, 5 daemon unreachable.",
)
@click.argument("volume", type=VOLUME, required=False)
@json_option
@pass_session
def status(session: Session, volume: str | None, as_json: bool) -> None:
    """Show what is protected, what would be lost now, and what needs attention.

    LOST BY A MISTAKE is the work since the last snapshot or backup, LOST WITH THE MACHINE that since the last backup.
    Fit for a cron job: it exits with 1 where something needs attention.
    """
    report = session.client.status(volume)
    if as_json:
        output.print_json(report)
    else:
        _show(report)
    if not report.ok:
        raise click.exceptions.Exit(1)


def _show(report: Status) -> None:
    output.listing(report.volumes, VOLUME_COLUMNS)
    if report.pools:
        print()
        output.listing(report.pools, POOL_COLUMNS)
    if report.repositories:
        print()
        output.listing(report.repositories, REPOSITORY_COLUMNS)
    if report.jobs:
        print()
        output.listing(report.jobs, JOB_COLUMNS)
    wrong = [finding for finding in report.findings if finding.level is not Level.OK]
    if wrong:
        print()
        _findings(wrong)


def _findings(findings: list[Finding]) -> None:
    for finding in findings:
        command = f"; {finding.command}" if finding.command else ""
        print(output.printable(f"{finding.level}: {finding.subject}: {finding.message}{command}"))


@command(
    "doctor",
    "snapvol doctor",
    exits="0 all is well, 1 something is wrong, 2 the settings are wrong, 5 daemon unreachable.",
)
@json_option
@pass_session
def doctor(session: Session, as_json: bool) -> None:
    """Look for what is wrong with this installation.

    Each finding comes with the command that mends it.
    """
    failure: SnapvolError | None = None
    try:
        findings = session.client.doctor()
    except SnapvolError as error:
        failure = error
        subject = "daemon" if isinstance(error, DaemonUnreachable) else "settings"
        findings = [Finding(level=Level.ERROR, subject=subject, message=error.message, command=error.hint)]
    if as_json:
        output.print_json(findings)
    else:
        _findings(findings)
    if failure is not None:
        raise click.exceptions.Exit(failure.exit_code)
    if any(finding.level is not Level.OK for finding in findings):
        raise click.exceptions.Exit(1)


@command("config", "snapvol config", "snapvol config daemon.default_pool", "snapvol config --json")
@click.argument("key", required=False, metavar="[KEY]")
@json_option
@pass_session
def config(session: Session, key: str | None, as_json: bool) -> None:
    """Show the effective settings and where each came from.

    Those of the running daemon; without one, those with which it would start. With KEY only that value.
    """
    try:
        values = session.client.config()
    except DaemonUnreachable as error:
        from snapvol.service.effective import effective

        output.note(f"{error.message}; these are the settings that one would start with")
        values = effective(session.settings)
    if key is not None:
        if key not in values:
            raise NotFound(f"there is no setting '{key}'", nearest(key, list(values)))
        return output.print_json(values[key]) if as_json else print(output.printable(_value(values[key]["value"])))
    if as_json:
        return output.print_json(values)
    columns = (
        Column[str]("KEY", str),
        Column[str]("VALUE", lambda name: _value(values[name]["value"])),
        Column[str]("FROM", lambda name: str(values[name]["origin"])),
    )
    return output.listing(sorted(values), columns)


def _value(value: object) -> str:
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)
