"""Restores: as a volume, in place, into a directory."""

from __future__ import annotations

from pathlib import Path

import click

from snapvol.api import JobInfo
from snapvol.cli import output, waiting
from snapvol.cli.access import Access, access_options
from snapvol.cli.command import command
from snapvol.cli.parameters import BACKUP, VOLUME, detach_option, dry_run_option, json_option
from snapvol.cli.session import Session, pass_session
from snapvol.errors import UsageError


@command(
    "restore",
    "snapvol restore wiki                           # a volume of that name, where there is none",
    "snapvol restore wiki@2026-11-20T03:00 wiki-old",
    "snapvol restore --dry-run wiki --in-place --path /uploads",
    "snapvol restore wiki --to /srv/wiki --repository s3://backups/host1 --password-file F",
    exits="0 restored, 1 failed, 3 no such backup or path, 4 in use, the name is taken, or not empty, "
    "5 daemon or repository unreachable.",
)
@click.argument("backup", type=BACKUP)
@click.argument("volume", type=VOLUME, required=False, metavar="[VOLUME]")
@click.option("--in-place", is_flag=True, help="Replace what is in the volume now.")
@click.option("--path", metavar="PATH", help="Only this file or directory of the volume.")
@click.option(
    "--to", "directory", type=click.Path(path_type=Path), metavar="DIR", help="Into a directory, without a daemon."
)
@access_options
@dry_run_option
@detach_option
@json_option
@pass_session
def restore(
    session: Session,
    backup: str,
    volume: str | None,
    in_place: bool,
    path: str | None,
    directory: Path | None,
    access: Access,
    dry_run: bool,
    detach: bool,
    as_json: bool,
) -> None:
    """Restore a backup: as a volume, in place, or into a directory.

    BACKUP is an ID, the name of a volume (its newest backup) or NAME@TIME (the newest not after that time). It becomes
    a new VOLUME, with the options and labels that it had; without VOLUME under its own name.

    --in-place makes the contents of VOLUME, or of the backup's own, exactly those of the backup; the present state is
    snapshotted first. With --path only that part is replaced. The volume must not be in use.

    --to restores into a directory that does not exist or is empty, and needs no daemon. The image of a block device
    becomes a sparse file NAME.img in the directory, which need not be empty then.
    """
    if directory is not None:
        if volume is not None or in_place:
            raise UsageError("a restore has one target", "give a volume, or --to DIR")
        if detach or dry_run:
            raise UsageError(f"--{'detach' if detach else 'dry-run'} does not go with --to", "leave it out")
        from snapvol.cli import direct

        return direct.restore(session, access, backup, directory, path=path, as_json=as_json)
    from snapvol.client import RestoreRequest

    request = RestoreRequest(backup=backup, volume=volume, in_place=in_place, path=path, repository=access.name)
    if dry_run:
        return output.plan(session.client.plan_restore(request), as_json=as_json)
    job = session.client.restore(request)
    return waiting.settle(session.client, [job], detach=detach, as_json=as_json, done=_restored)


def _restored(job: JobInfo) -> str:
    volume, backup = job.result.get("volume", job.object), str(job.result.get("backup", ""))[:8]
    before = f"; what it held before: {volume}@{job.result['before']}" if "before" in job.result else ""
    return f"{volume}: {waiting.figures(job)}{f', from backup {backup}' if backup else ''}{before}"
