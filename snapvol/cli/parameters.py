"""Arguments and options that several commands share. Names are checked here, where they enter (T5)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from snapvol.errors import SnapvolError, UsageError
from snapvol.names import snapshot_name, split_snapshot, volume_name

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from snapvol.client import Client

COMPLETION_SECONDS = 2.0
"""How long a person who pressed Tab is kept waiting."""

Decorated = TypeVar("Decorated", bound=Callable[..., object])


class SnapshotRef(NamedTuple):
    """``VOLUME@NAME``."""

    volume: str
    name: str

    def __str__(self) -> str:
        return f"{self.volume}@{self.name}"


class ObjectRef(NamedTuple):
    """``VOLUME`` or ``VOLUME@NAME``."""

    volume: str
    name: str | None

    def __str__(self) -> str:
        return self.volume if self.name is None else f"{self.volume}@{self.name}"


class Named(click.ParamType[Any]):
    """A parameter that is checked by ``check`` and completed from what ``offers`` asks the daemon for."""

    def __init__(self, name: str, check: Callable[[str], Any], offers: Callable[[Client], list[str]]) -> None:
        self.name = name
        self._check = check
        self._offers = offers

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Check what was typed. Raises `InvalidName`."""
        return self._check(value) if isinstance(value, str) else value

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Offer what the daemon knows; a daemon that does not answer offers nothing and says nothing."""
        from click.shell_completion import CompletionItem

        from snapvol.cli.session import Session

        root = ctx.find_root().params
        try:
            offers = self._offers(Session(root.get("config"), root.get("socket")).client_within(COMPLETION_SECONDS))
        except SnapvolError:
            return []
        return [CompletionItem(offer) for offer in offers if offer.startswith(incomplete)]


def _snapshot(text: str) -> SnapshotRef:
    volume, name = split_snapshot(text)
    if name is None:
        raise UsageError(f"'{text}' names no snapshot", f"write VOLUME@SNAPSHOT; see: snapvol snapshots {volume}")
    return SnapshotRef(volume, name)


def _object(text: str) -> ObjectRef:
    return ObjectRef(*split_snapshot(text))


def _word(text: str) -> str:
    if not text or not text.isprintable():
        raise UsageError(f"{text!r} names no backup or job", "see: snapvol backups, snapvol jobs")
    return text


def _volumes(client: Client) -> list[str]:
    return [volume.name for volume in client.volumes()]


def _snapshots(client: Client) -> list[str]:
    return [f"{snapshot.volume}@{snapshot.name}" for snapshot in client.snapshots()]


VOLUME = Named("volume", volume_name, _volumes)
NEW_VOLUME = Named("new", volume_name, lambda _: [])
SNAPSHOT = Named("snapshot", _snapshot, _snapshots)
SNAPSHOT_NAME = Named("name", snapshot_name, lambda _: [])
OBJECT = Named("object", _object, lambda client: [*_volumes(client), *_snapshots(client)])
BACKUP = Named("backup", _word, _volumes)
JOB = Named("job", _word, lambda client: [job.id for job in client.jobs()])
TRASHED = Named("trashed", _word, lambda client: [item.name for item in client.trash()])


def pairs(texts: Sequence[str], what: str) -> dict[str, str]:
    """Return ``KEY=VALUE`` texts as a mapping.

    Raises:
        UsageError: one has no ``=`` or no key, or a key comes twice.
    """
    found: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UsageError(f"{what} {text!r} is not KEY=VALUE", f"write {key or 'KEY'}=VALUE")
        if key in found:
            raise UsageError(f"{what} '{key}' is given twice", "give it once")
        found[key] = value
    return found


def json_option(function: Decorated) -> Decorated:
    """Add ``--json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON: whole values, times with their zone.")(
        function
    )


def quiet_option(function: Decorated) -> Decorated:
    """Add ``--quiet``."""
    return click.option("-q", "--quiet", is_flag=True, help="Print names or IDs only, one a line.")(function)


def dry_run_option(function: Decorated) -> Decorated:
    """Add ``--dry-run``."""
    return click.option("--dry-run", is_flag=True, help="Only print what would happen.")(function)


def detach_option(function: Decorated) -> Decorated:
    """Add ``--detach``."""
    return click.option("-d", "--detach", is_flag=True, help="Do not wait: print the job's ID.")(function)


def yes_option(function: Decorated) -> Decorated:
    """Add ``--yes``."""
    return click.option("-y", "--yes", is_flag=True, help="Do not ask.")(function)
