"""Work done ahead: in order, bounded, and never in anybody's way when it is given up."""

from __future__ import annotations

import gc
import itertools
import time
from collections.abc import Iterator
from threading import Event, Thread

import pytest

from snapvol.repository.parallel import mapped, mapping

LONG = 60  # seconds; more than any machine needs


def test_in_order_and_not_further_ahead_than_told() -> None:
    begun = []

    def items() -> Iterator[int]:
        for number in itertools.count():
            begun.append(number)
            yield number

    def work(number: int) -> int:
        time.sleep(0.001 * (number % 3))
        return number * 2

    results = mapped(work, items(), 4)
    assert [next(results) for _ in range(10)] == [number * 2 for number in range(10)]
    assert len(begun) == 13


@pytest.mark.parametrize("who", ["work", "items", "caller"])
def test_what_changes_something_has_ended_with_the_context(who: str) -> None:
    """Whoever ends it; and nothing is begun afterwards."""
    begun, ended = [], []
    running = Event()

    def items() -> Iterator[int]:
        yield from range(3)
        if who == "items":
            assert running.wait(LONG)
            raise ValueError(who)
        yield from range(3, 100)

    def work(number: int) -> int:
        begun.append(number)
        if number == 1 and who == "work":
            assert running.wait(LONG)
            raise ValueError(who)
        if number == 2:
            running.set()
            time.sleep(0.2)  # in which a context that does not wait for it has long ended
        ended.append(number)
        return number

    def used(results: Iterator[int]) -> None:
        for number in results:
            if number == 0 and who == "caller":
                assert running.wait(LONG)
                raise ValueError(who)

    with pytest.raises(ValueError, match=who), mapping(work, items(), 4) as results:
        used(results)
    failed = {1} if who == "work" else set()
    assert set(begun) == {*ended, *failed}
    assert 2 in ended
    assert len(begun) < 10


def test_an_error_comes_in_its_place() -> None:
    def work(number: int) -> int:
        if number == 2:
            raise ValueError(number)
        return number

    results = mapped(work, range(100), 4)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="2"):
        next(results)


def test_what_is_given_up_keeps_nobody_waiting() -> None:
    """The collector closes it at any moment, as under the lock without which no thread of the process can end."""
    release, begun = Event(), Event()

    def work(number: int) -> int:
        if number:
            begun.set()
            release.wait(LONG)
        return number

    results = mapped(work, itertools.count(), 2)
    assert next(results) == 0
    assert begun.wait(LONG)
    cycle: list[object] = [results]
    cycle.append(cycle)
    del results, cycle
    collector = Thread(target=gc.collect, daemon=True)
    collector.start()
    collector.join(LONG / 2)
    try:
        assert not collector.is_alive()
    finally:
        release.set()
