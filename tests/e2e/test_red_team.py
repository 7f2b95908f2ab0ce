"""Attempts to make the real daemon lose data, lie or leave something behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from support.process import run
from support.servers import Snapvol

pytestmark = pytest.mark.root
Hosts = Callable[..., Snapvol]


def _data(host: Snapvol, volume: str) -> Path:
    return Path(host.json("inspect", volume)["mountpoint"])


def test_what_no_snapshot_keeps_is_told_and_never_replaced(snapvol: Hosts) -> None:
    """T35, T26: a container may make btrfs subvolumes in its volume; snapshots and backups leave them out."""
    host = snapvol("btrfs")
    host.cli("repo", "init")
    host.cli("create", "web")
    data = _data(host, "web")
    (data / "file").write_text("1")
    run("btrfs", "subvolume", "create", data / "inner")
    (data / "inner/precious").write_text("x")
    host.cli("snapshot", "web", "-n", "s1")
    backup = host.cli("backup", "web")
    assert "warning: inner is not in the backup" in backup.stderr
    for argv in (
        ("rollback", "web@s1"),
        ("rollback", "web@s1", "--dry-run"),
        ("restore", "web", "--in-place"),
        ("restore", "web", "--in-place", "--dry-run"),
        ("restore", "web", "--in-place", "--path", "inner"),
    ):
        refused = host.cli(*argv, check=False)
        assert refused.code == 4, refused
        assert "it holds what no snapshot keeps: inner; move that out" in refused.stderr, refused
    assert (data / "inner/precious").read_text() == "x"
    assert [it["name"] for it in host.json("snapshots", "web") if not it["holds"]] == ["s1"]
    host.cli("rm", "web")
    host.cli("undelete", "web")
    assert (data / "inner/precious").read_text() == "x"
