"""The one place that runs other programs.

Arguments are lists, never shell strings; the locale is fixed; the logged line can be pasted into a shell; a failure
carries the arguments, the exit status and what the program said.
"""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import signal
import subprocess  # noqa: TID251
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache

import sh  # noqa: TID251
from msgspec import Struct

from snapvol.errors import NoSpace, ToolFailed

log = logging.getLogger(__name__)

ENVIRONMENT = {"LC_ALL": "C.UTF-8", "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}


# One operation on ZFS or LVM runs several of these, and each has little to do. sh forks this process, with all its
# memory, which takes ten milliseconds (in a virtual machine many more); the vfork of subprocess takes one.
_SHORT = frozenset(
    {
        *("zfs", "zpool", "lvs", "vgs", "lvcreate", "lvchange", "lvremove", "lvrename", "lvextend", "vgmknodes"),
        *("mkfs.ext4", "mkfs.xfs", "tune2fs", "xfs_admin"),
    }
)


class _Ended(Struct, frozen=True, kw_only=True):
    """How a program ended, and what it wrote."""

    code: int
    stdout: bytes
    stderr: bytes


@cache
def _found(program: str) -> str | None:
    return shutil.which(program, path=ENVIRONMENT["PATH"])


def run(
    program: str,
    *arguments: str | os.PathLike[str],
    stdin: str = "",
    seconds: float | None = None,
    descriptor: int | None = None,
) -> str:
    """Run ``program`` to its end and return its standard output.

    Args:
        program: a name found on the fixed system path.
        arguments: passed as they are; callers put validated names or ``--`` where user text enters.
        stdin: what the program reads.
        seconds: how long it may take; None for honest long work.
        descriptor: one that the program gets too, so that a lock lasts until it has ended, whatever becomes of us.

    Raises:
        NoSpace: it said that the storage is full or over quota.
        ToolFailed: it is not installed, failed, or took too long.
    """
    argv = [program, *(os.fspath(argument) for argument in arguments)]
    log.debug("run: %s", shlex.join(argv))
    path = _found(program)
    if path is None:
        raise ToolFailed(argv, None, f"{program} is not installed", f"install it: snapvol needs {program}")
    start = _by_subprocess if program in _SHORT else _by_sh
    try:
        done = start([path, *argv[1:]], stdin.encode("utf-8", "surrogateescape"), seconds, descriptor)
    except (subprocess.TimeoutExpired, sh.TimeoutException) as error:
        raise ToolFailed(argv, None, f"no end after {seconds} s") from error
    except (OSError, sh.ForkException) as error:
        raise ToolFailed(argv, None, str(error)) from error
    if done.code:
        stderr = done.stderr.decode("utf-8", "replace")
        if "No space left" in stderr or "Disk quota exceeded" in stderr:
            raise NoSpace(f"{program}: {' '.join(stderr.split())}", "free space in the pool or raise the size")
        raise ToolFailed(argv, done.code, stderr)
    return done.stdout.decode("utf-8", "surrogateescape")


def _by_sh(argv: Sequence[str], stdin: bytes, seconds: float | None, descriptor: int | None) -> _Ended:
    """Run a program; sh drains both outputs, however much that is, and ends the program with its time."""
    try:
        done = sh.Command(argv[0])(
            *argv[1:],
            _in=stdin,
            _env=ENVIRONMENT,
            _timeout=seconds,
            _return_cmd=True,
            _tty_out=False,
            _pass_fds=set() if descriptor is None else {descriptor},
        )
    except sh.ErrorReturnCode as error:
        return _Ended(code=error.exit_code, stdout=error.stdout, stderr=error.stderr)
    return _Ended(code=0, stdout=done.stdout, stderr=done.stderr)


def _by_subprocess(argv: Sequence[str], stdin: bytes, seconds: float | None, descriptor: int | None) -> _Ended:
    """Run a program that is done soon; see `_SHORT`."""
    done = subprocess.run(
        argv,
        input=stdin,
        capture_output=True,
        env=ENVIRONMENT,
        timeout=seconds,
        check=False,
        start_new_session=True,  # Ctrl-C at the daemon's terminal is the daemon's to handle
        pass_fds=() if descriptor is None else (descriptor,),
    )
    return _Ended(code=done.returncode, stdout=done.stdout, stderr=done.stderr)


class Child:
    """A program that runs beside us; both its outputs are pipes that must be read.

    Attributes:
        pid: its process id.
        stdout: the file descriptor of what it writes; closed by `close`.
        stderr: likewise.
    """

    def __init__(self, argv: Sequence[str], stdin: bytes = b"", environment: Mapping[str, str] | None = None) -> None:
        self._popen = subprocess.Popen(
            list(argv),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C at the daemon's terminal is the daemon's to handle
            cwd="/",
            env=environment,
        )
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        assert self._popen.stderr is not None
        self.pid = self._popen.pid
        self.stdout = self._popen.stdout.fileno()
        self.stderr = self._popen.stderr.fileno()
        with suppress(BrokenPipeError):  # it ended already: its output says why
            self._popen.stdin.write(stdin)
            self._popen.stdin.flush()
        with suppress(BrokenPipeError):
            self._popen.stdin.close()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, where it still runs."""
        self._popen.send_signal(number)

    def wait(self, seconds: float | None = None) -> int | None:
        """Return the exit status (negative for a signal), or None where it has not ended after ``seconds``."""
        try:
            return self._popen.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def close(self) -> None:
        """Make sure that it has ended, and close the pipes."""
        if self._popen.poll() is None:
            self._popen.kill()
        self._popen.wait()
        for pipe in (self._popen.stdout, self._popen.stderr):
            if pipe is not None:
                pipe.close()


def start(program: str, *arguments: str | os.PathLike[str]) -> Child:
    """Run ``program`` beside us, as `run` does. The kernel ends it when the thread that called this ends.

    Raises:
        ToolFailed: it is not installed, or could not be started.
    """
    argv = ["setpriv", "--pdeathsig", "KILL", "--", program, *(os.fspath(argument) for argument in arguments)]
    log.debug("start: %s", shlex.join(argv[4:]))
    for needed in (argv[0], program):
        if shutil.which(needed, path=ENVIRONMENT["PATH"]) is None:
            raise ToolFailed(argv[4:], None, f"{needed} is not installed", f"install it: snapvol needs {needed}")
    try:
        return Child(argv, environment=ENVIRONMENT)
    except OSError as error:
        raise ToolFailed(argv[4:], None, str(error)) from error


def spawn(module: str, stdin: bytes) -> Child:
    """Run a Python module of ours, in the background and behind everybody else in the queue for CPU and disk.

    It gets this process's environment, being the same program with the same rights, and ``stdin`` as its input.

    Raises:
        ToolFailed: it could not be started.
    """
    polite = [
        word
        for tool in (["nice", "-n", "10"], ["ionice", "-c", "2", "-n", "7"])
        if (path := shutil.which(tool[0], path=ENVIRONMENT["PATH"]))
        for word in (path, *tool[1:])
    ]
    argv = [*polite, sys.executable, "-P", "-m", module]
    log.debug("spawn: %s", shlex.join(argv))
    try:
        return Child(argv, stdin)
    except OSError as error:
        raise ToolFailed(argv, None, str(error)) from error
