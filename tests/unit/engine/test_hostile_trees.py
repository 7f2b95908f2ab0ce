"""T44: backups that somebody made to do harm. Nothing outside of the target changes; only our errors come."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from snapvol.engine import gotext, node, reading, restorer
from snapvol.engine.progress import Silent
from snapvol.engine.restorer import PartlyRestored, restore
from snapvol.engine.verifier import verify
from snapvol.errors import SnapvolError
from snapvol.repository import BlobKind
from support.benches import Bench
from support.trees import differences, fell, look

pytestmark = pytest.mark.root  # trees have files of other owners

TIMES = dict.fromkeys(("mtime", "atime", "ctime"), "2020-01-01T00:00:00Z")
EVIL_NAMES = [
    b"..", b".", b"", b"/", b"../escaped", b"/etc/escaped", b"a/b", b"a\0b", b"x", b"x", b"link", b"n" * 256, b"d"
]  # fmt: skip


def listed(entries: list[dict[str, Any]]) -> bytes:
    return json.dumps(
        {"nodes": [TIMES | {"uid": os.getuid(), "gid": os.getgid()} | entry for entry in entries]}
    ).encode()


def problems(bench: Bench, backup: str, target: Path, **options: Any) -> list[str]:
    with pytest.raises(PartlyRestored) as caught:
        restore(bench.repository, backup, target, progress=Silent(), **options)
    return [str(problem) for problem in caught.value.result.problems]


@pytest.mark.parametrize("name", [b"..", b".", b"", b"/", b"../escaped", b"/etc/escaped", b"a/b", b"a\0b"])
def test_t44_names_that_lead_elsewhere(bench: Bench, target: Path, name: bytes) -> None:
    before = look(target.parent)
    backup = bench.commit(
        listed(
            [
                {"name": gotext.quote(name), "type": "symlink", "linktarget": "x"},
                {"name": "good", "type": "file", "content": []},
            ]
        )
    )
    (problem,) = problems(bench, backup, target)
    assert "which no directory can have" in problem
    after = look(target.parent)
    assert after.keys() - before.keys() == {b"target/good"}


def test_t44_a_link_and_then_a_directory_of_its_name(bench: Bench, target: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    inner, _ = bench.repository.add(BlobKind.TREE, listed([{"name": "planted", "type": "file", "content": []}]))
    link = {"name": "x", "type": "symlink", "linktarget": str(outside)}
    backup = bench.commit(listed([link, {"name": "x", "type": "dir", "subtree": inner.hex()}]))
    assert problems(bench, backup, target) == ["x: the backup has two entries of this name"]
    assert list(outside.iterdir()) == []


def test_t44_a_link_that_the_target_has_is_replaced_not_followed(bench: Bench, target: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("untouched")
    (target / "x").symlink_to(outside)
    (target / "y").symlink_to(outside / "file")
    inner, _ = bench.repository.add(BlobKind.TREE, listed([{"name": "file", "type": "file", "content": []}]))
    backup = bench.commit(
        listed([{"name": "x", "type": "dir", "subtree": inner.hex()}, {"name": "y", "type": "file", "content": []}])
    )
    restore(bench.repository, backup, target, exact=True, progress=Silent())
    assert (outside / "file").read_text() == "untouched"
    assert look(target).keys() == {b"", b"x", b"x/file", b"y"}
    assert not (target / "x").is_symlink()


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (
            {"type": "file", "size": 2**62, "content": []},
            "its pieces have 0 bytes, but it should have 4611686018427387904",
        ),
        ({"type": "file", "size": 1, "content": ["0" * 64]}, "is in no index"),
        ({"type": "file", "size": 5}, "its pieces have 0 bytes, but it should have 5"),
        ({"type": "dir"}, "what it holds is lost: it has no list of entries"),
        ({"type": "dir", "subtree": "0" * 64}, "what it holds is lost"),
        ({"type": "irregular"}, "its type 'irregular' is not known"),
        ({"type": ""}, "its type '' is not known"),
        ({"type": "symlink", "linktarget": ""}, "it cannot be made"),
        ({"type": "symlink", "linktarget": "a\0b"}, "it cannot be made"),
        ({"type": "symlink", "linktarget": "x" * 5000}, "it cannot be made"),
    ],
)
def test_t44_entries_that_cannot_be_are_named(bench: Bench, target: Path, entry: dict[str, Any], said: str) -> None:
    backup = bench.commit(listed([{"name": "bad"} | entry, {"name": "good", "type": "file", "content": []}]))
    (problem,) = problems(bench, backup, target)
    assert problem.startswith("bad: ")
    assert said in problem
    assert (target / "good").exists()
    assert not (target / "bad").exists() or (target / "bad").is_dir()


def test_t44_names_that_are_too_long(bench: Bench, target: Path) -> None:
    content = [bench.repository.add(BlobKind.DATA, b"x")[0].hex()]
    backup = bench.commit(
        listed(
            [
                {"name": "n" * 256, "type": "file", "size": 1, "content": content},
                {"name": "m", "type": "file", "size": 1, "content": content},
            ]
        )
    )
    (problem,) = problems(bench, backup, target)
    assert problem.endswith("it cannot be made: File name too long")
    assert (target / "m").read_bytes() == b"x"


def test_t44_links_of_files_that_differ_are_not_made(bench: Bench, target: Path) -> None:
    contents = [bench.repository.add(BlobKind.DATA, data)[0].hex() for data in (b"one", b"two")]
    twins = [
        {"name": name, "type": "file", "size": 3, "content": [blob], "links": 2, "inode": 7, "device_id": 7}
        for name, blob in zip("ab", contents, strict=True)
    ]
    bench.restore(bench.commit(listed(twins)), target)
    assert [(target / name).read_bytes() for name in "ab"] == [b"one", b"two"]


def test_t44_a_tower_of_directories_ends(bench: Bench, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "DEEPEST", 40)
    tree, _ = bench.repository.add(BlobKind.TREE, listed([]))
    for _ in range(60):
        tree, _ = bench.repository.add(BlobKind.TREE, listed([{"name": "d", "type": "dir", "subtree": tree.hex()}]))
    backup = bench.commit(listed([{"name": "d", "type": "dir", "subtree": tree.hex()}]))
    (problem,) = problems(bench, backup, target)
    assert "nested more than 40 deep" in problem
    assert verify(bench.repository, backup, Silent()).problems != []


def test_t44_a_tree_that_names_itself_cannot_exist_but_a_bad_one_is_damage(bench: Bench, target: Path) -> None:
    backup = bench.commit(b'{"nodes":[{"name":"x","type":"dir","subtree":"nonsense"}]}\n')
    with pytest.raises(SnapvolError, match="a tree object cannot be read"):
        bench.restore(backup, target)


def test_t44_ours_by_its_tags_but_laid_out_otherwise(bench: Bench, target: Path) -> None:
    backup = bench.commit(listed([{"name": "x", "type": "file", "content": []}]), tags=["snapvol", "volume=v"])
    with pytest.raises(SnapvolError, match="tagged 'snapvol' but has no /volume"):
        bench.restore(backup, target)


NAMES = st.one_of(st.sampled_from(EVIL_NAMES), st.binary(max_size=6))
TARGETS = st.sampled_from(["../outside", "../outside/sentinel", "..", "/", "x", "", "d"])
HOSTILE = st.fixed_dictionaries(
    {"name": NAMES, "type": st.sampled_from(["file", "dir", "symlink", "file", "dir", "fifo", "socket", "irregular"])},
    optional={
        "mode": st.integers(0, 2**32 - 1),
        "size": st.one_of(st.integers(0, 9), st.just(2**63)),
        "linktarget": TARGETS,
        "links": st.integers(0, 3),
        "inode": st.integers(0, 2),
        "mtime": st.sampled_from(["", "9999-12-31T23:59:59Z", "0000-01-01T00:00:00Z", "x"]),
        "uid": st.just(2**32 - 1),
        "blobs": st.lists(st.integers(0, 3), max_size=3),
        "inside": st.integers(0, 5),
        "extended_attributes": st.just([{"name": "user.x", "value": "AA=="}, {"name": "", "value": None}]),
    },
)  # fmt: skip


def plant(bench: Bench, levels: list[list[dict[str, Any]]]) -> str:
    """Store trees of which each may hold those before it; return the backup of the last."""
    blobs = [bench.repository.add(BlobKind.DATA, data)[0].hex() for data in (b"", b"abc", bytes(9))] + ["0" * 64]
    trees, root = ["0" * 64], b""
    for level in levels:
        entries = []
        for plan in level:
            entry = {key: value for key, value in plan.items() if key not in ("blobs", "inside", "name")}
            entry["name"] = gotext.quote(plan["name"])
            entry["content"] = [blobs[number] for number in plan.get("blobs", ())]
            if plan["type"] == "dir":
                entry["subtree"] = trees[plan.get("inside", 1) % len(trees)]
            entries.append(entry)
        root = listed(entries)
        trees.append(bench.repository.add(BlobKind.TREE, root)[0].hex())
    return bench.commit(root)


@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.lists(HOSTILE, max_size=5), min_size=1, max_size=4), st.booleans())
def test_t44_nothing_outside_of_the_target_changes(
    bench: Bench, place: Path, monkeypatch: pytest.MonkeyPatch, levels: list[list[dict[str, Any]]], exact: bool
) -> None:
    monkeypatch.setattr(restorer, "sync_filesystem", lambda _: None)  # nothing else differs here
    root = place / "hostile"
    fell(root)
    (root / "target").mkdir(parents=True)
    (root / "outside").mkdir()
    (root / "outside/sentinel").write_text("untouched")
    if exact:
        (root / "target/x").symlink_to(root / "outside")
        (root / "target/link").symlink_to(root / "outside/sentinel")
        (root / "target/d").mkdir()
        os.link(root / "outside/sentinel", root / "target/d/x")
    backup = plant(bench, levels)
    before = {path: seen for path, seen in look(root, settled=False).items() if not path.startswith(b"target")}
    with suppress(SnapvolError):
        restore(bench.repository, backup, root / "target", exact=exact, progress=Silent())
    verify(bench.repository, backup, Silent())
    after = {path: seen for path, seen in look(root, settled=False).items() if not path.startswith(b"target")}
    sentinel = b"outside/sentinel"
    assert after[sentinel].content == before[sentinel].content
    assert after[sentinel].mode == before[sentinel].mode
    assert after[sentinel].mtime == before[sentinel].mtime
    del before[sentinel], after[sentinel]  # its link count may go down: another name of it was in the target
    assert differences(before, after) == []
    fell(root)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60))
def test_t44_bytes_that_are_no_tree(data: bytes) -> None:
    with suppress(SnapvolError):
        node.decode_tree(b'{"nodes":[{"name":"' + data + b'"}]}')
