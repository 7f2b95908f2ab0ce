"""Mending repositories through the program, without a daemon."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from snapvol.repository import BlobKind, Repository
from snapvol.stores.local import LocalStore
from support.fake_api import Result
from support.repositories import PASSWORD

Snapvol = Callable[..., Result]


@pytest.fixture
def copy(there: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the repository, to be damaged."""
    shutil.copytree(there / "repository", tmp_path / "copy")
    monkeypatch.setenv("SNAPVOL_REPOSITORY", str(tmp_path / "copy"))
    return tmp_path / "copy"


def spoil(repository: Path, contents: bytes) -> Path:
    """Flip a bit of a file's contents; return the pack."""
    with Repository.open(LocalStore(repository), PASSWORD) as opened:
        opened.load_index()
        place = opened.locate(BlobKind.DATA, sha256(contents).digest())
    pack = repository / f"data/{place.pack.hex()[:2]}/{place.pack.hex()}"
    data = bytearray(pack.read_bytes())
    data[place.offset + place.length // 2] ^= 1
    os.chmod(pack, 0o600)
    pack.write_bytes(data)
    return pack


def test_nothing_to_do(copy: Path, snapvol: Snapvol) -> None:
    assert snapvol("repo", "repair", "index", "--read-data") == Result(0, "nothing to do\n", "")
    assert snapvol("repo", "repair", "backups") == Result(0, "no backup has lost anything\n", "")


def test_T30_from_damage_to_what_is_left(copy: Path, snapvol: Snapvol) -> None:
    pack = spoil(copy, b"# Home\n")
    name = f"data/{pack.parent.name}/{pack.name}"
    assert snapvol("repo", "check", "--read-data").code == 1
    planned = snapvol("repo", "repair", "index", "--read-data", "--dry-run")
    assert planned.code == 0
    lines = planned.out.splitlines()
    assert lines[0].startswith("would rescue ")
    assert f" of {name} (is altered: " in lines[0]
    assert lines[-1].startswith(f"would remove {name} (")
    assert pack.exists()
    early = snapvol("repo", "repair", "backups")
    assert (early.code, early.out) == (0, "no backup has lost anything\n"), "nobody has read the pack yet"
    done = snapvol("repo", "repair", "index", "--read-data")
    assert [line.replace("would rescue", "rescued") for line in lines[:1]] == done.out.splitlines()[:1]
    assert done.err.startswith("snapvol: 1 piece without any whole copy; back the volumes up again, ")
    assert not pack.exists()
    checked = snapvol("repo", "check", "--read-data")
    assert checked.err.endswith("; back the volumes up again; if it is lost for good: snapvol repo repair backups\n")
    before = {backup["id"] for backup in snapvol("backups", "--json").json}
    planned = snapvol("repo", "repair", "backups", "--dry-run")
    assert planned.out.count("would be made anew, 1 loss; the old one is left (") == 3
    assert planned.out.count("  pages/home.md: it is lost\n") == 3
    refused = snapvol("repo", "repair", "backups", "--forget")
    assert refused.code == 4
    assert refused.err.endswith("add --yes to do it\n")
    assert refused.out.count("would forget backup ") == 3
    assert {backup["id"] for backup in snapvol("backups", "--json").json} == before
    done = snapvol("repo", "repair", "backups", "--forget", "--yes", "--json")
    assert {item["backup"]["id"] for item in done.json["backups"]} == before
    after = snapvol("backups", "--json").json
    assert {backup["id"] for backup in after} == {item["new"] for item in done.json["backups"]}
    assert all(backup["incomplete"] for backup in after)
    assert snapvol("repo", "check", "--read-data").code == 0
    assert "/pages/home.md" not in snapvol("files", "wiki", "-r").out


def test_a_lost_index(copy: Path, snapvol: Snapvol) -> None:
    for index in (copy / "index").iterdir():
        index.unlink()
    early = snapvol("repo", "repair", "backups", "--forget", "--yes")
    assert early.code == 4
    assert "first: snapvol repo repair index --read-data" in early.err
    done = snapvol("repo", "repair", "index")
    assert done.out.startswith("entered data/")
    assert "it is in no index" in done.out
    assert done.err == ""
    assert snapvol("repo", "check", "--read-data").code == 0
    assert snapvol("verify", "wiki").code == 0


def test_one_backup_only(copy: Path, snapvol: Snapvol) -> None:
    spoil(copy, b"# Home\n")
    assert snapvol("repo", "repair", "index", "--read-data").code == 0
    done = snapvol("repo", "repair", "backups", "db")
    assert done.out.count("made anew as ") == 1
    assert "; the old one is left (db, " in done.out
    assert snapvol("repo", "repair", "backups", "none").code == 3


def test_read_only_storage_is_only_looked_at(copy: Path, snapvol: Snapvol) -> None:
    spoil(copy, b"# Home\n")
    assert snapvol("repo", "repair", "index", "--read-data", "--dry-run", "--no-lock").code == 0
    refused = snapvol("repo", "repair", "index", "--read-data", "--no-lock")
    assert refused.code == 4
    assert "leave out --no-lock to write" in refused.err
    assert snapvol("repo", "repair", "backups", "--no-lock").code == 4


def test_T30_what_this_machine_has_cached_is_not_taken_for_whole(copy: Path, snapvol: Snapvol) -> None:
    newest = snapvol("backups", "--json").json[-1]["id"]
    assert snapvol("files", newest, "pages").code == 0  # keeps directories here
    with Repository.open(LocalStore(copy), PASSWORD) as opened:
        opened.load_index()
        document = opened.find_snapshot(newest)[1]
        place = opened.locate(BlobKind.TREE, bytes.fromhex(document.tree))
    pack = copy / f"data/{place.pack.hex()[:2]}/{place.pack.hex()}"
    data = bytearray(pack.read_bytes())
    data[place.offset + place.length // 2] ^= 1
    os.chmod(pack, 0o600)
    pack.write_bytes(data)
    checked = snapvol("repo", "check")
    assert "problem found; snapvol repo repair index --read-data, then back the volumes up again" in checked.err
    planned = snapvol("repo", "repair", "backups", "--dry-run")
    refused = snapvol("repo", "repair", "backups")
    assert (refused.code, refused.err) == (4, planned.err)
    assert "snapvol repo repair index --read-data" in refused.err
