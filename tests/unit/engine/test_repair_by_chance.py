"""T30: whatever is damaged in a repository, mending makes it sound, and makes nothing of it wrong."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from snapvol.engine.image_restorer import restore_image
from snapvol.engine.progress import Silent
from snapvol.engine.restorer import PartlyRestored, restore
from snapvol.model import now
from snapvol.repository import Repository
from snapvol.stores.memory import MemoryStore
from support.benches import Bench
from support.damage import KINDS, damage, objects
from support.images import Backups, Disk
from support.repairing import contents, index_repaired, problems, repaired
from support.repositories import opened

M = 1 << 20


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
