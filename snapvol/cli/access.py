"""Which repository a command means, and opening it in this process, without a daemon."""

from __future__ import annotations

import functools
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from msgspec import Struct

from snapvol.cli import output
from snapvol.cli.session import Session
from snapvol.errors import SettingsError, UsageError

if TYPE_CHECKING:
    from snapvol.repository import Repository
    from snapvol.settings import CacheSettings, RepositorySettings

ADDRESSING = ["auto", "path", "virtual"]
_HOW = ("repository", "no_lock", "no_cache")  # not of the repository's settings


class Access(Struct, frozen=True, kw_only=True):
    """What the flags say of a repository; None where they say nothing.

    Attributes:
        repository: a name from the settings, an S3 URL or a path.
        no_lock: the repository is only read, and nothing is written to it, a lock neither.
        no_cache: nothing is kept on this machine, and nothing that was kept is used.
    """

    repository: str | None = None
    password_file: Path | None = None
    endpoint: str | None = None
    region: str | None = None
    addressing: str | None = None
    ca_file: Path | None = None
    credentials_file: Path | None = None
    profile: str | None = None
    no_lock: bool = False
    no_cache: bool = False

    @property
    def url(self) -> str | None:
        """The repository's URL, where the flags give one and not a name."""
        given = self.repository
        if given is None or ("/" not in given and ":" not in given):
            return None
        if given.startswith("s3://"):
            if not given.removeprefix("s3://").strip("/"):
                raise UsageError(f"--repository {given!r} has no bucket", "write s3://BUCKET/PREFIX")
            return given
        if ":" in given.split("/")[0]:
            raise UsageError(
                f"--repository {given!r} is neither a path nor an S3 URL", "write /a/path or s3://BUCKET/PREFIX"
            )
        return os.path.abspath(given)

    @property
    def uncached(self) -> Access:
        """The same, for what looks for damage: copies on this machine say nothing of the repository."""
        import msgspec

        return msgspec.structs.replace(self, no_cache=True)

    @property
    def direct(self) -> bool:
        """The flags describe a repository that the daemon may not know: it is opened in this process."""
        if self.url is not None or self.no_lock or self.no_cache:
            return True
        return any(value is not None for value in self._details().values())

    @property
    def name(self) -> str | None:
        """The configured repository that is meant; None for the default one.

        Raises:
            UsageError: the flags describe another one, which the daemon cannot use.
        """
        if self.direct:
            raise UsageError(
                "the daemon uses configured repositories only",
                "add it to the settings and name it: --repository NAME; or restore with --to DIRECTORY",
            )
        return self.repository

    def resolve(self, session: Session) -> tuple[str, RepositorySettings]:
        """Return what to call the repository, and how to reach it.

        Raises:
            SettingsError: no repository of that name is configured.
            UsageError: the URL is none.
        """
        import msgspec

        from snapvol.settings import RepositorySettings

        given = {name: value for name, value in self._details().items() if value is not None}
        if self.url is not None:
            return self.url, RepositorySettings(url=self.url, **given)
        name = self.repository or session.settings.default_repository
        return name, msgspec.structs.replace(session.settings.repository(name), **given)

    def _details(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__struct_fields__ if name not in _HOW}


FILE = click.Path(path_type=Path)
_OPTIONS = (
    click.option(
        "--repository",
        envvar="SNAPVOL_REPOSITORY",
        metavar="NAME|URL",
        help="A configured repository, s3://BUCKET/PREFIX, or a path. [env: SNAPVOL_REPOSITORY]",
    ),
    click.option(
        "--password-file",
        type=FILE,
        envvar="SNAPVOL_PASSWORD_FILE",
        metavar="FILE",
        help="Its first line is the password. Asked for without it. [env: SNAPVOL_PASSWORD_FILE]",
    ),
    click.option("--endpoint", metavar="URL", help="The S3 server; AWS without it."),
    click.option("--region", metavar="NAME", help="The S3 region."),
    click.option("--addressing", type=click.Choice(ADDRESSING), help="How the bucket enters the URL."),
    click.option("--ca-file", type=FILE, metavar="FILE", help="Certificates to trust instead of the system's."),
    click.option("--credentials-file", type=FILE, metavar="FILE", help="An AWS credentials file."),
    click.option("--profile", metavar="NAME", help="The profile in it."),
    click.option("--no-lock", is_flag=True, help="Write nothing, no lock either: for read-only storage."),
    click.option("--no-cache", is_flag=True, help="Use and keep no copies on this machine."),
)


def access_options(function: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say which repository; the function gets them as ``access``."""

    @functools.wraps(function)
    def gathered(*arguments: Any, **keywords: Any) -> None:
        access = Access(**{name: keywords.pop(name) for name in Access.__struct_fields__})
        function(*arguments, access=access, **keywords)

    for option in reversed(_OPTIONS):
        gathered = option(gathered)
    return gathered


@contextmanager
def opened(session: Session, access: Access) -> Iterator[Repository]:
    """Open the repository that is meant, in this process.

    What looks for damage says ``access.uncached``.

    Raises:
        SettingsError: as `Access.resolve`, or its password file cannot be trusted.
        WrongPassword: no key opens with the password.
        NotFound: there is no repository.
    """
    name, settings = access.resolve(session)
    cache = None if access.no_cache else _cache(session)
    with _warnings_shown(), _open(name, settings, cache) as repository:
        if access.no_lock:
            repository.forgo_locks()
        yield repository


class _Notes(logging.Handler):
    """Warnings of the layers below, such as a storage that is tried again, as notes for people."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record on one line."""
        output.note(" ".join(record.getMessage().split()))


@contextmanager
def _warnings_shown() -> Iterator[None]:
    log, notes = logging.getLogger("snapvol"), _Notes(logging.WARNING)
    if any(isinstance(handler, _Notes) for handler in log.handlers):  # of another repository that is open
        yield
        return
    log.addHandler(notes)
    propagate, log.propagate = log.propagate, False
    try:
        yield
    finally:
        log.removeHandler(notes)
        log.propagate = propagate


def _cache(session: Session) -> CacheSettings:
    """Return where copies are kept: beside the daemon's state where we may write there, else in a place of our own."""
    import msgspec

    from snapvol.settings import CacheSettings

    try:
        cache = session.settings.cache
        if os.access(session.settings.daemon.root, os.W_OK):
            return cache
    except SettingsError:
        cache = CacheSettings()  # the settings are not needed for a repository that the flags describe
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return msgspec.structs.replace(cache, path=Path(home) / "snapvol") if os.path.isabs(home) else cache


def _open(name: str, settings: RepositorySettings, cache: CacheSettings | None) -> Repository:
    if settings.password_file is not None:
        from snapvol.service.repositories import open_repository

        return open_repository(name, settings, cache)
    secret = prompted(f"Password of {name}: ", f"no password for {name}", "give it by --password-file FILE")
    from snapvol.repository import Repository
    from snapvol.stores import open_store
    from snapvol.stores.cache import CachePlace

    place = CachePlace(cache.path, cache.bytes) if cache is not None and cache.bytes else None
    return Repository.open(open_store(settings), secret, cache=place)


def prompted(question: str, problem: str, hint: str) -> str:
    """Ask for a password on the terminal; it is not shown.

    Raises:
        UsageError: nobody is there to ask, or nothing was typed.
    """
    if not sys.stdin.isatty():
        raise UsageError(problem, hint)
    from getpass import getpass

    secret = getpass(question)
    if not secret:
        raise UsageError("the password is empty", "type it, or press Ctrl-C")
    return secret
