"""The one place that runs other programs.

Arguments are lists, never shell strings; the locale is fixed; the logged line can be pasted into a shell; a failure
carries the arguments, the exit status and what the program said.
"""

from __future__ import annotations

import logging
import os
import shlex
from functools import cache

import sh  # noqa: TID251

from snapvol.errors import NoSpace, ToolFailed

log = logging.getLogger(__name__)

_ENVIRONMENT = {"LC_ALL": "C.UTF-8", "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}


@cache
def _command(program: str) -> sh.Command:
    return sh.Command(program, search_paths=_ENVIRONMENT["PATH"].split(":"))


def run(program: str, *arguments: str | os.PathLike[str], stdin: str = "", seconds: float | None = None) -> str:
    """Run ``program`` to its end and return its standard output.

    Args:
        program: a name found on the fixed system path.
        arguments: passed as they are; callers put validated names or ``--`` where user text enters.
        stdin: what the program reads.
        seconds: how long it may take; None for honest long work.

    Raises:
        NoSpace: it said that the storage is full or over quota.
        ToolFailed: it is not installed, failed, or took too long.
    """
    argv = [program, *(os.fspath(argument) for argument in arguments)]
    log.debug("run: %s", shlex.join(argv))
    try:
        command = _command(program)
    except sh.CommandNotFound as error:
        raise ToolFailed(argv, None, f"{program} is not installed", f"install it: snapvol needs {program}") from error
    try:
        done = command(*argv[1:], _in=stdin, _env=_ENVIRONMENT, _timeout=seconds, _return_cmd=True, _tty_out=False)
    except sh.TimeoutException as error:
        raise ToolFailed(argv, None, f"no end after {seconds} s") from error
    except sh.ErrorReturnCode as error:
        stderr = error.stderr.decode("utf-8", "replace")
        if "No space left" in stderr or "Disk quota exceeded" in stderr:
            raise NoSpace(
                f"{program}: {' '.join(stderr.split())}", "free space in the pool or raise the size"
            ) from error
        raise ToolFailed(argv, error.exit_code, stderr) from error
    return str(done.stdout.decode("utf-8", "surrogateescape"))
