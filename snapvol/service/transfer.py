"""How the contents of a backup get into a volume: as files, as an image, or as files copied out of an image.

A backup of files can be restored anywhere. An image goes as it is where the storage makes volumes from images; anywhere
else, and where only a part of it is wanted, it is made in a file, which is mounted where nobody else sees it, and its
files are copied.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from snapvol.backend import Backend
from snapvol.engine.manifest import BackupKind, ImageMeta
from snapvol.errors import Damaged
from snapvol.service import work
from snapvol.service.contents import pinned
from snapvol.service.job import Run
from snapvol.service.library import Found
from snapvol.service.scratch import Scratch


class Transfer:
    """One backup's contents, on the way into a volume.

    Attributes:
        image: what the backup is an image of; None where it is one of files.

    Args:
        run: the job.
        place: the repository.
        found: the backup.
        path: only this, relative to the volume's root; None for all.
        root: the daemon's directory.

    Raises:
        Damaged: it is an image, and what it says of itself is lost.
    """

    def __init__(self, run: Run, place: work.Place, found: Found, path: str | None, root: Path) -> None:
        self._run = run
        self._place = place
        self._found = found
        self._path = path
        self._root = root
        self.image = _image(found)

    def as_image(self, backend: Backend) -> bool:
        """Tell whether the image itself becomes the contents of a volume here: see `Backend.stage_image`."""
        features = backend.features
        return (
            self.image is not None
            and self._path is None
            and BackupKind.IMAGE in features.backup_kinds
            and self.image.filesystem in features.filesystems
        )

    def to_device(self, device: Path) -> dict[str, Any]:
        """Write the image to a device of zeros.

        Raises:
            SnapvolError: as `Run.perform`.
        """
        return self._run.perform(work.RestoreImage(repository=self._place, backup=self._found.backup.id, target=device))

    def to_directory(self, target: Path, *, exact: bool) -> dict[str, Any]:
        """Restore the files.

        Args:
            target: an existing directory; empty, unless ``exact`` or only a path is restored.
            exact: make what is there equal.

        Raises:
            NoSpace: there is no room for the image.
            SnapvolError: as `Run.perform`.
        """
        path = None if self._path is None else self._path.encode()
        with pinned(target):
            if self.image is None:
                return self._run.perform(
                    work.Restore(
                        repository=self._place, backup=self._found.backup.id, target=target, path=path, exact=exact
                    )
                )
            return self._extract(self.image, target, path)

    def _extract(self, image: ImageMeta, target: Path, path: bytes | None) -> dict[str, Any]:
        meta = self._found.meta
        needed = meta.used if meta is not None and meta.used is not None else image.size
        with Scratch(self._root).made(self._run.id, needed) as scratch:
            return self._run.perform(
                work.Extract(
                    repository=self._place,
                    backup=self._found.backup.id,
                    scratch=scratch,
                    filesystem=image.filesystem,
                    mounts=self._root / "mounts",
                    target=target,
                    path=path,
                )
            )


def _image(found: Found) -> ImageMeta | None:
    if found.backup.kind != BackupKind.IMAGE:
        return None
    if found.meta is None or found.meta.image is None:
        raise Damaged(
            f"backup {found.backup.id[:8]} is an image, and what it says of its volume is lost",
            f"write it to a file: snapvol restore {found.backup.id[:8]} --to DIR",
        )
    return found.meta.image
