"""The polynomial over GF(2) by which stock clients cut files into chunks in this repository."""

from __future__ import annotations

import secrets

DEGREE = 53


def generate() -> int:
    """Return a random irreducible polynomial of degree 53, its coefficients as bits."""
    while True:
        # The lowest bit is set because a polynomial without it is divisible by x.
        candidate = 1 << DEGREE | secrets.randbits(DEGREE) | 1
        if is_irreducible(candidate):
            return candidate


def is_irreducible(polynomial: int) -> bool:
    """Say whether nothing divides ``polynomial`` (Rabin's test, for degrees that are prime as 53 is).

    A polynomial p of prime degree n is irreducible exactly if x^(2^n) = x modulo p, while x^2 - x has no factor in
    common with p.
    """
    degree = polynomial.bit_length() - 1
    if _gcd(polynomial, 0b110) != 1:
        return False
    power = 0b10
    for _ in range(degree):
        power = _remainder(_square(power), polynomial)
    return power == 0b10


def _square(a: int) -> int:
    """Squaring over GF(2) spreads the bits: the binary digits read as base 4."""
    return int(f"{a:b}", 4)


def _remainder(a: int, b: int) -> int:
    shift = a.bit_length() - b.bit_length()
    while shift >= 0:
        a ^= b << shift
        shift = a.bit_length() - b.bit_length()
    return a


def _gcd(a: int, b: int) -> int:
    while b:
        a, b = b, _remainder(a, b)
    return a
