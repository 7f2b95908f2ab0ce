"""How many requests a backup of a volume costs in which nothing changed, counted at the S3 client."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.client import BaseClient

from snapvol.backend import Tree
from snapvol.engine import parent
from snapvol.engine.archiver import BackupResult, back_up, latest_parent
from snapvol.engine.manifest import VolumeMeta
from snapvol.engine.progress import Silent
from snapvol.model import now
from snapvol.repository import Repository, locks
from snapvol.settings import RepositorySettings
from snapvol.stores import open_store
from snapvol.stores.cache import CachePlace
from support import moto_s3
from support.repositories import CHEAP, PASSWORD

Requests = list[tuple[str, str]]  # operation, and the kind of object


@pytest.fixture(scope="module")
def where(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RepositorySettings]:
    with moto_s3.served(tmp_path_factory.mktemp("moto")) as server:
        server.bucket("requests")
        yield server.settings("s3://requests/vol1")


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> Requests:
    made: Requests = []
    call = BaseClient._make_api_call  # type: ignore[attr-defined]

    def noted(self: BaseClient, operation: str, parameters: dict[str, Any]) -> Any:
        name = str(parameters.get("Key") or parameters.get("Prefix"))
        made.append((operation.removesuffix("Object").removesuffix("ObjectsV2"), name.split("/")[1]))
        return call(self, operation, parameters)

    monkeypatch.setattr(BaseClient, "_make_api_call", noted)
    return made


def backed_up(where: RepositorySettings, root: Path, cache: CachePlace) -> BackupResult:
    """Do what a worker does."""
    with Repository.open(open_store(where), PASSWORD, cache=cache) as repository:
        meta = VolumeMeta(id="V", name="v", created=now(), taken=now())
        tree = Tree(root=root, identity="", stable_inodes=True)
        return back_up(repository, tree, meta, parent=latest_parent(repository, "V"), progress=Silent())


def test_a_backup_of_an_unchanged_volume(
    where: RepositorySettings, requests: Requests, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same for each, however many there were before; REPOSITORY.md's rule 2 is held by the listing of ``data/``.

    The fewest with which a backup can be written: what the lock protocol takes (list, put, list, delete; and the look
    whether it still holds), who may open it (key, config), what there is (snapshots, indexes; of contents
    only what the last backup says of its volume, which is not cached, as no contents are), what is new (a pack of
    data and one of trees, for a backup's record of its volume has the time in it; their index; the snapshot).
    """
    monkeypatch.setattr(locks, "SETTLE", 0.0)
    monkeypatch.setattr(parent, "_GRAIN", parent._GRAIN * 0)
    Repository.create(open_store(where), PASSWORD, cost=CHEAP)[0].close()
    root = tmp_path / "volume"
    for number in range(40):
        directory = root / f"d{number % 10}"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"f{number}").write_bytes(b"%d" % number * 1000)
    cache = CachePlace(tmp_path / "cache", 1 << 30)
    assert backed_up(where, root, cache).new == 40
    for _ in range(3):
        requests.clear()
        result = backed_up(where, root, cache)
        assert (result.unmodified, result.bytes_read) == (40, 0)
        assert Counter(requests) == {
            ("Get", "keys"): 1,
            ("Get", "config"): 1,
            ("List", "snapshots"): 1,
            ("List", "locks"): 2,
            ("Put", "locks"): 1,
            ("Head", "locks"): 1,
            ("Delete", "locks"): 1,
            ("List", "index"): 1,
            ("Get", "data"): 1,
            ("Put", "data"): 2,
            ("Put", "index"): 1,
            ("List", "data"): 1,
            ("Put", "snapshots"): 1,
        }
    requests.clear()
    other = CachePlace(tmp_path / "another machine's cache", 1 << 30)
    assert backed_up(where, root, other).unmodified == 40
    assert len(requests) > 20
