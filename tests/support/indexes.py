"""Repositories of two backups whose packs and indexes are damaged and mended."""

from __future__ import annotations

from hashlib import sha256

from snapvol.repository import BlobKind
from snapvol.repository.index_repair import IndexRepair
from snapvol.stores.base import Store
from support.repositories import opened, sample

BLOBS = {seed: sample(30, seed=seed) for seed in (1, 2)}


def repaired(store: Store, *, read_data: bool = False, dry_run: bool = False) -> IndexRepair:
    with opened(store) as repository:
        return repository.repair_index(read_data=read_data, dry_run=dry_run)


def problems(store: Store, read_data: bool = True) -> list[str]:
    with opened(store) as repository:
        return [problem.object for problem in repository.check(read_data).problems]


def readable(store: Store) -> set[int]:
    """Return which of the backups' blobs can all be read."""
    with opened(store) as repository:
        repository.load_index()
        lost: set[bytes] = set()
        whole = set()
        for seed, blobs in BLOBS.items():
            wanted = {sha256(blob).digest(): blob for blob in blobs}
            if dict(repository.read_many(BlobKind.DATA, wanted, lambda blob, _: lost.add(blob))) == wanted:
                whole.add(seed)
        return whole


def data_pack(store: Store, seed: int) -> str:
    with opened(store) as repository:
        repository.load_index()
        pack = repository.locate(BlobKind.DATA, sha256(BLOBS[seed][0]).digest()).pack.hex()
    return f"data/{pack[:2]}/{pack}"
