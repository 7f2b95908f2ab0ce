"""The `zfs` backend over a ZFS in memory: native properties and keys."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from msgspec.structs import replace

from snapvol.errors import (
    NotReady,
    SnapvolError,
    UnknownOption,
    Unsupported,
    UsageError,
)
from snapvol.model import Volume, new_id, now
from support.zfs_pool import P, Pool

WHEN = datetime(2026, 11, 20, 3, 0, tzinfo=UTC)


def test_native_properties_are_passed_on(pool: Pool) -> None:
    pool.backend.create(
        Volume(id=new_id(), name="web", created=now(), options={"zfs.compression": "lz4"}), size=1 << 20
    )
    made = pool.zfs.datasets[f"{P}/web"].properties
    assert {key: made[key] for key in ("compression", "refquota", "mountpoint", "canmount", "acltype", "xattr")} == {
        "compression": "lz4", "refquota": "1048576", "mountpoint": "legacy", "canmount": "noauto",
        "acltype": "posixacl", "xattr": "sa",
    }  # fmt: skip


def test_what_the_administrator_has_set_above_stands(pool: Pool) -> None:
    pool.zfs.datasets[P].properties["xattr"] = "on"
    pool.reopen()
    pool.make()
    assert "xattr" not in pool.zfs.datasets[f"{P}/web"].properties


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"zfs_compresion": "lz4"}, UnknownOption,
         "this ZFS has no property 'compresion'; did you mean 'zfs.compression'?"),
        ({"zfs_used": "1"}, UnknownOption, "no property 'used'"),
        ({"zfs_mountpoint": "/x"}, Unsupported, "'zfs.mountpoint' is not offered: snapvol mounts"),
        ({"zfs_refquota": "1"}, Unsupported, "that is the option 'size'"),
        ({"zfs_org.snapvol:volume": "x"}, Unsupported, "snapvol's own"),
        ({"zfs_compression": "best"}, UsageError, "zfs.compression=best: it must be one of"),
        ({"zfs_encryption": "on", "zfs_keyformat": "raw"}, UsageError, "zfs.keylocation=file:///PATH"),
    ],
)  # fmt: skip
def test_options_that_cannot_be_served_make_nothing(
    pool: Pool, options: dict[str, str], kind: type[SnapvolError], message: str
) -> None:
    """T16."""
    with pytest.raises(kind, match=message):
        pool.make(**options)
    assert pool.zfs.names() == [P]


def test_a_clone_cannot_differ_in_what_is_settled_at_creation(pool: Pool) -> None:
    snapshot = pool.snapshot(pool.make(), "s1")
    clone = Volume(id=new_id(), name="clone", created=now(), options={"zfs.encryption": "aes-256-gcm"})
    with pytest.raises(Unsupported, match="encryption=aes-256-gcm was asked for, its origin has encryption=off"):
        pool.backend.create(clone, source=snapshot)
    same = replace(clone, options={"zfs.casesensitivity": "sensitive", "zfs.atime": "off"})
    pool.backend.create(same, source=snapshot)
    assert pool.zfs.datasets[f"{P}/clone"].properties["atime"] == "off"


def lock(pool: Pool, name: str, root: str, location: str) -> None:
    """Make a dataset one that is encrypted with the key of ``root``, which is not loaded."""
    for dataset in {name, root}:
        pool.zfs.datasets[dataset].properties |= {"keystatus": "unavailable", "encryptionroot": root}
    pool.zfs.datasets[root].properties["keylocation"] = location


def test_a_key_is_loaded_from_its_file_or_asked_for(pool: Pool, tmp_path: Path) -> None:
    web = pool.make()
    snapshot = pool.snapshot(web, "s1")
    for location, hint in (
        ("prompt", "zfs load-key"),
        (f"file://{tmp_path}/gone", "bring the file back, or: zfs load-key"),
    ):
        lock(pool, f"{P}/web", f"{P}/web", location)
        assert pool.backend.volumes() == [web]
        with pytest.raises(
            NotReady, match=r"'web' .*is encrypted, and the key of tank/volumes/web is not loaded"
        ) as error:
            pool.backend.mount(web)
        assert error.value.hint == f"{hint} tank/volumes/web"
        with pytest.raises(NotReady, match=r"'web@s1' cannot be read"), pool.backend.open_snapshot(snapshot):
            pass
    (tmp_path / "key").write_bytes(bytes(32))
    lock(pool, f"{P}/web", "tank", f"file://{tmp_path}/key")
    assert pool.commands(lambda: pool.backend.mount(web)) == ["zfs get", "zfs get", "zfs load-key"]
    assert pool.commands(lambda: pool.backend.mount(web)) == ["zfs get"]


def test_the_key_of_all_volumes_is_loaded_at_the_start(pool: Pool, tmp_path: Path) -> None:
    lock(pool, P, "tank", "prompt")
    pool.reopen()
    (tmp_path / "key").write_bytes(bytes(32))
    lock(pool, P, P, f"file://{tmp_path}/key")
    pool.reopen()
    assert pool.zfs.datasets[P].properties["keystatus"] == "available"
