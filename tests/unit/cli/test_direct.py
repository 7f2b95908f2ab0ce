"""A repository without a daemon: real ones on this machine's disk, through the program."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

import msgspec
import pytest

from snapvol.cli.program import run
from snapvol.errors import StorageFailed
from snapvol.repository import BlobKind, Repository
from snapvol.stores.local import LocalStore
from support.fake_api import Result
from support.images import Backups, Disk
from support.repositories import PASSWORD

Snapvol = Callable[..., Result]


def test_backups(there: Path, snapvol: Snapvol) -> None:
    found = snapvol("backups", "--json").json
    assert [each["volume"] for each in found] == ["wiki", "db", "wiki"]
    assert {each["repository"] for each in found} == {str(there / "repository")}
    assert [each["volume"] for each in snapvol("backups", "db", "--json").json] == ["db"]
    assert len(snapvol("backups", "wiki", "-q").out.split()) == 2


def test_files(there: Path, snapvol: Snapvol) -> None:
    assert snapvol("files", "db").out == "/later\n/link\n/odd\\nname\n/pages/\n"
    assert snapvol("files", "db", "-r").out.splitlines()[-1] == "/pages/home.md"
    assert snapvol("files", "db", "/pages").out == "/pages/home.md\n"
    rows = {row["path"]: row for row in snapvol("files", "db", "--json").json}
    assert rows["/link"]["target"] == "pages/home.md"
    assert rows["/odd\\nname"]["size"] == 3
    assert rows["/pages"]["type"] == "dir"
    long = snapvol("files", "db", "-l").out.splitlines()
    assert long[0].split() == ["MODE", "OWNER", "SIZE", "MODIFIED", "TYPE", "NAME"]
    assert any(line.endswith("/link -> pages/home.md") for line in long)


def test_copies_are_kept_in_a_place_of_ones_own(
    there: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, snapvol: Snapvol
) -> None:
    """Where there is no daemon's; none is kept with ``--no-cache``, nor by what looks for damage."""
    monkeypatch.setenv("SNAPVOL_ROOT", str(tmp_path / "none"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "mine"))
    assert snapvol("files", "db", "--no-cache").code == 0
    assert snapvol("verify", "db").code == 0
    assert list(tmp_path.iterdir()) == []
    for _ in range(2):
        assert snapvol("files", "db").out == "/later\n/link\n/odd\\nname\n/pages/\n"
    assert {path.parent.name for path in (tmp_path / "mine/snapvol").rglob("*")} >= {"openings", "index", "snapshots"}
    assert not (tmp_path / "none").exists()


def test_cat(there: Path, snapvol: Snapvol) -> None:
    assert snapvol("cat", "wiki", "/pages/home.md").out == "# Home\n"
    assert snapvol("cat", "wiki", "/pages").err.startswith("snapvol: '/pages' is not a file; ")
    assert snapvol("cat", "wiki", "/none").code == 3


def test_restore_to_a_directory(there: Path, tmp_path: Path, snapvol: Snapvol) -> None:
    result = snapvol("restore", "wiki", "--to", str(tmp_path / "a/b"))
    assert result.code == 0, result.err
    assert result.out.startswith(f"{tmp_path}/a/b: 4 files")
    assert (tmp_path / "a/b/pages/home.md").read_text() == "# Home\n"
    assert os.readlink(tmp_path / "a/b/link") == "pages/home.md"
    assert snapvol("restore", "wiki", "--to", str(tmp_path / "c"), "--path", "/pages/home.md").code == 0
    assert [str(path.relative_to(tmp_path / "c")) for path in (tmp_path / "c").rglob("*")] == ["pages", "pages/home.md"]


def test_T36_a_restore_of_nothing_fails_and_leaves_nothing(there: Path, tmp_path: Path, snapvol: Snapvol) -> None:
    for argv in (["none"], ["wiki", "--path", "/none"], ["wiki@2001-01-01"]):
        result = snapvol("restore", *argv, "--to", str(tmp_path / "new"))
        assert (result.code, result.out) == (3, "")
        assert not (tmp_path / "new").exists()


def test_a_directory_with_something_in_it_is_refused(there: Path, tmp_path: Path, snapvol: Snapvol) -> None:
    (tmp_path / "mine").touch()
    result = snapvol("restore", "wiki", "--to", str(tmp_path))
    assert (result.code, result.out) == (4, "")
    assert result.err.startswith(f"snapvol: directory {tmp_path} is not empty; ")
    assert list(tmp_path.iterdir()) == [tmp_path / "mine"]


def test_verify_and_check(there: Path, snapvol: Snapvol) -> None:
    result = snapvol("verify", "wiki", "db")
    assert result.code == 0, result.err
    assert all(": whole, " in line for line in result.out.splitlines())
    assert len(snapvol("verify", "wiki", "--json").json) == 1
    checked = snapvol("repo", "check", "--read-data")
    assert checked == Result(0, f"{there}/repository: no damage found in 3 backups\n", "")
    assert snapvol("repo", "check", "--json").json["problems"] == []


def test_T30_damage_is_named_with_the_backups_hit(
    there: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, snapvol: Snapvol
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(there / "repository", copy)
    monkeypatch.setenv("SNAPVOL_REPOSITORY", str(copy))
    for pack in (copy / "data").rglob("*"):
        if pack.is_file():
            pack.chmod(0o600)
            content = bytearray(pack.read_bytes())
            content[40] ^= 1
            pack.write_bytes(content)
    checked = snapvol("repo", "check", "--read-data")
    assert checked.code == 1
    assert "(in backups " in checked.out
    assert checked.err.startswith(f"snapvol: {copy}: ")
    assert "problem" in checked.err
    verified = snapvol("verify", "wiki")
    assert verified.code == 1
    assert "snapvol: damaged: " in verified.err
    assert snapvol("restore", "wiki", "--to", str(tmp_path / "new")).code == 1


def test_forget(there: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, snapvol: Snapvol) -> None:
    shutil.copytree(there / "repository", tmp_path / "copy")
    monkeypatch.setenv("SNAPVOL_REPOSITORY", str(tmp_path / "copy"))
    old, db, new = (each["id"] for each in snapvol("backups", "--json").json)
    assert snapvol("forget", "--dry-run", old).out.startswith(f"would forget backup {old[:8]} (wiki, ")
    assert snapvol("forget", old).code == 4
    refused = snapvol("forget", "--yes", db)
    assert refused.code == 4
    assert refused.err.startswith(f"snapvol: backup {db[:8]} is the newest complete one of volume 'db'; ")
    assert len(snapvol("backups", "-q").out.split()) == 3
    assert snapvol("forget", "--yes", old[:10]).code == 0
    assert snapvol("forget", "--yes", "--force", db).code == 0
    assert snapvol("backups", "-q").out == f"{new[:8]}\n"


def test_keys(there: Path, tmp_path: Path, snapvol: Snapvol) -> None:
    second = tmp_path / "second"
    second.touch(mode=0o600)
    second.write_text("another one\n")
    before = snapvol("repo", "key", "ls", "--json").json
    assert [key["username"] == "recovery" for key in before].count(True) == 1
    added = snapvol("repo", "key", "add", "--new-password-file", str(second)).out.strip()
    assert len(added) == 8
    assert snapvol("repo", "key", "ls", "--password-file", str(second)).code == 0
    in_use = next(key["id"] for key in before if key["in_use"])
    assert snapvol("repo", "key", "rm", in_use).code == 4
    assert snapvol("repo", "key", "rm", added) == Result(0, f"{added}: removed\n", "")
    assert snapvol("repo", "key", "ls", "--password-file", str(second)).code == 1
    assert snapvol("repo", "unlock") == Result(0, "0 locks removed\n", "")


def test_T43_a_password_file_that_others_can_read_is_refused(there: Path, tmp_path: Path, snapvol: Snapvol) -> None:
    (tmp_path / "password").write_text(PASSWORD)
    (tmp_path / "password").chmod(0o644)
    result = snapvol("backups", "--password-file", str(tmp_path / "password"))
    assert result.code == 2
    assert result.err.endswith(f"; chmod 600 {tmp_path}/password\n")


def test_T32_a_wrong_password_is_told_at_once(there: Path, tmp_path: Path, snapvol: Snapvol) -> None:
    (tmp_path / "password").touch(mode=0o600)
    (tmp_path / "password").write_text("wrong\n")
    for argv in (["backups"], ["restore", "wiki", "--to", str(tmp_path / "new")], ["repo", "check"]):
        result = snapvol(*argv, "--password-file", str(tmp_path / "password"))
        assert (result.code, result.out) == (1, "")
        assert "password" in result.err
    assert not (tmp_path / "new").exists()


def test_T42_a_password_is_asked_for_on_a_terminal_and_not_shown(
    there: Path, monkeypatch: pytest.MonkeyPatch, snapvol: Snapvol
) -> None:
    monkeypatch.delenv("SNAPVOL_PASSWORD_FILE")
    asked = []

    def answer(question: str) -> str:
        asked.append(question)
        return PASSWORD

    monkeypatch.setattr("getpass.getpass", answer)
    assert snapvol("backups", "-q", terminal=True).code == 0
    assert asked == [f"Password of {there}/repository: "]
    monkeypatch.setattr("getpass.getpass", lambda question: "")
    assert snapvol("backups", terminal=True).err == "snapvol: the password is empty; type it, or press Ctrl-C\n"


def test_T33_init_prints_the_recovery_key_once_and_doctor_hears_that_it_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, snapvol: Snapvol
) -> None:
    monkeypatch.setenv("SNAPVOL_ROOT", str(tmp_path / "root"))
    made = snapvol("repo", "init")
    assert made.code == 0
    assert (tmp_path / "root/repository.password").stat().st_mode & 0o777 == 0o600
    key = next(line.split(": ")[1] for line in made.out.splitlines() if "recovery key:" in line)
    assert "snapvol repo key confirm" in made.out
    (tmp_path / "recovery").touch(mode=0o600)
    (tmp_path / "recovery").write_text(key + "\n")
    listed = snapvol("repo", "key", "ls", "--json", "--password-file", str(tmp_path / "recovery")).json
    assert [each["in_use"] for each in listed if each["username"] == "recovery"] == [True]
    assert snapvol("repo", "key", "confirm") == Result(0, "default: the recovery key is stored away\n", "")
    again = snapvol("repo", "init")
    assert again.code == 4
    assert "already holds a repository" in again.err
    assert key not in again.out + again.err


def test_init_of_a_repository_that_is_not_in_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, snapvol: Snapvol
) -> None:
    monkeypatch.setenv("SNAPVOL_ROOT", str(tmp_path / "root"))
    answers = iter(["one", "two", "one", "one"])
    monkeypatch.setattr("getpass.getpass", lambda question: next(answers))
    assert snapvol("repo", "init", "--repository", str(tmp_path / "new")).err == (
        f"snapvol: no password for {tmp_path}/new; give it by --password-file FILE\n"
    )
    differ = snapvol("repo", "init", "--repository", str(tmp_path / "new"), terminal=True)
    assert differ.err == "snapvol: the two passwords differ; type the same one twice\n"
    made = snapvol("repo", "init", "--repository", str(tmp_path / "new"), terminal=True)
    assert made.code == 0
    assert "recovery key: " in made.out
    assert not (tmp_path / "root").exists()


def test_backups_are_listed_without_the_daemon_where_it_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, snapvol: Snapvol
) -> None:
    monkeypatch.setenv("SNAPVOL_ROOT", str(tmp_path / "root"))
    assert run(["repo", "init"]) == 0
    socket = tmp_path / "root/run/api.sock"
    note = f"snapvol: no daemon answers at {socket}; using the repository without it\n"
    result = snapvol("backups", "--json")
    assert (result.code, result.err) == (0, note)
    assert snapvol("verify", "none").err.startswith(note)
    assert snapvol("forget", "--yes", "none").code == 5


def test_the_settings_can_be_seen_without_the_daemon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, snapvol: Snapvol
) -> None:
    monkeypatch.setenv("SNAPVOL_ROOT", str(tmp_path / "root"))
    result = snapvol("config", "daemon.root")
    assert (result.code, result.out) == (0, f"{tmp_path}/root\n")
    assert result.err.endswith("these are the settings that one would start with\n")


def test_no_lock_reads_what_cannot_be_written(
    there: Path, snapvol: Snapvol, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(*_: object) -> None:
        raise StorageFailed("read-only file system")

    monkeypatch.setattr(LocalStore, "put", refuse)
    monkeypatch.setattr(LocalStore, "delete", refuse)
    assert snapvol("restore", "wiki", "--to", str(tmp_path / "locked")).code == 1
    assert snapvol("restore", "wiki", "--to", str(tmp_path / "wiki"), "--no-lock").code == 0
    assert (tmp_path / "wiki/pages/home.md").read_text() == "# Home\n"
    assert snapvol("verify", "wiki", "--no-lock").code == 0
    assert snapvol("repo", "check", "--read-data", "--no-lock").code == 0
    newest = snapvol("backups", "wiki", "-q").out.split()[-1]
    assert "leave out --no-lock" in snapvol("forget", newest, "--force", "--yes", "--no-lock").err


# -- images -----------------------------------------------------------------------------------------------------------

MEBIBYTE = 1 << 20


@pytest.fixture
def disk(there: Path, tmp_path: Path) -> Iterator[Disk]:
    """A volume whose backup is an image."""
    disk = Disk(tmp_path / "device", 5 * MEBIBYTE + 512)
    disk.write(MEBIBYTE + 7, b"contents")
    with Repository.open(LocalStore(there / "repository"), PASSWORD) as repository:
        Backups(repository, disk).run()
        yield disk
        doomed = [identity for identity, document in repository.snapshots() if "image" in (document.tags or ())]
        repository.forget(doomed)


def test_an_image_is_a_file(disk: Disk, tmp_path: Path, snapvol: Snapvol) -> None:
    result = snapvol("restore", "disk", "--to", str(tmp_path))
    assert result.code == 0, result.err
    file = tmp_path / "disk.img"
    assert result.out == (
        f"{file}: image of 5.0 MiB, 4.0 KiB of it in use\nlook into it: mount -o ro,loop,noload {file} /mnt\n"
    )
    assert file.read_bytes() == disk.contents
    assert file.stat().st_blocks * 512 < MEBIBYTE
    assert not (tmp_path / "disk.img.partial").exists()
    again = snapvol("restore", "disk", "--to", str(tmp_path))
    assert (again.code, again.out) == (4, "")
    assert again.err.startswith(f"snapvol: {file} exists already; ")
    shown = snapvol("restore", "disk", "--to", str(tmp_path / "new"), "--json").json
    assert (shown["file"], shown["size"], shown["filesystem"]) == (
        f"{tmp_path}/new/disk.img", disk.size, "ext4"
    )  # fmt: skip


def test_an_image_is_looked_into_as_a_file(disk: Disk, snapvol: Snapvol) -> None:
    assert snapvol("files", "disk").out == "/image.img\n"
    (row,) = snapvol("files", "disk", "--json").json
    assert (row["path"], row["type"], row["size"]) == ("/image.img", "file", disk.size)


def test_an_image_has_no_paths_without_a_daemon(disk: Disk, tmp_path: Path, snapvol: Snapvol) -> None:
    result = snapvol("restore", "disk", "--to", str(tmp_path / "new"), "--path", "/etc")
    assert (result.code, result.out) == (4, "")
    assert "restored whole; leave out --path" in result.err
    assert not (tmp_path / "new").exists()
    result = snapvol("cat", "disk", "/etc/passwd")
    assert result.code == 3
    assert "it is the image of a block device; its one file is image.img" in result.err


def test_T44_an_image_of_a_name_that_leads_elsewhere(disk: Disk, there: Path, tmp_path: Path, snapvol: Snapvol) -> None:
    with Repository.open(LocalStore(there / "repository"), PASSWORD) as repository, repository.lock() as lock:
        _, document = next(item for item in repository.snapshots() if "image" in (item[1].tags or ()))
        tags = ["snapvol", "volume=../../escaped", "image"]
        forged = repository.commit_snapshot(msgspec.structs.replace(document, tags=tags), lock)
    assert snapvol("restore", forged, "--to", str(tmp_path / "new")).code == 0
    assert os.listdir(tmp_path / "new") == [f"{forged[:8]}.img"]


def test_T30_what_is_left_of_an_image_has_another_name(
    disk: Disk, there: Path, tmp_path: Path, snapvol: Snapvol, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(there / "repository", tmp_path / "damaged")
    with Repository.open(LocalStore(tmp_path / "damaged"), PASSWORD) as repository:
        repository.load_index()
        piece = sha256(disk.contents[MEBIBYTE : 2 * MEBIBYTE]).digest()
        pack = repository.locate(BlobKind.DATA, piece).pack.hex()
    (tmp_path / "damaged/data" / pack[:2] / pack).unlink()
    monkeypatch.setenv("SNAPVOL_REPOSITORY", str(tmp_path / "damaged"))
    result = snapvol("restore", "disk", "--to", str(tmp_path / "new"))
    assert (result.code, result.out) == (1, "")
    assert os.listdir(tmp_path / "new") == ["disk.img.partial"]
    assert (tmp_path / "new/disk.img.partial").read_bytes() == bytes(disk.size)
    assert "disk.img.partial has what could be read" in result.err
    assert f"bytes {MEBIBYTE} to {2 * MEBIBYTE - 1} are lost" in result.err


def test_stats(there: Path, snapvol: Snapvol) -> None:
    shown = snapvol("repo", "stats")
    assert shown.code == 0, shown.err
    lines = shown.out.splitlines()
    assert lines[0].split() == ["VOLUME", "BACKUPS", "SIZE", "STORED", "UNIQUE"]
    assert [line.split()[:2] for line in lines[1:3]] == [["db", "1"], ["wiki", "2"]]
    assert any(line.endswith("which snapvol repo prune --max-unused 0 frees") for line in lines)
    as_json = snapvol("repo", "stats", "--json").json
    assert as_json["backups"] == len(as_json["growth"]) == 3
    assert {each["volume"] for each in as_json["volumes"]} == {"wiki", "db"}
