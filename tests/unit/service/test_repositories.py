from __future__ import annotations

import os
import re
import stat
from pathlib import Path

import pytest

from snapvol.errors import AlreadyExists, NotFound, SettingsError, SnapvolError, StorageFailed, WrongPassword
from snapvol.service.repositories import (
    check_password_file,
    confirm_recovery_key,
    initialise,
    notes,
    open_repository,
    password,
)
from snapvol.settings import RepositorySettings, Settings, load
from snapvol.stores import open_store


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load(environment={"SNAPVOL_ROOT": str(tmp_path / "root")})


def file_of(settings: Settings) -> Path:
    file = settings.repository("default").password_file
    assert file is not None
    return file


def test_T33_a_new_repository_has_a_password_here_and_a_recovery_key_for_elsewhere(settings: Settings) -> None:
    made = initialise(settings, "default")
    assert made.password_made
    assert stat.S_IMODE(made.password_file.stat().st_mode) == 0o600
    assert made.recovery_key not in made.password_file.read_text()
    with open_repository("default", settings.repository("default")) as opened:
        assert opened.id == made.id
    made.password_file.write_text(f"{made.recovery_key}\n")
    with open_repository("default", settings.repository("default")) as recovered:
        assert recovered.id == made.id


def test_T33_it_is_remembered_whether_the_recovery_key_was_stored(settings: Settings) -> None:
    assert notes(settings, "default") is None
    with pytest.raises(NotFound, match="not made on this machine"):
        confirm_recovery_key(settings, "default")
    made = initialise(settings, "default")
    known = notes(settings, "default")
    assert known is not None
    assert known.recovery_confirmed is None
    confirm_recovery_key(settings, "default")
    known = notes(settings, "default")
    assert known is not None
    assert known.recovery_confirmed is not None
    stored = (settings.daemon.root / "repositories" / "default.json").read_text()
    assert made.recovery_key not in stored
    assert file_of(settings).read_text().strip() not in stored


def test_a_password_that_exists_is_used_and_never_overwritten(settings: Settings) -> None:
    file = file_of(settings)
    file.parent.mkdir(parents=True)
    file.write_text("mine\nand a second line\n")
    file.chmod(0o600)
    assert not initialise(settings, "default").password_made
    assert file.read_text() == "mine\nand a second line\n"
    assert password("default", settings.repository("default")) == "mine"


def test_an_existing_repository_is_left_alone_and_no_password_is_made_up_beside_it(settings: Settings) -> None:
    initialise(settings, "default")
    file = file_of(settings)
    kept = file.read_text()
    file.unlink()
    with pytest.raises(AlreadyExists, match="already holds a repository"):
        initialise(settings, "default")
    assert not file.exists()
    file.write_text(kept)
    file.chmod(0o600)
    open_repository("default", settings.repository("default")).close()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o777, 0o620])
def test_T43_a_password_file_that_others_can_reach_is_refused_with_the_command(settings: Settings, mode: int) -> None:
    initialise(settings, "default")
    file = file_of(settings)
    file.chmod(mode)
    with pytest.raises(SettingsError) as refused:
        open_repository("default", settings.repository("default"))
    assert f"(mode {mode:04o})" in refused.value.message
    assert refused.value.hint == f"chmod 600 {file}"


@pytest.mark.root
def test_T43_a_password_file_of_somebody_else_is_refused(settings: Settings) -> None:
    initialise(settings, "default")
    os.chown(file_of(settings), 1234, 0)
    with pytest.raises(SettingsError, match="belongs to user 1234"):
        check_password_file("default", settings.repository("default"))


def test_T32_what_is_wrong_with_the_password_is_told_before_the_storage_is_asked(tmp_path: Path) -> None:
    nowhere = "s3://bucket/prefix"  # asking it would fail in another way, and late
    cases: list[tuple[Path | None, bytes | None, type[SnapvolError], str]] = [
        (None, None, SettingsError, "password_file is not set"),
        (tmp_path / "absent", None, NotFound, "does not exist"),
        (tmp_path / "empty", b"", SettingsError, "empty first line"),
        (tmp_path / "blank", b"\nsecond\n", SettingsError, "empty first line"),
        (tmp_path / "binary", b"\xff\xfe\n", SettingsError, "not UTF-8"),
    ]
    for file, contents, kind, said in cases:
        if file is not None and contents is not None:
            file.write_bytes(contents)
            file.chmod(0o600)
        with pytest.raises(kind, match=said):
            open_repository("r", RepositorySettings(url=nowhere, password_file=file))
    with pytest.raises(SettingsError, match="is not a file"):
        open_repository("r", RepositorySettings(url=nowhere, password_file=tmp_path))


def test_T32_a_wrong_password_is_not_another_error(settings: Settings) -> None:
    initialise(settings, "default")
    file_of(settings).write_text("wrong\n")
    with pytest.raises(WrongPassword):
        open_repository("default", settings.repository("default"))


def test_T42_no_error_message_has_the_password_in_it(settings: Settings) -> None:
    initialise(settings, "default")
    secret = "the-secret-of-this-test"
    file_of(settings).write_text(f"{secret}\n")
    with pytest.raises(SnapvolError) as wrong:
        open_repository("default", settings.repository("default"))
    assert secret not in str(wrong.value)
    assert secret not in repr(wrong.value)


def test_there_is_no_repository_yet(settings: Settings) -> None:
    file = file_of(settings)
    file.parent.mkdir(parents=True)
    file.write_text("x\n")
    file.chmod(0o600)
    with pytest.raises(NotFound) as absent:
        open_repository("default", settings.repository("default"))
    assert re.search("snapvol repo init", absent.value.hint or "")


def test_T41_damaged_notes_are_an_error_and_not_an_absence(settings: Settings) -> None:
    initialise(settings, "default")
    (settings.daemon.root / "repositories" / "default.json").write_text("{")
    with pytest.raises(StorageFailed, match="cannot be read"):
        notes(settings, "default")


def test_notes_and_password_leave_nothing_beside_them(settings: Settings) -> None:
    initialise(settings, "default")
    names = {path.name for path in settings.daemon.root.rglob("*") if path.name.startswith(".")}
    assert names == set()
    assert open_store(settings.repository("default")).size("config") > 0
