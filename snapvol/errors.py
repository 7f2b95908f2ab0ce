"""Every failure that snapvol expects, as a type.

    SnapvolError                       exit 1   HTTP 500
    ├── UsageError                     exit 2   HTTP 400   the request is wrong, nothing was tried
    │   ├── InvalidName
    │   ├── UnknownOption
    │   └── SettingsError
    ├── NotFound                       exit 3   HTTP 404
    ├── Refused                        exit 4   HTTP 409   possible, but it would lose data or is in the way
    │   ├── AlreadyExists
    │   ├── InUse
    │   ├── Protected
    │   ├── NotReady                   restoring, failed or damaged
    │   ├── Unsupported                this storage cannot do it
    │   └── RepositoryLocked
    ├── Unreachable                    exit 5   HTTP 503
    │   ├── DaemonUnreachable
    │   ├── PoolUnavailable
    │   └── RepositoryUnreachable
    ├── StorageFailed                  exit 1   HTTP 500   a storage tool or system call failed
    │   ├── ToolFailed
    │   ├── BaseMismatch
    │   └── NoSpace                    exit 4   HTTP 507
    ├── RepositoryError                exit 1   HTTP 500
    │   ├── WrongPassword
    │   └── Damaged                    an object is missing or is not what its name says
    │       └── PackLost               found out before it mattered: run again, what was in it is uploaded again
    └── Cancelled                      exit 1   HTTP 500

The CLI turns ``exit_code`` into its exit status and the daemon turns ``status`` into its answer, each in one place.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import ClassVar


class SnapvolError(Exception):
    """A failure whose message is meant for the person who asked.

    Args:
        message: names the object and what failed, in one line.
        hint: what to do next: a command where there is one.
    """

    exit_code: ClassVar[int] = 1
    status: ClassVar[int] = 500

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message


class UsageError(SnapvolError):
    """The request itself is wrong."""

    exit_code = 2
    status = 400


class InvalidName(UsageError):
    """A name that snapvol does not accept."""


class UnknownOption(UsageError):
    """An option, setting or word that does not exist."""


class SettingsError(UsageError):
    """The settings cannot be used."""


class NotFound(SnapvolError):
    """The named object does not exist."""

    exit_code = 3
    status = 404


class Refused(SnapvolError):
    """Possible, but not now or not without saying so."""

    exit_code = 4
    status = 409


class AlreadyExists(Refused):
    """The name is taken."""


class InUse(Refused):
    """Somebody has it mounted, or another operation works on it."""


class Protected(Refused):
    """``protect=true``, a hold, or a rule that keeps the last good backup."""


class NotReady(Refused):
    """The volume is being restored, failed to be restored, or is damaged."""


class Unsupported(Refused):
    """This storage cannot do what was asked."""


class RepositoryLocked(Refused):
    """Another program holds a lock that excludes this work."""


class Unreachable(SnapvolError):
    """Something that must answer does not."""

    exit_code = 5
    status = 503


class DaemonUnreachable(Unreachable):
    """The daemon's socket does not answer."""


class PoolUnavailable(Unreachable):
    """The pool's storage is missing, exported or read-only."""


class RepositoryUnreachable(Unreachable):
    """The repository's storage does not answer, or refuses us."""


class StorageFailed(SnapvolError):
    """A storage tool or a system call failed."""


class ToolFailed(StorageFailed):
    """A program that snapvol ran failed.

    Args:
        argv: the program and its arguments.
        code: its exit status, or None where it could not be started.
        stderr: what it wrote to standard error.
    """

    def __init__(self, argv: list[str], code: int | None, stderr: str, hint: str | None = None) -> None:
        said = " ".join(stderr.split()) or "no message"
        super().__init__(f"{argv[0]} failed ({'not started' if code is None else f'exit {code}'}): {said}", hint)
        self.argv = argv
        self.code = code
        self.stderr = stderr


class BaseMismatch(StorageFailed):
    """What the storage says is unchanged differs from the earlier backup: only reading everything is safe now."""


class NoSpace(StorageFailed):
    """The storage is full, or a quota is reached."""

    exit_code = 4
    status = 507


class RepositoryError(SnapvolError):
    """The repository cannot be used as asked."""


class WrongPassword(RepositoryError):
    """No key of the repository opens with this password."""


class Damaged(RepositoryError):
    """A stored object is missing, cut short or altered."""


class PackLost(Damaged):
    """A pack that a backup in the making needs is gone; the next run uploads what was in it."""


class Cancelled(SnapvolError):
    """Somebody stopped the job."""


def nearest(word: str, valid: list[str] | tuple[str, ...]) -> str:
    """Return the hint of T16: the nearest valid word where one is near, else all of them."""
    close = get_close_matches(word, valid, n=1)
    return f"did you mean '{close[0]}'?" if close else f"valid: {', '.join(sorted(valid))}"


def by_kind(kind: str) -> type[SnapvolError]:
    """Return the error class named ``kind``, or SnapvolError: how a client gets the daemon's error back."""
    found = globals().get(kind)
    return found if isinstance(found, type) and issubclass(found, SnapvolError) else SnapvolError
