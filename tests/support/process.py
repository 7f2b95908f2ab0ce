"""Programs that tests run: to their end with a time limit, or as servers whose end is certain.

Everything is started with the session's mark in its environment (see `support.leftovers`), so that nothing outlives
the test session, whatever kills it.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess  # noqa: TID251
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from support.scale import patient


@dataclass(frozen=True)
class Result:
    """How a program ended.

    Attributes:
        argv: what was run.
        code: its exit status; negative for a signal.
        stdout: what it wrote, whole.
        stderr: likewise.
        seconds: how long it took.
    """

    argv: tuple[str, ...]
    code: int
    stdout: str
    stderr: str
    seconds: float

    def __str__(self) -> str:
        return f"$ {shlex.join(self.argv)}\nexit {self.code} after {self.seconds:.2f} s\n{self.stdout}{self.stderr}"


class Failed(AssertionError):
    """A program that had to succeed did not."""


def run(
    *argv: str | os.PathLike[str],
    env: Mapping[str, str] | None = None,
    stdin: str | bytes = b"",
    seconds: float = 60,
    check: bool = True,
    cwd: Path | None = None,
) -> Result:
    """Run a program to its end; ``env`` adds to the environment.

    Raises:
        Failed: it took longer than ``seconds`` (see `support.scale`), or ``check`` is set and it did not exit with 0.
    """
    words = tuple(os.fspath(word) for word in argv)
    started = time.monotonic()
    try:
        done = subprocess.run(
            words,
            env={**os.environ, **(env or {})},
            input=stdin.encode() if isinstance(stdin, str) else stdin,
            capture_output=True,
            timeout=patient(seconds),
            check=False,
            cwd=cwd,
        )
    except subprocess.TimeoutExpired as error:
        raise Failed(
            f"$ {shlex.join(words)}\nno end after {patient(seconds):g} s\n{_text(error.stdout)}{_text(error.stderr)}"
        ) from None
    result = Result(words, done.returncode, _text(done.stdout), _text(done.stderr), time.monotonic() - started)
    if check and result.code:
        raise Failed(str(result))
    return result


def _text(data: bytes | None) -> str:
    return (data or b"").decode("utf-8", "surrogateescape")


class Server:
    """A program in the background; its output goes to ``log``.

    Args:
        argv: what to run.
        log: appended to, so that a restart keeps what the run before said.
        env: added to the environment.
        stdin: a file descriptor to read from.
    """

    def __init__(
        self,
        argv: Sequence[str | os.PathLike[str]],
        log: Path,
        env: Mapping[str, str] | None = None,
        stdin: int = subprocess.DEVNULL,
    ) -> None:
        self.argv = [os.fspath(word) for word in argv]
        self.log = log
        with log.open("ab") as output:
            self._child = subprocess.Popen(
                self.argv,
                stdin=stdin,
                stdout=output,
                stderr=output,
                env={**os.environ, **(env or {})},
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The process id, also after the end."""
        return self._child.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._child.poll() is None

    @property
    def code(self) -> int | None:
        """The exit status, None while it runs."""
        return self._child.poll()

    def output(self) -> str:
        """What it has written so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, where it still runs."""
        self._child.send_signal(number)

    def wait(self, seconds: float) -> int:
        """Wait for the end and return the exit status.

        Raises:
            Failed: it has not ended after ``seconds``.
        """
        try:
            return self._child.wait(patient(seconds))
        except subprocess.TimeoutExpired:
            raise Failed(
                f"{shlex.join(self.argv)}: still running after {patient(seconds):g} s\n{self.output()[-4000:]}"
            ) from None

    def stop(self, seconds: float = 20) -> int:
        """Ask it to end; after ``seconds`` make it. Returns the exit status."""
        self.signal(signal.SIGTERM)
        with suppress(Failed):
            return self.wait(seconds)
        return self.kill_9()

    def kill_9(self) -> int:
        """End it at once. Returns the exit status."""
        self.signal(signal.SIGKILL)
        return self.wait(20)

    def ready(self, condition: Callable[[], bool], seconds: float = 30) -> None:
        """Wait until ``condition`` holds.

        Raises:
            Failed: the server ended, or ``seconds`` passed; with the end of its output.
        """

        def settled() -> bool:
            return condition() or not self.running

        wait_until(settled, seconds, lambda: f"{shlex.join(self.argv)} to be ready:\n{self.output()[-4000:]}")
        if not self.running:
            raise Failed(f"{shlex.join(self.argv)}: ended with {self.code}\n{self.output()[-4000:]}")


def wait_until(condition: Callable[[], bool], seconds: float = 30, what: str | Callable[[], str] = "it") -> None:
    """Wait until ``condition`` holds, looking every 20 ms.

    Raises:
        Failed: ``seconds`` passed; the message says ``what`` was waited for.
    """
    end = time.monotonic() + patient(seconds)
    while not condition():
        if time.monotonic() > end:
            raise Failed(f"waited {patient(seconds):g} s for {what if isinstance(what, str) else what()}")
        time.sleep(0.02)
