"""The program as a whole: errors become one line and an exit code in one place, and start-up imports little."""

from __future__ import annotations

import json
import os
import subprocess  # noqa: TID251
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from snapvol import __version__, errors
from snapvol.cli import program, volumes
from snapvol.cli.session import Session
from snapvol.errors import SnapvolError, ToolFailed
from support.fake_api import Api, Result
from support.process import run as run_program

Snapvol = Callable[..., Result]
CLASSES = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, SnapvolError)]
HEAVY = (
    "aiodocker",
    "aiohttp",
    "apscheduler",
    "asyncio",
    "boto3",
    "botocore",
    "cryptography",
    "rich",
    "zstandard",
    "sh",
)


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_error_is_one_line_and_the_exit_code_of_its_class(
    monkeypatch: pytest.MonkeyPatch, snapvol: Snapvol, kind: type[SnapvolError]
) -> None:
    error = ToolFailed(["btrfs"], 1, "first\nsecond") if kind is ToolFailed else kind("it failed\nbadly\x1b", "mend it")

    def fail(session: Session, as_json: bool, quiet: bool) -> None:
        raise error

    monkeypatch.setattr(volumes.ls, "callback", click.make_pass_decorator(Session, ensure=True)(fail))
    result = snapvol("ls")
    assert result.code == kind.exit_code
    assert result.out == ""
    said = "btrfs failed (exit 1): first second" if kind is ToolFailed else "it failed badly\\x1b; mend it"
    assert result.err == f"snapvol: {said}\n"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["lss"], "'snapvol' has no command 'lss'; did you mean 'ls'?"),
        (["bakcup", "wiki"], "'snapvol' has no command 'bakcup'; did you mean 'backup'?"),
        (["repo", "chek"], "'snapvol repo' has no command 'chek'; did you mean 'check'?"),
        (["repo", "key", "list"], "'snapvol repo key' has no command 'list'; did you mean 'ls'?"),
        (
            ["repo", "xyz"],
            "'snapvol repo' has no command 'xyz'; valid: check, copy, init, key, prune, repair, stats, unlock",
        ),
        (["ls", "--jsno"], "ls: no such option '--jsno'; did you mean '--json'?"),
        (["ls", "--xyz"], "ls: no such option '--xyz'; see: snapvol ls --help"),
        (["ls", "--socket", "x"], "ls: no such option '--socket'; write it before the command: snapvol --socket …"),
        (["rm", "-rf"], "rm: no such option '-r'; see: snapvol rm --help"),
        (["rm"], "rm: missing argument 'VOLUME[@SNAPSHOT]...'; see: snapvol rm --help"),
        (["rename", "a", "b", "c"], "rename: got unexpected extra argument (c); see: snapvol rename --help"),
        (["--confg", "x", "ls"], "no such option '--confg'; did you mean '--config'?"),
        (["create", "a", "-o"], "option '-o' requires an argument"),
        (["completion", "tcsh"], "completion: SHELL: 'tcsh' is not one of 'bash', 'fish', 'zsh'; "
         "see: snapvol completion --help"),
        (["daemon", "--log-level", "x"], "daemon: --log-level: 'x' is not one of 'debug', 'info', 'warning', 'error'; "
         "see: snapvol daemon --help"),
    ],
)  # fmt: skip
def test_T16_wrong_usage_is_told_the_nearest_right_one(snapvol: Snapvol, argv: list[str], message: str) -> None:
    assert snapvol(*argv) == Result(2, "", f"snapvol: {message}\n")


@pytest.mark.parametrize("argv", [[], ["repo"], ["repo", "key"], ["job"]])
def test_a_group_alone_shows_its_help_and_is_wrong_usage(snapvol: Snapvol, argv: list[str]) -> None:
    result = snapvol(*argv)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith(f"Usage: {' '.join(['snapvol', *argv])} [OPTIONS] COMMAND [ARGS]...")


def test_version(snapvol: Snapvol) -> None:
    assert snapvol("--version") == Result(0, f"snapvol {__version__}\n", "")


@pytest.mark.parametrize("argv", [["-h"], ["--help"], ["ls", "-h"], ["repo", "key", "add", "--help"]])
def test_help_is_no_error(snapvol: Snapvol, argv: list[str]) -> None:
    result = snapvol(*argv)
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith("Usage: snapvol")


def test_ctrl_c_is_one_line(monkeypatch: pytest.MonkeyPatch, snapvol: Snapvol) -> None:
    def interrupt(**options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(volumes.ls, "callback", interrupt)
    result = snapvol("ls")
    assert result.code == 1
    assert result.err.strip() == "snapvol: interrupted"


def test_a_reader_that_has_seen_enough_gives_no_traceback(api: Api) -> None:
    api.on("GET", "/v1/volumes", [{"id": "1", "name": "v" * 200, "pool": "p", "backend": "b", "state": "ready",
                                   "mountpoint": "/x"}] * 2000)  # fmt: skip
    listing = subprocess.Popen(
        [sys.executable, "-m", "snapvol", "ls"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert listing.stdout is not None
    assert listing.stderr is not None
    listing.stdout.readline()
    listing.stdout.close()
    assert listing.wait(30) == 1
    assert listing.stderr.read() == ""
    listing.stderr.close()


def _imported(*argv: str) -> set[str]:
    code = (
        "import sys, json; from snapvol.cli.program import run; code = run(sys.argv[1:]);"
        "print(json.dumps([code, sorted(sys.modules)]), file=sys.stderr)"
    )
    done = run_program(sys.executable, "-c", code, *argv)
    status, modules = json.loads(done.stderr.splitlines()[-1])
    assert status == 0
    return set(modules)


def test_help_imports_no_command(api: Api) -> None:
    modules = _imported("--help")
    assert not modules & {*HEAVY, "msgspec", "http.client", "snapvol.settings", "humanize"}
    ours = {name for name in modules if name.startswith("snapvol.cli.")}
    assert ours == {"snapvol.cli.command", "snapvol.cli.program", "snapvol.cli.session"}


def test_ls_imports_what_it_needs(api: Api) -> None:
    api.on("GET", "/v1/volumes", [])
    modules = _imported("ls")
    assert not modules & set(HEAVY)
    assert "snapvol.engine" not in modules
    assert "snapvol.service" not in modules


@pytest.mark.parametrize("name", list(program.program.entries))
def test_no_command_imports_at_once_what_only_its_work_needs(name: str) -> None:
    assert not _imported(name, "--help") & set(HEAVY)


def test_the_socket_is_the_flag_then_the_variable_then_the_settings(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, snapvol: Snapvol
) -> None:
    config = tmp_path / "config.toml"
    config.write_text(f'[daemon]\napi_socket = "{tmp_path}/settings.sock"\n')
    start = "; start it: systemctl start snapvol, or: snapvol daemon\n"
    monkeypatch.setenv("SNAPVOL_CONFIG", os.devnull)
    assert (
        snapvol("--config", str(config), "ls").err == f"snapvol: no daemon answers at {tmp_path}/settings.sock{start}"
    )
    monkeypatch.setenv("SNAPVOL_SOCKET", f"{tmp_path}/variable.sock")
    assert (
        snapvol("--config", str(config), "ls").err == f"snapvol: no daemon answers at {tmp_path}/variable.sock{start}"
    )
    flag = snapvol("--config", str(config), "--socket", f"{tmp_path}/flag.sock", "ls")
    assert flag == Result(5, "", f"snapvol: no daemon answers at {tmp_path}/flag.sock{start}")


def test_wrong_settings_are_told_with_file_and_key(tmp_path: Path, snapvol: Snapvol) -> None:
    config = tmp_path / "config.toml"
    config.write_text("[daemon]\njob = 3\n")
    result = snapvol("--config", str(config), "ls")
    assert result == Result(2, "", f"snapvol: {config}: unknown key 'daemon.job'; did you mean 'jobs'?\n")


def test_settings_that_only_root_may_read_do_not_stop_a_member_of_the_group(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, snapvol: Snapvol
) -> None:
    config = tmp_path / "config.toml"
    config.write_text("[daemon]\n")
    monkeypatch.setattr("snapvol.settings.CONFIG_FILE", config)
    monkeypatch.setattr(os, "access", lambda path, mode: path != config)
    assert Session().socket == Path("/run/snapvol/api.sock")
