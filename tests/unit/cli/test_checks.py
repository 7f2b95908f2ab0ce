"""Checks of parts of a repository, and scrubs, through the program."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from snapvol.cli.program import run
from support.fake_api import Result

Snapvol = Callable[..., Result]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/snapvol/scrubs"


def test_a_scrub_remembers_and_tells(there: Path, cache: Path, snapvol: Snapvol) -> None:
    packs = snapvol("repo", "check", "--json").json["packs"]
    whole = f"{there}/repository: no damage found in 3 backups"
    for read in range(1, packs):
        said, last = snapvol("repo", "check", "--scrub", "1%").out.splitlines()
        assert said.startswith(f"{there}/repository: read 1 of {packs} packs, ")
        assert said.endswith(f"; {packs - read} not yet read and found whole")
        assert last == whole
    said, _ = snapvol("repo", "check", "--scrub", "1K").out.splitlines()
    assert "; every pack was read since 20" in said
    found = snapvol("repo", "check", "--scrub", "100%", "--json").json
    assert (found["packs_read"], found["scrubbed"]["packs"], found["scrubbed"]["unread"]) == (packs, packs, 0)
    assert found["scrubbed"]["since"].endswith("Z")
    assert len(list(cache.iterdir())) == 1


def test_a_configured_repository_is_remembered_in_the_daemons_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path, snapvol: Snapvol
) -> None:
    monkeypatch.setenv("SNAPVOL_ROOT", str(tmp_path / "root"))
    assert run(["repo", "init"]) == 0
    assert snapvol("repo", "check", "--scrub", "5%").code == 0
    (kept,) = (tmp_path / "root/scrubs").iterdir()
    assert json.loads(kept.read_bytes())["repository"] == kept.stem
    assert not cache.exists()


def test_T30_a_scrub_names_what_is_damaged_each_time(
    there: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path, snapvol: Snapvol
) -> None:
    shutil.copytree(there / "repository", tmp_path / "copy")
    monkeypatch.setenv("SNAPVOL_REPOSITORY", str(tmp_path / "copy"))
    pack = next(path for path in sorted((tmp_path / "copy/data").rglob("*")) if path.is_file())
    content = bytearray(pack.read_bytes())
    content[40] ^= 1
    os.chmod(pack, 0o600)
    pack.write_bytes(content)
    assert snapvol("repo", "check", "--scrub", "100%").code == 1
    again = snapvol("repo", "check", "--scrub", "1%")
    assert again.code == 1
    assert f"data/{pack.parent.name}/{pack.name}: " in again.out
    assert "snapvol repo repair index --read-data" in again.err


def test_a_part(there: Path, snapvol: Snapvol) -> None:
    packs = snapvol("repo", "check", "--json").json["packs"]
    read = [snapvol("repo", "check", "--read-data-subset", f"{n}/2", "--json").json["packs_read"] for n in (1, 2)]
    assert sum(read) == packs
    assert f": read {packs} of {packs} packs, " in snapvol("repo", "check", "--read-data-subset", "100%").out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--scrub", "1/10"], "'1/10' says no amount; write a percentage or a size: 5%, 10G"),
        (["--read-data-subset", "11/10"], "'11/10' is not a part; write 1/10, 2/10, …"),
        (["--scrub", "5%", "--read-data"], "one of them at a time; leave the others out"),
    ],
)
def test_T16_what_makes_no_sense_is_refused(there: Path, snapvol: Snapvol, options: list[str], said: str) -> None:
    result = snapvol("repo", "check", *options)
    assert (result.code, result.out) == (2, "")
    assert said in result.err
