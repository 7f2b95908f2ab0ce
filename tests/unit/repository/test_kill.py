"""T28: a run that is killed at any moment leaves a whole repository, and what it uploaded is used by the next."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from snapvol.repository import BlobKind, Repository
from snapvol.stores.local import LocalStore
from support.process import run
from support.repositories import PASSWORD, approved, back_up, backed_up, created, opened, sample

PROGRAM = """
import sys
from pathlib import Path
from snapvol.repository import Tuning
from snapvol.stores.local import LocalStore
from support.faults import Faulty, killer
from support.repositories import back_up, opened, sample
path, moment, turn = sys.argv[1:]
fault = killer("put", int(turn))
store = Faulty(LocalStore(Path(path)), **{moment: fault})
with opened(store, Tuning(pack_size=20 << 10, index_after_packs=3, uploads=1)) as repository, repository.lock() as lock:
    repository.load_index()
    back_up(repository, lock, sample(40))
"""
TESTS = Path(__file__).parents[2]


def killed(path: Path, moment: str, turn: int) -> bool:
    """Run a backup that is killed before or after its n-th object; return whether it was, or came to its end."""
    done = run(sys.executable, "-c", PROGRAM, path, moment, str(turn), env={"PYTHONPATH": str(TESTS)}, check=False)
    assert done.code in (0, -9), done
    return done.code == -9


def stored(store: LocalStore) -> set[str]:
    return {entry.name for prefix in ("data/", "index/", "snapshots/") for entry in store.list(prefix)}


def whole(store: LocalStore) -> Repository:
    repository = opened(store)
    report = repository.check(True)
    assert report.problems == []
    return repository


def test_kill_after_every_object(tmp_path: Path) -> None:
    template = tmp_path / "template"
    created(LocalStore(template)).close()
    backed_up(LocalStore(template), sample(5, seed=7))
    blobs = sample(40)
    turn = 0
    while True:
        turn += 1
        path = tmp_path / f"after-{turn}"
        shutil.copytree(template, path)
        store = LocalStore(path)
        if not killed(path, "after", turn):
            break
        left = stored(store)
        whole(store).close()
        backed_up(store, blobs)
        with whole(store) as repository:
            assert len(repository.snapshots()) in (2, 3)  # 3: killed straight after the snapshot was written
            assert left <= stored(store)
            # Used again: all packs together hold hardly more than one run's blobs.
            size = sum(entry.size for entry in store.list("data/"))
        shutil.rmtree(path)
        assert size < 150_000, f"killed after object {turn}"
    assert turn > 8
    assert list(store.list("locks/")) == []


def test_what_a_killed_run_uploaded_is_used_beside_others(tmp_path: Path) -> None:
    """Its packs cannot be told from those that another writer is about to index: its partial indexes name them."""
    store = LocalStore(tmp_path / "repository")
    created(store).close()
    assert killed(tmp_path / "repository", "after", 6)  # a lock, three packs, their index, a pack
    before = stored(store)
    assert [sum(name.startswith(prefix) for name in before) for prefix in ("data/", "index/")] == [4, 1]
    with opened(store) as other, other.lock(), opened(store) as repository, repository.lock() as lock:
        repository.load_index()
        new = [repository.add(BlobKind.DATA, blob)[1] for blob in sample(40)]
        assert new.index(True) >= 3 * 7  # of 2,600 bytes each, in packs of 20 KiB
        assert not any(new[: new.index(True)])
        back_up(repository, lock, sample(40))
    whole(store).close()
    assert before <= stored(store)
    with opened(store) as repository:
        assert repository.unlock() == 1
    approved(tmp_path / "repository")


@pytest.mark.parametrize("turn", [1, 2, 5, 8])
def test_restic_finds_nothing_wrong_after_a_kill(tmp_path: Path, turn: int) -> None:
    """Before an object is written, which is after the one before: also with stock restic's eyes."""
    path = tmp_path / "repository"
    store = LocalStore(path)
    created(store).close()
    assert killed(path, "before", turn)
    with opened(store) as repository:
        assert repository.unlock() == (turn > 1)
    approved(path)
    with opened(store) as repository, repository.lock() as lock:
        repository.load_index()
        back_up(repository, lock, sample(40))
    approved(path)


@pytest.mark.parametrize("turn", [1, 2, 3])
def test_a_killed_create_can_be_run_again(tmp_path: Path, turn: int) -> None:
    """T14: before its last object there is no repository, after it there is a whole one."""
    program = f"""
from pathlib import Path
from snapvol.stores.local import LocalStore
from support.faults import Faulty, killer
from support.repositories import created
created(Faulty(LocalStore(Path({str(tmp_path)!r}) / "repository"), after=killer("put", {turn})))
"""
    assert run(sys.executable, "-c", program, env={"PYTHONPATH": str(TESTS)}, check=False).code == -9
    store = LocalStore(tmp_path / "repository")
    if turn < 3:
        created(store).close()
    Repository.open(store, PASSWORD).close()
    backed_up(store, sample(3))
    approved(tmp_path / "repository")
