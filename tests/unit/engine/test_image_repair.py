"""T30: images that lost pieces get them back from the living device, or never look whole again."""

from __future__ import annotations

import random
from hashlib import sha256
from pathlib import Path

import pytest

from snapvol.engine import image_layout, reading
from snapvol.engine.backups import backups as listed
from snapvol.engine.image_restorer import restore_image
from snapvol.engine.progress import Silent
from snapvol.engine.restorer import PartlyRestored
from snapvol.engine.verifier import verify
from snapvol.errors import Damaged
from snapvol.repository import BlobKind
from support.benches import Bench
from support.damage import damage
from support.images import Backups, Disk
from support.repairing import index_repaired, loaded, lose, pack_of, problems, repaired

M = 1 << 20
NOISE = random.Random(7).randbytes(6 * M)


def _disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str) -> Disk:
    if layout == "segments":
        monkeypatch.setattr(image_layout, "ONE_FILE", 8 * M)
        monkeypatch.setattr(image_layout, "SEGMENT", M)
        monkeypatch.setattr(image_layout, "GROUP", 8)
    disk = Disk(tmp_path / "disk", 20 * M)
    disk.write(M, NOISE[: 3 * M])
    disk.write(9 * M + 12345, NOISE[4 * M : 4 * M + 100_000])
    return disk


@pytest.mark.parametrize("kind", ["flip", "delete"])
@pytest.mark.parametrize("layout", ["one file", "segments"])
def test_a_live_device_makes_old_images_whole_again(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, layout: str
) -> None:
    """What is said to be unchanged is read where the repository has lost it."""
    disk = _disk(tmp_path, monkeypatch, layout)
    backups = Backups(bench.repository, disk)
    first, wanted = backups.run(chunk=256 << 10).id, disk.contents
    disk.write(9 * M, b"changed" * 1000)
    second = backups.run(chunk=256 << 10).id
    name = pack_of(bench.store, BlobKind.DATA, sha256(disk.contents[2 * M : 2 * M + (256 << 10)]).digest())
    damage(bench.store, name, kind, 0.3)
    assert {hit for _, hit, _ in problems(bench.store)} == {tuple(sorted((first, second)))}
    index_repaired(bench.store)
    again = Backups(bench.reopened(), disk)
    again.base = backups.base
    third = again.run(chunk=256 << 10, changed=())
    assert third.base == second
    assert problems(bench.store) == []
    for number, (backup, contents) in enumerate(((first, wanted), (second, disk.contents), (third.id, disk.contents))):
        restore_image(bench.reopened(), backup, tmp_path / f"out{number}", progress=Silent())
        assert (tmp_path / f"out{number}").read_bytes() == contents


@pytest.mark.parametrize("layout", ["one file", "segments"])
def test_a_repaired_image_never_looks_whole(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    """Marked in the list, refused by whatever restores, verified as damaged, and no base of any later backup."""
    disk = _disk(tmp_path, monkeypatch, layout)
    backups = Backups(bench.repository, disk)
    first = backups.run(chunk=256 << 10).id
    lose(bench.store, BlobKind.DATA, sha256(disk.contents[2 * M : 2 * M + (256 << 10)]).digest())
    (found,) = repaired(bench.store, forget=True).backups
    new, said = found.new, f"bytes {2 * M} to {2 * M + (256 << 10) - 1} are lost: {image_layout.LOST}"
    assert new is not None
    assert [problem.what for problem in found.lost] == [said]
    assert problems(bench.store) == []
    bench.reopened()
    assert [item.incomplete for item in listed(bench.repository)] == [True]
    out = tmp_path / "out"
    with pytest.raises(PartlyRestored, match="are lost: the repository had lost them") as caught:
        restore_image(bench.repository, new, out, progress=Silent())
    assert [problem.what for problem in caught.value.result.problems] == [said]
    zeroed = bytearray(disk.contents)
    zeroed[2 * M : 2 * M + (256 << 10)] = bytes(256 << 10)
    assert out.read_bytes() == zeroed
    assert [problem.what for problem in verify(bench.repository, new, Silent()).problems] == [said]
    with pytest.raises(Damaged, match=f"piece at byte {2 * M} is lost"):
        list(reading.cat(loaded(bench), new, b"image.img"))
    again = Backups(bench.repository, disk)
    assert backups.base is not None
    again.base = type(backups.base)(id=new, source=backups.base.source)
    later = again.run(chunk=256 << 10, changed=())
    assert later.base is None
    restore_image(bench.reopened(), later.id, tmp_path / "later", progress=Silent())
    assert (tmp_path / "later").read_bytes() == disk.contents
    assert first not in {identity for identity, _ in bench.repository.snapshots()}


def test_what_is_lost_of_a_repaired_image_is_not_forgotten_by_the_next_repair(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole segment's list, then a piece elsewhere, then the manifest itself."""
    disk = _disk(tmp_path, monkeypatch, "segments")
    backup = Backups(bench.repository, disk).run(chunk=256 << 10).id
    loaded(bench)
    start = reading.root(bench.repository, bench.document(backup))
    segment = list(image_layout.StoredImage(bench.repository, start.subtree, start.meta).segments())[2]
    lose(bench.store, BlobKind.TREE, bytes.fromhex(segment.tree))
    (once,) = repaired(bench.store, forget=True).backups
    assert [problem.what.split(":")[0] for problem in once.lost] == [f"bytes {2 * M} to {3 * M - 1} are lost"]
    lose(bench.store, BlobKind.DATA, sha256(disk.contents[M : M + (256 << 10)]).digest())
    (twice,) = repaired(bench.store, forget=True).backups
    assert [problem.what.split(":")[0] for problem in twice.lost] == [
        f"bytes {M} to {M + (256 << 10) - 1} are lost", f"bytes {2 * M} to {3 * M - 1} are lost",
    ]  # fmt: skip
    assert twice.new is not None
    bench.reopened()
    assert bench.document(twice.new).original == backup
    loaded(bench)
    top = {entry.name: entry for entry in reading.load_tree(bench.repository, bench.document(twice.new).tree)}
    lose(bench.store, BlobKind.DATA, bytes.fromhex((top[b"snapvol.json"].content or [])[0]))
    bench.reopened()
    with pytest.raises(Damaged, match="which pieces of the image are lost is not known any more"):
        restore_image(bench.repository, twice.new, tmp_path / "out", progress=Silent())
    (hopeless,) = repaired(bench.store).backups
    assert (hopeless.new, hopeless.forgotten) == (None, False)
