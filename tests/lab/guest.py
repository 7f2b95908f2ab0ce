"""One boot of one machine that runs one command: what the kinds of guest have in common.

A guest sees the host's files and works in this tree, but what it writes stays in its memory; only its disks are kept.
The command's output comes by the machine's console, its exit status by the file ``status`` in the guest's place.
"""

from __future__ import annotations

import os
import shlex
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from subprocess import DEVNULL  # noqa: TID251
from types import TracebackType
from typing import BinaryIO, ClassVar, Self

from support import leftovers
from support.process import Server

TREE = Path(__file__).resolve().parents[2]
_HANDED_ON = ("SNAPVOL_TEST_", "HYPOTHESIS_PROFILE", "PATH")
_TAIL = 4000  # bytes of the console that a failure shows


class GuestFailed(AssertionError):
    """The guest ended, or was ended, before its command did."""


class Guest(ABC):
    """A machine for one command.

    Args:
        command: what it runs as root, in the directory of this source tree, with the caller's variables
            SNAPVOL_TEST_*, HYPOTHESIS_PROFILE and PATH. SNAPVOL_TEST_DISKS names its disks.
        place: an empty directory of the host's, for this boot alone. The guest can read it, under the same name.
        disks: image files of the host's, block devices in the guest. They keep what reached them.
        seconds: from the start to the end at most; then the guest is killed.
        env: added to the command's environment.
        output: gets what the command prints while it runs, and what the kernel complains of. Default: our stdout.
        memory: bytes of memory, which also hold all files that the guest writes.
    """

    environment: ClassVar[Mapping[str, str]] = {}  # what commands need to know on this kind of machine

    def __init__(
        self,
        command: Sequence[str | os.PathLike[str]],
        *,
        place: Path,
        disks: Sequence[Path] = (),
        seconds: float = 900,
        env: Mapping[str, str] | None = None,
        output: BinaryIO | None = None,
        memory: int = 3 << 30,
    ) -> None:
        self.command = [os.fspath(word) for word in command]
        self.place = place.resolve()
        self.disks = [disk.resolve() for disk in disks]
        self.seconds = seconds
        self.memory = memory
        self._env = dict(env or {})
        self._output = output or sys.stdout.buffer
        self._console = self.place / "console"
        self._shown = 0
        self._end = 0.0
        self._servers: list[Server] = []

    @abstractmethod
    def boot(self) -> None:
        """Start the machine with `_serve`: what it needs first, itself last, with its console as its log."""

    @abstractmethod
    def device(self, number: int) -> str:
        """Return the guest's name of the disk ``number``, counted from 0."""

    def _serve(
        self,
        *argv: str | os.PathLike[str],
        log: Path | None = None,
        env: Mapping[str, str] | None = None,
        stdin: int = DEVNULL,
    ) -> Server:
        """Start a part of the machine; it ends when we do. ``log`` is the console's file by default."""
        server = Server(["setpriv", "--pdeathsig", "KILL", *argv], log=log or self._console, env=env, stdin=stdin)
        self._servers.append(server)
        return server

    def start(self) -> None:
        """Boot; returns at once."""
        self._write_command()
        self._end = time.monotonic() + self.seconds
        try:
            self.boot()
        except BaseException:
            self.kill()
            raise

    def _write_command(self) -> None:
        handed_on = {name: value for name, value in os.environ.items() if name.startswith(_HANDED_ON)}
        handed_on.pop(leftovers.MARK, None)
        devices = " ".join(self.device(number) for number in range(len(self.disks)))
        env = {
            "HOME": "/root",
            "LANG": "C.UTF-8",
            **self.environment,
            **handed_on,
            "SNAPVOL_TEST_DISKS": devices,
            **self._env,
        }
        words = ["env", "-i", *(f"{name}={value}" for name, value in env.items()), *self.command]
        (self.place / "command").write_text(f"cd {shlex.quote(str(TREE))} || exit 126\nexec {shlex.join(words)}\n")

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return bool(self._servers) and self._servers[-1].running

    @property
    def ended(self) -> bool:
        """Whether there is nothing to wait for: its command has ended, the machine has, or its time is over."""
        return not self.running or self._status() is not None or time.monotonic() >= self._end

    def wait(self) -> int:
        """Wait for the end, pass the output on, and return the command's exit status.

        Raises:
            GuestFailed: the time was over, and the guest has been killed; or it ended without its command's end.
        """
        while not self.ended:
            self.show()
            time.sleep(0.02)
        late = self.running
        self.kill()
        status = self._status()
        if status is not None:
            return status
        raise GuestFailed(
            self._says(f"killed: it still ran after {self.seconds:g} s" if late else "it ended before its command did")
        )

    def _status(self) -> int | None:
        """Return the command's exit status, which the guest writes when all is saved and all output is out."""
        with suppress(FileNotFoundError):
            text = (self.place / "status").read_text()
            return int(text) if text.endswith("\n") else None
        return None

    def show(self) -> None:
        """Pass on what the console got since the last time."""
        if not self._console.exists():
            return
        with self._console.open("rb") as console:
            console.seek(self._shown)
            data = console.read()
        self._shown += len(data)
        self._output.write(data)
        self._output.flush()

    def kill(self) -> None:
        """Cut the power: nothing is saved that is not on the disks yet. Returns when all of it is gone."""
        for server in reversed(self._servers):
            server.kill_9()
        self.show()

    def _says(self, what: str) -> str:
        console = self._console.read_bytes()[-_TAIL:].decode(errors="replace")
        return f"{type(self).__name__} guest for '{shlex.join(self.command)}': {what}; its last words:\n{console}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
