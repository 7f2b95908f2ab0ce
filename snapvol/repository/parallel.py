"""Work done ahead of its use by a few threads, in order and in bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")


def mapped(work: Callable[[A], B], items: Iterable[A], ahead: int) -> Iterator[B]:
    """Yield ``work(item)`` for each item, in order, while threads do the next ``ahead`` ones.

    For work that only reads. What ``work`` or ``items`` raise, this raises in its place. Whenever it ends, what was
    begun ends by itself, and the rest is dropped. Nothing is waited for: the garbage collector too closes a generator,
    in any thread and under any lock, also under that of ``threading`` which a thread needs in order to end.
    """
    pool = ThreadPoolExecutor(ahead, thread_name_prefix="snapvol-ahead")
    try:
        yield from _in_order(pool, work, items, ahead)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


@contextmanager
def mapping(work: Callable[[A], B], items: Iterable[A], ahead: int) -> Iterator[Iterator[B]]:
    """Give what `mapped` yields, for work that changes something: at the end of the context all of it has ended."""
    pool = ThreadPoolExecutor(ahead, thread_name_prefix="snapvol-ahead")
    try:
        yield _in_order(pool, work, items, ahead)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _in_order(pool: ThreadPoolExecutor, work: Callable[[A], B], items: Iterable[A], ahead: int) -> Iterator[B]:
    waiting: deque[Future[B]] = deque()
    for item in items:
        waiting.append(pool.submit(work, item))
        if len(waiting) >= ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
