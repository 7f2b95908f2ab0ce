"""Repositories by their names in the settings: made, opened, and what is remembered of them on this machine.

Used by the worker processes and, without any daemon, by the command line.
"""

from __future__ import annotations

import os
import secrets
import shlex
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from snapvol.errors import AlreadyExists, NotFound, SettingsError, StorageFailed
from snapvol.model import now
from snapvol.service import secret_file
from snapvol.settings import CacheSettings, RepositorySettings, Settings

if TYPE_CHECKING:  # cryptography and boto3 are slow to import, and the daemon needs neither
    from snapvol.repository import Repository


class Made(Struct, frozen=True, kw_only=True):
    """A repository that was just made.

    Attributes:
        id: its identity.
        location: where it is.
        recovery_key: a second password, shown this once.
        password_file: where its password is.
        password_made: the password was made up now, and exists nowhere else.
    """

    id: str
    location: str
    recovery_key: str
    password_file: Path
    password_made: bool


class Notes(Struct, frozen=True, kw_only=True):
    """What this machine remembers of a repository that it made; nothing of it is secret.

    Attributes:
        id: the repository's identity.
        made: when.
        recovery_confirmed: when the operator said that the recovery key is stored away; None before (T33).
    """

    id: str
    made: datetime
    recovery_confirmed: datetime | None = None


def check_password_file(name: str, settings: RepositorySettings) -> Path:
    """Return the password file of repository ``name`` if it can be trusted and read.

    Raises:
        SettingsError: none is set, or others may read or replace it; the hint is the command that mends it (T43).
        NotFound: it does not exist.
    """
    path = settings.password_file
    if path is None:
        raise SettingsError(
            f"repositories.{name}.password_file is not set",
            "set it to a file whose first line is the password",
        )
    return secret_file.check(
        f"repository '{name}': its password file",
        path,
        "make the repository: snapvol repo init; or, where there is one, put its password or recovery key there",
    )


def password(name: str, settings: RepositorySettings) -> str:
    """Return the password of repository ``name``: its file's first line.

    Raises:
        SettingsError: as `check_password_file`, or the file is empty or not text.
        NotFound: it does not exist.
    """
    path = check_password_file(name, settings)
    return secret_file.read(f"repository '{name}': its password file", path, "password")


def open_repository(name: str, settings: RepositorySettings, cache: CacheSettings | None = None) -> Repository:
    """Open repository ``name``; a wrong password or key file is told before any other work (T32).

    Args:
        name: in the settings.
        settings: how to reach it.
        cache: where copies that spare requests are kept; without it all that is read comes from the repository.

    Raises:
        SettingsError: its password file is not set, not private or empty.
        NotFound: there is no password file, or no repository.
        WrongPassword: no key opens with that password.
        RepositoryUnreachable: its storage does not answer.
    """
    secret = password(name, settings)
    from snapvol.repository import Repository
    from snapvol.stores import open_store
    from snapvol.stores.cache import CachePlace

    place = CachePlace(cache.path, cache.bytes) if cache is not None and cache.bytes else None
    return Repository.open(open_store(settings), secret, cache=place)


def initialise(settings: Settings, name: str) -> Made:
    """Make repository ``name``; where its password file does not exist, make up a password and write it there first.

    Raises:
        SettingsError: there are no such settings, or the password file is not usable.
        AlreadyExists: there is a repository.
    """
    wanted = settings.repository(name)
    from snapvol.repository import Repository
    from snapvol.stores import open_store
    from snapvol.stores.base import CONFIG

    store = open_store(wanted)
    # Asked before a password is made up: beside an existing repository that could only be a wrong one.
    with suppress(NotFound):
        store.size(CONFIG)
        raise AlreadyExists(
            f"repository '{name}': {store.location} already holds a repository",
            f"to use it, put its password into {wanted.password_file}",
        )
    made = _ensure_password(name, wanted)
    repository, recovery_key = Repository.create(store, password(name, wanted))
    with repository:
        write_notes(settings, name, Notes(id=repository.id, made=now()))
        return Made(
            id=repository.id,
            location=store.location,
            recovery_key=recovery_key,
            password_file=check_password_file(name, wanted),
            password_made=made,
        )


def confirm_recovery_key(settings: Settings, name: str) -> Notes:
    """Remember that the operator stored the recovery key away from this machine; `doctor` stops asking.

    Raises:
        NotFound: this machine did not make the repository.
    """
    settings.repository(name)
    known = notes(settings, name)
    if known is None:
        raise NotFound(
            f"repository '{name}' was not made on this machine, so there is no recovery key to confirm",
            "add a password that you keep elsewhere: snapvol repo key add",
        )
    confirmed = msgspec.structs.replace(known, recovery_confirmed=now())
    write_notes(settings, name, confirmed)
    return confirmed


def notes(settings: Settings, name: str) -> Notes | None:
    """Return what is remembered of a repository; None where this machine did not make it.

    Raises:
        StorageFailed: it cannot be read.
    """
    path = _notes_file(settings, name)
    try:
        return msgspec.json.decode(path.read_bytes(), type=Notes)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        raise StorageFailed(f"{path} cannot be read: {error}", f"remove it: rm {shlex.quote(str(path))}") from None


def write_notes(settings: Settings, name: str, record: Notes) -> None:
    """Remember ``record`` of repository ``name``."""
    path = _notes_file(settings, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_durably(path, msgspec.json.format(msgspec.json.encode(record)) + b"\n", os.replace)


def _notes_file(settings: Settings, name: str) -> Path:
    return settings.daemon.root / "repositories" / f"{name}.json"


def _ensure_password(name: str, settings: RepositorySettings) -> bool:
    """Make a password file where there is none; say whether that was so."""
    try:
        check_password_file(name, settings)
    except NotFound:
        assert settings.password_file is not None
        settings.password_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            write_durably(settings.password_file, secrets.token_urlsafe(32).encode() + b"\n", os.link)
        except FileExistsError:
            return False  # somebody was quicker
        return True
    return False


def write_durably(path: Path, data: bytes, place: Callable[[Path, Path], None]) -> None:
    """Write ``data``, mode 0600, under another name, and ``place`` it: replacing what is there, or failing."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        place(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
