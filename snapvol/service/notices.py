"""What messages say: the object, the cause and the command that mends it, fit for a telephone at 3 a.m."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta

from humanize import naturaldelta
from msgspec import Struct

from snapvol.api import Finding, Level, Status, VolumeStatus
from snapvol.service.alarms import Alarm, Notice

MOST_LINES = 25  # of one kind; a message has to fit where it is read
_FLAPPING = 2


class Message(Struct, frozen=True, kw_only=True):
    """A message for people.

    Attributes:
        title: one line, that says enough on a locked screen.
        body: a line or two for each subject.
        level: the worst that it tells of; OK where all that it tells is good.
    """

    title: str
    body: str
    level: Level


def message(host: str, notice: Notice, status: Status, now: datetime) -> Message:
    """Put a notice into words.

    Args:
        host: this machine's name.
        notice: what to tell.
        status: for a digest: how well all volumes are protected.
        now: the time.
    """
    lines = [line for section in _sections(notice) for line in section]
    if notice.digest:
        lines += [*([""] if lines else []), *_digest(status, now)]
    return Message(
        title=f"{plain(host)}: {_title(notice, status)}", body="\n".join(lines), level=_level(notice, status)
    )


def trial(host: str, target: str) -> Message:
    """Return the message of ``snapvol notify test``."""
    body = f"Target '{target}' of snapvol on {plain(host)} works. When it matters, the reason and a command stand here."
    return Message(title=f"{plain(host)}: this is a test", body=body, level=Level.OK)


def plain(text: str) -> str:
    """Return ``text`` in one line and without anything invisible (T44: names and reasons are not ours)."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def _level(notice: Notice, status: Status) -> Level:
    told = {alarm.level for alarm in notice.told.values()}
    if notice.digest:
        told |= {finding.level for finding in status.findings}
    return Level.ERROR if Level.ERROR in told else Level.WARNING if Level.WARNING in told else Level.OK


def _title(notice: Notice, status: Status) -> str:
    changed = {**notice.raised, **notice.eased, **notice.recovered}
    if len(changed) == 1:
        ((subject, alarm),) = changed.items()
        return f"{_word(notice, subject, alarm)}: {plain(subject)}"
    parts = [
        f"{len(group)} {word}"
        for group, word in (
            (notice.raised, "new"), (notice.eased, "better"), (notice.recovered, "recovered"),
            (notice.reminded, "still wrong"),
        )
        if group
    ]  # fmt: skip
    if notice.digest:
        wrong = sum(finding.level is not Level.OK for finding in status.findings)
        parts.append(f"{wrong} to look at" if wrong else "all is well")
    return ", ".join(parts)


def _word(notice: Notice, subject: str, alarm: Alarm) -> str:
    if subject in notice.recovered:
        return "recovered"
    return f"no longer an error, but a {alarm.level}" if subject in notice.eased else alarm.level.value


def _sections(notice: Notice) -> Iterator[Iterator[str]]:
    yield _listed(notice.raised, lambda alarm: alarm.level.value)
    yield _listed(notice.eased, lambda alarm: f"no longer an error, but a {alarm.level}")
    yield _recovered(notice.recovered)
    yield _listed(notice.reminded, lambda alarm: f"still {_an(alarm.level)}")


def _an(level: Level) -> str:
    return f"an {level}" if level is Level.ERROR else f"a {level}"


def _listed(alarms: Mapping[str, Alarm], word: Callable[[Alarm], str]) -> Iterator[str]:
    worst_first = sorted(alarms.items(), key=lambda item: (item[1].level is not Level.ERROR, item[0]))
    for subject, alarm in worst_first[:MOST_LINES]:
        yield f"{word(alarm)}: {plain(subject)}: {plain(alarm.message)}"
        if alarm.command:
            yield f"  do: {plain(alarm.command)}"
        if alarm.returns >= _FLAPPING:
            yield f"  it has come back {alarm.returns} times; its end will be told when it lasts"
    yield from _rest(len(worst_first))


def _recovered(alarms: Mapping[str, Alarm]) -> Iterator[str]:
    for subject, alarm in sorted(alarms.items())[:MOST_LINES]:
        yield f"recovered: {plain(subject)} (it was: {plain(alarm.message)})"
    yield from _rest(len(alarms))


def _rest(count: int) -> Iterator[str]:
    if count > MOST_LINES:
        yield f"and {count - MOST_LINES} more: snapvol status"


def _digest(status: Status, now: datetime) -> Iterator[str]:
    wrong = [finding for finding in status.findings if finding.level is not Level.OK]
    yield f"{len(wrong)} to look at:" if wrong else "Nothing needs attention."
    for finding in sorted(wrong, key=lambda it: (it.level is not Level.ERROR, it.subject))[:MOST_LINES]:
        yield _found(finding)
    yield from _rest(len(wrong))
    yield f"{len(status.volumes)} volumes, the longest without a backup first:"
    for volume in sorted(status.volumes, key=_unprotected, reverse=True)[:MOST_LINES]:
        yield f"  {plain(volume.name)}: {_age(volume, now)}"
    yield from _rest(len(status.volumes))


def _found(finding: Finding) -> str:
    command = f"; do: {plain(finding.command)}" if finding.command else ""
    return f"  {finding.level}: {plain(finding.subject)}: {plain(finding.message)}{command}"


def _unprotected(volume: VolumeStatus) -> float:
    return float("inf") if volume.would_lose_off_host is None else volume.would_lose_off_host


def _age(volume: VolumeStatus, now: datetime) -> str:
    if volume.last_backup is None:
        return "never backed up"
    return f"backed up {naturaldelta(max(now - volume.last_backup.time, timedelta(0)))} ago"
