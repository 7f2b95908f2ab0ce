"""Times of day, by clocks that jump."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapvol.errors import UsageError
from snapvol.timetable import Timetable, timetable

BERLIN = ZoneInfo("Europe/Berlin")
TABLES = st.builds(
    Timetable,
    weekday=st.none() | st.integers(0, 6),
    hour=st.integers(0, 23),
    minute=st.integers(0, 59),
)
MOMENTS = st.datetimes(datetime(2020, 1, 1), datetime(2030, 1, 1)).map(lambda moment: moment.replace(tzinfo=UTC))
ZONES = st.sampled_from(["UTC", "Europe/Berlin", "America/St_Johns", "Pacific/Apia", "Australia/Lord_Howe"])


def test_what_the_words_mean() -> None:
    assert timetable("daily 08:05") == Timetable(weekday=None, hour=8, minute=5)
    assert timetable("Weekly Sun 23:59") == Timetable(weekday=6, hour=23, minute=59)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "write: daily 08:00"),
        ("dayly 08:00", "did you mean 'daily'?"),
        ("08:00", "write: daily 08:00"),
        ("daily", "has no time of day"),
        ("daily 24:00", "has no time of day"),
        ("daily 8:00", "has no time of day"),
        ("daily mon 08:00", "has no time of day"),
        ("weekly 08:00", "names no day of the week; one of: mon"),
        ("weekly monday 08:00", "names no day of the week"),
        ("weekly mon", "has no time of day"),
    ],
)
def test_t16_what_is_no_timetable(text: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        timetable(text)
    assert said in str(caught.value)


def test_t22_it_follows_the_clock_on_the_wall() -> None:
    eight = timetable("daily 08:00")
    before, after = datetime(2026, 3, 28, 7, 0, tzinfo=UTC), datetime(2026, 3, 29, 6, 0, tzinfo=UTC)
    assert eight.latest(datetime(2026, 3, 28, 12, tzinfo=UTC), BERLIN) == before
    assert eight.latest(after, BERLIN) == after  # 23 hours later
    assert eight.latest(after - timedelta(seconds=1), BERLIN) == before


@given(TABLES, MOMENTS, ZONES)
def test_t22_there_is_always_a_last_time_and_it_is_not_long_ago(table: Timetable, now: datetime, name: str) -> None:
    zone = ZoneInfo(name)
    last = table.latest(now, zone)
    assert last <= now
    days = 1 if table.weekday is None else 7
    assert now - last <= timedelta(days=days + 1, hours=2)  # Samoa left out a whole day, though not in these years
    assert table.latest(last, zone) == last
