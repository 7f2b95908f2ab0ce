"""What differs between two trees."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snapvol.backend import Change, ChangeKind
from snapvol.errors import StorageFailed
from snapvol.service.differences import compare, shown


@pytest.fixture
def trees(tmp_path: Path) -> tuple[Path, Path]:
    old = tmp_path / "old"
    (old / "dir/deep").mkdir(parents=True)
    (old / "file").write_text("same")
    (old / "dir/deep/file").write_text("x" * 3_000_000)
    (old / "link").symlink_to("file")
    os.mkfifo(old / "fifo")
    new = tmp_path / "new"
    shutil.copytree(old, new, symlinks=True, ignore=lambda _, names: [name for name in names if name == "fifo"])
    os.mkfifo(new / "fifo")
    return old, new


def said(trees: tuple[Path, Path]) -> list[tuple[str, str]]:
    return [(change.kind.value, os.fsdecode(change.path)) for change in compare(*trees)]


def test_equal_trees(trees: tuple[Path, Path]) -> None:
    assert said(trees) == []
    os.utime(trees[1] / "file", (1, 1))
    assert said(trees) == []  # another time alone is no change


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda new: (new / "file").write_text("SAME"), [("modified", "file")]),
        (lambda new: (new / "file").write_text("longer"), [("modified", "file")]),
        (lambda new: (new / "file").chmod(0o600), [("modified", "file")]),
        (lambda new: (new / "dir/deep").chmod(0o700), [("modified", "dir/deep")]),
        (lambda new: (new / "link").unlink(), [("removed", "link")]),
        (lambda new: ((new / "link").unlink(), (new / "link").symlink_to("x")), [("modified", "link")]),
        (lambda new: ((new / "fifo").unlink(), (new / "fifo").touch()), [("removed", "fifo"), ("added", "fifo")]),
        (
            lambda new: shutil.move(new / "dir", new.parent / "gone"),
            [("removed", "dir"), ("removed", "dir/deep"), ("removed", "dir/deep/file")],
        ),
        (lambda new: ((new / "d2").mkdir(), (new / "d2/f").touch()), [("added", "d2"), ("added", "d2/f")]),
        (
            lambda new: (shutil.move(new / "dir", new.parent / "gone"), (new / "dir").touch()),
            [("removed", "dir"), ("removed", "dir/deep"), ("removed", "dir/deep/file"), ("added", "dir")],
        ),
    ],
)
def test_each_kind_of_change(trees: tuple[Path, Path], change: object, expected: list[tuple[str, str]]) -> None:
    assert callable(change)
    change(trees[1])
    assert said(trees) == expected


def test_another_extended_attribute(trees: tuple[Path, Path]) -> None:
    os.setxattr(trees[1] / "file", "user.tag", b"1")
    assert said(trees) == [("modified", "file")]


def test_a_change_late_in_a_large_file_of_equal_size(trees: tuple[Path, Path]) -> None:
    with open(trees[1] / "dir/deep/file", "r+b") as file:
        file.seek(2_999_999)
        file.write(b"y")
    assert said(trees) == [("modified", "dir/deep/file")]


def test_a_tree_that_is_not_there_is_an_error_and_not_empty(trees: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(StorageFailed, match="cannot be compared"):
        list(compare(trees[0], tmp_path / "absent"))


def test_names_that_are_not_text_are_shown() -> None:
    assert shown(Change(path=b"a\xff\nb", kind=ChangeKind.ADDED)).path == "a\\xff\nb"


names = st.binary(min_size=1, max_size=4).filter(
    lambda name: b"/" not in name and b"\0" not in name and name not in (b".", b"..")
)
contents = st.dictionaries(names, st.binary(max_size=3), max_size=6)


@settings(max_examples=50)
@given(contents, contents)
def test_flat_trees_against_dictionaries(
    tmp_path_factory: pytest.TempPathFactory, before: dict[bytes, bytes], after: dict[bytes, bytes]
) -> None:
    old, new = tmp_path_factory.mktemp("old"), tmp_path_factory.mktemp("new")
    for root, files in ((old, before), (new, after)):
        for number, (name, content) in enumerate(files.items()):
            path = os.path.join(os.fsencode(root), name)
            with open(path, "wb") as file:
                file.write(content)
            os.utime(path, (number, number + (root == new)))
    expected = {
        *(("removed", name) for name in before.keys() - after.keys()),
        *(("added", name) for name in after.keys() - before.keys()),
        *(("modified", name) for name in before.keys() & after.keys() if before[name] != after[name]),
    }
    found = [(change.kind.value, change.path) for change in compare(old, new)]
    # Equal size and time count as equal: that cannot happen here unless the positions agree by chance.
    assert set(found) <= expected
    assert {it for it in expected - set(found) if it[0] != "modified"} == set()
    assert len(found) == len(set(found))
    shutil.rmtree(old)
    shutil.rmtree(new)
