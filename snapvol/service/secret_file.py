"""Files that hold a secret in their first line, and must be nobody else's."""

from __future__ import annotations

import os
import shlex
import stat
from pathlib import Path

from snapvol.errors import NotFound, SettingsError, StorageFailed

LONGEST = 64 * 1024


def check(subject: str, path: Path, missing: str) -> Path:
    """Return ``path`` if it is a file that can be trusted.

    Args:
        subject: what it is, as errors begin.
        path: of the file.
        missing: what to do where there is none.

    Raises:
        SettingsError: others may read or replace it; the hint is the command that mends it (T43).
        NotFound: it does not exist.
    """
    try:
        found = path.stat()
    except FileNotFoundError:
        raise NotFound(f"{subject} {path} does not exist", missing) from None
    except OSError as error:
        raise StorageFailed(f"{subject} {path} cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(found.st_mode):
        raise SettingsError(f"{subject} {path} is not a file", "name a file")
    if found.st_mode & 0o077:
        raise SettingsError(
            f"{subject} {path} is open to others (mode {stat.S_IMODE(found.st_mode):04o})",
            f"chmod 600 {shlex.quote(str(path))}",
        )
    if found.st_uid not in (0, os.geteuid()):
        raise SettingsError(
            f"{subject} {path} belongs to user {found.st_uid}", f"chown {os.geteuid()} {shlex.quote(str(path))}"
        )
    return path


def read(subject: str, path: Path, content: str) -> str:
    """Return the first line of a file that was checked; ``content`` is what belongs there.

    Raises:
        SettingsError: it is empty or not text.
    """
    try:
        with path.open("rb") as file:
            line = file.read(LONGEST).split(b"\n", 1)[0].rstrip(b"\r").decode("utf-8")
    except OSError as error:
        raise StorageFailed(f"{subject} {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{subject} {path} is not UTF-8 text") from None
    if not line:
        raise SettingsError(f"{subject} {path} has an empty first line", f"put the {content} there")
    return line
