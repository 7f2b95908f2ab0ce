"""The daemon's log."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator

import pytest

from snapvol.daemon import logs
from snapvol.errors import SettingsError


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def test_one_line_for_each_event_with_time_and_level(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    logs.begin("info")
    logging.getLogger("snapvol.x").info("name %r\nsecond", "a")
    logging.getLogger("snapvol.x").debug("not shown")
    logging.getLogger("aiohttp.server").info("not shown")
    (line,) = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z INFO name 'a' second", line)


def test_the_journal_gets_a_priority(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", "8:1")
    logs.begin("debug")
    for level in ("debug", "info", "warning", "error", "critical"):
        logging.getLogger("snapvol.x").log(getattr(logging, level.upper()), level)
    assert capsys.readouterr().err.splitlines() == ["<7>debug", "<6>info", "<4>warning", "<3>error", "<3>critical"]


def test_an_unknown_level() -> None:
    with pytest.raises(SettingsError, match=r"daemon\.log_level: 'inof' is not a level") as error:
        logs.begin("inof")
    assert error.value.hint == "did you mean 'info'?"
