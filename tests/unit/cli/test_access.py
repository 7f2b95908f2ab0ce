"""Which repository is meant, by flags, environment and settings."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from snapvol.cli.access import Access
from snapvol.cli.session import Session
from snapvol.errors import SettingsError, UsageError
from support.fake_api import Api, Result

Snapvol = Callable[..., Result]
SETTINGS = """
[pools.default]
backend = "directory"
path = "/pool"
[repositories.default]
url = "/srv/default"
password_file = "/etc/password"
[repositories.offsite]
url = "s3://bucket/prefix"
endpoint = "https://s3.example.com"
"""


@pytest.fixture
def session(tmp_path: Path) -> Session:
    config = tmp_path / "config.toml"
    config.write_text(SETTINGS)
    return Session(config)


@pytest.mark.parametrize(
    ("access", "name", "changed"),
    [
        (Access(), "default", {"url": "/srv/default", "password_file": Path("/etc/password")}),
        (Access(repository="offsite"), "offsite", {"url": "s3://bucket/prefix", "endpoint": "https://s3.example.com"}),
        (Access(repository="offsite", endpoint="http://x"), "offsite", {"endpoint": "http://x"}),
        (Access(password_file=Path("/p")), "default", {"url": "/srv/default", "password_file": Path("/p")}),
        (Access(repository="/some/where"), "/some/where", {"url": "/some/where", "password_file": None}),
        (Access(repository="./here"), f"{os.getcwd()}/here", {"url": f"{os.getcwd()}/here"}),
        (Access(repository="s3://b/p", region="r"), "s3://b/p", {"url": "s3://b/p", "region": "r"}),
        (Access(repository="s3://b"), "s3://b", {"url": "s3://b"}),
    ],
)
def test_the_repository_that_is_meant(session: Session, access: Access, name: str, changed: dict[str, Any]) -> None:
    found, settings = access.resolve(session)
    assert found == name
    assert {key: getattr(settings, key) for key in changed} == changed


@pytest.mark.parametrize(
    ("access", "direct"),
    [
        (Access(), False),
        (Access(repository="offsite"), False),
        (Access(repository="/some/where"), True),
        (Access(repository="s3://b/p"), True),
        (Access(password_file=Path("/p")), True),
        (Access(repository="offsite", profile="x"), True),
    ],
)
def test_flags_that_the_daemon_cannot_know_are_for_this_process(access: Access, direct: bool) -> None:
    assert access.direct is direct
    if direct:
        with pytest.raises(UsageError, match="the daemon uses configured repositories only"):
            assert access.name
    else:
        assert access.name == access.repository


@pytest.mark.parametrize(
    ("repository", "message"),
    [
        ("s3://", "--repository 's3://' has no bucket; write s3://BUCKET/PREFIX"),
        ("sftp:host/x", "--repository 'sftp:host/x' is neither a path nor an S3 URL"),
        ("http://x/y", "--repository 'http://x/y' is neither a path nor an S3 URL"),
        ("s3:x", "--repository 's3:x' is neither a path nor an S3 URL"),
    ],
)
def test_what_is_no_url(session: Session, repository: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        Access(repository=repository).resolve(session)
    assert str(caught.value).startswith(message)


def test_T16_an_unknown_name_is_told_the_nearest(session: Session) -> None:
    with pytest.raises(SettingsError, match=r"no repository is called 'ofsite'; did you mean 'offsite'\?"):
        Access(repository="ofsite").resolve(session)


def test_without_a_default_one_must_be_named(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text('[repositories.a]\nurl = "/a"\n[repositories.b]\nurl = "/b"\n')
    with pytest.raises(SettingsError, match="no repository is called 'default'"):
        Access().resolve(Session(config))
    config.write_text('[repositories.a]\nurl = "/a"\n')
    assert Access().resolve(Session(config))[0] == "a"


def test_the_environment_stands_for_the_flags(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, snapvol: Snapvol
) -> None:
    monkeypatch.setenv("SNAPVOL_ROOT", str(tmp_path))
    monkeypatch.setenv("SNAPVOL_REPOSITORY", str(tmp_path / "none"))
    result = snapvol("backups")
    assert result.code == 2
    assert result.err == f"snapvol: no password for {tmp_path}/none; give it by --password-file FILE\n"


@pytest.mark.parametrize(
    "argv",
    [["backups"], ["verify", "x"], ["forget", "--yes", "x"], ["restore", "x"], ["backup", "x"]],
    ids=lambda it: it[0],
)
def test_without_flags_the_daemon_is_asked(api: Api, snapvol: Snapvol, argv: list[str]) -> None:
    for method, path in [
        ("GET", "/v1/backups"),
        ("POST", "/v1/verifications"),
        ("POST", "/v1/forget"),
        ("POST", "/v1/restores"),
        ("POST", "/v1/backups"),
    ]:
        api.refuse(method, path, "Refused", "the daemon was asked", None, 409)
    assert snapvol(*argv) == Result(4, "", "snapvol: the daemon was asked\n")


def test_a_restore_by_the_daemon_knows_no_flags(snapvol: Snapvol) -> None:
    result = snapvol("restore", "wiki", "--repository", "/srv/x")
    assert result == Result(
        2,
        "",
        "snapvol: the daemon uses configured repositories only; "
        "add it to the settings and name it: --repository NAME; or restore with --to DIRECTORY\n",
    )
