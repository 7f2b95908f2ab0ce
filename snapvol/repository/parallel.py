"""Work done ahead of its use by a few threads, in order and in bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")


def mapped(work: Callable[[A], B], items: Iterable[A], ahead: int) -> Iterator[B]:
    """Yield ``work(item)`` for each item, in order, while threads do the next ``ahead`` ones.

    What ``work`` or ``items`` raise, this raises in its place; then, or when the caller stops early, what was begun is
    awaited and the rest dropped.
    """
    with ThreadPoolExecutor(ahead, thread_name_prefix="snapvol-ahead") as pool:
        waiting: deque[Future[B]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) >= ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
