from __future__ import annotations

import os
import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from snapvol.engine.contents import LARGEST, SMALLEST, Cutter, is_zero, zeros
from snapvol.engine.pieces import Piece
from snapvol.engine.ranges import spans, within
from support.process import run

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


def cut(fd: int, found: os.stat_result | None = None) -> list[bytes | int]:
    pieces = list(Cutter().cut(fd, found or os.fstat(fd)))
    return [piece for piece in pieces if not isinstance(piece, Piece)]


def joined(pieces: list[bytes | int]) -> bytes:
    return b"".join(bytes(piece) if isinstance(piece, int) else piece for piece in pieces)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(PARTS)
def test_pieces_are_the_file(tmp_path: Path, parts: list[bytes | int]) -> None:
    with made(tmp_path / "file", parts) as fd:
        pieces = cut(fd)
        again = cut(fd)
    whole = (tmp_path / "file").read_bytes()
    assert joined(pieces) == whole
    assert pieces == again
    assert all(0 < (piece if isinstance(piece, int) else len(piece)) <= LARGEST for piece in pieces)
    assert not any(is_zero(piece) for piece in pieces if isinstance(piece, bytes))


def lengths(pieces: Iterable[bytes | int | Piece]) -> list[int]:
    return [it if isinstance(it, int) else it.length if isinstance(it, Piece) else len(it) for it in pieces]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.lists(st.integers(0, 5 << 20), max_size=3),
    st.lists(
        st.tuples(st.sampled_from(["write", "hole", "end"]), st.integers(0, 20 << 20), st.integers(1, 900_000)),
        max_size=4,
    ),
)
def test_with_pieces_of_before_the_cuts_are_those_without(
    tmp_path: Path, holes: list[int], edits: list[tuple[str, int, int]]
) -> None:
    parts: list[bytes | int] = [part for hole in holes for part in (NOISE[hole:], hole or 1)]
    with made(tmp_path / "file", [*parts, NOISE]) as fd:
        earlier, at = [], 0
        for length in lengths(cut(fd)):
            earlier.append(Piece(at, length, f"{at}"))
            at += length
        changed = [change(fd, *edit) for edit in edits]
        size = os.fstat(fd).st_size
        os.fsync(fd)  # or st_blocks says nothing yet
        told = spans([*(it for some in changed for it in some), (min(at, size), abs(at - size))], max(at, size))
        without = cut(fd)
        found = list(Cutter().cut(fd, os.fstat(fd), earlier, told))
    assert lengths(found) == lengths(without)
    before = {piece.offset: piece for piece in earlier}
    position = 0
    for piece, length in zip(found, lengths(found), strict=True):
        if isinstance(piece, Piece):
            assert before[position] == piece
            assert not within(told, position, position + length)
        position += length


def test_a_hole_that_became_too_small_to_count_is_read_with_what_is_before_it(tmp_path: Path) -> None:
    kilo = 1 << 10
    with made(tmp_path / "file", [NOISE[: 1400 * kilo], 600 * kilo, NOISE, 3 << 20]) as fd:
        os.fsync(fd)  # or st_blocks says nothing yet
        lengths_before = lengths(cut(fd))
        earlier = [Piece(sum(lengths_before[:n]), length, "") for n, length in enumerate(lengths_before)]
        assert any(piece.offset == 1400 * kilo for piece in earlier)
        os.pwrite(fd, NOISE[: 200 * kilo], 1800 * kilo)
        os.fsync(fd)
        found = list(Cutter().cut(fd, os.fstat(fd), earlier, [(1800 * kilo, 2000 * kilo)]))
        assert lengths(found) == lengths(cut(fd))
    assert any(isinstance(piece, Piece) for piece in found)


def change(fd: int, what: str, at: int, length: int) -> list[tuple[int, int]]:
    """Change a file; return the ranges that the storage would tell."""
    before = os.fstat(fd).st_size
    if what == "write":
        os.pwrite(fd, NOISE[at % 1000 :][:length], at)
    elif what == "end":
        os.ftruncate(fd, at)
    else:
        run("fallocate", "-p", "-o", str(at), "-l", str(length), f"/proc/{os.getpid()}/fd/{fd}")
    after = os.fstat(fd).st_size
    first, last = sorted((before, after))
    touched = [] if what == "end" else [(at // 4096 * 4096, -(-(at + length) // 4096) * 4096 - at // 4096 * 4096)]
    return [*touched, (first, last - first)]


def test_cuts_follow_the_contents_wherever_they_lie(tmp_path: Path) -> None:
    noise = random.Random(2).randbytes(24 << 20)
    with made(tmp_path / "one", [noise]) as fd:
        one = cut(fd)
    with made(tmp_path / "other", [b"something in front" * 1000, noise]) as fd:
        other = cut(fd)
    assert len(set(one) & set(other)) >= len(one) - 3
    assert len(one) > 8


def test_t34_holes_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    real = os.preadv

    def counted(fd: int, buffers: list[memoryview], offset: int) -> int:
        got = real(fd, buffers, offset)
        read.append(got)
        return got

    monkeypatch.setattr(os, "preadv", counted)
    with made(tmp_path / "file", [1 << 40, b"x", 1 << 30]) as fd:
        pieces = cut(fd)
    assert sum(read) <= 64 << 10
    assert sum(piece if isinstance(piece, int) else len(piece) for piece in pieces) == (1 << 40) + 1 + (1 << 30)


def test_small_holes_do_not_make_small_pieces(tmp_path: Path) -> None:
    with made(tmp_path / "file", [b"x" * 4096, 4096] * 2000) as fd:
        assert len(cut(fd)) < 40


def test_a_file_that_shrinks_ends_early(tmp_path: Path) -> None:
    with made(tmp_path / "file", [NOISE]) as fd:
        found = os.fstat(fd)
        os.ftruncate(fd, 1 << 20)
        assert joined(cut(fd, found)) == NOISE[: 1 << 20]


@given(st.binary(max_size=200))
def test_zero_is_nothing_but_zeros(data: bytes) -> None:
    assert is_zero(data) == (not data.strip(b"\0"))
    assert is_zero(zeros(LARGEST))
    assert not is_zero(zeros(100) + data + b"x")
