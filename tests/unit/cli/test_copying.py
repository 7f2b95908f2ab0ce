"""Backups copied through the program, without a daemon, to repositories by URL and by name."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from snapvol.repository import Repository
from snapvol.stores.local import LocalStore
from support.fake_api import Result
from support.repositories import CHEAP

Snapvol = Callable[..., Result]


@pytest.fixture
def other(tmp_path: Path) -> list[str]:
    """Another repository, with another password; return the options that name it."""
    (tmp_path / "password").touch(mode=0o600)
    (tmp_path / "password").write_text("another one\n")
    Repository.create(LocalStore(tmp_path / "other"), "another one", cost=CHEAP)[0].close()
    return ["--to-repository", str(tmp_path / "other"), "--to-password-file", str(tmp_path / "password")]


def there_now(other: list[str], snapvol: Snapvol) -> list[str]:
    """Return the volumes of the backups in the other repository."""
    result = snapvol("backups", "--json", "--repository", other[1], "--password-file", other[3])
    return [backup["volume"] for backup in result.json]


def test_all_and_again(there: Path, other: list[str], tmp_path: Path, snapvol: Snapvol) -> None:
    planned = snapvol("repo", "copy", *other, "--dry-run")
    assert planned.code == 0, planned.err
    assert planned.out.count(": would be copied, ") == 3
    assert planned.out.splitlines()[-1].startswith(f"{tmp_path}/other: 3 backups would be copied, ")
    assert there_now(other, snapvol) == []
    done = snapvol("repo", "copy", *other)
    assert (done.code, done.err) == (0, "")
    assert done.out.count(": copied as ") == 3
    assert there_now(other, snapvol) == ["wiki", "db", "wiki"]
    again = snapvol("repo", "copy", *other)
    assert again.out == f"{tmp_path}/other: 0 backups copied, 0 B new there; 3 there already\n"
    direct = ["--repository", other[1], "--password-file", other[3]]
    assert snapvol("repo", "check", "--read-data", *direct).code == 0
    assert snapvol("cat", "wiki", "/pages/home.md", *direct).out == "# Home\n"


def test_some(there: Path, other: list[str], snapvol: Snapvol) -> None:
    newest = snapvol("backups", "wiki", "-q").out.split()[-1]
    named = snapvol("repo", "copy", "wiki", newest, *other, "--json").json
    assert [item["backup"]["volume"] for item in named["backups"]] == ["wiki"]
    assert named["backups"][0]["new"]
    assert snapvol("repo", "copy", "--volume", "wiki", *other).out.endswith("; 1 there already\n")
    assert there_now(other, snapvol) == ["wiki", "wiki"]
    assert snapvol("repo", "copy", "none", *other).code == 3
    assert "volume 'none' has no backup in " in snapvol("repo", "copy", "--volume", "none", *other).err
    both = snapvol("repo", "copy", "db", "--volume", "wiki", *other)
    assert (both.code, both.out) == (2, "")


def test_to_a_configured_one(there: Path, tmp_path: Path, other: list[str], snapvol: Snapvol) -> None:
    config = tmp_path / "config.toml"
    config.write_text(f'[repositories.offsite]\nurl = "{other[1]}"\npassword_file = "{other[3]}"\n')
    done = snapvol("--config", str(config), "repo", "copy", "db", "--to", "offsite")
    assert done.code == 0, done.err
    assert there_now(other, snapvol) == ["db"]
    wrong = snapvol("--config", str(config), "repo", "copy", "db", "--to", "ofsite")
    assert (wrong.code, wrong.err) == (2, "snapvol: no repository is called 'ofsite'; did you mean 'offsite'?\n")


def test_onto_itself_and_from_read_only_storage(there: Path, other: list[str], snapvol: Snapvol) -> None:
    password = str(there / "password")
    itself = snapvol("repo", "copy", "--to", str(there / "repository"), "--to-password-file", password)
    assert itself.code == 2
    assert "are the same repository" in itself.err
    assert snapvol("repo", "copy", *other, "--no-lock").code == 0
    assert len(there_now(other, snapvol)) == 3


def test_T30_what_is_damaged_is_named(
    there: Path, other: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, snapvol: Snapvol
) -> None:
    shutil.copytree(there / "repository", tmp_path / "copy")
    monkeypatch.setenv("SNAPVOL_REPOSITORY", str(tmp_path / "copy"))
    for snapshot in list((tmp_path / "copy/snapshots").iterdir())[:1]:
        snapshot.chmod(0o600)
        snapshot.write_bytes(b"")
    done = snapvol("repo", "copy", *other, "--no-cache")  # which has them whole
    assert done.code == 1
    assert done.err.endswith(f"not copied, because they are damaged: {snapshot.name[:8]}; see: snapvol repo check\n")
    assert len(there_now(other, snapvol)) == 2
