"""Work is in proportion to what changed: a thin volume of 100 GiB in which 2 GiB are written, and its repository."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from snapvol.engine.archiver import BackupResult
from snapvol.engine.base import base_backup
from snapvol.engine.image_archiver import back_up_image
from snapvol.engine.image_restorer import restore_image
from snapvol.engine.manifest import BackupKind, VolumeMeta
from snapvol.engine.progress import Silent
from snapvol.model import Snapshot, Volume
from snapvol.repository import Repository, Tuning
from snapvol.stores.local import LocalStore
from support.process import run
from support.repositories import created
from support.storage import Pool

pytestmark = pytest.mark.root
MIB = 1 << 20
SIZE, CHANGED = 100 << 30, 40
WRITTEN = {"ext4": 2048, "xfs": 256}  # MiB: that it costs what is in it is seen with little as well, in less time


def write(root: Path, numbers: range, salt: int) -> None:
    """Write MiBs of a file, none like another, though they compress so well that any repository takes them."""
    path = root / "file"
    path.touch()
    with path.open("r+b") as file:
        for number in numbers:
            file.seek(number * MIB)
            file.write((b"%08d%08d" % (salt, number)) * (MIB // 16))
        os.fsync(file.fileno())


def backed_up(blocks: Pool, snapshot: Snapshot, base: Snapshot | None, repository: Repository) -> BackupResult:
    changed = blocks.backend.image_changes(base, snapshot) if base is not None else None
    meta = VolumeMeta(
        id=snapshot.volume_id, name=snapshot.volume, created=snapshot.created, taken=snapshot.created, backend="lvm"
    )
    with blocks.backend.open_image(snapshot) as image:
        return back_up_image(
            repository,
            image,
            meta,
            base=base_backup(repository, snapshot.volume_id, base.id, BackupKind.IMAGE) if base is not None else None,
            changed=changed,
            progress=Silent(),
        )


@pytest.fixture
def web(blocks: Pool) -> Volume:
    blocks.backend.create(blocks.record("web"), size=SIZE)
    return blocks.stored("web")


def test_t31_a_large_volume_costs_what_is_in_it_and_then_what_changed(
    blocks: Pool, web: Volume, tmp_path: Path
) -> None:
    written = WRITTEN[blocks.variant.options["fs"]]
    with created(LocalStore(tmp_path / "repository"), Tuning()) as repository:
        with blocks.mounted(web) as root:
            write(root, range(written), 1)
        base = blocks.snapshot(web, "first")
        first = backed_up(blocks, base, None, repository)
        with blocks.mounted(web) as root:
            write(root, range(0, written, written // CHANGED)[:CHANGED], 2)
        later = blocks.snapshot(web, "second")
        second = backed_up(blocks, later, base, repository)
        print(f"first: {first.bytes_read / MIB:.0f} MiB read, {first.bytes_added / MIB:.0f} MiB new")
        print(f"then: {second.bytes_read / MIB:.0f} MiB read, {second.bytes_added / MIB:.0f} MiB new")
        assert written * MIB < first.bytes_read < (written + 200) * MIB
        assert second.base == first.id
        # A changed MiB of a file touches two pieces; a few more hold what the file system notes of it.
        assert CHANGED * MIB <= second.bytes_read - second.bytes_checked < 3 * CHANGED * MIB
        assert second.bytes_checked <= 32 * MIB
        assert CHANGED * MIB <= second.bytes_added < 3 * CHANGED * MIB
        device = blocks.backend.stage_image(web, SIZE)
        restore_image(repository, second.id, device, progress=Silent())
    with blocks.backend.open_image(later) as image:
        mapped = sum(length for _, length in image.mapped)
        for offset, length in image.mapped:
            same = ("cmp", "--bytes", str(length), "--ignore-initial", str(offset), image.device, device)
            run(*same, seconds=600)
    blocks.backend.adopt_stage(web)
    restored = blocks.snapshot(web, "restored")
    with blocks.backend.open_image(restored) as image:
        assert sum(length for _, length in image.mapped) < mapped + 200 * MIB, "holes are holes again"
