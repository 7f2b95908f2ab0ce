"""A database that is written to all the while: what a snapshot promised is in the restored volume, wherever that is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from support.postgres import Cluster, identity
from support.process import run, wait_until
from support.scale import scaled
from support.servers import Snapvol
from support.storage import STORAGE

pytestmark = [pytest.mark.root, pytest.mark.storage, pytest.mark.lab]
Hosts = Callable[..., Snapvol]
ACROSS = {"lvm": [("lvm", "btrfs")], "zfs": [("zfs", "lvm")]}[STORAGE] if STORAGE else []
ROWS = scaled(1000, 100)


@contextmanager
def shown(host: Snapvol, volume: str, place: Path) -> Iterator[Path]:
    """Mount a volume where others than root may reach it, as Docker does for its containers."""
    place.mkdir()
    run("mount", "--bind", host.out("mount", volume), place)
    try:
        yield place
    finally:
        run("umount", place)
        host.cli("unmount", volume)


@pytest.mark.parametrize(("source", "target"), ACROSS)
def test_every_row_that_was_committed_before_the_snapshot_is_in_the_restore(
    snapvol: Hosts, pool: Callable[[str], dict[str, Any]], place: Path, source: str, target: str
) -> None:
    host = snapvol(source, start=False)
    host.settings["pools"]["other"] = pool(target)
    host.settings["daemon"]["default_pool"] = "default"
    host.configure()
    host.start()
    host.cli("repo", "init")
    uid, gid = identity()
    size = ("-o", "size=512M") if source == "lvm" else ()
    host.cli("create", "db", *size, "-o", f"uid={uid}", "-o", f"gid={gid}", "-o", "mode=0700")
    with shown(host, "db", host.place / "db") as data:
        cluster = Cluster(data, place / "pg-db")
        cluster.initialise()
        with cluster.started(), written(cluster) as writer:
            wait_until(lambda: writer.acknowledged() >= ROWS, 120)
            promised = writer.acknowledged()
            host.cli("snapshot", "db", "-n", "live")
            taken = writer.acknowledged()
            wait_until(lambda: writer.acknowledged() >= taken + ROWS // 10, 120)
            host.cli("backup", "db@live", seconds=300)
            assert writer.acknowledged() > taken, "it wrote all the while"
    restored(host, target, promised, place / "pg-copy")


@contextmanager
def written(cluster: Cluster) -> Iterator[Any]:
    cluster.sql("CREATE TABLE rows (id int PRIMARY KEY, text text NOT NULL)")
    with cluster.written() as writer:
        yield writer


def restored(host: Snapvol, target: str, promised: int, place: Path) -> None:
    """Restore the backup into the other pool, start it, and look at everything."""
    size = ("-o", "size=512M") if target == "lvm" else ()
    host.cli("create", "copy", "-o", "backup=db", "-o", "pool=other", *size, seconds=300)
    with shown(host, "copy", host.place / "copy") as data:
        cluster = Cluster(data, place)
        with cluster.started():
            count, last = (int(word) for word in cluster.sql("SELECT count(*), max(id) FROM rows").split("|"))
            assert count == last >= promised, "each row follows the one before it, and all that were promised are there"
            wrong = "SELECT count(*) FROM rows WHERE text <> repeat(md5(id::text), 20)"
            assert cluster.sql(wrong) == "0"
            cluster.run("pg_amcheck", "--all", "--install-missing", "--heapallindexed", "--host", place)
            dumped = cluster.run("pg_dumpall", "--host", place).stdout
            assert dumped.count("\t") >= count
        cluster.run("pg_checksums", "--check", "--pgdata", data)
