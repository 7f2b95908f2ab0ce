"""How far long work is: a bar on a terminal, a line every few seconds elsewhere. All of it goes to standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType
from typing import Protocol

from snapvol.api import JobProgress
from snapvol.cli import output

LINE_SECONDS = 5.0
REFRESH_SECONDS = 0.1


class Display(Protocol):
    """Where progress is shown."""

    def show(self, title: str, progress: JobProgress) -> None:
        """Show how far the work called ``title`` is."""

    def say(self, line: str) -> None:
        """Print a line without disturbing what is shown."""


class Lines(AbstractContextManager["Lines"]):
    """Plain lines, for logs and pipes."""

    def __init__(self) -> None:
        self._next = time.monotonic() + LINE_SECONDS

    def show(self, title: str, progress: JobProgress) -> None:
        """Print a line where the last one is old enough."""
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + LINE_SECONDS
            self.say(f"{title}: {described(progress)}")

    def say(self, line: str) -> None:
        """Print a line."""
        print(output.printable(line), file=sys.stderr, flush=True)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Nothing to undo."""


class Bars(AbstractContextManager["Bars"]):
    """One bar per piece of work, on a terminal."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TextColumn("{task.fields[detail]}", markup=False),
            console=Console(stderr=True),
            transient=True,
        )
        self._tasks: dict[str, int] = {}

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def show(self, title: str, progress: JobProgress) -> None:
        """Move the bar of ``title``; the first time it is seen it gets one."""
        title = output.printable(title)
        if title not in self._tasks:
            self._tasks[title] = self._progress.add_task(title, total=1.0, detail="")
        known = progress.bytes_total or progress.files_total
        self._progress.update(
            self._tasks[title],  # type: ignore[arg-type]
            total=1.0 if known else None,
            completed=progress.fraction,
            detail=amounts(progress),
        )

    def say(self, line: str) -> None:
        """Print a line above the bars."""
        self._progress.console.print(output.printable(line), markup=False, highlight=False, soft_wrap=True)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Take the bars away."""
        self._progress.stop()


@contextmanager
def display() -> Iterator[Display]:
    """Show progress in the way that suits where standard error goes."""
    with Bars() if sys.stderr.isatty() else Lines() as shown:
        yield shown


def described(progress: JobProgress) -> str:
    """Return how far the work is, as one line: ``43 %, 1.2 GiB of 2.8 GiB, …``."""
    known = progress.bytes_total or progress.files_total
    return f"{progress.fraction:.0%}, {amounts(progress)}".replace("%", " %") if known else amounts(progress)


def amounts(progress: JobProgress) -> str:
    """Return bytes, files, rate and time left, as far as they are known."""
    parts = [progress.phase] if progress.phase else []
    if progress.bytes_total or progress.bytes_done:
        total = f" of {output.size(progress.bytes_total)}" if progress.bytes_total else ""
        parts.append(f"{output.size(progress.bytes_done)}{total}")
    if progress.files_total or progress.files_done:
        total = f" of {progress.files_total}" if progress.files_total else ""
        parts.append(f"{progress.files_done}{total} files")
    if progress.rate:
        parts.append(f"{output.size(progress.rate)}/s")
    if progress.eta_seconds is not None:
        parts.append(f"{output.duration(progress.eta_seconds)} left")
    return ", ".join(parts) or "starting"


class Counter:
    """What the engine tells about its work in this process, passed on to a display.

    Args:
        title: what the work is called.
        shown: where it is shown.
    """

    def __init__(self, title: str, shown: Display) -> None:
        self._title = title
        self._shown = shown
        self._totals = (0, 0)
        self._bytes = 0
        self._files = 0
        self._began = time.monotonic()
        self._next = 0.0

    def total(self, files: int, bytes: int) -> None:
        """Take how much there is to do."""
        self._totals = (files, bytes)

    def advance(self, bytes: int, files: int) -> None:
        """Add what was done; shown at most ten times a second."""
        self._bytes += bytes
        self._files += files
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + REFRESH_SECONDS
            self._shown.show(self._title, self._progress())

    def note(self, path: str, problem: str) -> None:
        """Print a problem."""
        self._shown.say(f"snapvol: warning: {path}: {problem}")

    def cancelled(self) -> None:
        """Never raises: Ctrl-C ends this process's own work at once."""

    def _progress(self) -> JobProgress:
        files, size = self._totals
        rate = self._bytes / max(time.monotonic() - self._began, 0.001)
        left = (size - self._bytes) / rate if size and rate else None
        return JobProgress(
            bytes_done=self._bytes,
            bytes_total=size,
            files_done=self._files,
            files_total=files,
            rate=rate,
            eta_seconds=None if left is None else max(left, 0.0),
        )
