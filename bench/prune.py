"""Freeing the space of forgotten backups: snapvol and stock restic on copies of the same repository, in one run.

Usage: prune.py [BLOBS] [ROUNDS]; 200,000 blobs and 3 rounds by default. It prints a table for docs/benchmarks.md.

The repository is written by snapvol: small random blobs, of which a backup that stays needs half of the packs whole,
every other blob of a quarter of them, and nothing of the last quarter.
"""

from __future__ import annotations

import os
import random
import shutil
import sys
import tempfile
from pathlib import Path

from measure import Cost, median, run, table

from snapvol.model import now
from snapvol.repository import BlobKind, Repository, SnapshotDocument
from snapvol.stores.local import LocalStore

PASSWORD = "benchmark"
SMALLEST, LARGEST = 200, 800  # bytes of a blob
IN_FILE = 200  # blobs
IN_DIRECTORY = 50  # files


def main() -> None:
    blobs, rounds = (*map(int, sys.argv[1:]), *(200_000, 3)[len(sys.argv) - 1 :])
    with tempfile.TemporaryDirectory(prefix="snapvol-bench-") as place:
        original = Path(place) / "original"
        password = Path(place) / "password"
        password.touch(mode=0o600)
        password.write_text(PASSWORD)
        build(original, blobs)
        tools: dict[str, list[str | Path]] = {
            "snapvol": [
                Path(sys.executable).with_name("snapvol"), "repo", "prune", "--repository", Path(place) / "copy",
                "--password-file", password,
            ],
            "restic": ["restic", "--no-cache", "-r", Path(place) / "copy", "-p", password, "prune"],
        }  # fmt: skip
        costs: dict[str, list[Cost]] = {tool: [] for tool in tools}
        left: dict[str, int] = {}
        for _ in range(rounds):
            for tool, argv in tools.items():  # one after the other: both see the same machine
                shutil.copytree(original, Path(place) / "copy")
                costs[tool].append(run(argv))
                left[tool] = size(Path(place) / "copy")
                run(["restic", "--no-cache", "-r", Path(place) / "copy", "-p", password, "check"])
                shutil.rmtree(Path(place) / "copy")
        before = size(original)
    print(report(blobs, rounds, before, left, {tool: median(found) for tool, found in costs.items()}))


def build(path: Path, count: int) -> None:
    """Make a repository of ``count`` blobs and two backups, and forget the one that needs all of them."""
    chance = random.Random(count)
    repository, _ = Repository.create(LocalStore(path), PASSWORD)
    with repository, repository.lock() as lock:
        ids = [
            repository.add(BlobKind.DATA, chance.randbytes(chance.randrange(SMALLEST, LARGEST)))[0]
            for _ in range(count)
        ]
        half, most = count // 2, count * 3 // 4
        everything = repository.commit_snapshot(_document(_root(repository, ids)), lock)
        repository.commit_snapshot(_document(_root(repository, ids[:half] + ids[half:most:2])), lock)
        repository.forget([everything])


def _root(repository: Repository, ids: list[bytes]) -> bytes:
    files = [ids[at : at + IN_FILE] for at in range(0, len(ids), IN_FILE)]
    directories = [files[at : at + IN_DIRECTORY] for at in range(0, len(files), IN_DIRECTORY)]
    subtrees = [_tree(repository, [_file(at, content) for at, content in enumerate(each)]) for each in directories]
    return _tree(repository, [_directory(at, subtree) for at, subtree in enumerate(subtrees)])


def _tree(repository: Repository, nodes: list[str]) -> bytes:
    return repository.add(BlobKind.TREE, f'{{"nodes":[{",".join(nodes)}]}}\n'.encode())[0]


_TIMES = ",".join(f'"{name}":"2020-01-02T03:04:05Z"' for name in ("mtime", "atime", "ctime"))


def _file(number: int, content: list[bytes]) -> str:
    listed = ",".join(f'"{blob.hex()}"' for blob in content)
    return f'{{"name":"{number:05}","type":"file","mode":420,{_TIMES},"size":1,"links":1,"content":[{listed}]}}'


def _directory(number: int, subtree: bytes) -> str:
    return (
        f'{{"name":"{number:05}","type":"dir","mode":2147484141,{_TIMES},"content":null,"subtree":"{subtree.hex()}"}}'
    )


def _document(root: bytes) -> SnapshotDocument:
    return SnapshotDocument(time=now(), tree=root.hex(), paths=["/benchmark"], hostname="benchmark")


def size(path: Path) -> int:
    """Return the bytes of all files below ``path``."""
    return sum(os.lstat(os.path.join(at, name)).st_size for at, _, names in os.walk(path) for name in names)


def report(blobs: int, rounds: int, before: int, left: dict[str, int], costs: dict[str, Cost]) -> str:
    """Return the table: each tool's medians, and the ratios."""
    rows = [
        [tool, f"{cost.wall:.1f}", f"{cost.cpu:.1f}", f"{cost.memory >> 20}", f"{left[tool] >> 20}"]
        for tool, cost in costs.items()
    ]
    ours, theirs = costs["snapvol"], costs["restic"]
    ratios = [theirs.wall / ours.wall, theirs.cpu / ours.cpu, theirs.memory / ours.memory]
    rows.append(["restic / snapvol", *(f"{ratio:.2f}" for ratio in ratios), ""])
    title = f"Prune of {blobs:,} blobs in {before >> 20} MiB, medians of {rounds} rounds:"
    return f"{title}\n\n{table(['', 'seconds', 'CPU seconds', 'peak MiB', 'MiB left'], rows)}"


if __name__ == "__main__":
    main()
