"""Stock restic is right: what we write it reads, what it writes we read, and each respects the other's locks."""

from __future__ import annotations

import json
import os
import signal
import sys
from hashlib import sha256
from pathlib import Path

import pytest

from snapvol.errors import RepositoryLocked, WrongPassword
from snapvol.repository import BlobKind, Repository
from snapvol.stores.local import LocalStore
from support import needs
from support.process import Server
from support.repositories import CHEAP, PASSWORD, approved, back_up, backed_up, opened, restic, sample


@pytest.fixture(autouse=True)
def _restic() -> None:
    needs.program("restic")


def blob_ids(count: int, seed: int = 0) -> dict[bytes, bytes]:
    return {sha256(data).digest(): data for data in sample(count, seed=seed)}


def test_restic_accepts_an_empty_repository(local: LocalStore, path: Path) -> None:
    approved(path)
    with opened(local) as repository:
        config = json.loads(restic(path, "cat", "config").stdout)
        assert (config["id"], config["version"]) == (repository.id, 2)


def test_restic_accepts_every_kind_of_blob(local: LocalStore, path: Path) -> None:
    """Empty, tiny, incompressible, all zeros, large; several packs and indexes; two snapshots."""
    blobs = [b"", b"x", bytes(100_000), os.urandom(100_000), os.urandom(3 << 20), *sample(100)]
    backed_up(local, blobs)
    backed_up(local, sample(50, seed=1))
    approved(path)
    assert len(json.loads(restic(path, "snapshots", "--json").stdout)) == 2


def test_restic_restores_what_we_wrote(local: LocalStore, path: Path, tmp_path: Path) -> None:
    """Principle 2: a backup outlives snapvol."""
    blobs = sample(30)
    backed_up(local, blobs)
    restic(path, "restore", "latest", "--target", tmp_path / "out")
    assert (tmp_path / "out/volume/file").read_bytes() == b"".join(blobs)


def test_restic_backs_up_into_our_repository_and_we_read_it(local: LocalStore, path: Path, tmp_path: Path) -> None:
    """Its chunker takes our polynomial."""
    backed_up(local, sample(5))
    source = tmp_path / "source"
    source.mkdir()
    content = os.urandom(5 << 20)
    (source / "big").write_bytes(content)
    restic(path, "backup", source)
    with opened(local) as repository:
        (_, ours), (_, theirs) = repository.snapshots()
        assert (ours.paths, theirs.paths) == (["/snapvol/v"], [str(source)])
        repository.load_index()
        assert repository.damaged_indexes == []
        found = bytes.fromhex(theirs.tree)
        for name in [*source.parts[1:], "big"]:
            nodes = json.loads(repository.read(BlobKind.TREE, found))["nodes"]
            (node,) = (node for node in nodes if node["name"] == name)
            found = bytes.fromhex(node.get("subtree", ""))
        chunks = [bytes.fromhex(blob) for blob in node["content"]]
        read = dict(repository.read_many(BlobKind.DATA, chunks))
        report = repository.check(True)
    assert len(chunks) > 1
    assert b"".join(read[chunk] for chunk in chunks) == content
    assert report.problems == []


def test_we_open_what_restic_made(path: Path, tmp_path: Path) -> None:
    restic(path, "init", "--repository-version", "2")
    (tmp_path / "file").write_bytes(b"abc" * 1000)
    restic(path, "backup", tmp_path / "file")
    store = LocalStore(path)
    backed_up(store, sample(10))
    with opened(store) as repository:
        assert len(repository.snapshots()) == 2
        assert repository.check(True).problems == []
    approved(path)


def test_either_opens_with_passwords_the_other_added(local: LocalStore, path: Path, tmp_path: Path) -> None:
    """T33: the recovery key is an ordinary password to restic."""
    file = tmp_path / "password"
    file.write_text("from restic\n")
    restic(path, "key", "add", "--new-password-file", file)
    with Repository.open(local, "from restic") as repository:
        assert len(repository.list_keys()) == 3
        repository.add_key("from us", cost=CHEAP)
    assert "ID" in restic(path, "key", "list", password="from us").stdout
    file.write_text("another\n")
    restic(path, "key", "passwd", "--new-password-file", file, password="from restic")
    with pytest.raises(WrongPassword):
        Repository.open(local, "from restic")
    Repository.open(local, "another")


def test_the_recovery_key_opens_it_in_restic(tmp_path: Path) -> None:
    """T33."""
    path = tmp_path / "new"
    repository, recovery = Repository.create(LocalStore(path), PASSWORD)  # with what scrypt really costs
    assert repository.id in restic(path, "cat", "config", password=recovery).stdout


def test_restic_sees_our_locks(local: LocalStore, path: Path) -> None:
    """T29."""
    backed_up(local, sample(3))
    with opened(local) as repository:
        with repository.lock():
            refused = restic(path, "prune", check=False)
            assert refused.code != 0
            assert f"repository is already locked by PID {os.getpid()}" in refused.stderr
            assert restic(path, "unlock").code == 0
            assert len(list(local.list("locks/"))) == 1  # it lives
            assert restic(path, "snapshots").code == 0
        with repository.lock(exclusive=True):
            refused = restic(path, "snapshots", check=False)
            assert "repository is already locked exclusively" in refused.stderr
    assert restic(path, "prune").code == 0


def test_we_see_restics_locks(local: LocalStore, path: Path, tmp_path: Path) -> None:
    """T29: a backup of stock restic that waits for its input holds a shared lock meanwhile."""
    reading, writing = os.pipe()
    argv: list[str | Path] = ["restic", "--no-cache", "-r", path, "backup", "--stdin"]
    backup = Server(argv, tmp_path / "log", {"RESTIC_PASSWORD": PASSWORD}, stdin=reading)
    os.close(reading)
    try:
        backup.ready(lambda: bool(list(local.list("locks/"))))
        with opened(local) as repository:
            with repository.lock():
                pass
            with pytest.raises(RepositoryLocked, match=f"locked by process {backup.pid} on .*snapvol repo unlock"):
                repository.lock(exclusive=True).__enter__()
            assert repository.unlock() == 0
            backup.signal(signal.SIGKILL)
            backup.wait(20)
            with repository.lock(exclusive=True):  # of a dead process on this machine: stale
                assert repository.unlock() == 1
    finally:
        os.close(writing)
        backup.stop()


def test_restic_asks_lock_holders_whether_they_live_and_does_not_kill_them(local: LocalStore, path: Path) -> None:
    """T29: it sends them SIGHUP, which ends a process that is not prepared."""
    program = f"""
import signal, sys
from pathlib import Path
from snapvol.repository import Repository
from snapvol.stores.local import LocalStore
with Repository.open(LocalStore(Path({str(path)!r})), {PASSWORD!r}).lock():
    print("locked", flush=True)
    sys.stdin.read()
"""
    reading, writing = os.pipe()
    holder = Server([sys.executable, "-c", program], path.parent / "log", stdin=reading)
    os.close(reading)
    try:
        holder.ready(lambda: "locked" in holder.output())
        restic(path, "unlock")
        assert len(list(local.list("locks/"))) == 1
        assert holder.running
    finally:
        os.close(writing)
        assert holder.wait(20) == 0
    assert list(local.list("locks/")) == []


def test_what_restic_prunes_is_still_ours(local: LocalStore, path: Path) -> None:
    """T29: forget, then stock prune, which repacks; what is left is read, and backed up into."""
    snapshots = [backed_up(local, sample(60, seed=seed)[: 60 - seed]) for seed in (0, 1)]
    shared = list(blob_ids(60, 1).values())[:20]
    backed_up(local, shared)
    with opened(local) as repository, repository.lock(exclusive=True):
        repository.forget(snapshots)
    before = sum(entry.size for entry in local.list("data/"))
    restic(path, "prune", "--max-unused", "0")
    assert sum(entry.size for entry in local.list("data/")) < before / 2
    approved(path)
    with opened(local) as repository:
        repository.load_index()
        wanted = [sha256(data).digest() for data in shared]
        assert len(list(repository.read_many(BlobKind.DATA, wanted))) == 20
        assert repository.check(True).problems == []
    backed_up(local, sample(60))
    approved(path)


def test_a_reader_that_is_overtaken_by_a_prune_reads_again(local: LocalStore) -> None:
    """T29: a loaded index may be older than the packs; loading it anew finds the blobs where they went."""
    blobs = sample(30)
    backed_up(local, blobs)
    extra = backed_up(local, sample(30, seed=5))
    with opened(local) as repository:
        repository.load_index()
        with opened(local) as other, other.lock(exclusive=True):
            other.forget([extra])
        restic(Path(local.location), "prune", "--max-unused", "0", "--repack-small", check=False)
        restic(Path(local.location), "prune", "--max-unused", "0")
        repository.load_index()
        wanted = [sha256(data).digest() for data in blobs]
        assert len(list(repository.read_many(BlobKind.DATA, wanted))) == 30


def test_restic_rebuilds_an_index_that_was_lost(local: LocalStore, path: Path) -> None:
    """T30: packs say themselves what they hold."""
    blobs = sample(20)
    backed_up(local, blobs)
    local.delete([entry.name for entry in local.list("index/")])
    restic(path, "rebuild-index")
    approved(path)
    with opened(local) as repository:
        assert repository.check(True).problems == []


def test_restic_finds_what_we_find(local: LocalStore, path: Path) -> None:
    """T30: damage is damage to both."""
    with opened(local) as repository, repository.lock() as lock:
        back_up(repository, lock, sample(30))
    name = next(entry.name for entry in local.list("data/"))
    data = bytearray(local.get(name))
    data[100] ^= 1
    (path / name).write_bytes(data)
    assert restic(path, "check", "--read-data", check=False).code != 0
    with opened(local) as repository:
        assert [problem.object for problem in repository.check(True).problems] == [name]
