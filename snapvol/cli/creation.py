"""Making volumes: empty, from a snapshot, from a backup."""

from __future__ import annotations

import click

from snapvol.api import VolumeInfo
from snapvol.cli import output, waiting
from snapvol.cli.command import command
from snapvol.cli.parameters import NEW_VOLUME, OBJECT, ObjectRef, detach_option, json_option, pairs
from snapvol.cli.session import Session, pass_session
from snapvol.errors import UsageError
from snapvol.units import size


def _options(texts: tuple[str, ...]) -> dict[str, str]:
    options = pairs(texts, "option")
    if "size" in options:
        size(options["size"])
    return options


def _show(session: Session, volume: VolumeInfo, *, detach: bool, as_json: bool) -> None:
    if volume.job is not None and not detach:
        job = session.client.job(volume.job)
        waiting.settle(session.client, [job], as_json=as_json, done=lambda _: volume.name)
    elif as_json:
        output.print_json(volume)
    else:
        print(volume.name)


@command(
    "create",
    "snapvol create wiki -o size=10G",
    "snapvol create wiki2 -o snapshot=wiki@before",
    "snapvol create wiki3 -o backup=wiki@2026-11-20T03:00",
    exits="0 created, or there already, 2 wrong name or option, 4 the name is taken, 5 daemon unreachable.",
)
@click.argument("volume", type=NEW_VOLUME)
@click.option("-o", "--option", "options", multiple=True, metavar="KEY=VALUE", help="A volume option; repeatable.")
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="A Docker label; repeatable.")
@detach_option
@json_option
@pass_session
def create(
    session: Session, volume: str, options: tuple[str, ...], labels: tuple[str, ...], detach: bool, as_json: bool
) -> None:
    """Create a volume: empty, from a snapshot or from a backup.

    The same as 'docker volume create -d snapvol', with the same options: pool, size, snapshot, backup, repository,
    uid, gid, mode, protect and those of the pool's storage. A volume that exists is left as it is: with the same
    options that is no error, with others the difference is shown.

    With backup=… the volume is filled by a job, which is waited for.
    """
    info = session.client.create(volume, _options(options), pairs(labels, "label"))
    _show(session, info, detach=detach, as_json=as_json)


@command("clone", "snapvol clone wiki@before wiki-test", "snapvol clone wiki wiki-now -o protect=true")
@click.argument("source", type=OBJECT, metavar="VOLUME[@SNAPSHOT]")
@click.argument("new", type=NEW_VOLUME)
@click.option("-o", "--option", "options", multiple=True, metavar="KEY=VALUE", help="A volume option; repeatable.")
@json_option
@pass_session
def clone(session: Session, source: ObjectRef, new: str, options: tuple[str, ...], as_json: bool) -> None:
    """Create a volume from a snapshot, or from another volume as it is now.

    The new volume shares unchanged blocks with its origin where the storage can, and lives on without it.
    """
    given = _options(options)
    if "snapshot" in given or "backup" in given:
        key = "snapshot" if "snapshot" in given else "backup"
        raise UsageError(f"clone takes its source as an argument, not as option '{key}'", f"leave out -o {key}=…")
    info = session.client.create(new, {**given, "snapshot": str(source)}, {})
    _show(session, info, detach=True, as_json=as_json)
