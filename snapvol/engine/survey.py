"""How much there is to do, before it is done."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from snapvol.engine.progress import Progress
from snapvol.repository import SnapshotDocument


def announce(progress: Progress, root: Path, before: SnapshotDocument | None) -> None:
    """Say how many files and bytes a backup will go through: as many as the last, or those that a quick look finds.

    A look takes two microseconds a file, a fiftieth of a first backup; it would be most of a later one.
    """
    summary = (before.summary if before is not None else None) or {}
    files, size = summary.get("total_files_processed"), summary.get("total_bytes_processed")
    if isinstance(files, int) and isinstance(size, int):
        progress.total(files, size)
    else:
        progress.total(*_measure(root, progress))


def _measure(root: Path, progress: Progress) -> tuple[int, int]:
    """Return the number of entries and the bytes of the files. What cannot be read here, the backup itself reports."""
    files = size = 0
    waiting = [os.fsencode(root)]
    while waiting:
        with suppress(OSError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                    continue
                files += 1
                if entry.is_file(follow_symlinks=False):
                    size += entry.stat(follow_symlinks=False).st_size
        progress.cancelled()
    return files, size
