from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from snapvol.backend import Image
from snapvol.engine import ranges
from snapvol.engine.image_plan import Action, plan

SIZE = 60
RANGES = st.lists(st.tuples(st.integers(-5, SIZE + 5), st.integers(-2, 20)), max_size=6)


def members(spans: list[tuple[int, int]]) -> set[int]:
    return {number for start, end in spans for number in range(start, end)}


def tidy(spans: list[tuple[int, int]]) -> bool:
    """Ascending, apart from each other, none empty."""
    flat = [bound for span in spans for bound in span]
    return flat == sorted(set(flat))


@given(RANGES, RANGES, st.integers(0, SIZE), st.integers(0, SIZE), st.integers(1, 9))
def test_spans_are_sets_of_bytes(
    one: list[tuple[int, int]], other: list[tuple[int, int]], start: int, end: int, chunk: int
) -> None:
    first, second = ranges.spans(one, SIZE), ranges.spans(other, SIZE)
    wanted = {at for offset, length in one for at in range(offset, offset + length) if 0 <= at < SIZE}
    assert members(first) == wanted
    between = set(range(start, end))
    cases = {
        "common": (ranges.common(first, second), wanted & members(second)),
        "within": (ranges.within(first, start, end), wanted & between),
        "gaps": (ranges.gaps(first, start, end), between - wanted),
        "touched": (ranges.touched(first, chunk), {at // chunk for at in wanted}),
    }
    for name, (found, expected) in cases.items():
        assert members(found) == expected, name
        assert tidy(found), name
    assert ranges.total(first) == len(wanted)


@given(RANGES, RANGES, st.integers(1, 200))
def test_every_chunk_of_a_plan_has_one_source(
    mapped: list[tuple[int, int]], changed: list[tuple[int, int]], size: int
) -> None:
    image = Image(device=Path("x"), size=size, identity="1", filesystem="ext4", mapped=tuple(mapped))
    chunk = 4
    holding = {at // chunk for at in members(ranges.spans(mapped, size))}
    dirty = {at // chunk for at in members(ranges.spans(changed, size))}
    count = -(-size // chunk)
    what = plan(image, chunk, changed)
    found: dict[int, Action] = {}
    for first, last, action in what.runs(0, count):
        for number in range(first, last):
            assert number not in found
            found[number] = action
    expected = {
        number: (Action.READ if number in holding else Action.ZERO)
        if number in dirty
        else (Action.KEEP if number in holding else Action.STAY_ZERO)
        for number in range(count)
    }
    assert found == expected
    kept = {number for number, action in found.items() if action is Action.KEEP}
    assert what.sample <= kept
    assert len(what.sample) == min(16, len(kept))
    assert [action for *_, action in plan(image, chunk, None).runs(0, count) if action is Action.KEEP] == []
