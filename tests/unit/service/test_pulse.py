"""Whether the housekeeping is done: what counts as alive, and what is said of a task that does not end."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest

from snapvol.api import Level
from snapvol.service import pulse as beating
from snapvol.service.pulse import Pulse


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Let time pass."""
    clock = 1000.0

    def later(seconds: float) -> None:
        nonlocal clock
        clock += seconds

    monkeypatch.setattr(beating, "time", SimpleNamespace(monotonic=lambda: clock, time=lambda: clock))
    return later


def test_it_is_alive_while_any_task_ends(later: Callable[[float], None]) -> None:
    pulse = Pulse()
    assert not pulse.alive()
    pulse.expect("pools", 10)
    pulse.expect("notify", 5)
    pulse.began("pools")  # and hangs
    assert not pulse.alive()
    for _ in range(10):
        pulse.began("notify")
        pulse.ended("notify")
        later(30)
        assert pulse.alive()
    later(beating.ALIVE_SECONDS)
    assert not pulse.alive()


def test_a_task_that_does_not_end_is_a_finding_until_it_does(later: Callable[[float], None]) -> None:
    pulse = Pulse()
    pulse.expect("pools", 10)
    pulse.expect("usage", 600)
    pulse.began("pools")
    pulse.began("usage")
    later(700)
    (finding,) = pulse.findings()  # measuring may take longer
    assert (finding.level, finding.subject) == (Level.ERROR, "housekeeping of pools")
    assert finding.message == "has not ended for 12 minutes: its storage may hang"
    pulse.ended("pools")
    assert pulse.findings() == []
    assert pulse.ends() == {"pools": 1700.0}
