"""Small repositories, and stock restic as their judge."""

from __future__ import annotations

import os
import random
from pathlib import Path

import msgspec

from snapvol.model import now
from snapvol.repository import BlobKind, Lock, Repository, SnapshotDocument, Tuning
from snapvol.repository.keys import Cost
from snapvol.stores.base import Store
from support.process import Result, run

PASSWORD = "correct horse"
CHEAP = Cost(n=1 << 10, r=8, p=1)  # scrypt in a millisecond
SMALL = Tuning(pack_size=64 << 10)


def created(store: Store, tuning: Tuning = SMALL) -> Repository:
    """Return a new repository with small packs."""
    return Repository.create(store, PASSWORD, tuning=tuning, cost=CHEAP)[0]


def opened(store: Store, tuning: Tuning = SMALL) -> Repository:
    """Return the repository in ``store``, opened anew."""
    return Repository.open(store, PASSWORD, tuning=tuning)


def sample(count: int, size: int = 5000, seed: int = 0) -> list[bytes]:
    """Return different blobs, half compressible, the same for the same ``seed``."""
    chance = random.Random(seed)
    return [chance.randbytes(size // 2) + bytes(size - size // 2) for _ in range(count)]


def tree(files: dict[str, list[bytes]], directories: dict[str, bytes] | None = None) -> bytes:
    """Return a tree blob: files with the blobs of their content, directories with their trees."""
    times = ",".join(f'"{name}":"2020-01-02T03:04:05.000000006Z"' for name in ("mtime", "atime", "ctime"))
    common = f'{times},"uid":{os.getuid()},"gid":{os.getgid()},"inode":7'
    nodes = {}
    for name, content in files.items():
        listed = ",".join(f'"{blob.hex()}"' for blob in content)
        nodes[name] = (
            f'{{"name":"{name}","type":"file","mode":420,{common},"size":{len(content)},"links":1,"content":[{listed}]}}'
        )
    for name, subtree in (directories or {}).items():
        nodes[name] = (
            f'{{"name":"{name}","type":"dir","mode":2147484141,{common},"content":null,"subtree":"{subtree.hex()}"}}'
        )
    return f'{{"nodes":[{",".join(nodes[name] for name in sorted(nodes))}]}}\n'.encode()


def back_up(repository: Repository, lock: Lock, blobs: list[bytes], *, name: str = "file") -> str:
    """Back up one directory with one file of these blobs in it; return the snapshot's id."""
    content = [repository.add(BlobKind.DATA, blob)[0] for blob in blobs]
    inner = repository.add(BlobKind.TREE, tree({name: content}))[0]
    root = repository.add(BlobKind.TREE, tree({}, {"volume": inner}))[0]
    return repository.commit_snapshot(document(root), lock)


def document(root: bytes) -> SnapshotDocument:
    """Return a snapshot of a tree."""
    return SnapshotDocument(time=now(), tree=root.hex(), paths=["/snapvol/v"], hostname="host", tags=["snapvol"])


def backed_up(store: Store, blobs: list[bytes], tuning: Tuning = SMALL) -> str:
    """Do a whole run as a process does one: open, lock, load, back up."""
    with opened(store, tuning) as repository, repository.lock() as lock:
        repository.load_index()
        return back_up(repository, lock, blobs)


def restic(path: Path, *arguments: str | Path, password: str = PASSWORD, check: bool = True) -> Result:
    """Run stock restic on the repository at ``path``."""
    return run("restic", "--no-cache", "-r", path, *arguments, env={"RESTIC_PASSWORD": password}, check=check)


def approved(path: Path) -> None:
    """Have stock restic read everything and find nothing wrong."""
    assert "no errors were found" in restic(path, "check", "--read-data").stdout


def restored(repository: Repository) -> dict[str, list[bytes]]:
    """Return what each backup that `back_up` made holds, every byte read and checked."""
    found = {}
    for identity, written in repository.snapshots():
        root = msgspec.json.decode(repository.read(BlobKind.TREE, bytes.fromhex(written.tree)))
        inner = msgspec.json.decode(repository.read(BlobKind.TREE, bytes.fromhex(root["nodes"][0]["subtree"])))
        content = [bytes.fromhex(blob) for blob in inner["nodes"][0]["content"]]
        blobs = dict(repository.read_many(BlobKind.DATA, content))
        found[identity] = [blobs[blob] for blob in content]
    return found
