from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from snapvol.errors import Cancelled, NotFound, RepositoryUnreachable, SettingsError, WrongPassword
from snapvol.service import library as library_module
from snapvol.service.library import Library
from snapvol.service.process import Worker
from snapvol.settings import Settings, load
from support.quick import initialise


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load(environment={"SNAPVOL_ROOT": str(tmp_path / "root")})


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was asked of worker processes."""
    questions: list[str] = []
    result = Worker.result

    def noted(worker: Worker) -> dict[str, object]:
        questions.append(type(worker._what).__name__)
        return result(worker)

    monkeypatch.setattr(Worker, "result", noted)
    return questions


@pytest.fixture
def silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Library]:
    """One whose repository is on an S3 server that never answers."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")
    (tmp_path / "password").write_text("secret\n")
    (tmp_path / "password").chmod(0o600)
    with socket.create_server(("127.0.0.1", 0)) as server:
        file = tmp_path / "config.toml"
        file.write_text(
            f'[repositories.default]\nurl = "s3://bucket/prefix"\npassword_file = "{tmp_path}/password"\n'
            f'endpoint = "http://127.0.0.1:{server.getsockname()[1]}"\nregion = "here"\naddressing = "path"\n'
        )
        yield Library(load(file, {"SNAPVOL_ROOT": str(tmp_path)}))


def test_a_listing_is_asked_once_until_something_changes(settings: Settings, asked: list[str]) -> None:
    initialise(settings, "default")
    library = Library(settings)
    for _ in range(3):
        assert list(library.list(None)) == []
    library.changed("default")
    library.list("default")
    library.list("default", fresh=True)
    assert asked == ["List"] * 3


def test_T32_a_repository_that_opened_once_is_trusted_until_its_password_file_changes(
    settings: Settings, asked: list[str]
) -> None:
    made = initialise(settings, "default")
    library = Library(settings)
    library.require(None)
    library.require("default")
    assert asked == ["Probe"]
    time.sleep(0.01)
    made.password_file.write_text("wrong\n")
    with pytest.raises(WrongPassword):
        library.require(None)
    assert library.problem("default")[0]
    assert isinstance(library.problem("default")[1], WrongPassword)


def test_a_backup_that_does_not_exist_is_no_fault_of_the_repository(settings: Settings) -> None:
    initialise(settings, "default")
    library = Library(settings)
    library.require(None)
    with pytest.raises(NotFound):
        library.find("nothing", None)
    assert library.problem("default") == (True, None)


def test_what_the_settings_do_not_have_is_refused(settings: Settings) -> None:
    with pytest.raises(SettingsError, match="no repository is called 'defalt'"):
        Library(settings).list("defalt")


def test_T19_a_silent_server_is_waited_for_as_long_as_asked(silent: Library) -> None:
    began = time.monotonic()
    assert silent.find("web", None, 1.0) is None
    silent.require(None, 1.0)  # not known to be wrong: the job will see
    assert not silent.open(None, 1.0)
    assert time.monotonic() - began < 10


def test_closing_ends_the_questions_that_wait(silent: Library) -> None:
    errors: list[BaseException] = []

    def ask() -> None:
        try:
            silent.list(None)
        except BaseException as error:
            errors.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    time.sleep(1)
    silent.close()
    asking.join(15)
    assert not asking.is_alive()
    assert [type(error) for error in errors] == [Cancelled]
    with pytest.raises(Cancelled):
        silent.list(None)


def test_a_look_notes_what_is_wrong_and_what_is_right_again_and_is_not_taken_all_the_time(
    settings: Settings, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = 1000.0
    monkeypatch.setattr(library_module, "time", SimpleNamespace(monotonic=lambda: clock))
    initialise(settings, "default")
    config = settings.daemon.root / "repository/config"
    whole = config.read_bytes()
    config.unlink()
    library = Library(settings)
    for _ in range(3):
        library.look("default")
    assert isinstance(library.problem("default")[1], NotFound)
    assert len(asked) == 1
    config.write_bytes(whole)
    clock += library_module.LOOK_MENDED
    library.look("default")
    assert library.problem("default") == (True, None)
    clock += library_module.LOOK_MENDED
    library.look("default")
    assert len(asked) == 2, "one that is well is looked at less often"


def test_t20_a_repository_that_never_answers_is_noted_as_such(silent: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library_module, "LOOK_SECONDS", 1.0)
    silent.look("default")
    assert isinstance(silent.problem("default")[1], RepositoryUnreachable)


def test_a_password_file_that_is_missing_is_no_problem_that_outlives_it(settings: Settings, asked: list[str]) -> None:
    library = Library(settings)
    library.look("default")
    assert library.problem("default") == (False, None)
    assert asked == []
