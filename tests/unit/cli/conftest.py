"""The command line in this process, against a daemon that answers as a test says."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from snapvol.cli.program import run
from support.fake_api import Api, Result, as_terminal, serving


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    """A daemon that the command line finds."""
    with serving() as made:
        monkeypatch.setenv("SNAPVOL_SOCKET", str(made.path))
        yield made


@pytest.fixture
def snapvol(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run the program in this process, with ``terminal=True`` as on a terminal."""

    def call(*argv: str, terminal: bool = False) -> Result:
        with monkeypatch.context() as patch:
            if terminal:
                as_terminal(patch)
            code = run(argv)
        out, err = capfd.readouterr()
        return Result(code, out, err)

    return call
