from __future__ import annotations

from pathlib import Path

import pytest

from snapvol.engine.progress import Silent
from snapvol.engine.reading import load_tree
from snapvol.engine.verifier import verify
from snapvol.errors import NotFound
from snapvol.repository import BlobKind
from support.benches import Bench
from support.repositories import sample
from support.trees import directory, file, grow

pytestmark = pytest.mark.root  # trees have files of other owners

BIG = sample(2, 900_000)


@pytest.fixture
def backup(bench: Bench, source: Path) -> str:
    grow(
        source,
        {
            b"a": file(b"1"),
            b"big": file(*BIG),
            b"d": directory(),
            b"d/b": file(b"22"),
            b"same": file(b"1"),
            b"hole": file(9 << 20),
        },
    )
    return bench.back_up(source).id


class Counter(Silent):
    def __init__(self) -> None:
        self.noted: list[str] = []
        self.bytes = self.wanted = 0

    def total(self, files: int, bytes: int) -> None:
        self.wanted = bytes

    def advance(self, bytes: int, files: int) -> None:
        self.bytes += bytes

    def note(self, path: str, problem: str) -> None:
        self.noted.append(path)


def packs(bench: Bench) -> dict[BlobKind, list[str]]:
    """Return the names of the packs by what they hold."""
    bench.repository.load_index()
    _, document = bench.repository.snapshots()[-1]
    found: dict[BlobKind, set[str]] = {kind: set() for kind in BlobKind}
    waiting = [document.tree]
    while waiting:
        tree = waiting.pop()
        found[BlobKind.TREE].add(_pack(bench, BlobKind.TREE, tree))
        for entry in load_tree(bench.repository, tree):
            found[BlobKind.DATA].update(_pack(bench, BlobKind.DATA, blob) for blob in entry.content or ())
            waiting += [entry.subtree] if entry.subtree is not None else []
    return {kind: sorted(names) for kind, names in found.items()}


def _pack(bench: Bench, kind: BlobKind, blob: str) -> str:
    pack = bench.repository.locate(kind, bytes.fromhex(blob)).pack.hex()
    return f"data/{pack[:2]}/{pack}"


def test_a_whole_backup_is_read_whole(bench: Bench, backup: str) -> None:
    counter = Counter()
    result = verify(bench.repository, backup[:12], counter)
    assert result.ok
    assert (result.id, result.files, result.dirs, result.problems) == (backup, 6, 2, [])
    assert counter.bytes == counter.wanted > 1_800_000


def test_t30_every_file_hit_is_named(bench: Bench, backup: str) -> None:
    names = packs(bench)[BlobKind.DATA]
    bench.store.delete(names)
    counter = Counter()
    result = verify(bench.reopened(), backup, counter)
    hit = {"/snapvol.json", "/volume/a", "/volume/big", "/volume/d/b", "/volume/same", "/volume/hole"}
    assert {problem.path for problem in result.problems} == hit == set(counter.noted)
    assert not result.ok


def test_t30_a_flipped_bit_hits_only_the_files_that_have_it(bench: Bench, backup: str) -> None:
    hit = 0
    for name in packs(bench)[BlobKind.DATA]:
        whole = bench.store.get(name)
        bench.store.delete([name])
        bench.store.put(name, whole[:40] + bytes([whole[40] ^ 4]) + whole[41:])
        paths = {problem.path for problem in verify(bench.reopened(), backup, Silent()).problems}
        assert paths
        assert paths != {"/snapvol.json", "/volume/a", "/volume/big", "/volume/d/b", "/volume/same", "/volume/hole"}
        hit += len(paths)
        bench.store.delete([name])
        bench.store.put(name, whole)
    assert hit


def test_t30_a_lost_tree_names_its_directory(bench: Bench, backup: str) -> None:
    for name in packs(bench)[BlobKind.TREE]:
        bench.store.delete([name])
    (problem,) = verify(bench.reopened(), backup, Silent()).problems
    assert problem.path == "/"
    assert "what it holds is lost" in problem.what


def test_t36_what_is_not_there_cannot_be_verified(bench: Bench, backup: str) -> None:
    with pytest.raises(NotFound):
        verify(bench.repository, "f" * 64, Silent())
