from __future__ import annotations

from snapvol.repository.polynomial import DEGREE, generate, is_irreducible

STOCK = 0x3DA3358B4DC173  # from restic's own chunker


def product(a: int, b: int) -> int:
    result = 0
    while b:
        result ^= a if b & 1 else 0
        a, b = a << 1, b >> 1
    return result


def test_stock_restics_polynomial_is_irreducible() -> None:
    assert is_irreducible(STOCK)


def test_generated_ones_are_new_and_of_the_right_degree() -> None:
    found = {generate() for _ in range(5)}
    assert len(found) == 5
    assert {polynomial.bit_length() - 1 for polynomial in found} == {DEGREE}


def test_products_are_reducible() -> None:
    """Degree 53 is prime: a product has factors of unequal degrees, among them x, x + 1 and large ones."""
    for degree in range(1, 27):
        a, b = (1 << degree) | 1, (1 << (DEGREE - degree)) | 3
        assert product(a, b).bit_length() - 1 == DEGREE
        assert not is_irreducible(product(a, b))


def test_all_of_a_small_prime_degree() -> None:
    """Of degree 7 there are 18: by trial division, and by the test."""
    by_division = {
        p for p in range(1 << 7, 1 << 8)
        if not any(product(a, b) == p for a in range(2, 1 << 4) for b in range(2, 1 << 7))
    }  # fmt: skip
    assert len(by_division) == 18
    assert {p for p in range(1 << 7, 1 << 8) if is_irreducible(p)} == by_division
