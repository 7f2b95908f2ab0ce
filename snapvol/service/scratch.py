"""Room for the images of restores whose files are copied out of them: ``ROOT/tmp/JOB``, gone with the job."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from snapvol.errors import NoSpace, StorageFailed

log = logging.getLogger(__name__)

_SPARE = 64 << 20


class Scratch:
    """The directory for temporary files of jobs.

    Args:
        root: the daemon's directory.
    """

    def __init__(self, root: Path) -> None:
        self.directory = root / "tmp"

    @contextmanager
    def made(self, job: str, needed: int) -> Iterator[Path]:
        """Give an empty directory while the context lasts.

        Args:
            job: for whom.
            needed: bytes that will be written into it.

        Raises:
            NoSpace: there is no room for them.
            StorageFailed: it cannot be made.
        """
        place = self.directory / job
        try:
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
            facts = os.statvfs(place)
        except OSError as error:
            raise StorageFailed(f"{place} cannot be made: {error.strerror}") from error
        try:
            free = facts.f_bavail * facts.f_frsize
            if free < needed + _SPARE:
                raise NoSpace(
                    f"{self.directory} has {free >> 20} MiB free, the image that is restored there takes "
                    f"{needed >> 20} MiB for a while",
                    "free space there, or restore into a pool on LVM, which takes the image as it is",
                )
            yield place
        finally:
            self.remove(place)

    def remove(self, place: Path) -> None:
        """Remove what a job has left: a file and an empty directory on which nothing is mounted here. Never raises."""
        try:
            for entry in list(place.iterdir()):
                if entry.is_dir() and not entry.is_symlink():
                    entry.rmdir()  # never what is in it: somebody may have mounted something there (T9)
                else:
                    entry.unlink()
            place.rmdir()
        except OSError as error:
            log.warning("%s, which a restore has left, cannot be removed: %s", place, error)

    def clean(self) -> None:
        """Remove what jobs of an earlier daemon have left; the kernel has ended their workers with it."""
        for place in self.left():
            self.remove(place)

    def left(self) -> list[Path]:
        """Return the directories of jobs, running or not."""
        with suppress(OSError):
            return sorted(self.directory.iterdir())
        return []
