"""Running `zfs` and `zpool`: tab-separated output into typed rows, what they say into snapvol's errors."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence

from msgspec import Struct

from snapvol import shell
from snapvol.errors import (
    AlreadyExists,
    InUse,
    NoSpace,
    PoolUnavailable,
    Refused,
    SnapvolError,
    StorageFailed,
    ToolFailed,
)

# Reading is a matter of milliseconds, unless the pool hangs; then somebody should hear of it.
READING = 60.0
_PAUSES = (0.1, 0.2, 0.4, 0.8)
_LONGEST_WORD = 100_000  # bytes; Linux allows 128 KiB for one word of a command


class Value(Struct, frozen=True):
    """A property of a dataset or snapshot.

    Attributes:
        text: as ``-p`` prints it; ``-`` where there is none.
        source: ``local``, ``received``, ``default``, ``inherited from …``, ``temporary`` or ``-``.
    """

    text: str
    source: str

    @property
    def own(self) -> str | None:
        """The text where it was set right there, here or where it was received from; None where it is inherited."""
        return self.text if self.source in ("local", "received") else None

    @property
    def number(self) -> int:
        """The text as a number; 0 for ``-`` and ``none``."""
        return int(self.text) if self.text.isdigit() else 0


Rows = dict[str, dict[str, Value]]  # by name, then by property


class Tool:
    """The two programs, for one pool.

    Attributes:
        descriptor: the pool's claim; whatever changes the storage is started with it.
        changes: how many changes have begun, and how many have ended: two equal numbers mean that nothing has come
            to pass between them.
    """

    def __init__(self) -> None:
        self.descriptor: int | None = None
        self.changes = 0
        self._counting = threading.Lock()

    def change(self, what: str, *arguments: str) -> None:
        """Run `zfs` with arguments that change something; waits a little for what is still busy.

        Args:
            what: what cannot be done if it fails, for the message.
            arguments: the subcommand and its arguments; names come from `zfs` itself or from `zfsnames`.

        Raises:
            SnapvolError: as `explained` has it.
        """
        self._count()
        try:
            self._run(what, arguments)
        finally:
            self._count()

    def _count(self) -> None:
        with self._counting:
            self.changes += 1

    def _run(self, what: str, arguments: Sequence[str]) -> None:
        for pause in (*_PAUSES, None):
            try:
                shell.run("zfs", *arguments, descriptor=self.descriptor)
                return
            except (ToolFailed, NoSpace) as error:
                failure = explained(what, error)
                # The kernel lets go of a file system shortly after it was unmounted.
                if pause is None or not isinstance(failure, InUse):
                    raise failure from error
            time.sleep(pause)

    def get(
        self,
        properties: Sequence[str],
        targets: Sequence[str],
        *,
        kinds: str = "filesystem,volume",
        depth: int | None = None,
    ) -> Rows:
        """Return properties of datasets and snapshots, in the order in which `zfs` lists them.

        Args:
            properties: their names.
            targets: of what.
            kinds: what to list, as ``-t`` takes it.
            depth: how far below the targets, as ``-d`` takes it; None for the targets alone.

        Raises:
            ToolFailed: also where one of the targets does not exist.
        """
        below = [] if depth is None else ["-d", str(depth), "-t", kinds]
        columns = "name,property,value,source"
        text = shell.run("zfs", "get", "-Hp", *below, "-o", columns, ",".join(properties), *targets, seconds=READING)
        return parse(text)

    def holds(self, snapshots: Sequence[str]) -> dict[str, list[str]]:
        """Return the tags that hold each of these snapshots."""
        found: dict[str, list[str]] = {snapshot: [] for snapshot in snapshots}
        if snapshots:
            text = shell.run("zfs", "holds", "-H", *snapshots, seconds=READING)
            for line in text.splitlines():
                name, _, rest = line.partition("\t")
                found.setdefault(name, []).append(rest.rpartition("\t")[0])
        return found

    def sync(self, zpool: str, what: str) -> None:
        """See on the storage what was written to the pool, which brings its counts up to date as well."""
        try:
            shell.run("zpool", "sync", zpool)
        except ToolFailed as error:
            raise explained(what, error) from error


def parse(text: str) -> Rows:
    """Return what `zfs get -Hp -o name,property,value,source` printed.

    A value that somebody has set by hand can hold tabs and newlines: it spoils no other one.
    """
    rows: Rows = {}
    held = ""
    for line in text.split("\n"):
        held = f"{held}\n{line}" if held else line
        words = held.split("\t")
        if len(words) < 4 or not _is_source(words[-1]):
            continue
        rows.setdefault(words[0], {})[words[1]] = Value("\t".join(words[2:-1]), words[-1])
        held = ""
    return rows


def _is_source(word: str) -> bool:
    return word in ("-", "local", "default", "received", "temporary") or word.startswith("inherited from ")


def pairs(properties: Mapping[str, str]) -> list[str]:
    """Return properties as words of `zfs create`, `zfs clone` and `zfs snapshot`."""
    return [word for name, value in properties.items() for word in ("-o", f"{name}={value}")]


def batches(dataset: str, leaves: Sequence[str]) -> list[str]:
    """Return words that name many snapshots of one dataset: ``DATASET@a,b,c``, each as long as a word may be."""
    words: list[str] = []
    for leaf in leaves:
        if words and len(words[-1]) + len(leaf) < _LONGEST_WORD:
            words[-1] += f",{leaf}"
        else:
            words.append(f"{dataset}@{leaf}")
    return words


def explained(what: str, error: ToolFailed | NoSpace) -> SnapvolError:
    """Return what a failure of the two programs means to the person who asked.

    They have no other way of telling than their messages, which the fixed locale keeps from being translated.

    Args:
        what: what could not be done.
        error: how the program ended.
    """
    if isinstance(error, NoSpace):
        return NoSpace(f"{what}: {error.message}", error.hint)
    said = " ".join(error.stderr.split())
    message = f"{what}: {said or error.message}"
    for words, kind, hint in _MEANINGS:
        if any(word in said for word in words):
            return kind(message, hint)
    return StorageFailed(message, error.hint)


def absent(error: ToolFailed) -> bool:
    """Return whether the program said that what it was asked about does not exist."""
    return any(words in error.stderr for words in ("does not exist", "no such pool", "could not find any snapshots"))


_MEANINGS: tuple[tuple[tuple[str, ...], type[SnapvolError], str], ...] = (
    (("out of space", "quota exceeded", "quota is"), NoSpace, "free space in the pool or raise the size"),
    (("currently suspended",), PoolUnavailable, "mend the disks, then: zpool clear POOL; see: zpool status -v"),
    (("is read-only", "read only", "Read-only"), PoolUnavailable, "import it for writing; see: zpool status"),
    (("already exists",), AlreadyExists, "choose another name, or see: zfs list"),
    (("less than current used",), Refused, "give it a larger size"),
    (("is busy",), InUse, "something has it mounted or reads it; see: findmnt -t zfs, zfs holds"),
)
