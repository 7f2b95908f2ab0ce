"""Repositories that are damaged and mended, in tests of the engine."""

from __future__ import annotations

from pathlib import Path

from snapvol.engine import reading
from snapvol.engine.backup_repair import BackupRepair, repair_backups
from snapvol.engine.progress import Silent
from snapvol.repository import BlobKind, Repository
from snapvol.stores.base import Store
from snapvol.stores.memory import MemoryStore
from support.benches import Bench
from support.repositories import opened


def repaired(
    store: Store, *, chosen: tuple[str, ...] = (), forget: bool = False, dry_run: bool = False
) -> BackupRepair:
    with opened(store) as repository:
        return repair_backups(repository, chosen=chosen, forget=forget, dry_run=dry_run, progress=Silent())


def index_repaired(store: Store) -> None:
    with opened(store) as repository:
        repository.repair_index(read_data=True)


def problems(store: Store) -> list[tuple[str, tuple[str, ...], tuple[str, ...]]]:
    with opened(store) as repository:
        return [(found.object, found.snapshots_hit, found.files) for found in repository.check(True).problems]


def pack_of(store: Store, kind: BlobKind, blob: bytes) -> str:
    with opened(store) as repository:
        repository.load_index()
        pack = repository.locate(kind, blob).pack.hex()
    return f"data/{pack[:2]}/{pack}"


def piece(store: Store, backup: str, path: bytes, number: int) -> bytes:
    """Return the id of a piece of a file in a backup."""
    with opened(store) as repository:
        repository.load_index()
        start = reading.root(repository, repository.find_snapshot(backup)[1])
        return bytes.fromhex((reading.find(repository, start, path)[-1].content or [])[number])


def lose(store: MemoryStore, kind: BlobKind, blob: bytes) -> None:
    """Damage one blob in its pack for good, and have the index say so: what else is in the pack is kept."""
    spoil(store, kind, blob)
    index_repaired(store)


def spoil(store: MemoryStore, kind: BlobKind, blob: bytes) -> None:
    """Flip a bit in the middle of a blob."""
    with opened(store) as repository:
        repository.load_index()
        place = repository.locate(kind, blob)
    name = f"data/{place.pack.hex()[:2]}/{place.pack.hex()}"
    content = bytearray(store.objects[name])
    content[place.offset + place.length // 2] ^= 1
    store.objects[name] = bytes(content)


def loaded(bench: Bench) -> Repository:
    bench.repository.load_index()
    return bench.repository


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
