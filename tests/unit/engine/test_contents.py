from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from snapvol.engine.contents import FIXED, LARGEST, SMALLEST, Cutter, is_zero, zeros

NOISE = random.Random(1).randbytes(5 << 20)
PARTS = st.lists(
    st.one_of(
        st.integers(1, 9 << 20),
        st.tuples(st.integers(0, 1 << 20), st.integers(0, 4 << 20)).map(lambda cut: NOISE[cut[0] : cut[0] + cut[1]]),
        st.sampled_from([bytes(1), bytes(SMALLEST), b"x" * (SMALLEST - 1), b"y" * (LARGEST + 1)]),
    ),
    max_size=4,
)


@contextmanager
def made(path: Path, parts: list[bytes | int]) -> Iterator[int]:
    with path.open("wb+") as out:
        for part in parts:
            if isinstance(part, int):
                out.seek(part, os.SEEK_CUR)
            else:
                out.write(part)
        out.truncate(out.tell())
        out.flush()
        yield out.fileno()


def joined(pieces: list[bytes | int]) -> bytes:
    return b"".join(bytes(piece) if isinstance(piece, int) else piece for piece in pieces)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(PARTS, st.booleans())
def test_pieces_are_the_file(tmp_path: Path, parts: list[bytes | int], fixed: bool) -> None:
    with made(tmp_path / "file", parts) as fd:
        pieces = list(Cutter().cut(fd, os.fstat(fd), fixed=fixed))
        again = list(Cutter().cut(fd, os.fstat(fd), fixed=fixed))
    whole = (tmp_path / "file").read_bytes()
    assert joined(pieces) == whole
    assert pieces == again
    assert all(0 < (piece if isinstance(piece, int) else len(piece)) <= LARGEST for piece in pieces)
    assert not any(is_zero(piece) for piece in pieces if isinstance(piece, bytes))


def test_cuts_follow_the_contents_wherever_they_lie(tmp_path: Path) -> None:
    noise = random.Random(2).randbytes(24 << 20)
    with made(tmp_path / "one", [noise]) as fd:
        one = list(Cutter().cut(fd, os.fstat(fd)))
    with made(tmp_path / "other", [b"something in front" * 1000, noise]) as fd:
        other = list(Cutter().cut(fd, os.fstat(fd)))
    assert len(set(one) & set(other)) >= len(one) - 3
    assert len(one) > 8


def test_fixed_cuts_are_aligned(tmp_path: Path) -> None:
    with made(tmp_path / "file", [NOISE]) as fd:
        pieces = list(Cutter().cut(fd, os.fstat(fd), fixed=True))
    assert [len(piece) for piece in pieces if isinstance(piece, bytes)] == [FIXED] * 5


def test_t34_holes_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    real = os.preadv

    def counted(fd: int, buffers: list[memoryview], offset: int) -> int:
        got = real(fd, buffers, offset)
        read.append(got)
        return got

    monkeypatch.setattr(os, "preadv", counted)
    with made(tmp_path / "file", [1 << 40, b"x", 1 << 30]) as fd:
        pieces = list(Cutter().cut(fd, os.fstat(fd)))
    assert sum(read) <= 64 << 10
    assert sum(piece if isinstance(piece, int) else len(piece) for piece in pieces) == (1 << 40) + 1 + (1 << 30)


def test_small_holes_do_not_make_small_pieces(tmp_path: Path) -> None:
    with made(tmp_path / "file", [b"x" * 4096, 4096] * 2000) as fd:
        assert len(list(Cutter().cut(fd, os.fstat(fd)))) < 40


def test_a_file_that_shrinks_ends_early(tmp_path: Path) -> None:
    with made(tmp_path / "file", [NOISE]) as fd:
        found = os.fstat(fd)
        os.ftruncate(fd, 1 << 20)
        assert joined(list(Cutter().cut(fd, found))) == NOISE[: 1 << 20]


@given(st.binary(max_size=200))
def test_zero_is_nothing_but_zeros(data: bytes) -> None:
    assert is_zero(data) == (not data.strip(b"\0"))
    assert is_zero(zeros(LARGEST))
    assert not is_zero(zeros(100) + data + b"x")
