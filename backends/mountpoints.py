"""Where the volumes of one pool are mounted: ``ROOT/mounts/POOL/NAME``, and private places beside them.

What is mounted is what the kernel says. A directory is made for its mount and removed with it, so that nothing can be
written into the root file system where a volume is expected (T7); nothing in such a directory is ever removed (T9).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from snapvol import mountinfo
from snapvol.backends import mounting
from snapvol.backends.failures import explained
from snapvol.errors import StorageFailed
from snapvol.model import new_id
from snapvol.mountinfo import Mount
from snapvol.names import volume_name

log = logging.getLogger(__name__)

PRIVATE = ".private"
SNAPSHOTS = ".snapshots"
_LAYERS = 16


class Mountpoints:
    """The mountpoints of one pool.

    Args:
        pool: the pool's name.
        root: the daemon's directory.
    """

    def __init__(self, pool: str, root: Path) -> None:
        self.directory = root / "mounts" / volume_name(pool)

    def of(self, name: str) -> Path:
        """Return where the volume ``name`` is, or would be, mounted. Checks the name once more (T5)."""
        return self.directory / volume_name(name)

    def found(self, point: Path, mounts: Sequence[Mount] | None = None) -> Mount | None:
        """Return what is mounted at ``point``, by the kernel's account; the uppermost where there are several.

        Args:
            point: one of this pool's.
            mounts: this process's mounts, where they were read already.
        """
        place = PurePosixPath(os.path.realpath(point.parent)) / point.name
        listed = mountinfo.own() if mounts is None else mounts
        there = [mount for mount in listed if mount.mountpoint == place]
        covered = {mount.parent for mount in there}
        return next((mount for mount in there if mount.id not in covered), None)

    def mount(
        self, point: Path, source: str, filesystem: str, options: Sequence[str] = (), *, device: str | None = None
    ) -> None:
        """Mount ``source`` at ``point``; does nothing where it is mounted there already.

        Args:
            point: one of this pool's; made where it is missing.
            source: a block device or a dataset.
            filesystem: its type.
            options: as for mount(8).
            device: the ``MAJOR:MINOR`` by which to tell whether it is mounted already; by ``source`` where None.

        Raises:
            StorageFailed: the kernel refuses; nothing is mounted there.
        """
        found = self.found(point)
        if found is not None and (found.device == device if device else found.source == source):
            return
        with explained(f"{source} cannot be mounted at {point}"):
            if found is not None:
                log.warning("%s: %s, which is mounted there, makes way", point, found.source)
                self.unmount(point)
            self._make(point)
            try:
                with mounting.detached(source, filesystem, options) as descriptor:
                    mounting.attach(descriptor, point)
            except OSError:
                _remove(point)
                raise

    def unmount(self, point: Path) -> None:
        """Unmount what is mounted at ``point``, lazily where it is busy, and remove the directory.

        Raises:
            StorageFailed: the kernel refuses.
        """
        for _ in range(_LAYERS):
            if not mounting.detach(point):
                break
        else:
            raise StorageFailed(f"{point} is still mounted after {_LAYERS} unmounts", f"look at: findmnt {point}")
        _remove(point)

    @contextmanager
    def borrowed(
        self, source: str, filesystem: str, options: Sequence[str] = (), *, kind: str = PRIVATE
    ) -> Iterator[Path]:
        """Mount ``source`` at a place of its own while the context lasts, for this process and those that it starts.

        Args:
            source: a block device or a dataset.
            filesystem: its type.
            options: as for mount(8).
            kind: `SNAPSHOTS` or `PRIVATE`: the directory in which the place is made.

        Raises:
            StorageFailed: it cannot be mounted.
        """
        point = self.directory / kind / new_id()
        self.mount(point, source, filesystem, options)
        try:
            yield point
        finally:
            self.unmount(point)

    def recover(self) -> None:
        """Unmount what killed processes had borrowed, and remove the directories on which nothing is mounted.

        Mounted volumes stay mounted; everything in a directory whose name begins with a dot was borrowed or staged.
        """
        mounts = mountinfo.own()
        for directory in _entries(self.directory):
            if directory.name.startswith("."):  # no volume's name does
                for point in _entries(directory):
                    try:
                        self.unmount(point)
                    except StorageFailed as error:
                        log.warning("%s", error)
                _remove(directory)
            elif self.found(directory, mounts) is None:
                _remove(directory)

    def _make(self, point: Path) -> None:
        # 0700: nobody but root gets at what containers left there with the set-user-id bit.
        os.makedirs(point.parent, mode=0o700, exist_ok=True)
        with suppress(FileExistsError):
            os.mkdir(point, 0o700)


def _entries(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir())
    except FileNotFoundError:
        return []


def _remove(point: Path) -> None:
    """Remove an empty directory; one into which somebody has written stays, and is told."""
    try:
        os.rmdir(point)
    except FileNotFoundError:
        return
    except OSError as error:
        log.warning("%s, where nothing is mounted, cannot be removed: %s", point, error.strerror)
