from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from snapvol.api import BackupInfo
from snapvol.errors import NotFound, Protected, UsageError
from snapvol.service import forgetting

NOW = datetime(2026, 11, 20, 3, 0, tzinfo=UTC)


def backup(id: str, days: float, volume: str = "web", *, incomplete: bool = False, volume_id: str = "") -> BackupInfo:
    return BackupInfo(
        id=id,
        time=NOW - timedelta(days=days),
        repository="default",
        volume=volume,
        volume_id=volume_id or f"id-of-{volume}",
        incomplete=incomplete,
    )


OLD, MIDDLE, NEW = backup("aa11", 3), backup("ab22", 2), backup("bb33", 1)
ALL = [OLD, MIDDLE, NEW]


def test_backups_are_named_by_the_beginning_of_their_ids() -> None:
    assert forgetting.resolve(["aa", "bb33", "aa11"], ALL, "default") == [OLD, NEW]


@pytest.mark.parametrize(
    ("text", "error"), [("a", UsageError), ("zz", NotFound), ("", NotFound), ("web", NotFound), ("aa112", NotFound)]
)
def test_what_does_not_name_exactly_one_is_refused(text: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        forgetting.resolve([text], ALL, "default")


def test_older_ones_may_go() -> None:
    forgetting.refuse_last([OLD, MIDDLE], ALL, NOW)


@pytest.mark.parametrize(
    ("chosen", "known"),
    [
        ([NEW], ALL),
        (ALL, ALL),
        # the newest one is incomplete: the last good one is what counts
        ([MIDDLE], [OLD, MIDDLE, backup("cc44", 0, incomplete=True)]),
        # T22: one dated in the future is not the newest
        ([NEW], [*ALL, backup("dd55", -30)]),
        # T2: another volume's newer backup under the same name protects nothing
        ([NEW], [*ALL, backup("ee66", 0, volume_id="another")]),
        # T1: nor does that of a volume whose name begins alike
        ([NEW], [*ALL, backup("ff77", 0, volume="web10")]),
        # where all are incomplete, the newest of them is the best there is
        (
            [backup("cc44", 0, incomplete=True)],
            [backup("cc44", 0, incomplete=True), backup("dd55", 1, incomplete=True)],
        ),
    ],
)
def test_the_last_good_backup_of_a_volume_stays(chosen: list[BackupInfo], known: list[BackupInfo]) -> None:
    with pytest.raises(Protected, match="is the newest complete one of volume 'web'"):
        forgetting.refuse_last(chosen, known, NOW)


def test_backups_of_other_programs_are_grouped_by_host() -> None:
    foreign = [
        BackupInfo(id="aa", time=NOW - timedelta(days=1), repository="r", host="one"),
        BackupInfo(id="bb", time=NOW, repository="r", host="two"),
    ]
    with pytest.raises(Protected, match="host 'one'"):
        forgetting.refuse_last([foreign[0]], foreign, NOW)


def test_a_plan_names_each_backup_with_volume_and_time() -> None:
    (action,) = forgetting.actions([OLD])
    assert (action.verb, action.object, action.detail) == ("forget", "backup aa11", "web, 2026-11-17 03:00 UTC")
