"""One worker process: started, listened to, and ended."""

from __future__ import annotations

import logging
import os
import selectors
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from snapvol import shell
from snapvol.errors import Cancelled, SnapvolError, StorageFailed, by_kind
from snapvol.service import work

log = logging.getLogger(__name__)

GRACE = 10  # seconds from asking a worker to end until it is made to
LONGEST_LINE = 16 * 1024 * 1024


class Worker:
    """A worker process from its start to its end. `cancel` may be called from any thread.

    Attributes:
        late: it took longer than it may.

    Args:
        what: the work.
        heard: called, in the thread that runs `result`, with each message but the last.
        tick: called there about twice a second.
        seconds: how long it may take; None for honest long work.
    """

    def __init__(
        self,
        what: work.Work,
        heard: Callable[[work.Message], None] | None = None,
        *,
        tick: Callable[[], None] | None = None,
        seconds: float | None = None,
    ) -> None:
        self._what = what
        self._heard = heard
        self._tick = tick
        self._seconds = seconds
        self.late = False
        self._lock = threading.Lock()
        self._child: shell.Child | None = None
        self._asked: float | None = None
        self._last: work.Finished | work.Failed | None = None

    def cancel(self) -> None:
        """Ask it to end; it is made to after `GRACE`. `result` then raises Cancelled."""
        with self._lock:
            if self._asked is None:
                self._asked = time.monotonic()
                if self._child is not None:
                    self._child.signal(signal.SIGTERM)

    def result(self) -> dict[str, Any]:
        """Run it to its end, in this thread, and return what it found or made.

        The kernel ends the worker when this thread ends, so this thread must be the one that waits.

        Raises:
            SnapvolError: what the worker reported, of the class that it reported.
            Cancelled: `cancel` was called.
            StorageFailed: it took longer than ``seconds``, or ended without a word.
        """
        child = self._started()
        try:
            self._listen(child)
            code = child.wait(GRACE)
        finally:
            with self._lock:
                self._child = None
            child.close()
        return self._outcome(code)

    def _started(self) -> shell.Child:
        request = work.encode(work.Request(parent=os.getpid(), work=self._what))
        with self._lock:
            if self._asked is not None:
                raise Cancelled("it was cancelled before it began")
            self._child = shell.spawn("snapvol.worker", request)
            return self._child

    def _listen(self, child: shell.Child) -> None:
        end = None if self._seconds is None else time.monotonic() + self._seconds
        lines = {child.stdout: _Lines(), child.stderr: _Lines()}
        with selectors.DefaultSelector() as selector:
            for pipe in lines:
                selector.register(pipe, selectors.EVENT_READ)
            while selector.get_map():
                for key, _ in selector.select(0.5):
                    data = os.read(key.fd, 65536)
                    if not data:
                        selector.unregister(key.fd)
                    for line in lines[key.fd].of(data):
                        self._take(line, key.fd == child.stderr)
                if self._tick is not None:
                    self._tick()
                if end is not None and time.monotonic() > end:
                    self.late = True
                    child.signal(signal.SIGKILL)
                if self._asked is not None and time.monotonic() > self._asked + GRACE:
                    child.signal(signal.SIGKILL)

    def _take(self, line: bytes, stderr: bool) -> None:
        if stderr:
            message: work.Message = work.Said(line=line.decode("utf-8", "replace"))
        else:
            try:
                message = work.decode_message(line)
            except msgspec.MsgspecError:
                message = work.Said(line=line.decode("utf-8", "replace"))
        if isinstance(message, work.Finished | work.Failed):
            self._last = message
        elif self._heard is not None:
            self._heard(message)
        elif isinstance(message, work.Said):
            log.debug("worker: %s", message.line)

    def _outcome(self, code: int | None) -> dict[str, Any]:
        if isinstance(self._last, work.Finished):
            return self._last.result
        if self._asked is not None:
            raise Cancelled("it was cancelled")
        if isinstance(self._last, work.Failed):
            raise by_kind(self._last.kind)(self._last.message, self._last.hint)
        if self.late:
            raise StorageFailed(f"no answer within {self._seconds:.0f} s", "see whether the repository answers")
        raise SnapvolError(f"the worker process {_ending(code)}", "see its log: snapvol job show ID")


class _Lines:
    """Cuts a stream into lines."""

    def __init__(self) -> None:
        self._rest = b""

    def of(self, data: bytes) -> Iterator[bytes]:
        """Yield the lines that ``data`` completes; empty data is the end of the stream."""
        *whole, self._rest = (self._rest + data).split(b"\n")
        if not data or len(self._rest) > LONGEST_LINE:
            whole, self._rest = [*whole, self._rest], b""
        yield from (line for line in whole if line.strip())


def _ending(code: int | None) -> str:
    if code is None or code >= 0:
        return f"ended with status {code} and without a result"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"
