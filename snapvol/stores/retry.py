"""Retries around a store: what failed in passing is tried again, for a bounded time, at random intervals."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_delay, wait_random_exponential

from snapvol.stores.base import Buffer, Entry, Store, Transient

log = logging.getLogger(__name__)

T = TypeVar("T")


class RetryingStore(Store):
    """A store whose `Transient` failures are tried again; every other failure is final at once.

    Args:
        store: the store.
        patience: seconds after which no new attempt is begun.
        first_patience: likewise, until the store has answered once: a wrong URL should be told of soon.
        longest_wait: seconds between two attempts, at most; the wait is random, so that many clients spread out.
    """

    def __init__(
        self, store: Store, *, patience: float = 300.0, first_patience: float = 15.0, longest_wait: float = 20.0
    ) -> None:
        self.location = store.location
        self._store = store
        self._patience = patience
        self._first_patience = first_patience
        self._wait = wait_random_exponential(multiplier=0.25, max=longest_wait)
        self._answered = False

    def prepare(self) -> None:
        """See `Store.prepare`. That many stores have nothing to prepare proves no answer."""
        answered = self._answered
        self._attempt(self._store.prepare)
        self._answered = answered

    def put(self, name: str, data: Buffer) -> None:
        """See `Store.put`. A first attempt may have stored the object and lost the answer: that is no failure."""
        self._attempt(lambda: self._store.put(name, data))

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """See `Store.get`."""
        return self._attempt(lambda: self._store.get(name, offset, length))

    def size(self, name: str) -> int:
        """See `Store.size`."""
        return self._attempt(lambda: self._store.size(name))

    def list(self, prefix: str) -> Iterator[Entry]:
        """See `Store.list`. A listing that breaks off is begun again, so it is gathered before it is given out."""
        return iter(self._attempt(lambda: tuple(self._store.list(prefix))))

    def delete(self, names: Sequence[str]) -> None:
        """See `Store.delete`."""
        self._attempt(lambda: self._store.delete(names))

    def _attempt(self, work: Callable[[], T]) -> T:
        attempts = Retrying(
            retry=retry_if_exception_type(Transient),
            stop=stop_after_delay(self._patience if self._answered else self._first_patience),
            wait=self._wait,
            before_sleep=self._log,
            reraise=True,
        )
        result = attempts(work)
        self._answered = True
        return result

    def _log(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        log.warning("attempt %d failed, trying again: %s", state.attempt_number, error)
