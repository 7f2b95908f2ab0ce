"""Wrong input: the exact line and exit code that each gets, and that nothing has changed.

The cases stand in ``wrong_input.txt``: a command, and below it the exit code and the line. ``{place}`` and the other
words of `World` stand for what they name; ``*`` in the line stands for what differs from run to run.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from snapvol.repository import Repository
from snapvol.stores.local import LocalStore
from support import filesystems
from support.process import run
from support.servers import PASSWORD, Snapvol, password_file

pytestmark = pytest.mark.root
TABLE = Path(__file__).with_name("wrong_input.txt")


@dataclass(frozen=True)
class Case:
    """A command as people type it, its exit status, and the line on standard error; what it prints is not looked at."""

    line: str
    code: int
    message: str

    def argv(self, words: dict[str, str]) -> tuple[dict[str, str], list[str]]:
        """Return the environment and the arguments."""
        parts = [part.format(**words) for part in shlex.split(self.line)]
        start = parts.index("snapvol")
        return dict(part.split("=", 1) for part in parts[:start]), parts[start + 1 :]

    def expects(self, words: dict[str, str]) -> str:
        """Return the pattern of standard error."""
        return re.escape(self.message.format(**words)).replace(r"\*", ".*")


def _cases() -> Iterator[Case]:
    lines = [line for line in TABLE.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    for command, answer in zip(lines[::2], lines[1::2], strict=True):
        code, _, message = answer.partition(" ")
        yield Case(command.removeprefix("$ "), int(code), message)


@dataclass
class World:
    """A daemon with everything that can be in the way.

    Attributes:
        before: `portrait`, as it was and has to stay.
    """

    host: Snapvol
    place: Path
    words: dict[str, str]
    before: dict[str, str]

    def portrait(self) -> dict[str, str]:
        """Return all files of all storage, and what the daemon lists of it."""
        found = {}
        for top in ("pools/btrfs", "full/ext4", "plain", "repositories", "passwords", "targets"):
            for directory, directories, files in os.walk(self.place / top):
                # A lock is refreshed every few minutes, which is no change.
                directories[:] = sorted(name for name in directories if name != "locks")
                found[directory] = str(directories)
                for path in (Path(directory, name) for name in files):
                    found[str(path)] = f"{path.lstat().st_mode:o} {hashlib.sha256(path.read_bytes()).hexdigest()}"
        for route in ("volumes", "snapshots", "trash"):
            for each in self.host.api("GET", f"/v1/{route}")[1]:
                found[f"{route} {each.get('volume')} {each['name']}"] = str(each.get("options"))
        return found


def _settings(place: Path) -> dict[str, object]:
    passwords = place / "passwords"

    def repository(name: str, file: str = "repository.password") -> dict[str, object]:
        return {"url": place / "repositories" / name, "password_file": passwords / file}

    return {
        "daemon": {"default_pool": "main"},
        "pools": {
            "main": {"backend": "btrfs", "path": place / "pools/btrfs/main"},
            "plain": {"backend": "directory", "path": place / "plain"},
            "full": {"backend": "directory", "path": place / "full/ext4/pool", "full_copies": True},
            "gone": {"backend": "directory", "path": place / "nowhere/pool"},
        },
        "repositories": {
            "default": repository("default"),
            "wrong": repository("default", "wrong"),
            "open": repository("default", "open"),
            "empty": repository("default", "empty"),
            "lost": repository("default", "lost"),
            "folder": repository("default", "folder"),
            "unset": {"url": place / "repositories/default"},
            "unmade": repository("unmade"),
            "damaged": repository("damaged"),
            "locked": repository("locked"),
            "offsite": {
                "url": "s3://bucket/prefix",
                "endpoint": "http://127.0.0.1:1",
                "password_file": passwords / "repository.password",
            },
        },
    }


def _passwords(place: Path) -> None:
    place.mkdir()
    password_file(place)
    for name, text, mode in (("wrong", "wrong\n", 0o600), ("open", PASSWORD, 0o644), ("empty", "\nx\n", 0o600)):
        (place / name).touch()
        (place / name).chmod(mode)
        (place / name).write_text(text)
    (place / "folder").mkdir()


def _configs(place: Path) -> None:
    place.mkdir()
    for name, text in {
        "syntax": "[daemon\n",
        "section": "[dameon]\njobs = 1\n",
        "key": "[daemon]\njbos = 1\n",
        "type": '[daemon]\njobs = "many"\n',
        "zero": "[daemon]\njobs = 0\n",
        "relative": '[daemon]\nroot = "here"\n',
        "pool": '[daemon]\ndefault_pool = "fats"\n[pools.fast]\nbackend = "directory"\npath = "/x"\n',
        "backend": '[pools.fast]\npath = "/x"\n',
        "url": '[repositories.default]\nurl = "sftp:host"\n',
        "bucket": '[repositories.default]\nurl = "s3://"\n',
        "keep": '[trash]\nkeep = "long"\n',
    }.items():
        (place / name).write_text(text)
    (place / "binary").write_bytes(b"\xff\xfe")


def _fill(host: Snapvol, place: Path) -> dict[str, str]:
    """Make volumes, snapshots, backups and removed volumes; return the ids."""
    host.cli("repo", "init")
    for name in ("wiki", "vault", "busy", "old"):
        host.cli("create", name)
    root = Path(host.json("inspect", "wiki")["mountpoint"])
    (root / "page").write_bytes(os.urandom(100_000))
    (root / "folder").mkdir()
    for snapshot in ("wiki@before", "wiki@held", "busy@s"):
        volume, _, name = snapshot.partition("@")
        host.cli("snapshot", volume, "-n", name)
    host.cli("hold", "wiki@held", "--tag", "audit")
    job = host.json("backup", "wiki@before")
    host.cli("set", "vault", "protect=true")
    host.cli("rm", "old")
    host.cli("create", "old")
    for name in ("bare", "torn"):
        host.cli("create", name, "-o", "pool=plain")
    backup = job["result"]["id"]
    _damage(place)
    failed = host.cli("create", "half", "-o", "backup=wiki", "-o", "repository=damaged", check=False)
    assert failed.code == 1, failed
    host.stop()
    (place / "plain/volumes/torn/volume.json").write_text("{")
    host.start()
    return {"job": job["id"], "backup": backup, "short": backup[:8]}


def _damage(place: Path) -> None:
    shutil.copytree(place / "repositories/default", place / "repositories/locked")
    shutil.copytree(place / "repositories/default", place / "repositories/damaged")
    for pack in (place / "repositories/damaged/data").glob("*/*"):
        if pack.stat().st_size > 50_000:  # that of the files; the trees stay whole
            content = bytearray(pack.read_bytes())
            content[1000] ^= 1
            pack.chmod(0o600)
            pack.write_bytes(content)


@pytest.fixture(scope="module")
def world(place: Path) -> Iterator[World]:
    """One daemon for all cases: none of them changes it."""
    own = place / "wrong-input"
    own.mkdir()
    with ExitStack() as stack:
        stack.enter_context(filesystems.mounted("btrfs", own / "pools", size=256 << 20))
        full = stack.enter_context(filesystems.mounted("ext4", own / "full", size=8 << 20))
        _passwords(own / "passwords")
        _configs(own / "configs")
        (own / "targets/taken").mkdir(parents=True)
        (own / "targets/taken/mine").touch()
        (own / "targets/file").touch()
        host = Snapvol(own, _settings(own))
        host.start()
        stack.callback(host.stop)
        words = _fill(host, own)
        with suppress(OSError), (full / "filler").open("wb", buffering=0) as filler:
            while True:
                filler.write(b"\1" * 4096)
        (own / "user").mkdir()
        run("mount", "--bind", host.json("inspect", "busy")["mountpoint"], own / "user")
        stack.callback(run, "umount", own / "user")
        repository = stack.enter_context(Repository.open(LocalStore(own / "repositories/locked"), PASSWORD))
        stack.enter_context(repository.lock(exclusive=True))
        made = World(host, own, {"place": str(own), "long": "x" * 256, "newline": "\n", **words}, {})
        made.before = made.portrait()
        yield made


CASES = list(_cases())


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 60
    assert len({case.line for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=[case.line.removeprefix("snapvol ") for case in CASES])
def test_T5_T16_T32_T36_T43_wrong_input_changes_nothing(world: World, case: Case) -> None:
    env, argv = case.argv(world.words)
    result = run(sys.executable, "-m", "snapvol", *argv, env={**world.host.env, **env}, check=False)
    assert result.stderr.count("\n") == 1, result.stderr
    assert re.fullmatch(case.expects(world.words), result.stderr[:-1]), (result.stderr, case.message)
    assert result.code == case.code
    assert world.portrait() == world.before
