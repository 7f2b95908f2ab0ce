"""Blocking work: in order for each volume, one thread for each, never lost."""

from __future__ import annotations

import asyncio
import threading
import time
from functools import partial

import pytest

from snapvol.daemon.turns import Late, Turns, within
from snapvol.errors import StorageFailed


def test_g08_turns_come_in_order_of_arrival() -> None:
    async def main() -> list[int]:
        turns, done = Turns(8), list[int]()

        def work(number: int) -> None:
            time.sleep(0.001 * (number % 3))
            done.append(number)

        for number in range(50):
            turns.enter("web", partial(work, number))
        assert await turns.finish(10) == []
        return done

    assert asyncio.run(main()) == list(range(50))


def test_a_volume_that_hangs_holds_one_thread() -> None:
    async def main() -> None:
        turns, go = Turns(2), threading.Event()
        stuck = [turns.enter("stuck", lambda: go.wait(10)) for _ in range(20)]
        assert await within(5, turns.enter("other", lambda: "served")) == "served"
        go.set()
        assert all(await asyncio.gather(*stuck))
        await turns.finish(5)

    asyncio.run(main())


def test_work_that_failed_does_not_stop_what_comes_after() -> None:
    async def main() -> None:
        turns = Turns(2)

        def fail() -> None:
            raise StorageFailed("no")

        failing, after = turns.enter("web", fail), turns.enter("web", lambda: "done")
        assert await within(5, after) == "done"
        with pytest.raises(StorageFailed):
            await within(5, failing)
        await turns.finish(5)

    asyncio.run(main())


def test_late_work_goes_on_and_its_end_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        turns, go = Turns(2), threading.Event()

        def fail() -> None:
            go.wait(10)
            raise StorageFailed("the disk is gone")

        task = turns.enter("web", fail, what="mount web")
        with pytest.raises(Late):
            await within(0.01, task)
        go.set()
        await turns.finish(5)

    asyncio.run(main())
    assert "mount web: failed after its answer: the disk is gone" in caplog.text


def test_what_nobody_wants_any_more_is_not_begun() -> None:
    async def main() -> None:
        turns, go, begun = Turns(2), threading.Event(), list[str]()
        turns.enter("web", lambda: go.wait(10))
        unwanted = turns.enter("web", lambda: begun.append("unwanted"), dropped=lambda: True)
        go.set()
        with pytest.raises(Late):
            await within(5, unwanted)
        assert begun == []
        await turns.finish(5)

    asyncio.run(main())


def test_leaving_does_not_stop_the_work() -> None:
    async def main() -> None:
        turns, go, done = Turns(2), threading.Event(), list[str]()

        def work() -> None:
            go.wait(10)
            done.append("done")

        task = turns.enter("web", work)
        waiting = asyncio.ensure_future(within(5, task))
        await asyncio.sleep(0.01)
        waiting.cancel()
        go.set()
        assert await turns.finish(5) == []
        assert done == ["done"]

    asyncio.run(main())


def test_a_stop_names_what_does_not_end() -> None:
    async def main() -> None:
        turns, go = Turns(2), threading.Event()
        turns.enter("web", lambda: go.wait(10), what="remove web")
        assert await turns.finish(0.05) == ["remove web"]
        go.set()

    asyncio.run(main())
