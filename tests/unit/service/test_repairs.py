"""T30 through a whole service: damage in the repository, mended by backing the living volume up again."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from snapvol.repository import BlobKind, Repository
from snapvol.repository.packs import PackedBlob
from snapvol.service.repositories import open_repository
from snapvol.service.service import Service
from support.quick import initialise
from support.restoring import backed_up, restore

FILES = {"a/pages": random.Random(2).randbytes(3 << 20), "same": b"same" * 5000}


def opened(service: Service) -> Repository:
    return open_repository("default", service.settings.repository("default"))


def hit(service: Service) -> set[str]:
    with opened(service) as repository:
        return {backup for problem in repository.check(True).problems for backup in problem.snapshots_hit}


def contents(service: Service, name: str) -> dict[str, bytes]:
    with service._context.contents.read(service._context.catalog.get(name)) as data:
        root = data.resolve()
        return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def write(service: Service, files: dict[str, bytes]) -> None:
    with service._context.contents.read(service._context.catalog.get("web")) as data:
        for name, inside in files.items():
            (data / name).parent.mkdir(exist_ok=True)
            (data / name).write_bytes(inside)


def _is_of_pages(repository: Repository, blob: PackedBlob) -> bool:
    return blob.kind is BlobKind.DATA and repository.read(blob.kind, blob.id) in FILES["a/pages"]


def flip_largest(service: Service) -> str:
    """Flip a bit in the largest piece of the large file, which all backups share; return the name of its pack."""
    with opened(service) as repository:
        repository.load_index()
        pack, blob = max(
            (found for found in repository._index.blobs() if _is_of_pages(repository, found[1])),
            key=lambda found: found[1].plain_length,
        )
    name = f"data/{pack.hex()[:2]}/{pack.hex()}"
    path = Path(service.settings.repository("default").url) / name
    content = bytearray(path.read_bytes())
    content[blob.offset + blob.length // 2] ^= 1
    path.chmod(0o600)
    path.write_bytes(content)
    return name


@pytest.mark.parametrize("pool", ["on_disk", "imaged"])
def test_old_backups_are_whole_again_when_the_volume_is_backed_up(pool: str, request: pytest.FixtureRequest) -> None:
    """Trees and images: named, repaired, backed up, and the OLD backups restore byte for byte."""
    service: Service = request.getfixturevalue(pool)
    if pool == "on_disk":
        initialise(service.settings, "default")
    service.create_volume("web")
    write(service, FILES)
    first = backed_up(service)
    later = {"z/later": b"later" * 100}
    more = {**FILES, **later}
    write(service, later)
    second = backed_up(service)
    damaged = flip_largest(service)
    assert hit(service) == {first, second}
    with opened(service) as repository:
        report = repository.repair_index(read_data=True)
    assert [pack.name for pack in report.damaged_packs] == [damaged]
    assert report.lost_blobs == 1
    third = backed_up(service)
    with opened(service) as repository:
        assert repository.check(True).problems == []
    for backup, files in ((first, FILES), (second, more), (third, more)):
        assert restore(service, backup, volume=f"old-{backup[:6]}").error is None
        assert contents(service, f"old-{backup[:6]}") == files
