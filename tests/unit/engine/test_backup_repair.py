"""T30: backups that lost pieces get them back from live data, or are made anew without them and say so."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import timedelta
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from snapvol.engine import image_layout, reading
from snapvol.engine.backup_repair import BackupRepair, repair_backups
from snapvol.engine.backups import backups as listed
from snapvol.engine.image_restorer import restore_image
from snapvol.engine.progress import Silent
from snapvol.engine.restorer import PartlyRestored, restore
from snapvol.engine.verifier import verify
from snapvol.errors import Damaged, Refused, RepositoryLocked, RepositoryUnreachable
from snapvol.model import now
from snapvol.repository import BlobKind, Repository
from snapvol.stores.base import Store, Transient
from snapvol.stores.local import LocalStore
from snapvol.stores.memory import MemoryStore
from support import needs
from support.benches import Bench
from support.damage import KINDS, damage, objects
from support.deaths import deaths
from support.faults import Faulty, nth
from support.images import Backups, Disk
from support.repositories import approved, created, opened, restic
from support.trees import differences, directory, file, grow, look

M = 1 << 20
NOISE = random.Random(7).randbytes(6 * M)
CHANGED = random.Random(8).randbytes(2 * M)


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


@pytest.fixture
def two(bench: Bench, source: Path) -> tuple[str, str]:
    """Two backups of one volume: a big file that changed in between, directories, files of their own."""
    grow(
        source,
        {
            b"big": file(NOISE),
            b"d": directory(),
            b"d/e": directory(),
            b"d/e/small": file(b"small" * 300),
            b"d/same": file(b"same" * 400),
            b"gone": file(CHANGED[:M]),
        },
    )
    first = bench.back_up(source, taken=now() - timedelta(days=2)).id
    (source / "gone").unlink()
    (source / "new").write_bytes(CHANGED[M:])
    return first, bench.back_up(source, parent=first, taken=now() - timedelta(days=1)).id


# -- from live data ---------------------------------------------------------------------------------------------------


@pytest.mark.root
@pytest.mark.parametrize("kind", ["flip", "truncate", "delete", "directory"])
def test_live_data_makes_old_backups_whole_again(
    bench: Bench, source: Path, tmp_path: Path, two: tuple[str, str], kind: str
) -> None:
    """Check names the files of a damaged pack; repaired, and backed up again: OLD backups restore byte for byte."""
    store, (first, second) = bench.store, two
    expected = look(bench.restore(second, tmp_path / "expected"))
    if kind == "directory":
        root = reading.root(bench.repository, bench.document(second)).subtree
        spoil(store, BlobKind.TREE, bytes.fromhex(root))
    else:
        damage(store, pack_of(store, BlobKind.DATA, piece(store, second, b"big", 2)), kind, 0.4)
    ((_, hit, files), *_) = problems(store)
    assert second in hit
    assert f"{second[:8]}:/volume/{'' if kind == 'directory' else 'big'}" in files
    index_repaired(store)
    bench.reopened()
    third = bench.back_up(source, parent=second).id
    assert problems(store) == []
    assert repaired(store).backups == []
    bench.reopened()
    assert differences(expected, look(bench.restore(second, tmp_path / "second"))) == []
    assert differences(expected, look(bench.restore(third, tmp_path / "third"))) == []
    assert verify(bench.repository, first, Silent()).ok


@pytest.mark.parametrize("kind", ["flip", "delete"])
@pytest.mark.parametrize("layout", ["one file", "segments"])
def test_a_live_device_makes_old_images_whole_again(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, layout: str
) -> None:
    """What is said to be unchanged is read where the repository has lost it."""
    disk = _disk(tmp_path, monkeypatch, layout)
    backups = Backups(bench.repository, disk)
    first, wanted = backups.run(chunk=256 << 10).id, disk.contents
    disk.write(9 * M, b"changed" * 1000)
    second = backups.run(chunk=256 << 10).id
    name = pack_of(bench.store, BlobKind.DATA, sha256(disk.contents[2 * M : 2 * M + (256 << 10)]).digest())
    damage(bench.store, name, kind, 0.3)
    assert {hit for _, hit, _ in problems(bench.store)} == {tuple(sorted((first, second)))}
    index_repaired(bench.store)
    again = Backups(bench.reopened(), disk)
    again.base = backups.base
    third = again.run(chunk=256 << 10, changed=())
    assert third.base == second
    assert problems(bench.store) == []
    for number, (backup, contents) in enumerate(((first, wanted), (second, disk.contents), (third.id, disk.contents))):
        restore_image(bench.reopened(), backup, tmp_path / f"out{number}", progress=Silent())
        assert (tmp_path / f"out{number}").read_bytes() == contents


def _disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str) -> Disk:
    if layout == "segments":
        monkeypatch.setattr(image_layout, "ONE_FILE", 8 * M)
        monkeypatch.setattr(image_layout, "SEGMENT", M)
        monkeypatch.setattr(image_layout, "GROUP", 8)
    disk = Disk(tmp_path / "disk", 20 * M)
    disk.write(M, NOISE[: 3 * M])
    disk.write(9 * M + 12345, NOISE[4 * M : 4 * M + 100_000])
    return disk


# -- without what is lost ---------------------------------------------------------------------------------------------


@pytest.mark.root
def test_a_file_that_lost_a_piece_is_left_out_and_its_rest_kept(
    bench: Bench, source: Path, tmp_path: Path, two: tuple[str, str]
) -> None:
    store, (first, second) = bench.store, two
    expected = look(bench.restore(second, tmp_path / "before"))
    lost = piece(store, second, b"big", 1)
    before = [len(data) for data in _pieces(bench, second, b"big")]
    lose(store, BlobKind.DATA, lost)
    undamaged = {name: data for name, data in store.objects.items() if name.startswith(("data/", "snapshots/"))}
    planned = repaired(store, dry_run=True)
    assert {name: data for name, data in store.objects.items() if name in undamaged or name[:4] == "data"} == undamaged
    done = repaired(store)
    assert [item.lost for item in done.backups] == [item.lost for item in planned.backups]
    assert [item.new for item in planned.backups] == [None, None]
    assert undamaged.items() <= store.objects.items(), "nothing is removed unless --forget says so"
    start = before[0]
    said = f"bytes {start} to {start + before[1] - 1} are lost: the rest is 'big.partial'"
    assert [str(lost) for item in done.backups for lost in item.lost] == [f"big: {said}"] * 2
    new = done.backups[1].new
    assert new is not None
    bench.reopened()
    document = bench.document(new)
    assert (document.original, document.time) == (second, bench.document(second).time)
    assert "incomplete" in (document.tags or ())
    meta = reading.root(_loaded(bench), document).meta
    assert meta is not None
    assert meta.problems == [f"big: {said}"]
    (tmp_path / "after").mkdir()
    notes = restore(bench.repository, new, tmp_path / "after", progress=Silent()).notes
    assert [note for note in notes if "incomplete" in note] == [f"the backup is incomplete: big: {said}"]
    found = look(tmp_path / "after")
    partial = (tmp_path / "after/big.partial").read_bytes()
    assert partial == NOISE[:start] + bytes(before[1]) + NOISE[start + before[1] :]
    assert found.keys() == (expected.keys() - {b"big"}) | {b"big.partial"}
    unchanged = {path: entry for path, entry in expected.items() if path not in (b"", b"big")}
    assert differences(unchanged, {path: found[path] for path in unchanged}) == []
    assert verify(bench.repository, new, Silent()).ok
    assert first in {item.backup.id for item in done.backups}


def _pieces(bench: Bench, backup: str, path: bytes) -> list[bytes]:
    return list(reading.cat(_loaded(bench), backup, path))


def _loaded(bench: Bench) -> Repository:
    bench.repository.load_index()
    return bench.repository


def test_several_losses_leave_the_beginning_and_none_leave_nothing(bench: Bench, source: Path) -> None:
    """Where two pieces of unknown length are lost, only the place of what is before them is certain."""
    (source / "big").write_bytes(NOISE)
    (source / "tiny").write_bytes(b"tiny" * 500)
    backup = bench.back_up(source).id
    pieces = _pieces(bench, backup, b"big")
    assert len(pieces) > 4
    for path, number in ((b"big", 1), (b"big", 3), (b"tiny", 0)):
        lose(bench.store, BlobKind.DATA, piece(bench.store, backup, path, number))
    (found,) = repaired(bench.store).backups
    first = len(pieces[0])
    assert [str(problem) for problem in found.lost] == [
        f"big: all from byte {first} on is lost or of unknown place: the rest is 'big.partial'",
        "tiny: it is lost",
    ]
    assert found.new is not None
    bench.reopened()
    assert b"".join(_pieces(bench, found.new, b"big.partial")) == NOISE[:first]
    assert [path for path, _ in reading.entries(_loaded(bench), found.new)] == [b"big.partial"]


@pytest.mark.root
def test_a_name_that_is_taken_or_too_long(bench: Bench, source: Path) -> None:
    long = b"n" * 250
    grow(source, {b"big": file(NOISE[:M], b"x"), b"big.partial": file(b"mine"), long: file(NOISE[:M], b"x")})
    backup = bench.back_up(source).id
    lose(bench.store, BlobKind.DATA, piece(bench.store, backup, b"big", 0))
    (found,) = repaired(bench.store).backups
    assert found.new is not None
    bench.reopened()
    names = [path for path, _ in reading.entries(_loaded(bench), found.new)]
    assert b"big.partial" in names
    assert names in ([b"big.partial"], [b"big.partial", b"big.partial-2"])
    assert b"".join(_pieces(bench, found.new, b"big.partial")) == b"mine"


@pytest.mark.root
def test_a_directory_that_is_lost_is_empty_and_named(bench: Bench, source: Path, two: tuple[str, str]) -> None:
    _, second = two
    _loaded(bench)
    start = reading.root(bench.repository, bench.document(second))
    subtree = reading.find(bench.repository, start, b"d/e")[-1].subtree
    assert subtree is not None
    lose(bench.store, BlobKind.TREE, bytes.fromhex(subtree))
    done = repaired(bench.store, chosen=(second,))
    (found,) = done.backups
    assert [str(problem) for problem in found.lost] == ["d/e: what it held is lost; it is empty now"]
    assert found.new is not None
    bench.reopened()
    names = [path for path, _ in reading.entries(_loaded(bench), found.new, recursive=True)]
    assert names == [b"big", b"d", b"d/e", b"d/same", b"new"]
    assert len(bench.repository.snapshots()) == 3, "the other one that is hit was not chosen"


def test_the_old_records_go_with_forget_only(bench: Bench, two: tuple[str, str]) -> None:
    store, (first, second) = bench.store, two
    lose(store, BlobKind.DATA, piece(store, second, b"new", 0))  # only in the second
    damage(store, f"snapshots/{first}", "flip")
    kept = repaired(store)
    assert [item.backup.id for item in kept.backups] == [second]
    assert kept.unreadable == [f"snapshots/{first}"]
    assert {f"snapshots/{first}", f"snapshots/{second}"} <= store.objects.keys()
    gone = repaired(store, forget=True)
    assert gone.backups[0].new == kept.backups[0].new, "it is not made twice"
    assert objects(store, "snapshots/") == [f"snapshots/{gone.backups[0].new}"]
    assert problems(store) == []


def test_a_backup_of_which_nothing_is_left(bench: Bench, source: Path) -> None:
    (source / "a").write_bytes(b"a")
    backup = bench.back_up(source).id
    _loaded(bench)
    lose(bench.store, BlobKind.TREE, bytes.fromhex(reading.root(bench.repository, bench.document(backup)).subtree))
    (found,) = repaired(bench.store).backups
    assert (found.new, found.nothing_left, found.forgotten) == (None, True, False)
    assert f"snapshots/{backup}" in bench.store.objects
    (found,) = repaired(bench.store, forget=True).backups
    assert (found.nothing_left, found.forgotten) == (True, True)
    assert problems(bench.store) == []


def test_a_lost_manifest_is_made_of_what_the_record_says(bench: Bench, source: Path, tmp_path: Path) -> None:
    (source / "a").write_bytes(NOISE[:M])
    backup = bench.back_up(source, name="wiki").id
    _loaded(bench)
    top = {entry.name: entry for entry in reading.load_tree(bench.repository, bench.document(backup).tree)}
    lose(bench.store, BlobKind.DATA, bytes.fromhex((top[b"snapvol.json"].content or [])[0]))
    (found,) = repaired(bench.store, forget=True).backups
    assert "options and labels are lost" in str(found.lost[0])
    assert problems(bench.store) == []
    bench.reopened()
    assert found.new is not None
    meta = reading.root(_loaded(bench), bench.document(found.new)).meta
    assert meta is not None
    assert (meta.name, meta.id) == ("wiki", "id-of-wiki")
    assert (bench.restore(found.new, tmp_path / "out") / "a").read_bytes() == NOISE[:M]


def test_an_incremental_backup_on_a_repaired_one_is_whole(bench: Bench, source: Path, tmp_path: Path) -> None:
    (source / "big").write_bytes(NOISE)
    (source / "other").write_bytes(CHANGED)
    first = bench.back_up(source, taken=now() - timedelta(days=1)).id
    lose(bench.store, BlobKind.DATA, piece(bench.store, first, b"big", 1))
    (found,) = repaired(bench.store, forget=True).backups
    bench.reopened()
    result = bench.back_up(source, parent=found.new)
    assert result.unmodified <= 1
    assert (bench.restore(result.id, tmp_path / "out") / "big").read_bytes() == NOISE
    assert not (tmp_path / "out/big.partial").exists()


# -- images -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["one file", "segments"])
def test_a_repaired_image_never_looks_whole(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    """Marked in the list, refused by whatever restores, verified as damaged, and no base of any later backup."""
    disk = _disk(tmp_path, monkeypatch, layout)
    backups = Backups(bench.repository, disk)
    first = backups.run(chunk=256 << 10).id
    lose(bench.store, BlobKind.DATA, sha256(disk.contents[2 * M : 2 * M + (256 << 10)]).digest())
    (found,) = repaired(bench.store, forget=True).backups
    new, said = found.new, f"bytes {2 * M} to {2 * M + (256 << 10) - 1} are lost: {image_layout.LOST}"
    assert new is not None
    assert [problem.what for problem in found.lost] == [said]
    assert problems(bench.store) == []
    bench.reopened()
    assert [item.incomplete for item in listed(bench.repository)] == [True]
    out = tmp_path / "out"
    with pytest.raises(PartlyRestored, match="are lost: the repository had lost them") as caught:
        restore_image(bench.repository, new, out, progress=Silent())
    assert [problem.what for problem in caught.value.result.problems] == [said]
    zeroed = bytearray(disk.contents)
    zeroed[2 * M : 2 * M + (256 << 10)] = bytes(256 << 10)
    assert out.read_bytes() == zeroed
    assert [problem.what for problem in verify(bench.repository, new, Silent()).problems] == [said]
    with pytest.raises(Damaged, match=f"piece at byte {2 * M} is lost"):
        list(reading.cat(_loaded(bench), new, b"image.img"))
    again = Backups(bench.repository, disk)
    assert backups.base is not None
    again.base = type(backups.base)(id=new, source=backups.base.source)
    later = again.run(chunk=256 << 10, changed=())
    assert later.base is None
    restore_image(bench.reopened(), later.id, tmp_path / "later", progress=Silent())
    assert (tmp_path / "later").read_bytes() == disk.contents
    assert first not in {identity for identity, _ in bench.repository.snapshots()}


def test_what_is_lost_of_a_repaired_image_is_not_forgotten_by_the_next_repair(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole segment's list, then a piece elsewhere, then the manifest itself."""
    disk = _disk(tmp_path, monkeypatch, "segments")
    backup = Backups(bench.repository, disk).run(chunk=256 << 10).id
    _loaded(bench)
    start = reading.root(bench.repository, bench.document(backup))
    segment = list(image_layout.StoredImage(bench.repository, start.subtree, start.meta).segments())[2]
    lose(bench.store, BlobKind.TREE, bytes.fromhex(segment.tree))
    (once,) = repaired(bench.store, forget=True).backups
    assert [problem.what.split(":")[0] for problem in once.lost] == [f"bytes {2 * M} to {3 * M - 1} are lost"]
    lose(bench.store, BlobKind.DATA, sha256(disk.contents[M : M + (256 << 10)]).digest())
    (twice,) = repaired(bench.store, forget=True).backups
    assert [problem.what.split(":")[0] for problem in twice.lost] == [
        f"bytes {M} to {M + (256 << 10) - 1} are lost", f"bytes {2 * M} to {3 * M - 1} are lost",
    ]  # fmt: skip
    assert twice.new is not None
    bench.reopened()
    assert bench.document(twice.new).original == backup
    _loaded(bench)
    top = {entry.name: entry for entry in reading.load_tree(bench.repository, bench.document(twice.new).tree)}
    lose(bench.store, BlobKind.DATA, bytes.fromhex((top[b"snapvol.json"].content or [])[0]))
    bench.reopened()
    with pytest.raises(Damaged, match="which pieces of the image are lost is not known any more"):
        restore_image(bench.repository, twice.new, tmp_path / "out", progress=Silent())
    (hopeless,) = repaired(bench.store).backups
    assert (hopeless.new, hopeless.forgotten) == (None, False)


# -- what is refused, and what is no loss -----------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["index", "pack", "size", "directory"])
def test_nobody_knows_what_is_lost_before_the_indexes_are_repaired(
    bench: Bench, two: tuple[str, str], what: str
) -> None:
    store, (_, second) = bench.store, two
    if what == "index":
        damage(store, objects(store, "index/")[0], "delete")
    elif what == "directory":
        root = reading.root(_loaded(bench), bench.document(second)).subtree
        spoil(store, BlobKind.TREE, bytes.fromhex(root))
    else:
        name = pack_of(store, BlobKind.DATA, piece(store, second, b"big", 0))
        damage(store, name, "delete" if what == "pack" else "truncate")
    before = dict(store.objects)
    for dry_run in (False, True):
        with pytest.raises(Refused, match=r"first: snapvol repo repair index --read-data"):
            repaired(store, dry_run=dry_run)
    assert store.objects == before


@pytest.mark.parametrize("operation", ["list", "get", "size"])
def test_t27_an_outage_is_no_loss(bench: Bench, two: tuple[str, str], operation: str) -> None:
    """At whichever call it comes: nothing is removed, and nothing is said to be lost that is not."""
    store, (_, second) = bench.store, two
    lose(store, BlobKind.DATA, piece(store, second, b"new", 0))
    truth = [(item.backup.id, item.lost) for item in repaired(store, dry_run=True).backups]
    turn = 0
    while True:
        turn += 1
        left = MemoryStore()
        left.objects = dict(store.objects)
        failing = Faulty(left, nth(operation, [turn], Transient("503")))
        try:
            done = repaired(failing, forget=True)
        except RepositoryUnreachable:
            kept = {name for name in store.objects if name != f"snapshots/{second}"}
            assert kept <= left.objects.keys(), f"{operation} {turn}"
            continue
        assert [(item.backup.id, item.lost) for item in done.backups] == truth
        break
    assert turn > 3


def test_t29_nobody_else_may_be_at_work(bench: Bench, two: tuple[str, str]) -> None:
    lose(bench.store, BlobKind.DATA, piece(bench.store, two[0], b"big", 0))
    before = dict(bench.store.objects)
    with opened(bench.store) as other, other.lock(), pytest.raises(RepositoryLocked):
        repaired(bench.store, forget=True)
    assert bench.store.objects == before


# -- kills, chance, stock restic --------------------------------------------------------------------------------------


def test_t28_killed_after_every_operation(bench: Bench, source: Path) -> None:
    """The old record goes only when the new one is there; the next run finishes, and makes none twice."""
    (source / "big").write_bytes(NOISE[: 2 * M])
    (source / "small").write_bytes(b"small" * 300)
    first = bench.back_up(source, taken=now() - timedelta(days=2)).id
    (source / "more").write_bytes(b"more" * 300)
    second = bench.back_up(source, taken=now() - timedelta(days=1)).id
    lose(bench.store, BlobKind.DATA, piece(bench.store, first, b"small", 0))
    turns = 0
    for left in deaths(bench.store, lambda dying: repaired(dying, forget=True)):
        turns += 1
        for backup in (first, second):
            kept = f"snapshots/{backup}" in left.objects
            assert kept or any(_original(left, name) == backup for name in objects(left, "snapshots/"))
        index_repaired(left)
        repaired(left, forget=True)
        assert problems(left) == []
        originals = sorted(str(_original(left, name)) for name in objects(left, "snapshots/"))
        assert originals == sorted((first, second))
    assert turns > 20


def _original(store: MemoryStore, name: str) -> str | None:
    with opened(store) as repository:
        return repository.find_snapshot(name.removeprefix("snapshots/"))[1].original


class Chance:
    """A repository with backups that share some of their files, and two of an image: only copies are damaged."""

    def __init__(self, place: Path) -> None:
        self.bench = Bench()
        self.files: dict[str, dict[str, bytes]] = {}
        chance = random.Random(3)
        source = place / "chance"
        (source / "d").mkdir(parents=True)
        for number in range(4):
            (source / f"f{number}").write_bytes(chance.randbytes(40_000 + number))
            (source / f"d/g{number}").write_bytes(chance.randbytes(30_000))
            if number == 2:
                (source / "f0").unlink()
            backup = self.bench.back_up(source, taken=now() - timedelta(days=9 - number)).id
            self.files[backup] = contents(source)
        disk = Disk(place / "disk", 2 * M)
        disk.write(M // 2, chance.randbytes(200_000))
        backups = Backups(self.bench.repository, disk)
        self.images = {backups.run(chunk=64 << 10).id: disk.contents}
        disk.write(M, chance.randbytes(100_000))
        self.images[backups.run(chunk=64 << 10).id] = disk.contents
        self.bench.repository.close()

    def copy(self) -> MemoryStore:
        store = MemoryStore()
        store.objects = dict(self.bench.store.objects)
        return store


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def chance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chance]:
    from snapvol.repository import locks

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(locks, "SETTLE", 0.0)
        yield Chance(tmp_path_factory.mktemp("chance"))


PREFIXES = st.sampled_from(["data/", "index/", "snapshots/"])
DAMAGES = st.lists(
    st.tuples(PREFIXES, st.integers(0, 99), st.sampled_from(KINDS), st.floats(0, 1)), min_size=1, max_size=6
)


@given(damages=DAMAGES)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_t30_whatever_happens_to_it_it_is_sound_afterwards(
    chance: Chance, tmp_path_factory: pytest.TempPathFactory, damages: list[tuple[str, int, str, float]]
) -> None:
    """Check is clean, undamaged backups are untouched and whole, and nothing that looks whole has wrong contents."""
    store = chance.copy()
    for prefix, number, kind, place in damages:
        names = objects(store, prefix)
        if names and (kind == "delete" or store.objects[names[number % len(names)]]):
            damage(store, names[number % len(names)], kind, place)
    index_repaired(store)
    hit = {backup for _, backups, _ in problems(store) for backup in backups}
    known = chance.files.keys() | chance.images.keys()
    there = {backup for backup in known if f"snapshots/{backup}" in store.objects}
    done = repaired(store, forget=True)
    assert problems(store) == []
    untouched = {name.removeprefix("snapshots/") for name in objects(store, "snapshots/")} & known
    assert there - hit == untouched
    with opened(store) as repository:
        made = {item.new: item.backup.id for item in done.backups if item.new is not None}
        for backup, origin in [*((backup, backup) for backup in untouched), *made.items()]:
            target = tmp_path_factory.mktemp("out")
            if origin in chance.images:
                _assert_image(repository, backup, target / "image", chance.images[origin], whole=origin == backup)
                continue
            restore(repository, backup, target, progress=Silent())
            found = contents(target)
            whole = {path: data for path, data in found.items() if ".partial" not in path}
            assert whole.items() <= chance.files[origin].items()
            assert origin != backup or found == chance.files[origin]


def _assert_image(repository: Repository, backup: str, target: Path, wanted: bytes, *, whole: bool) -> None:
    """An image is restored as it was, or the restore says that it is not."""
    try:
        restore_image(repository, backup, target, progress=Silent())
    except PartlyRestored:
        assert not whole
        assert target.read_bytes() != wanted
    else:
        assert target.read_bytes() == wanted


def test_restic_approves_and_restores_what_is_left(tmp_path: Path, source: Path) -> None:
    """Also a backup that stock restic made."""
    needs.program("restic")
    path = tmp_path / "repository"
    store = LocalStore(path)
    created(store).close()
    (source / "d").mkdir()
    (source / "d/big").write_bytes(NOISE)
    (source / "d/small").write_bytes(b"small" * 300)
    bench = Bench()
    bench.repository = opened(store)
    ours = bench.back_up(source).id
    restic(path, "backup", source, "--tag", "theirs")
    blob = sha256(b"small" * 300).digest()
    name = pack_of(store, BlobKind.DATA, blob)
    with opened(store) as repository:
        repository.load_index()
        place = repository.locate(BlobKind.DATA, blob)
    content = bytearray((path / name).read_bytes())
    content[place.offset + 20] ^= 1
    (path / name).chmod(0o600)
    (path / name).write_bytes(content)
    index_repaired(store)
    done = repaired(store, forget=True)
    assert len(done.backups) == 2
    approved(path)
    for item in done.backups:
        assert item.new is not None
        restic(path, "restore", item.new, "--target", tmp_path / item.new[:8])
        below = tmp_path / item.new[:8] / ("volume" if item.backup.id == ours else str(source).lstrip("/"))
        assert contents(below) == {"d/big": NOISE}
    bench.repository.close()
