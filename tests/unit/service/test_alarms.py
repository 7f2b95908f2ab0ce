"""What is told and when: histories of findings, with failures to deliver, restarts and clocks that jump."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapvol.api import Finding, Level
from snapvol.service import alarms
from snapvol.service.alarms import BURST, CALMEST, REMIND, SPARSE, Known, Notice, Wish, decide, told
from snapvol.timetable import timetable

START = datetime(2026, 11, 20, 3, 0, tzinfo=UTC)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
WISH = Wish(level=Level.WARNING, group=MINUTE, digest=None, zone=UTC)
RANK = {Level.OK: 0, Level.WARNING: 1, Level.ERROR: 2}


def finding(subject: str = "pool 'tank'", level: Level = Level.ERROR, message: str = "is gone") -> Finding:
    return Finding(level=level, subject=subject, message=message, command="snapvol doctor")


class Listener:
    """A target that hears what `decide` says, and what it heard."""

    def __init__(self, wish: Wish = WISH) -> None:
        self.wish, self.known, self.now = wish, Known(), START
        self.heard: list[tuple[datetime, Notice]] = []
        self.accepts = True

    def tick(self, findings: Sequence[Finding], later: timedelta = 10 * timedelta(seconds=1)) -> Notice | None:
        self.now += later
        self.known, notice = decide(self.known, findings, self.now, self.wish)
        if notice is not None and self.accepts:
            self.known = told(self.known, notice, self.now)
            self.heard.append((self.now, notice))
            return notice
        return None

    def pass_time(self, findings: Sequence[Finding], span: timedelta, step: timedelta = MINUTE) -> list[Notice]:
        before = len(self.heard)
        for _ in range(int(span / step)):
            self.tick(findings, step)
        return [notice for _, notice in self.heard[before:]]

    def restart(self) -> None:
        self.known = msgspec.json.decode(msgspec.json.encode(self.known), type=Known)


def test_a_finding_is_told_once_reminded_daily_and_its_end_is_told() -> None:
    target = Listener()
    assert target.tick([finding()]) is None
    (first,) = target.pass_time([finding()], 2 * MINUTE)
    assert list(first.raised) == ["pool 'tank'"]
    assert (first.raised["pool 'tank'"].message, first.raised["pool 'tank'"].command) == ("is gone", "snapvol doctor")
    reminders = target.pass_time([finding()], 3 * DAY + HOUR)
    assert [(list(it.raised), list(it.reminded)) for it in reminders] == [([], ["pool 'tank'"])] * 3
    (last,) = target.pass_time([], 2 * DAY)
    assert list(last.recovered) == ["pool 'tank'"]
    assert target.known.alarms == {}


def test_what_appears_within_a_minute_is_one_message() -> None:
    target = Listener()
    found: list[Finding] = []
    for number in range(5):
        found.append(finding(f"volume 'v{number}'"))
        assert target.tick(found) is None
    (notice,) = target.pass_time(found, 5 * MINUTE)
    assert len(notice.raised) == 5


def test_what_is_gone_within_the_minute_is_not_told() -> None:
    target = Listener()
    target.tick([finding()])
    assert target.pass_time([], HOUR) == []


def test_what_comes_and_goes_faster_than_a_minute_is_told_all_the_same() -> None:
    target = Listener()
    for _ in range(5):
        target.tick([finding()], 20 * timedelta(seconds=1))
        target.tick([], 20 * timedelta(seconds=1))
    assert [list(notice.raised) for _, notice in target.heard] == [["pool 'tank'"]]


@pytest.mark.parametrize("period", [timedelta(seconds=20), MINUTE, 5 * MINUTE, 20 * MINUTE, HOUR])
def test_flapping_does_not_flood(period: timedelta) -> None:
    target = Listener()
    for _ in range(int(2 * DAY / period / 2)):
        target.pass_time([finding()], period, min(period, MINUTE))
        target.pass_time([], period, min(period, MINUTE))
    # The reminder counts, and the ends that were believed before it was known to flap.
    assert 1 <= len(target.heard) <= 12
    assert len([at for at, _ in target.heard if at > START + DAY]) <= 2


def test_a_level_that_rises_is_told_and_one_that_falls_is_said_to_be_better() -> None:
    target = Listener()
    (first,) = target.pass_time([finding(level=Level.WARNING)], 5 * MINUTE)
    (worse,) = target.pass_time([finding(level=Level.ERROR)], 10 * MINUTE)
    (better,) = target.pass_time([finding(level=Level.WARNING)], 10 * MINUTE)
    assert [it.level for it in (*first.raised.values(), *worse.raised.values(), *better.eased.values())] == [
        Level.WARNING,
        Level.ERROR,
        Level.WARNING,
    ]
    assert not better.recovered


def test_a_target_for_errors_hears_no_warning() -> None:
    target = Listener(msgspec.structs.replace(WISH, level=Level.ERROR))
    assert target.pass_time([finding(level=Level.WARNING)], DAY + HOUR) == []
    assert len(target.pass_time([finding()], HOUR)) == 1
    (over,) = target.pass_time([finding(level=Level.WARNING)], HOUR)
    assert list(over.recovered) == ["pool 'tank'"]


def test_of_one_subject_the_worst_counts_and_a_new_reason_is_no_new_alarm() -> None:
    target = Listener()
    both = [finding(level=Level.WARNING, message="unconfirmed"), finding(message="job 1 failed")]
    (notice,) = target.pass_time(both, HOUR)
    assert [alarm.message for alarm in notice.raised.values()] == ["job 1 failed"]
    assert target.pass_time([finding(message="job 2 failed")], HOUR) == []


def test_t21_a_restart_repeats_nothing_and_tells_what_ended_meanwhile() -> None:
    target = Listener()
    target.pass_time([finding(), finding("volume 'web'")], HOUR)
    target.restart()
    assert target.pass_time([finding(), finding("volume 'web'")], HOUR) == []
    target.restart()
    target.now += 5 * HOUR  # down, and the pool is mended by hand
    (notice,) = target.pass_time([finding("volume 'web'")], HOUR)
    assert (list(notice.recovered), list(notice.raised)) == (["pool 'tank'"], [])


def test_what_was_not_accepted_is_told_later_as_it_is_then() -> None:
    target = Listener()
    target.accepts = False
    target.pass_time([finding(), finding("volume 'web'")], HOUR)
    assert target.known.sent == ()
    target.accepts = True
    (notice,) = target.pass_time([finding("volume 'web'")], HOUR)
    assert (list(notice.raised), list(notice.recovered)) == (["volume 'web'"], [])


def test_a_recovery_during_the_sending_of_its_alarm_is_told() -> None:
    known, _ = decide(Known(), [finding()], START, WISH)
    known, notice = decide(known, [finding()], START + MINUTE, WISH)
    assert notice is not None
    known, _ = decide(known, [], START + 2 * MINUTE, WISH)  # and only now the service says that it took the alarm
    known = told(known, notice, START + 2 * MINUTE)
    _, after = decide(known, [], START + 4 * MINUTE, WISH)
    assert after is not None
    assert list(after.recovered) == ["pool 'tank'"]


def test_the_digest_comes_at_its_time_not_at_the_start_and_once_after_a_pause() -> None:
    target = Listener(msgspec.structs.replace(WISH, digest=timetable("daily 08:00")))
    digests = target.pass_time([], 3 * DAY)
    assert [notice.digest for notice in digests] == [True] * 3
    assert [(at.hour, at.minute) for at, _ in target.heard] == [(8, 0)] * 3
    target.restart()
    target.now += 10 * DAY
    assert [notice.digest for notice in target.pass_time([], 2 * HOUR)] == [True]


def test_a_digest_that_tells_of_an_alarm_is_its_reminder() -> None:
    target = Listener(msgspec.structs.replace(WISH, digest=timetable("daily 08:00")))
    heard = target.pass_time([finding()], 4 * DAY)
    assert [notice.digest for notice in heard] == [False, *[True] * 4]
    assert not any(notice.reminded for notice in heard)


def test_t22_a_clock_that_was_ahead_silences_nothing() -> None:
    target = Listener(msgspec.structs.replace(WISH, digest=timetable("daily 08:00")))
    target.now += 3650 * DAY
    target.pass_time([finding()], HOUR)
    target.now = START
    heard = target.pass_time([finding()], 2 * DAY)
    assert sum(1 for notice in heard if notice.digest) == 2
    (over,) = [notice for notice in target.pass_time([], 6 * HOUR) if notice.recovered]
    assert list(over.recovered) == ["pool 'tank'"]


SUBJECTS = ("volume 'a'", "volume 'b'", "pool 'p'", "backup of 'a'")
FINDINGS = st.lists(
    st.builds(finding, st.sampled_from(SUBJECTS), st.sampled_from(list(Level)), st.sampled_from(["x", "y"])),
    max_size=6,
)
STEPS = st.lists(
    st.tuples(
        FINDINGS,
        st.sampled_from([10, 30, 60, 600, 3600, 90_000]) | st.integers(-7200, 7200),
        st.booleans(),
        st.booleans(),
    ),
    max_size=60,
)
WISHES = st.builds(
    Wish,
    level=st.sampled_from([Level.WARNING, Level.ERROR]),
    group=st.sampled_from([timedelta(0), MINUTE, 5 * MINUTE]),
    digest=st.none() | st.just(timetable("daily 08:00")) | st.just(timetable("weekly mon 23:30")),
    zone=st.just(UTC),
)


def _check(before: Known, notice: Notice) -> None:
    """What a message may say, by what was told before it."""
    for subject, alarm in notice.raised.items():
        assert RANK[alarm.level] > (RANK[before.alarms[subject].told] if subject in before.alarms else 0)
    for subject, alarm in (*notice.recovered.items(), *notice.eased.items()):
        assert RANK[alarm.level] < RANK[before.alarms[subject].told]
    assert all(alarm.level is not Level.OK for alarm in (*notice.eased.values(), *notice.reminded.values()))
    assert notice.told or notice.digest, "it says nothing"


@given(WISHES, STEPS, FINDINGS)
def test_any_history_is_told_truly_seldom_and_in_the_end_whole(
    wish: Wish, steps: list[tuple[list[Finding], int, bool, bool]], final: list[Finding]
) -> None:
    target = Listener(wish)
    for found, seconds, accepts, restarts in steps:
        if restarts:
            target.restart()
        target.accepts, before = accepts, target.known
        notice = target.tick(found, timedelta(seconds=seconds))
        if notice is not None:
            _check(before, notice)
        else:
            assert target.known.sent == tuple(min(it, target.now) for it in before.sent if target.now - it < HOUR)
    # Whatever was, after a day without change the target knows what is.
    target.accepts = True
    target.pass_time(final, DAY, 5 * MINUTE)
    expected = {subject: it.level for subject, it in alarms._worst(final, wish.level).items()}
    assert {subject: it.told for subject, it in target.known.alarms.items() if it.told is not Level.OK} == expected


@given(WISHES, st.lists(st.tuples(FINDINGS, st.integers(1, 900)), max_size=150))
def test_no_hour_has_more_than_a_dozen_messages(wish: Wish, steps: list[tuple[list[Finding], int]]) -> None:
    target = Listener(wish)
    for found, seconds in steps:
        target.tick(found, timedelta(seconds=seconds))
    moments = [at for at, _ in target.heard]
    for at in moments:
        assert len([other for other in moments if at <= other < at + HOUR]) <= BURST + HOUR // SPARSE
    for earlier, later in pairwise(moments):
        assert later - earlier >= wish.group


@given(st.lists(st.tuples(FINDINGS, st.integers(1, 7200)), max_size=80))
def test_nothing_is_repeated_unchanged_within_a_day(steps: list[tuple[list[Finding], int]]) -> None:
    target = Listener()
    last: dict[str, tuple[Level, datetime]] = {}
    for found, seconds in steps:
        notice = target.tick(found, timedelta(seconds=seconds))
        for subject, alarm in (notice.told if notice is not None else {}).items():
            level, at = last.get(subject, (Level.OK, START))
            assert alarm.level is not level or target.now - at >= REMIND
            last[subject] = alarm.level, target.now


@given(st.integers(0, 1000))
def test_an_end_is_believed_after_hours_at_most(returns: int) -> None:
    alarm = alarms.Alarm(level=Level.OK, told=Level.ERROR, since=START, message="", returns=returns)
    assert MINUTE <= alarm.calm(MINUTE) <= CALMEST
