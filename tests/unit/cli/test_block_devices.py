"""What people are shown of storage on block devices: images, what backups are based on, how full metadata is."""

from __future__ import annotations

from collections.abc import Callable

from snapvol.api import BackupInfo, PoolInfo, SnapshotInfo, Status
from support.fake_api import CREATED, Api, Result

Snapvol = Callable[..., Result]


def test_a_base_is_told_in_words(api: Api, snapvol: Snapvol) -> None:
    held = SnapshotInfo(volume="wiki", name="b", id="7", created=CREATED, holds=("audit", "base-offsite"))
    api.on("GET", "/v1/snapshots", [held])
    assert "audit,next backup to offsite" in snapvol("snapshots").out


def test_an_image_is_no_file(api: Api, snapvol: Snapvol) -> None:
    image = BackupInfo(id="0" * 64, time=CREATED, repository="r", volume="wiki", size=1 << 30, files=1, kind="image")
    api.on("GET", "/v1/backups", [image])
    assert snapvol("backups").out.splitlines()[1].split()[-1] == "image"


def test_how_full_the_metadata_of_a_thin_pool_is(api: Api, snapvol: Snapvol) -> None:
    pools = [
        PoolInfo(name="thin", backend="lvm", ok=True, default=True, metadata_size=1000, metadata_free=201),
        PoolInfo(name="plain", backend="directory", ok=True, default=False),
    ]
    api.on("GET", "/v1/status", Status(ok=True, pools=pools))
    lines = snapvol("status").out.splitlines()
    (thin,) = (line for line in lines if line.startswith("thin"))
    (plain,) = (line for line in lines if line.startswith("plain"))
    assert thin.endswith("80 % full")
    assert plain.split()[-1] == "-"
