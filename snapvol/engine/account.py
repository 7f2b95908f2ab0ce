"""What a backup of a tree has gone through: its figures, its problems, and the news for whoever waits."""

from __future__ import annotations

from collections.abc import Mapping

from snapvol.engine.node import Kind, Node
from snapvol.engine.progress import Problem, Progress, shown
from snapvol.engine.reading import load_tree
from snapvol.repository import Repository

_REPORT_FILES = 64
_REPORT_BYTES = 4 << 20


class Account:
    """The figures of one backup.

    Where unchanged directories are taken from an earlier backup without a look, the figures begin with that backup's,
    and what is replaced or gone is taken off.

    Attributes:
        files: entries other than directories.
        dirs: directories.
        regular: files in the strict sense, of which there are new, changed and unmodified ones.
        new: those that the earlier backup does not have.
        changed: those that differ from the earlier backup's, or had to be read to know.
        bytes_total: the sizes of all files.
        bytes_read: of files, read.
        bytes_checked: of these, only to see whether they are what they are said to be.
        problems: what is missing from the backup.
    """

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.problems: list[Problem] = []
        self.files = self.dirs = self.regular = self.new = self.changed = 0
        self.bytes_total = self.bytes_read = self.bytes_checked = 0
        self._unreported = [0, 0]

    @property
    def unmodified(self) -> int:
        """Files that were taken from the earlier backup without reading."""
        return self.regular - self.new - self.changed

    def begin_with(self, summary: Mapping[str, object]) -> bool:
        """Begin with the figures of an earlier backup; return whether it has them all."""
        keys = ("files_new", "files_changed", "files_unmodified", *_TOTALS)
        figures = [figure for key in keys if isinstance(figure := summary.get(key), int)]
        if len(figures) < len(keys):
            return False
        self.regular = sum(figures[:3])
        self.files, self.bytes_total, self.dirs = figures[3:]
        return True

    def summary(self) -> dict[str, object]:
        """Return the figures as a snapshot document has them."""
        return {
            "files_new": self.new,
            "files_changed": self.changed,
            "files_unmodified": self.unmodified,
            **dict(zip(_TOTALS, (self.files, self.bytes_total, self.dirs), strict=True)),
        }

    def take_off(self, repository: Repository, entry: Node) -> None:
        """Leave out what the earlier backup has and this one has not, with all that is in it.

        Raises:
            NotFound: a directory in it is lost.
            Damaged: likewise.
        """
        waiting = [entry]
        while waiting:
            gone = waiting.pop()
            if gone.type == Kind.DIRECTORY:
                self.dirs -= 1
                waiting += load_tree(repository, gone.subtree) if gone.subtree is not None else []
                continue
            self.files -= 1
            if gone.type == Kind.FILE:
                self.regular -= 1
                self.bytes_total -= gone.size

    def problem(self, path: bytes, what: str) -> None:
        """Note that something at ``path`` is missing from the backup."""
        place = shown(path) or "/"
        self.problems.append(Problem(place, what))
        self.progress.note(place, what)

    def report(self, *, bytes: int = 0, files: int = 0, force: bool = False) -> None:
        """Tell whoever waits what has been done, now or later."""
        waiting = self._unreported
        waiting[0] += bytes
        waiting[1] += files
        if waiting[0] >= _REPORT_BYTES or waiting[1] >= _REPORT_FILES or force:
            self.progress.advance(waiting[0], waiting[1])
            self._unreported = [0, 0]
            self.progress.cancelled()


_TOTALS = ("total_files_processed", "total_bytes_processed", "total_dirs_processed")
