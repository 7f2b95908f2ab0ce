"""Records: whole or absent."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from snapvol.backends import durable
from snapvol.backends.failures import explained
from snapvol.backends.place import Marker
from snapvol.errors import NoSpace, PoolUnavailable, StorageFailed, ToolFailed

RECORD = Marker(id="x", version=1)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    durable.write(tmp_path / "r", RECORD)
    assert durable.read(tmp_path / "r", Marker) == RECORD
    assert os.listdir(tmp_path) == ["r"]
    assert (tmp_path / "r").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("failing", ["fsync", "rename"])
def test_a_failed_write_leaves_the_old_record_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    durable.write(tmp_path / "r", RECORD)

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, failing, fail)
    with pytest.raises(OSError, match="No space left"):
        durable.write(tmp_path / "r", Marker(id="y", version=1))
    monkeypatch.undo()
    assert durable.read(tmp_path / "r", Marker) == RECORD
    assert os.listdir(tmp_path) == ["r"]


def test_a_leftover_of_a_kill_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "r.new").write_text("x" * 10_000)
    durable.write(tmp_path / "r", RECORD)
    assert durable.read(tmp_path / "r", Marker) == RECORD


def test_only_absence_is_absence(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        durable.read(tmp_path / "r", Marker)
    assert not durable.exists(tmp_path / "r")
    (tmp_path / "loop").symlink_to("loop")
    assert durable.exists(tmp_path / "loop")
    with pytest.raises(durable.Unreadable, match="Too many levels"):
        durable.read(tmp_path / "loop", Marker)
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        durable.exists(tmp_path / "file" / "inner")


def test_a_huge_file_is_not_read_whole(tmp_path: Path) -> None:
    with (tmp_path / "r").open("wb") as file:
        file.write(b"{")
        file.truncate(1 << 40)
    with pytest.raises(durable.Unreadable, match="larger than"):
        durable.read(tmp_path / "r", Marker)


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, NoSpace),
        (errno.EDQUOT, NoSpace),
        (errno.EROFS, PoolUnavailable),
        (errno.ESTALE, PoolUnavailable),
        (errno.EIO, StorageFailed),
        (errno.EACCES, StorageFailed),
    ],
)
def test_error_numbers_become_errors_with_the_object_and_the_file(number: int, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=rf"^volume 'web' cannot be made: {os.strerror(number)} \(/p/f\)") as failed:
        raise_in_context(OSError(number, os.strerror(number), "/p/f"))
    assert type(failed.value) is kind


def test_tools_that_fail_are_told_with_the_object() -> None:
    with pytest.raises(StorageFailed, match=r"^volume 'web' cannot be made: cp failed \(exit 1\): a b; try c$"):
        raise_in_context(ToolFailed(["cp"], 1, "a\nb", "try c"))


def raise_in_context(error: Exception) -> None:
    with explained("volume 'web' cannot be made"):
        raise error
