"""A repository in memory, and what tests of the engine do with one."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from snapvol.backend import Tree
from snapvol.engine.archiver import BackupResult, back_up
from snapvol.engine.manifest import VolumeMeta
from snapvol.engine.progress import Silent
from snapvol.engine.restorer import restore
from snapvol.model import now
from snapvol.repository import BlobKind, Repository, SnapshotDocument
from snapvol.stores.memory import MemoryStore
from support.repositories import created, opened


class Bench:
    """A repository in memory, and what tests do with one."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        created(self.store).close()
        self.repository = opened(self.store)

    def back_up(
        self,
        source: Path,
        name: str = "vol",
        *,
        parent: str | None = None,
        stable: bool = True,
        taken: datetime | None = None,
        repository: Repository | None = None,
    ) -> BackupResult:
        meta = VolumeMeta(id=f"id-of-{name}", name=name, created=now(), taken=taken or now())
        tree = Tree(root=source, identity="1", stable_inodes=stable)
        return back_up(repository or self.repository, tree, meta, parent=parent, progress=Silent(), host="here")

    def document(self, backup: str) -> SnapshotDocument:
        return self.repository.find_snapshot(backup)[1]

    def restore(self, backup: str, target: Path) -> Path:
        target.mkdir(exist_ok=True)
        restore(self.repository, backup, target, progress=Silent())
        return target

    def commit(self, root: bytes, tags: Sequence[str] = ()) -> str:
        """Write a snapshot of a hand-made tree object, as another program could; return its id."""
        with self.repository.lock() as lock:
            tree, _ = self.repository.add(BlobKind.TREE, root)
            document = SnapshotDocument(time=now(), tree=tree.hex(), paths=["/x"], tags=list(tags) or None)
            return self.repository.commit_snapshot(document, lock)

    def reopened(self) -> Repository:
        self.repository.close()
        self.repository = opened(self.store)
        return self.repository
