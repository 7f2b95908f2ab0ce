from __future__ import annotations

import errno
import os
import stat
import time
from pathlib import Path

import pytest

from snapvol.errors import Damaged, NoSpace, NotFound, RepositoryUnreachable, SettingsError, StorageFailed
from snapvol.settings import RepositorySettings
from snapvol.stores import open_store
from snapvol.stores.local import LocalStore

ID = "ab" + "0" * 62
PACK = f"data/ab/{ID}"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "repository"


@pytest.fixture
def store(root: Path) -> LocalStore:
    store = LocalStore(root)
    store.prepare()
    return store


def files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir())


def test_only_the_owner_can_read_it(store: LocalStore, root: Path) -> None:
    """T43."""
    os.umask(old := os.umask(0))
    os.umask(0)
    try:
        store.put(PACK, b"x")
    finally:
        os.umask(old)
    assert stat.S_IMODE((root / PACK).stat().st_mode) == 0o600
    assert {stat.S_IMODE(path.stat().st_mode) for path in [root, *root.rglob("*")] if path.is_dir()} == {0o700}


def test_it_is_laid_out_as_restic_does(store: LocalStore, root: Path) -> None:
    store.put(PACK, b"x")
    assert files(root) == [PACK]
    assert len(list((root / "data").iterdir())) == 256


def test_a_full_disk_leaves_nothing(store: LocalStore, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """T39."""

    def full(descriptor: int, data: memoryview) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(NoSpace, match=f"cannot write {PACK} in .*: No space left on device"):
        store.put(PACK, b"x")
    assert files(root) == []


def test_a_file_shorter_than_what_was_written_is_an_error(
    store: LocalStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "write", lambda descriptor, data: len(data))
    with pytest.raises(StorageFailed, match="not as long"):
        store.put(PACK, b"x")
    assert files(root) == []


def test_temporary_files_of_killed_writers_go_in_time(store: LocalStore, root: Path) -> None:
    """T28: what a kill leaves besides packs does not pile up."""
    old, new = root / "tmp" / "old", root / "tmp" / "new"
    old.write_bytes(b"x")
    new.write_bytes(b"x")
    os.utime(old, (time.time() - 90_000,) * 2)
    store.put(PACK, b"x")
    assert files(root) == [PACK, "tmp/new"]


@pytest.mark.parametrize("kind", ["link", "dangling", "fifo", "directory"])
def test_what_is_not_a_file_is_not_followed(store: LocalStore, root: Path, tmp_path: Path, kind: str) -> None:
    """T44."""
    (tmp_path / "secret").write_bytes(b"secret")
    place = root / PACK
    {
        "link": lambda: place.symlink_to(tmp_path / "secret"),
        "dangling": lambda: place.symlink_to(tmp_path / "nowhere"),
        "fifo": lambda: os.mkfifo(place),
        "directory": lambda: place.mkdir(),
    }[kind]()
    with pytest.raises(Damaged, match="is not a regular file"):
        store.get(PACK)
    with pytest.raises(Damaged, match="is not a regular file"):
        store.size(PACK)
    with pytest.raises(Damaged, match="is not a regular file"):
        store.put(PACK, b"x")
    assert (tmp_path / "secret").read_bytes() == b"secret"


def test_others_files_are_not_listed(store: LocalStore, root: Path) -> None:
    """T6."""
    store.put(PACK, b"x")
    for stranger in ("data/ab/README", f"data/ab/{ID}-tmp-1", "data/README", f"data/aa/{ID}", f"data/{ID}"):
        (root / stranger).write_bytes(b"y")
    (root / "snapshots" / "sub").mkdir()
    assert [entry.name for entry in store.list("data/")] == [PACK]
    assert list(store.list("snapshots/")) == []


def test_a_disk_that_is_away_is_not_an_empty_repository(root: Path) -> None:
    """T24, T40."""
    store = LocalStore(root)
    with pytest.raises(RepositoryUnreachable, match=f"cannot list snapshots/ in {root}.*is its disk mounted"):
        store.list("snapshots/")
    with pytest.raises(RepositoryUnreachable):
        store.put(PACK, b"x")
    assert not root.exists()
    with pytest.raises(NotFound):
        store.size("config")


def test_a_copy_without_empty_directories_can_be_written(store: LocalStore, root: Path) -> None:
    for directory in (root / "data").iterdir():
        directory.rmdir()
    (root / "data").rmdir()
    (root / "tmp").rmdir()
    (root / "snapshots").rmdir()
    assert list(store.list("snapshots/")) == []
    store.put(PACK, b"x")
    assert store.get(PACK) == b"x"


def test_an_unreadable_directory_is_an_error(store: LocalStore, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """T24: a listing that fails is never an empty one."""

    def refuse(path: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(RepositoryUnreachable, match="Permission denied"):
        store.list("data/")


def test_the_rest_is_deleted_when_one_cannot_be(store: LocalStore, root: Path) -> None:
    other = "snapshots/" + "1" * 64
    (root / PACK).mkdir()
    store.put(other, b"x")
    with pytest.raises(StorageFailed):
        store.delete([PACK, other])
    assert list(store.list("snapshots/")) == []


@pytest.mark.parametrize("url", ["relative/path", "s3:bucket", "http://server/bucket", "", "file:///x"])
def test_other_urls_are_refused(url: str) -> None:
    """T16."""
    with pytest.raises(SettingsError, match="does not name a repository; write an absolute path or s3://"):
        open_store(RepositorySettings(url=url))
