"""T30: backups that lost pieces get them back from live data, or are made anew without them and say so."""

from __future__ import annotations

import random
from datetime import timedelta
from hashlib import sha256
from pathlib import Path

import pytest

from snapvol.engine import reading
from snapvol.engine.progress import Silent
from snapvol.engine.restorer import restore
from snapvol.engine.verifier import verify
from snapvol.errors import Refused, RepositoryLocked, RepositoryUnreachable
from snapvol.model import now
from snapvol.repository import BlobKind
from snapvol.stores.base import Transient
from snapvol.stores.local import LocalStore
from snapvol.stores.memory import MemoryStore
from support import needs
from support.benches import Bench
from support.damage import damage, objects
from support.faults import Faulty, nth
from support.mortal import deaths
from support.repairing import contents, index_repaired, loaded, lose, pack_of, piece, problems, repaired, spoil
from support.repositories import approved, created, opened, restic
from support.trees import differences, directory, file, grow, look

M = 1 << 20
NOISE = random.Random(7).randbytes(6 * M)
CHANGED = random.Random(8).randbytes(2 * M)


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
    meta = reading.root(loaded(bench), document).meta
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
    return list(reading.cat(loaded(bench), backup, path))


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
    assert [path for path, _ in reading.entries(loaded(bench), found.new)] == [b"big.partial"]


@pytest.mark.root
def test_a_name_that_is_taken_or_too_long(bench: Bench, source: Path) -> None:
    long = b"n" * 250
    grow(source, {b"big": file(NOISE[:M], b"x"), b"big.partial": file(b"mine"), long: file(NOISE[:M], b"x")})
    backup = bench.back_up(source).id
    lose(bench.store, BlobKind.DATA, piece(bench.store, backup, b"big", 0))
    (found,) = repaired(bench.store).backups
    assert found.new is not None
    bench.reopened()
    names = [path for path, _ in reading.entries(loaded(bench), found.new)]
    assert b"big.partial" in names
    assert names in ([b"big.partial"], [b"big.partial", b"big.partial-2"])
    assert b"".join(_pieces(bench, found.new, b"big.partial")) == b"mine"


@pytest.mark.root
def test_a_directory_that_is_lost_is_empty_and_named(bench: Bench, source: Path, two: tuple[str, str]) -> None:
    _, second = two
    loaded(bench)
    start = reading.root(bench.repository, bench.document(second))
    subtree = reading.find(bench.repository, start, b"d/e")[-1].subtree
    assert subtree is not None
    lose(bench.store, BlobKind.TREE, bytes.fromhex(subtree))
    done = repaired(bench.store, chosen=(second,))
    (found,) = done.backups
    assert [str(problem) for problem in found.lost] == ["d/e: what it held is lost; it is empty now"]
    assert found.new is not None
    bench.reopened()
    names = [path for path, _ in reading.entries(loaded(bench), found.new, recursive=True)]
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
    loaded(bench)
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
    loaded(bench)
    top = {entry.name: entry for entry in reading.load_tree(bench.repository, bench.document(backup).tree)}
    lose(bench.store, BlobKind.DATA, bytes.fromhex((top[b"snapvol.json"].content or [])[0]))
    (found,) = repaired(bench.store, forget=True).backups
    assert "options and labels are lost" in str(found.lost[0])
    assert problems(bench.store) == []
    bench.reopened()
    assert found.new is not None
    meta = reading.root(loaded(bench), bench.document(found.new)).meta
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


# -- what is refused, and what is no loss -----------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["index", "pack", "size", "directory"])
def test_nobody_knows_what_is_lost_before_the_indexes_are_repaired(
    bench: Bench, two: tuple[str, str], what: str
) -> None:
    store, (_, second) = bench.store, two
    if what == "index":
        damage(store, objects(store, "index/")[0], "delete")
    elif what == "directory":
        root = reading.root(loaded(bench), bench.document(second)).subtree
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


def test_t28_killed_after_every_change(bench: Bench, source: Path) -> None:
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
    assert turns > 10


def _original(store: MemoryStore, name: str) -> str | None:
    with opened(store) as repository:
        return repository.find_snapshot(name.removeprefix("snapshots/"))[1].original


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
