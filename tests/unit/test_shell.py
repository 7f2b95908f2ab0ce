"""Running programs: what goes in arrives unchanged, and a failure carries all that is known."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapvol.errors import NoSpace, ToolFailed
from snapvol.shell import run


@given(st.lists(st.text(st.characters(exclude_characters="\0", codec="utf-8")), max_size=3))
def test_arguments_arrive_unchanged(arguments: list[str]) -> None:
    assert (
        run("printf", "%s\\n", *arguments).split("\n")[: len(arguments) or 1]
        == ("\n".join(arguments).split("\n")[: len(arguments) or 1])
    )


def test_a_failure_carries_arguments_status_and_message() -> None:
    with pytest.raises(ToolFailed) as caught:
        run("ls", "/nowhere")
    assert caught.value.argv == ["ls", "/nowhere"]
    assert caught.value.code == 2
    assert "No such file" in caught.value.stderr
    assert "\n" not in str(caught.value)


def test_a_missing_program_says_which() -> None:
    with pytest.raises(ToolFailed, match="no-such-tool is not installed"):
        run("no-such-tool")


def test_a_full_disk_is_its_own_error() -> None:
    with pytest.raises(NoSpace):
        run("dd", "if=/dev/zero", "of=/dev/full", "bs=1", "count=1")


def test_a_time_limit_ends_the_program() -> None:
    with pytest.raises(ToolFailed, match="no end after"):
        run("sleep", "5", seconds=0.1)


def test_the_logged_line_can_be_pasted(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="snapvol.shell"):
        run("echo", "it's", "a b")
    assert caplog.messages == ["run: echo 'it'\"'\"'s' 'a b'"]
