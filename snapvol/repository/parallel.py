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

    What ``work`` or ``items`` raise, this raises in its place, when what was begun has ended; the rest is dropped. When
    the caller stops early, what was begun ends by itself: the garbage collector too closes a generator, in any thread
    and under any lock, also under that of ``threading`` which a thread needs in order to end.
    """
    pool = ThreadPoolExecutor(ahead, thread_name_prefix="snapvol-ahead")
    waiting: deque[Future[B]] = deque()
    awaited = True
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except GeneratorExit:
        awaited = False
        raise
    finally:
        pool.shutdown(awaited, cancel_futures=True)
