"""`snapvol repo prune` on a repository on this machine's disk."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from snapvol.repository import locks
from snapvol.stores.local import LocalStore
from support.fake_api import Result
from support.repositories import PASSWORD, backed_up, created, opened, sample

Snapvol = Callable[..., Result]


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository of which half is forgotten."""
    monkeypatch.setattr(locks, "SETTLE", 0.0)
    path = tmp_path / "repository"
    store = LocalStore(path)
    created(store).close()
    doomed = backed_up(store, sample(40))
    backed_up(store, sample(40)[:4])
    with opened(store) as made:
        made.forget([doomed])
    (tmp_path / "password").touch(mode=0o600)
    (tmp_path / "password").write_text(PASSWORD)
    monkeypatch.setenv("SNAPVOL_ROOT", str(tmp_path / "root"))
    monkeypatch.setenv("SNAPVOL_REPOSITORY", str(path))
    monkeypatch.setenv("SNAPVOL_PASSWORD_FILE", str(tmp_path / "password"))
    return path


def weight(path: Path) -> int:
    return sum(entry.size for entry in LocalStore(path).list("data/"))


def test_what_would_happen_is_what_happens(repository: Path, snapvol: Snapvol) -> None:
    before = weight(repository)
    planned = snapvol("repo", "prune", "--dry-run")
    assert planned.code == 0, planned.err
    lines = dict(line.split("  ", 1) for line in planned.out.splitlines())
    assert lines["would free"].strip().startswith("93.4 KiB")
    assert lines["requests"].strip().startswith("about ")
    assert weight(repository) == before
    as_json = snapvol("repo", "prune", "--dry-run", "--json").json
    assert as_json["done"] is False
    done = snapvol("repo", "prune", "--json").json
    assert done["plan"] == as_json["plan"]
    assert done["bytes_freed"] == as_json["plan"]["bytes_freed"] == pytest.approx(before - weight(repository), abs=300)
    assert snapvol("repo", "check", "--read-data").code == 0


def test_it_says_what_it_did(repository: Path, snapvol: Snapvol) -> None:
    result = snapvol("repo", "prune")
    assert result.code == 0, result.err
    assert result.out.startswith(f"{repository}: 93.4 KiB freed, 3 packs deleted, 10.2 KiB copied, 0 B unneeded left")
    assert snapvol("repo", "prune").out == f"{repository}: nothing to free, 0 B unneeded\n"


def test_others_are_waited_for_and_then_named(repository: Path, snapvol: Snapvol) -> None:
    before = weight(repository)
    with opened(LocalStore(repository)) as other, other.lock():
        result = snapvol("repo", "prune", "--wait", "0")
    assert result.code == 4
    assert "is locked by process" in result.err
    assert weight(repository) >= before


def test_damage_stops_it(repository: Path, snapvol: Snapvol) -> None:
    """T24."""
    file = next((repository / "index").iterdir())
    file.chmod(0o600)
    file.write_bytes(file.read_bytes()[:-1])
    before = weight(repository)
    result = snapvol("repo", "prune")
    assert result.code == 1
    assert result.err.startswith("snapvol: index/")
    assert weight(repository) == before


@pytest.mark.parametrize(
    ("option", "value"), [("--max-unused", "5x"), ("--max-repack-size", "much"), ("--wait", "soon")]
)
def test_T16_wrong_words(repository: Path, snapvol: Snapvol, option: str, value: str) -> None:
    result = snapvol("repo", "prune", option, value)
    assert result.code == 2
    assert repr(value) in result.err


def test_without_a_lock_nothing_is_deleted(repository: Path, snapvol: Snapvol) -> None:
    assert snapvol("repo", "prune", "--no-lock", "--dry-run").code == 0
    assert list((repository / "locks").iterdir()) == []
    result = snapvol("repo", "prune", "--no-lock")
    assert (result.code, list((repository / "locks").iterdir())) == (4, [])
    assert "leave out --no-lock" in result.err
    shutil.rmtree(repository)
