"""Small JSON records that are whole or absent, whatever is killed or loses power when."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec import Struct

FRESH = ".new"  # the end of a name under which a record is written before it takes its own
LARGEST = 4 << 20  # bytes; a record is some hundred, so a larger one is not ours

Record = TypeVar("Record", bound=Struct)


class Unreadable(Exception):
    """A record is there, but is not what it should be; the text says why."""


def write(path: Path, record: Struct) -> None:
    """Write ``record`` as JSON, replacing what was there, and see it on the storage.

    Raises:
        OSError: it was not written; what was there is unchanged.
    """
    fresh = path.with_name(path.name + FRESH)
    text = msgspec.json.format(msgspec.json.encode(record)) + b"\n"
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with open(os.open(fresh, flags, 0o600), "wb") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.rename(fresh, path)
    except OSError:
        with suppress(OSError):
            os.unlink(fresh)
        raise
    sync_directory(path.parent)


def read(path: Path, kind: type[Record]) -> Record:
    """Return the record at ``path``.

    Raises:
        FileNotFoundError: there is none.
        Unreadable: it cannot be read or understood.
    """
    try:
        # A pipe put in its place must not keep us waiting.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise Unreadable(f"{path.name} is not a file")
            text = file.read(LARGEST + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise Unreadable(f"{path.name} cannot be read: {error.strerror}") from error
    if not text.strip():
        raise Unreadable(f"{path.name} is empty")
    if len(text) > LARGEST:
        raise Unreadable(f"{path.name} is larger than {LARGEST} bytes")
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Unreadable(f"{path.name} is not understood: {error}") from error


def exists(path: Path) -> bool:
    """Return whether there is anything at ``path``. Unlike `os.path.lexists`, takes no other error for absence."""
    try:
        os.lstat(path)
    except FileNotFoundError:
        return False
    return True


def sync_directory(path: Path) -> None:
    """See the names in ``path`` on the storage."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def move(old: Path, new: Path) -> None:
    """Rename ``old`` to ``new`` and see it on the storage."""
    os.rename(old, new)
    sync_directory(new.parent)
    if old.parent != new.parent:
        sync_directory(old.parent)
