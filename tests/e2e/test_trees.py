"""Trees through repositories, with stock restic as the judge: its restores of ours, and ours of its backups."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, given, settings

from snapvol.backend import Tree
from snapvol.engine import node
from snapvol.engine.archiver import BackupResult, back_up
from snapvol.engine.backups import backups
from snapvol.engine.manifest import VolumeMeta
from snapvol.engine.node import Node
from snapvol.engine.progress import Silent
from snapvol.engine.reading import entries, load_tree
from snapvol.engine.restorer import restore
from snapvol.engine.verifier import verify
from snapvol.model import now
from snapvol.repository import BlobKind, Repository
from snapvol.stores.local import LocalStore
from support.everything import everything
from support.process import run
from support.random_trees import plans
from support.repositories import CHEAP, PASSWORD
from support.trees import (
    Plan,
    Seen,
    below,
    differences,
    directory,
    fell,
    file,
    grow,
    look,
    symlink,
)

pytestmark = pytest.mark.root

BATCH = 25
TREES = 1000


class Bench:
    """A repository on the disk, used by snapvol and by restic, with room for trees beside it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.store = LocalStore(root / "repository")
        Repository.create(self.store, PASSWORD, cost=CHEAP)[0].close()

    def opened(self) -> Repository:
        return Repository.open(self.store, PASSWORD)

    def restic(self, *words: str | Path, cwd: Path | None = None) -> str:
        environment = {"RESTIC_PASSWORD": PASSWORD, "TZ": "UTC", "RESTIC_CACHE_DIR": str(self.root / "cache")}
        return run(
            "restic", "-r", self.root / "repository", *words, env=environment, seconds=300, cwd=cwd or self.root
        ).stdout

    def back_up(self, source: Path, name: str = "vol") -> BackupResult:
        meta = VolumeMeta(id=f"id-of-{name}", name=name, created=now(), taken=now())
        with self.opened() as repository:
            tree = Tree(root=source, identity="1", stable_inodes=True)
            return back_up(repository, tree, meta, parent=None, progress=Silent(), host="here")

    def restore(self, backup: str) -> Path:
        target = self.fresh("ours")
        with self.opened() as repository:
            restore(repository, backup, target, progress=Silent())
        return target

    def restic_restore(self, backup: str, *words: str) -> Path:
        target = self.fresh("theirs")
        self.restic("restore", backup, "--target", target, *words)
        return target

    def restic_backup(self, source: Path, *words: str) -> str:
        """Back up with restic under the source's own name and return the snapshot's id."""
        before = set(os.listdir(self.root / "repository/snapshots"))
        self.restic("backup", "-q", source.name, *words, cwd=source.parent)
        (made,) = set(os.listdir(self.root / "repository/snapshots")) - before
        return made

    def fresh(self, name: str) -> Path:
        path = Path(tempfile.mkdtemp(prefix=name, dir=self.root))
        path.chmod(0o755)
        return path


@pytest.fixture
def bench(place: Path) -> Iterator[Bench]:
    root = Path(tempfile.mkdtemp(prefix="t", dir=place))  # short: paths in it are as long as they may be
    yield Bench(root)
    fell(root)


# What restic 0.14 cannot do; everything else must be equal.


def without_sockets(seen: Mapping[bytes, Seen]) -> dict[bytes, Seen]:
    """It neither backs up nor restores sockets. Where one was, the directory's other entries are as ever."""
    return {path: entry for path, entry in seen.items() if entry.kind != stat.S_IFSOCK}


def with_lossy_targets(seen: Mapping[bytes, Seen]) -> dict[bytes, Seen]:
    """It puts U+FFFD for every byte of a link's target that is not UTF-8 (0.16 adds a field for them)."""
    return {
        path: replace(entry, target=_lossy(entry.target)) if entry.kind == stat.S_IFLNK else entry
        for path, entry in seen.items()
    }


def _lossy(target: bytes) -> bytes:
    text = target.decode("utf-8", "surrogateescape")
    return "".join("\ufffd" if 0xDC80 <= ord(rune) <= 0xDCFF else rune for rune in text).encode()


def without_special_links(seen: Mapping[bytes, Seen]) -> dict[bytes, Seen]:
    """It relinks files, but makes hard-linked symbolic links, devices and FIFOs anew under each name."""
    return {
        path: entry
        if entry.kind == stat.S_IFREG
        else replace(entry, same=path if entry.same else b"", links=bool(entry.links))
        for path, entry in seen.items()
    }


def with_wrapped_times(seen: Mapping[bytes, Seen]) -> dict[bytes, Seen]:
    """Its nanoseconds since 1970 have 64 bits, and end in April 2262; ext4 then makes 1901 of what it asks for."""
    return {
        path: replace(entry, mtime=max(entry.mtime - 2**64, -(2**31) * 10**9)) if entry.mtime >= 2**63 else entry
        for path, entry in seen.items()
    }


def by_restic(seen: Mapping[bytes, Seen]) -> dict[bytes, Seen]:
    """Return what restic 0.14 can make of a tree. It also knows no holes: compare with ``holes=False``."""
    return with_wrapped_times(without_special_links(with_lossy_targets(without_sockets(seen))))


# -- everything at once -----------------------------------------------------------------------------------------------


def test_t34_everything_survives_both_ways_and_restic_reads_it(bench: Bench) -> None:
    source = bench.fresh("s")
    grow(source, everything())
    os.chmod(source, 0o2751)
    wanted = look(source)

    backup = bench.back_up(source)

    assert backup.problems == []
    assert "no errors were found" in bench.restic("check", "--read-data")
    assert differences(wanted, look(bench.restore(backup.id))) == []
    theirs = look(bench.restic_restore(backup.id))
    assert differences(by_restic(wanted), below_root(theirs, b"volume"), holes=False) == []


def test_t34_what_restic_backed_up_is_listed_and_restored(bench: Bench) -> None:
    source = bench.fresh("s")
    grow(source, everything())
    wanted = look(source)

    made = bench.restic_backup(source)

    with bench.opened() as repository:
        (listed,) = backups(repository)
        repository.load_index()
        paths = {path for path, _ in entries(repository, made, recursive=True)}
    assert (listed.id, listed.foreign, listed.volume) == (made, True, None)
    prefix = os.fsencode(source.name)
    assert paths == {prefix} | {prefix + b"/" + path for path in without_sockets(wanted) if path}
    restored = below_root(look(bench.restore(made)), prefix)
    assert differences(with_lossy_targets(without_sockets(wanted_by(wanted))), restored) == []


def wanted_by(seen: Mapping[bytes, Seen]) -> dict[bytes, Seen]:
    """restic 0.14 records no link counts of FIFOs, so that theirs cannot be made again from its backups."""
    return {
        path: replace(entry, same=path, links=1) if entry.kind == stat.S_IFIFO else entry
        for path, entry in seen.items()
    }


def below_root(seen: Mapping[bytes, Seen], name: bytes) -> dict[bytes, Seen]:
    return {path.removeprefix(b"/"): entry for path, entry in below(seen, name).items()}


def test_t34_paths_beyond_the_kernels_limit_and_a_1_tib_hole(bench: Bench) -> None:
    deep = [b"level"] * 1200
    plan = {b"/".join(deep[:depth]): directory(mtime=depth) for depth in range(1, len(deep) + 1)}
    plan[b"/".join([*deep, b"bottom"])] = file(b"deep down")
    plan[b"hole"] = file(1 << 39, b"x", (1 << 39) - 1)
    source = bench.fresh("s")
    grow(source, plan)
    wanted = look(source)

    backup = bench.back_up(source)

    assert backup.bytes_total == (1 << 40) + len(b"deep down")
    assert backup.bytes_read < 1 << 20
    assert differences(wanted, look(bench.restore(backup.id))) == []


def test_t34_attributes_of_links_come_back(bench: Bench) -> None:
    """restic before 0.17 would put a link's attributes on what it leads to, so that it is not asked here."""
    source = bench.fresh("s")
    grow(source, {b"to-nowhere": symlink(b"nowhere", xattrs={"trusted.of-the-link": b"1"})})

    backup = bench.back_up(source)

    assert differences(look(source), look(bench.restore(backup.id))) == []


def test_every_tree_object_of_restic_comes_back_byte_for_byte(bench: Bench) -> None:
    source = bench.fresh("s")
    grow(source, {path: entry for path, entry in everything().items() if path != b"link-not-utf8"})
    theirs = bench.restic_backup(source)
    ours = bench.back_up(source).id
    with bench.opened() as repository:
        repository.load_index()
        nodes = {}
        for name, backup in (("theirs", theirs), ("ours", ours)):
            document = repository.find_snapshot(backup)[1]
            for tree in trees(repository, document.tree):
                data = repository.read(BlobKind.TREE, bytes.fromhex(tree))
                assert node.encode_tree(map(node.encode, node.decode_tree(data))) == data
            nodes[name] = dict(entries(repository, backup, recursive=True))
    prefix = os.fsencode(source.name) + b"/"
    expected = {path.removeprefix(prefix): entry for path, entry in nodes["theirs"].items() if path.startswith(prefix)}
    assert expected.keys() == {path for path, entry in nodes["ours"].items() if entry.type != "socket"}
    for path, entry in expected.items():
        assert comparable(nodes["ours"][path]) == comparable(entry), path


def trees(repository: Repository, root: str) -> Iterator[str]:
    waiting = [root]
    while waiting:
        tree = waiting.pop()
        yield tree
        waiting += [entry.subtree for entry in load_tree(repository, tree) if entry.subtree is not None]


def comparable(entry: Node) -> bytes:
    """Return a node as written, without what differs by intention.

    We number devices from 1 and only where links need it, count links of FIFOs too, and may cut contents elsewhere.
    """
    links = entry.links if entry.type != "fifo" else 0
    content = entry.content if entry.size < 1 << 19 else []
    subtree = None if entry.subtree is None else "0" * 64
    return node.encode(msgspec.structs.replace(entry, device_id=0, links=links, content=content, subtree=subtree))


# -- a thousand random trees ------------------------------------------------------------------------------------------


class Batch:
    """Trees that are gathered until a backup of them is worth while."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.source = bench.fresh("s")
        self.count = 0
        self.trees = 0

    def take(self, plan: Plan) -> None:
        root = self.source / f"{self.count:02}"
        root.mkdir()
        grow(root, plan)
        self.count += 1
        self.trees += 1
        if self.count == BATCH:
            self.judge()

    def judge(self) -> None:
        """Back all of them up by snapvol and by restic, restore each by both, and compare."""
        bench = self.bench
        wanted = look(self.source)
        backup = bench.back_up(self.source)
        assert backup.problems == []
        for found, what, holes in (
            (look(bench.restore(backup.id)), wanted, True),
            (below_root(look(bench.restic_restore(backup.id)), b"volume"), by_restic(wanted), False),
        ):
            assert differences(what, found, holes=holes) == []
        made = bench.restic_backup(self.source)
        foreign = below_root(look(bench.restore(made)), os.fsencode(self.source.name))
        assert differences(with_lossy_targets(without_sockets(wanted_by(wanted))), foreign) == []
        for path in bench.root.iterdir():
            if path.name.startswith(("s", "ours", "theirs")):
                fell(path)
        self.source = bench.fresh("s")
        self.count = 0


def test_t34_a_thousand_random_trees(bench: Bench) -> None:
    batch = Batch(bench)

    @settings(
        max_examples=TREES,
        phases=[Phase.generate],  # a batch is judged as a whole: there is nothing to shrink to
        suppress_health_check=list(HealthCheck),
        database=None,
        deadline=None,
    )
    @given(plans())
    def gather(plan: Plan) -> None:
        batch.take(plan)

    gather()
    while batch.count:
        batch.take({})
    assert batch.trees >= TREES
    assert "no errors were found" in bench.restic("check", "--read-data")
    with bench.opened() as repository:
        assert verify(repository, backups(repository)[-2].id, Silent()).problems == []
