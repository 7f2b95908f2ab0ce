"""Completion in the shell: commands without imports, names from the daemon, silence without one."""

from __future__ import annotations

import socket
import sys
import time
from pathlib import Path

import pytest

from support.fake_api import Api, job, volume
from support.process import run

SHELLS = {"bash": "complete -o nosort -F", "zsh": "#compdef snapvol", "fish": "complete --no-files --command snapvol"}


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script(shell: str) -> None:
    done = run(sys.executable, "-m", "snapvol", "completion", shell)
    assert SHELLS[shell] in done.stdout
    assert done.stderr == ""


def completed(*words: str, incomplete: str = "") -> list[str]:
    done = run(
        sys.executable,
        "-m",
        "snapvol",
        env={
            "_SNAPVOL_COMPLETE": "bash_complete",
            "COMP_WORDS": " ".join(["snapvol", *words, incomplete]),
            "COMP_CWORD": str(len(words) + 1),
        },
    )
    assert done.stderr == ""
    return [line.partition(",")[2] for line in done.stdout.splitlines() if line]


def test_commands() -> None:
    assert completed(incomplete="sn") == ["snapshot", "snapshots"]
    expected = ["init", "check", "prune", "stats", "copy", "repair", "unlock", "key"]
    assert completed("repo", incomplete="") == expected
    assert completed("repo", "key", incomplete="c") == ["confirm"]
    assert "--dry-run" in completed("rm", incomplete="--")


def test_names(api: Api) -> None:
    api.on("GET", "/v1/volumes", [volume("wiki"), volume("db")])
    api.on("GET", "/v1/snapshots", [{"volume": "wiki", "name": "before", "id": "1", "created": None}])
    api.on("GET", "/v1/jobs", [job()])
    assert completed("rename", incomplete="w") == ["wiki"]
    assert completed("rm", incomplete="wiki") == ["wiki", "wiki@before"]
    assert completed("rollback") == ["wiki@before"]
    assert completed("job", "wait") == ["1a2b3c4d"]
    assert completed("create", incomplete="w") == []


def test_a_daemon_that_is_not_there_offers_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SNAPVOL_SOCKET", "/nowhere/api.sock")
    assert completed("rm", incomplete="w") == []


def test_a_daemon_that_hangs_does_not_hang_the_shell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = Path("/tmp") / f"snapvol-hung-{tmp_path.name}.sock"
    monkeypatch.setenv("SNAPVOL_SOCKET", str(path))
    with socket.socket(socket.AF_UNIX) as hung:
        hung.bind(str(path))
        try:
            hung.listen()
            began = time.monotonic()
            assert completed("rename", incomplete="w") == []
            assert time.monotonic() - began < 10
        finally:
            path.unlink()
