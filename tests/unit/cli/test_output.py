"""Listings, JSON, plans and values."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from snapvol.api import Action, Plan, VolumeInfo
from snapvol.cli import output
from snapvol.cli.output import Column
from snapvol.cli.volumes import state
from snapvol.errors import Refused
from snapvol.model import State, now
from support.fake_api import as_terminal, volume

COLUMNS = (
    Column[VolumeInfo]("NAME", lambda volume: volume.name),
    Column[VolumeInfo]("USED", lambda volume: output.size(volume.used), right=True),
    Column[VolumeInfo]("NOTE", lambda volume: volume.error or ""),
)
ROWS = [volume("a", used=1536), volume("a-long-name", used=5, error="why")]


def test_a_listing_in_a_pipe_is_aligned_and_whole(capsys: pytest.CaptureFixture[str]) -> None:
    output.listing([*ROWS, volume("x" * 255)], COLUMNS)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["NAME", "USED", "NOTE"]
    assert lines[1].split() == ["a", "1.5", "KiB"]
    assert lines[2].endswith("5 B  why")
    assert lines[3].startswith("x" * 255)
    assert lines[0].index("USED") + 4 == lines[1].index("KiB") + 3


def test_a_listing_on_a_terminal_shows_names_whole(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    as_terminal(monkeypatch)
    output.listing([*ROWS, volume("y" * 60)], COLUMNS)
    printed = capsys.readouterr().out
    assert "a-long-name" in printed
    assert "y" * 60 in printed
    assert "[" not in printed


def test_what_people_wrote_is_no_markup(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    as_terminal(monkeypatch)
    output.listing([volume("a", error="[bold]x[/bold]")], COLUMNS)
    assert "[bold]x[/bold]" in capsys.readouterr().out


def test_json_is_an_array_with_an_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    output.listing(ROWS, COLUMNS, as_json=True)
    printed = capsys.readouterr().out
    assert [each["name"] for each in json.loads(printed)] == ["a", "a-long-name"]
    assert len(printed.splitlines()) == 4
    assert json.loads(printed)[0]["created"] == "2026-11-20T03:00:00Z"
    assert json.loads(printed)[0]["used"] == 1536


def test_an_empty_listing(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    output.listing([], COLUMNS, as_json=True)
    assert capsys.readouterr().out == "[]\n"
    output.listing([], COLUMNS, empty="make one")
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    output.listing([], COLUMNS, empty="make one")
    assert capsys.readouterr() == ("", "make one\n")


def test_quiet_prints_names_only(capsys: pytest.CaptureFixture[str]) -> None:
    output.listing(ROWS, COLUMNS, quiet=True)
    assert capsys.readouterr().out == "a\na-long-name\n"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ü 名", "plain ü 名"),
        ("a\nb", "a\\nb"),
        ("\x1b[2Jgone", "\\x1b[2Jgone"),
        ("a\u202eb", "a\\u202eb"),
        ("\udcff", "\\udcff"),
        ("nul\0", "nul\\x00"),
    ],
)
def test_T44_nothing_that_others_named_moves_the_cursor_or_breaks_a_line(text: str, shown: str) -> None:
    assert output.printable(text) == shown


@pytest.mark.parametrize(
    ("number", "shown"),
    [(None, "-"), (0, "0 B"), (1, "1 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (10 << 30, "10.0 GiB")],
)
def test_sizes_are_in_binary_units(number: int | None, shown: str) -> None:
    assert output.size(number) == shown


def test_times() -> None:
    assert output.ago(None) == "-"
    assert output.ago(now() - timedelta(hours=3, minutes=1)) == "3 hours ago"
    assert output.ago(now() + timedelta(hours=1, minutes=1)) == "an hour from now"
    assert output.exactly(None) == "-"
    moment = datetime(2026, 11, 20, 3, 0, tzinfo=UTC)
    assert datetime.fromisoformat(output.exactly(moment)) == moment
    assert output.duration(None) == "-"
    assert output.duration(0.42) == "0.4 s"
    assert output.duration(42) == "42 s"
    assert output.duration(125) == "2 minutes"


@pytest.mark.parametrize(
    ("info", "shown"),
    [
        (volume("a"), "ready"),
        (volume("a", mounted=True), "in use"),
        (volume("a", state=State.RESTORING, progress=0.43), "restoring 43 %"),
        (volume("a", state=State.FAILED), "failed"),
        (volume("a", damaged=True, mounted=True), "damaged"),
    ],
)
def test_the_state_of_a_volume(info: VolumeInfo, shown: str) -> None:
    assert state(info) == shown


PLAN = Plan(actions=[Action(verb="remove", object="volume wiki", detail="1.0 MiB")], done=False)


def test_a_plan_says_whether_it_was_done(capsys: pytest.CaptureFixture[str]) -> None:
    output.plan(PLAN)
    output.plan(Plan(actions=PLAN.actions, done=True))
    output.plan(Plan(actions=[], done=True))
    assert capsys.readouterr().out.splitlines() == [
        "would remove volume wiki (1.0 MiB)",
        "removed volume wiki (1.0 MiB)",
        "nothing to do",
    ]


@pytest.mark.parametrize(
    ("verb", "target", "planned", "done"),
    [
        ("move", "to the trash", "would move volume wiki to the trash", "moved volume wiki to the trash"),
        ("destroy", "", "would destroy volume wiki", "destroyed volume wiki"),
        ("snapshot", "", "would snapshot volume wiki", "snapshotted volume wiki"),
        ("replace", "", "would replace volume wiki", "replaced volume wiki"),
        ("forget", "", "would forget volume wiki", "forgot volume wiki"),
        ("keep", "", "would keep volume wiki", "kept volume wiki"),
    ],
)
def test_a_plan_reads_as_sentences(
    capsys: pytest.CaptureFixture[str], verb: str, target: str, planned: str, done: str
) -> None:
    actions = [Action(verb=verb, object="volume wiki", target=target)]
    output.plan(Plan(actions=actions, done=False))
    output.plan(Plan(actions=actions, done=True))
    assert capsys.readouterr().out.splitlines() == [planned, done]


def test_what_cannot_be_undone_is_not_done_without_an_answer(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Refused, match="nobody is there to ask; add --yes to do it"):
        output.confirm(PLAN, "removing")
    assert "would remove volume wiki" in capsys.readouterr().out


@pytest.mark.parametrize("answer", [True, False])
def test_a_person_is_asked(monkeypatch: pytest.MonkeyPatch, answer: bool) -> None:
    as_terminal(monkeypatch)
    monkeypatch.setattr("click.confirm", lambda *_, **__: answer)
    if answer:
        output.confirm(PLAN, "removing")
    else:
        with pytest.raises(Refused, match="removing was not confirmed: nothing was changed"):
            output.confirm(PLAN, "removing")
