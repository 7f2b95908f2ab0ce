"""Sizes as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapvol import units
from snapvol.errors import UsageError


@pytest.mark.parametrize(
    ("text", "size"),
    [("10G", 10 * 2**30), ("512M", 512 * 2**20), ("1k", 1024), ("2T", 2 * 2**40), ("1048576", 2**20), ("1GiB", 2**30)],
)
def test_sizes(text: str, size: int) -> None:
    assert units.size(text) == size


@pytest.mark.parametrize("text", ["", "0", "-1G", "1.5G", "G", "10X", "1e3", "10 G B", "2000000P", "0x10", "9" * 5000])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(UsageError):
        units.size(text)


@given(st.integers(1, 1023), st.sampled_from("KMGT"))
def test_a_unit_is_a_power_of_1024(number: int, unit: str) -> None:
    assert units.size(f"{number}{unit}") == number * 1024 ** ("KMGT".index(unit) + 1)
