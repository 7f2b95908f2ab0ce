"""Names: what Docker allows is accepted, everything else is refused in one line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapvol import names
from snapvol.errors import InvalidName

FIRST = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
LATER = FIRST + "_.-"


@given(st.text(FIRST, min_size=1, max_size=1), st.text(LATER, max_size=254))
def test_every_name_that_docker_allows_is_accepted_t4(first: str, later: str) -> None:
    assert names.volume_name(first + later) == first + later


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "x/y",
        "-rf",
        "a\nb",
        "a\n",
        "a\0b",
        "@a",
        "#a",
        "%a",
        "",
        "a" * 256,
        ".",
        "..",
        "_x",
        "a b",
        "ünï",
        "a@b",
    ],
)
def test_other_names_are_refused_in_one_line_t5(name: str) -> None:
    with pytest.raises(InvalidName) as caught:
        names.volume_name(name)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250


@given(st.text())
def test_what_passes_is_safe_as_a_file_name(text: str) -> None:
    try:
        name = names.snapshot_name(text)
    except InvalidName:
        return
    assert "/" not in name
    assert not name.startswith((".", "-"))
    assert name.isascii()


def test_a_snapshot_is_named_after_its_volume() -> None:
    assert names.split_snapshot("wiki@before") == ("wiki", "before")
    assert names.split_snapshot("wiki") == ("wiki", None)
    with pytest.raises(InvalidName):
        names.split_snapshot("wiki@")
    with pytest.raises(InvalidName):
        names.split_snapshot("wiki@a@b")
