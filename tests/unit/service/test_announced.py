"""What Docker's List is made of: always as it is now, and made anew only where something changed."""

from __future__ import annotations

import shutil
from pathlib import Path

from snapvol.service.service import Service
from support.service import FakeKernel, directory_service


def told(service: Service) -> list[tuple[str, str]]:
    return [(seen.name, seen.mountpoint) for seen in service.announced()]


def test_the_listing_follows_every_change(on_disk: Service) -> None:
    assert told(on_disk) == []
    web, db = on_disk.create_volume("web"), on_disk.create_volume("db")
    assert told(on_disk) == [("db", db.mountpoint), ("web", web.mountpoint)]
    shop = on_disk.rename_volume("web", "shop")
    assert told(on_disk) == [("db", db.mountpoint), ("shop", shop.mountpoint)]
    on_disk.remove_volume("db")
    assert told(on_disk) == [("shop", shop.mountpoint)]
    on_disk.undelete("db")
    assert told(on_disk) == [("db", db.mountpoint), ("shop", shop.mountpoint)]


def test_without_a_change_it_is_the_same(on_disk: Service) -> None:
    on_disk.create_volume("web")
    listing = on_disk.announced()
    on_disk.mount("web", "x")
    on_disk.refresh_usage("web")
    assert on_disk.announced() is listing


def test_g02_a_damaged_volume_stays_in_it(tmp_path: Path, kernel: FakeKernel) -> None:
    service = directory_service(tmp_path, kernel)
    made = service.create_volume("web")
    service.close()
    (Path(made.mountpoint).parent / "volume.json").write_text("")
    service = directory_service(tmp_path, kernel)
    assert [(seen.name, seen.created) for seen in service.announced()] == [("web", None)]
    service.close()


def test_g02_a_missing_pool_keeps_its_volumes_in_it(tmp_path: Path, kernel: FakeKernel) -> None:
    service = directory_service(tmp_path, kernel)
    made = service.create_volume("web")
    before = told(service)
    service.close()
    pool = next(parent for parent in Path(made.mountpoint).parents if (parent / ".snapvol-pool.json").exists())
    shutil.move(pool, tmp_path / "away")
    pool.mkdir()  # the disk is not mounted
    service = directory_service(tmp_path, kernel)
    assert told(service) == before
    service.close()
