"""What the directory backend makes of `cp`'s complaints about files that change while they are copied."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from snapvol import shell
from snapvol.errors import NoSpace, StorageFailed, ToolFailed
from support.storage import Pool, Variant, open_pool

VANISHED = "/usr/bin/cp: cannot stat '/proc/25087/fd/16/./t8.64': No such file or directory\n"
UNOPENED = "/usr/bin/cp: cannot open '/proc/25087/fd/16/./a b' for reading: No such file or directory\n"
REPLACED = "/usr/bin/cp: skipping file '/proc/25087/fd/16/./config', as it was replaced while being copied\n"
REFUSED = "/usr/bin/cp: cannot open '/proc/25087/fd/16/./x' for reading: Input/output error\n"


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[Pool]:
    pool = open_pool(Variant("directory", "any", {"full_copies": True}), tmp_path / "pool")
    yield pool
    assert pool.leaks() == []
    pool.backend.close()


class Copying:
    """Stands in for `shell.run`: each `cp` says the next of what was recorded, then does its work all the same."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *complaints: str) -> None:
        self.complaints = list(complaints)
        self.copies = 0
        self._run = shell.run
        monkeypatch.setattr(shell, "run", self)

    def __call__(self, program: str, *arguments: str | os.PathLike[str]) -> str:
        said = self._run(program, *arguments)
        if program == "cp":
            self.copies += 1
            if self.complaints and (stderr := self.complaints.pop(0)):
                raise ToolFailed([program], 1, stderr)
        return said


def test_files_that_vanished_are_not_missed(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """T26 for copies: as if it had been made a moment later."""
    web = pool.volume("web")
    copying = Copying(monkeypatch, VANISHED + UNOPENED)
    pool.snapshot(web, "s1")
    assert copying.copies == 1


def test_a_file_that_was_replaced_is_copied_in_a_second_pass(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    web = pool.volume("web")
    (pool.backend.mount(web) / "config").write_text("x")
    copying = Copying(monkeypatch, VANISHED + REPLACED, REPLACED)
    snapshot = pool.snapshot(web, "s1")
    assert copying.copies == 3
    with pool.backend.open_snapshot(snapshot) as tree:
        assert os.listdir(tree.root) == ["config"]


def test_a_file_that_is_replaced_again_and_again_fails_the_copy(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    web = pool.volume("web")
    Copying(monkeypatch, REPLACED, REPLACED, REPLACED)
    with pytest.raises(StorageFailed, match=r"web@s1 cannot be made: .*/config', as it was replaced.*; stop the cont"):
        pool.snapshot(web, "s1")
    assert pool.snapshots(web) == []


def test_any_other_complaint_fails_the_copy(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    web = pool.volume("web")
    for complaint in (REFUSED, VANISHED + REFUSED, REPLACED + REFUSED, "Killed", VANISHED.replace("cp:", "cp?")):
        Copying(monkeypatch, complaint)
        with pytest.raises(StorageFailed, match="snapshot web@s1 cannot be made: cp failed"):
            pool.snapshot(web, "s1")
        monkeypatch.undo()
    assert pool.snapshots(web) == []


def test_a_full_disk_is_told_as_such(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    web = pool.volume("web")

    def full(program: str, *arguments: str | os.PathLike[str]) -> str:
        if program == "cp":
            raise NoSpace("cp: error writing 'x': No space left on device", "free space")
        return run(program, *arguments)

    run = shell.run
    monkeypatch.setattr(shell, "run", full)
    with pytest.raises(NoSpace, match="snapshot web@s1 cannot be made: cp: error writing"):
        pool.snapshot(web, "s1")
    assert pool.snapshots(web) == []
