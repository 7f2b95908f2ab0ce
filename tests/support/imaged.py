"""In-memory pools that behave as LVM and ZFS do: volumes that are mounted, and block devices that are files.

The image of a volume is a tar archive, padded to the volume's size: nothing here needs root. Where a test wants the
image of a real filesystem, it says which file that is (`Imaged.images`).
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from snapvol import units
from snapvol.backend import Features, Image, Option, Range
from snapvol.errors import NotFound, Refused, Unsupported
from snapvol.model import Snapshot, State, Usage, Volume
from snapvol.settings import ROOT
from support.memory import Memory

SIZE = 16 << 20
BLOCK = 64 << 10


class Mounted(Memory):
    """Volumes must be mounted to be seen, and not be when they are changed: a mount is a symbolic link.

    Constructed again for the same place it is the same pool, as storage is for the next daemon.
    """

    kind = "mounted"
    options: ClassVar[tuple[Option, ...]] = (Option(key="mounted.*", help="any word"),)
    _pools: ClassVar[dict[tuple[type[Mounted], str, Path], Mounted]] = {}

    def __new__(cls, pool: str = "memory", settings: object = None, *, root: Path = ROOT) -> Mounted:
        return cls._pools.setdefault((cls, pool, root), super().__new__(cls))

    def __init__(
        self, pool: str = "memory", settings: Mapping[str, object] | None = None, *, root: Path = ROOT
    ) -> None:
        if not hasattr(self, "pool"):
            super().__init__(pool, settings, root=root)
            self._mounts = root / "mounts" / pool

    def mountpoint(self, volume: Volume) -> Path:
        return self._mounts / volume.name

    def is_mounted(self, volume: Volume) -> bool:
        return os.path.lexists(self.mountpoint(volume))

    def mount(self, volume: Volume) -> Path:
        point = self.mountpoint(volume)
        if not self.is_mounted(volume):
            point.parent.mkdir(parents=True, exist_ok=True)
            point.symlink_to(self._data(self._get(volume).id))
        return point

    def unmount(self, volume: Volume) -> None:
        self.mountpoint(volume).unlink(missing_ok=True)

    def sources(self, volume: Volume) -> tuple[str, ...]:
        return (f"memory:{volume.id}",)

    def _idle(self, volume: Volume) -> None:
        assert not self.is_mounted(volume), f"{volume.name} is mounted"

    def rename(self, volume: Volume, name: str) -> Volume:
        self._idle(volume)
        return super().rename(volume, name)

    def trash(self, volume: Volume, when: Any) -> None:
        self._idle(volume)
        super().trash(volume, when)

    def destroy(self, volume: Volume) -> None:
        if volume.deleted is None:
            self._idle(volume)
        super().destroy(volume)

    def rollback(self, volume: Volume, snapshot: Snapshot) -> None:
        self._idle(volume)
        super().rollback(volume, snapshot)

    def adopt_stage(self, volume: Volume) -> None:
        self._idle(volume)
        super().adopt_stage(volume)


class Imaged(Mounted):
    """Volumes are block devices with a filesystem and a size.

    Attributes:
        images: by volume identity, the file that is the image of all its snapshots.
        filesystem: what all images are said to hold.
    """

    kind = "imaged"

    def __init__(
        self, pool: str = "memory", settings: Mapping[str, object] | None = None, *, root: Path = ROOT
    ) -> None:
        fresh = not hasattr(self, "pool")
        super().__init__(pool, settings, root=root)
        if fresh:
            self.limits: dict[str, int] = {}
            self.images: dict[str, Path] = {}
            self.filesystem = "ext4"
            self._sizes: dict[str, int] = {}

    @property
    def features(self) -> Features:
        return Features(
            snapshots=True,
            instant=True,
            quota=True,
            resize=True,
            shared_blocks=True,
            stable_inodes=False,
            filesystems=("ext4", "xfs"),
            backup_kinds=("image", "files"),
            tracked=("image",),
        )

    def create(self, volume: Volume, *, size: int | None = None, source: Snapshot | None = None) -> None:
        super().create(volume, source=source)
        self.limits[volume.id] = size or SIZE

    def resize(self, volume: Volume, size: int) -> None:
        if size < self.limits[volume.id]:
            raise Unsupported(f"volume '{volume.name}' cannot be made smaller")
        self.limits[volume.id] = size

    def usage(self, volume: Volume) -> Usage:
        return Usage(used=super().usage(volume).used, limit=self.limits[volume.id])

    def snapshot(
        self, volumes: Sequence[Volume], name: str, *, message: str = "", made_by: str = "user"
    ) -> Sequence[Snapshot]:
        made = super().snapshot(volumes, name, message=message, made_by=made_by)
        self._sizes.update({snapshot.id: self.limits[snapshot.volume_id] for snapshot in made})
        return made

    # -- images -------------------------------------------------------------------------------------------------

    def _image(self, snapshot: Snapshot) -> Path:
        self._known(snapshot)
        if snapshot.volume_id in self.images:
            return self.images[snapshot.volume_id]
        file = self._root / f"{snapshot.id}.img"
        if not file.exists():
            pack(self._data(snapshot.id), file, self._sizes[snapshot.id])
        return file

    @contextmanager
    def open_image(self, snapshot: Snapshot) -> Iterator[Image]:
        file = self._image(snapshot)
        yield Image(
            device=file,
            size=file.stat().st_size,
            identity=snapshot.id,
            filesystem=self.filesystem,
            mapped=tuple(_joined(offset for offset, block in _blocks(file) if block.strip(b"\0"))),
        )

    def image_changes(self, base: Snapshot, snapshot: Snapshot) -> Sequence[Range] | None:
        old, new = self._image(base), self._image(snapshot)
        if old.stat().st_size != new.stat().st_size:
            return None
        pairs = zip(_blocks(old), _blocks(new), strict=True)
        return tuple(_joined(offset for (offset, before), (_, after) in pairs if before != after))

    def _device(self, volume: Volume) -> Path:
        return self._root / f"{volume.id}.device"

    def stage_image(self, volume: Volume, size: int) -> Path:
        self.discard_stage(volume)
        if size > self._limit(volume):
            raise Refused(f"the image has {size} bytes, volume '{volume.name}' {self._limit(volume)}", "resize it")
        return self._device(volume)

    def _limit(self, volume: Volume) -> int:
        size = volume.options.get("size")
        restoring = volume.state is State.RESTORING
        return units.size(size) if restoring and size is not None else self.limits[volume.id]

    def adopt_stage(self, volume: Volume) -> None:
        device = self._device(volume)
        if device.exists():
            taken = device.rename(device.with_suffix(".taken"))
            unpack(taken, self.stage(volume))
            taken.unlink()
        super().adopt_stage(volume)
        self.limits[volume.id] = self._limit(volume)

    def discard_stage(self, volume: Volume) -> None:
        super().discard_stage(volume)
        self._device(volume).unlink(missing_ok=True)


def pack(tree: Path, file: Path, size: int) -> None:
    """Make the image of a tree: unchanged files stay where they are, as in a filesystem."""
    with tarfile.open(file, "w", format=tarfile.PAX_FORMAT) as archive:
        for path in sorted(tree.rglob("*")):
            archive.add(path, str(path.relative_to(tree)), recursive=False)
    assert file.stat().st_size <= size, f"{tree} does not fit"
    os.truncate(file, size)


def unpack(file: Path, tree: Path) -> None:
    """Make a tree of its image."""
    try:
        with tarfile.open(file, "r:") as archive:
            archive.extractall(tree, filter="fully_trusted")
    except tarfile.TarError as error:
        raise NotFound(f"there is no filesystem in the image: {error}") from error


def _blocks(file: Path) -> Iterator[tuple[int, bytes]]:
    with file.open("rb") as opened:
        offset = 0
        while block := opened.read(BLOCK):
            yield offset, block
            offset += len(block)


def _joined(offsets: Iterator[int]) -> Iterator[Range]:
    begin = end = -1
    for offset in offsets:
        if offset != end:
            if end > begin:
                yield begin, end - begin
            begin = offset
        end = offset + BLOCK
    if end > begin:
        yield begin, end - begin
