from __future__ import annotations

import pytest

from snapvol.service.pace import STALLED, Pace
from snapvol.service.work import Progressed

MIB = 1 << 20


def test_rate_and_time_left_settle_at_a_steady_pace() -> None:
    pace = Pace(100.0)
    for second in range(1, 31):
        shown = pace.take(Progressed(bytes_done=second * MIB, bytes_total=100 * MIB), 100.0 + second)
    assert shown.rate == pytest.approx(MIB, rel=0.01)
    assert shown.eta_seconds == pytest.approx(70, rel=0.02)
    assert shown.fraction == pytest.approx(0.3)


def test_a_change_of_pace_is_followed_but_not_jumped_at() -> None:
    pace = Pace(0.0)
    for second in range(1, 31):
        pace.take(Progressed(bytes_done=second * MIB, bytes_total=1000 * MIB), float(second))
    jumped = pace.take(Progressed(bytes_done=40 * MIB, bytes_total=1000 * MIB), 31.0)
    assert MIB < jumped.rate < 4 * MIB


def test_there_is_no_time_left_where_the_total_is_not_known() -> None:
    shown = Pace(0.0).take(Progressed(bytes_done=MIB), 1.0)
    assert shown.eta_seconds is None
    assert shown.rate == MIB


def test_T20_standing_still_is_told_once_each_time() -> None:
    pace = Pace(0.0)
    pace.take(Progressed(bytes_done=1), 1.0)
    assert pace.stalled(STALLED) is None
    pace.take(Progressed(bytes_done=1), STALLED)  # a sign of life is no progress
    assert pace.stalled(1 + STALLED) == STALLED
    assert pace.stalled(2 + STALLED) is None
    pace.take(Progressed(bytes_done=2), 3 + STALLED)
    assert pace.stalled(4 + STALLED) is None
    assert pace.stalled(4 + 2 * STALLED) is not None
