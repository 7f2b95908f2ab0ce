"""The command line in this process, against a daemon that answers as a test says."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from support.fake_api import Api, Result, serving

from snapvol.cli.program import run


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    """A daemon that the command line finds."""
    with serving() as made:
        monkeypatch.setenv("SNAPVOL_SOCKET", str(made.path))
        yield made


@pytest.fixture
def snapvol(capfd: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Run the program in this process."""

    def call(*argv: str) -> Result:
        code = run(argv)
        out, err = capfd.readouterr()
        return Result(code, out, err)

    return call


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let standard input, output and error look like a terminal of 100 columns."""
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "dumb")
    for stream in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(f"sys.{stream}.isatty", lambda: True)
