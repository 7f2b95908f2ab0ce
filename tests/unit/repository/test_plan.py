"""What a prune decides: a pure function, tried with any packs there can be."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapvol.errors import UsageError
from snapvol.repository.plan import FEW_SMALL, Limits, PackFacts, choose, figures, limits

TARGET = 1000


def pack(
    number: int, needed: int, unneeded: int = 0, *, tidy: bool = True, duplicates: int = 0, blobs: int = 10
) -> PackFacts:
    return PackFacts(
        number=number,
        size=needed + unneeded,
        needed=needed,
        unneeded=unneeded,
        needed_blobs=blobs if needed else 0,
        unneeded_blobs=blobs if unneeded else 0,
        duplicates=duplicates,
        tidy=tidy,
        trees=False,
    )


def repacked(packs: list[PackFacts], wanted: Limits) -> tuple[int, ...]:
    return choose(packs, wanted, TARGET).repack


def test_what_nobody_needs_goes_whatever_the_limits() -> None:
    choice = choose([pack(0, 900), pack(1, 0, 900)], Limits(unused_share=None, repack_bytes=0), TARGET)
    assert (choice.delete, choice.repack) == ((1,), ())


def test_the_emptiest_are_copied_first_and_no_more_than_needed() -> None:
    packs = [pack(0, 900, 100), pack(1, 100, 900), pack(2, 500, 500)]
    assert repacked(packs, Limits(unused_share=0.0)) == (1, 2, 0)
    assert repacked(packs, Limits(unused_share=None, unused_bytes=600)) == (1,)
    assert repacked(packs, Limits(unused_share=None, unused_bytes=599)) == (1, 2)
    assert repacked(packs, Limits(unused_share=None)) == ()
    assert repacked(packs, Limits(unused_share=0.05)) == (1, 2, 0)  # 5 % of what is left: 78 of 1578
    assert repacked(packs, Limits(unused_share=0.0625)) == (1, 2)  # 100 of 1600


def test_what_may_be_copied() -> None:
    packs = [pack(0, 900, 100), pack(1, 100, 900), pack(2, 500, 500)]
    assert repacked(packs, Limits(unused_share=0.0, repack_bytes=2000)) == (1, 2)
    assert repacked(packs, Limits(unused_share=0.0, repack_bytes=999)) == ()


def test_mixed_packs_and_duplicates_are_copied_although_little_is_unneeded() -> None:
    packs = [pack(0, 900, tidy=False), pack(1, 900, 1, duplicates=1), pack(2, 900, 1), pack(3, 900)]
    assert repacked(packs, Limits(unused_share=None)) == (0, 1)


def test_small_packs_are_merged_where_there_are_many() -> None:
    small = [pack(number, 400) for number in range(FEW_SMALL)]
    assert repacked(small, Limits()) == tuple(range(FEW_SMALL))
    assert repacked(small[1:], Limits()) == ()
    full = [pack(number, 400, blobs=20_000) for number in range(FEW_SMALL)]
    assert repacked(full, Limits()) == ()  # a pack that has all the blobs that it may have is not small


PACKS = st.lists(
    st.builds(
        pack,
        number=st.just(0),
        needed=st.integers(0, 2000),
        unneeded=st.integers(0, 2000),
        tidy=st.booleans(),
        duplicates=st.integers(0, 2),
    ).filter(lambda it: it.size > 0),
    max_size=30,
)
LIMITS = st.builds(
    Limits,
    unused_share=st.none() | st.floats(0, 0.9),
    unused_bytes=st.none() | st.integers(0, 5000),
    repack_bytes=st.none() | st.integers(0, 5000),
)


@given(PACKS, LIMITS)
def test_every_plan_keeps_to_the_limits(drawn: list[PackFacts], wanted: Limits) -> None:
    packs = [msgspec.structs.replace(it, number=number) for number, it in enumerate(drawn)]
    choice = choose(packs, wanted, TARGET)
    by_number = {it.number: it for it in packs}
    assert {it.number for it in packs if not it.needed_blobs} == set(choice.delete)
    assert set(choice.delete).isdisjoint(choice.repack)
    assert len(set(choice.repack)) == len(choice.repack)
    read = sum(by_number[number].size for number in choice.repack)
    if wanted.repack_bytes is not None:
        assert read <= wanted.repack_bytes
    told = figures(packs, choice, snapshots=1, unreferenced=[], indexes=[], target=TARGET, objects=10)
    left = sum(it.unneeded for it in packs if it.number not in {*choice.delete, *choice.repack})
    assert told.unneeded_left == left
    assert told.bytes_freed == sum(it.unneeded for it in packs) - left
    if wanted.repack_bytes is None and wanted.unused_share is not None:
        assert told.unneeded_left <= wanted.unused_share / (1 - wanted.unused_share) * told.needed_bytes + 1e-6


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (("5%", None), Limits(unused_share=0.05)),
        (("0%", "10G"), Limits(unused_share=0.0, repack_bytes=10 << 30)),
        (("2.5%", "0"), Limits(unused_share=0.025, repack_bytes=0)),
        (("0", None), Limits(unused_share=None, unused_bytes=0)),
        (("200M", None), Limits(unused_share=None, unused_bytes=200 << 20)),
        (("unlimited", None), Limits(unused_share=None)),
    ],
)
def test_words(words: tuple[str, str | None], wanted: Limits) -> None:
    assert limits(*words) == wanted


@pytest.mark.parametrize("word", ["", "5 percent", "100%", "-1%", "nan%", "x%", "unlimitd", "-5"])
def test_wrong_words(word: str) -> None:
    """T16."""
    with pytest.raises(UsageError):
        limits(word, None)


def test_a_bare_number_is_refused() -> None:
    with pytest.raises(UsageError, match=r"'5' has no unit; write a share or a size: 5%, 5G"):
        limits("5", None)
    assert limits("0", None).unused_bytes == 0
