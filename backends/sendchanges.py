"""From what `btrfs send` would have a receiver do, to the paths that differ when it is done.

The commands change names one by one, some only for a while (``o257-8-0``), and name everything by the path that it has
at that moment. So they are followed on a tree of names that holds what they touch, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from uuid import UUID

from msgspec import Struct

from snapvol.backend import Range
from snapvol.backends.sendstream import Command, Field, Unknown, Verb

MOST = 100_000  # names; with more, looking at everything costs no more, and takes no memory


class Entry:
    """Something that a command touched, or that is on the way to it.

    Attributes:
        base: its path in the base; None where it was made since.
        below: by name, what commands touched in it; None where they took the name away.
        touched: more than the way to something.
        ranges: of its contents that may differ.
    """

    __slots__ = ("base", "below", "ranges", "touched")

    def __init__(self, base: bytes | None) -> None:
        self.base = base
        self.below: dict[bytes, Entry | None] = {}
        self.touched = False
        self.ranges: list[Range] = []


class Found(Struct, frozen=True):
    """A path at the end.

    Attributes:
        path: relative to the root.
        entry: what is there; None where nothing is, or where a name was used for a while.
        moved: the base had it elsewhere, or not at all.
        inside: it is in a directory that was moved.
    """

    path: bytes
    entry: Entry | None
    moved: bool
    inside: bool


class Names:
    """The tree of names.

    Args:
        snapshot: the UUID of the subvolume that is sent.
        base: the UUID of the one that it is compared with.
    """

    def __init__(self, snapshot: str, base: str) -> None:
        self._snapshot = UUID(snapshot).bytes
        self._base = UUID(base).bytes
        self._root = Entry(b"")
        self._count = 0
        self._begun = False

    def follow(self, commands: Iterable[Command]) -> None:
        """Do what the commands say.

        Raises:
            Unknown: they cannot be followed.
        """
        for command in commands:
            if self._begun is (command.verb is Verb.SNAPSHOT):
                raise Unknown("it is not the changes of one snapshot since another")
            _DOES[command.verb](self, command)
            if self._count > MOST:
                raise Unknown(f"it touches more than {MOST} names")

    def found(self) -> Iterator[Found]:
        """Yield what was touched or lost its name, directories before what is in them."""
        waiting = [Found(b"", self._root, moved=False, inside=False)]
        while waiting:
            here = waiting.pop()
            if here.entry is None or here.entry.touched or here.moved:
                yield here
            if here.entry is None:
                continue
            for name, entry in here.entry.below.items():
                path = here.path + b"/" + name if here.path else name
                inside = here.moved or here.inside
                waiting.append(Found(path, entry, moved=entry is not None and entry.base != path, inside=inside))

    # -- names ----------------------------------------------------------------------------------------------------

    def _at(self, path: bytes) -> Entry:
        entry = self._root
        for name in path.split(b"/") if path else ():
            below = entry.below.get(name)
            if below is None:
                if name in entry.below or entry.base is None:
                    raise Unknown(f"it names {path!r}, which is not there at that moment")
                below = self._enter(entry, name, Entry(entry.base + b"/" + name if entry.base else name))
            entry = below
        return entry

    def _enter(self, directory: Entry, name: bytes, entry: Entry) -> Entry:
        if name in (b"", b".", b".."):
            raise Unknown("it has a path with an empty name")
        self._count += name not in directory.below
        directory.below[name] = entry
        return entry

    def _put(self, path: bytes, entry: Entry) -> None:
        above, _, name = path.rpartition(b"/")
        self._enter(self._at(above), name, entry)

    def _take(self, path: bytes) -> Entry:
        entry = self._at(path)
        above, _, name = path.rpartition(b"/")
        if not name:
            raise Unknown("it takes the root away")
        self._at(above).below[name] = None
        return entry

    # -- commands -------------------------------------------------------------------------------------------------

    def _begin(self, command: Command) -> None:
        if command.text(Field.UUID) != self._snapshot or command.text(Field.BASE_UUID) != self._base:
            raise Unknown("it is of other snapshots")
        self._begun = True

    def _make(self, command: Command) -> None:
        self._put(command.text(Field.PATH), Entry(None))

    def _rename(self, command: Command) -> None:
        self._put(command.text(Field.PATH_TO), self._take(command.text(Field.PATH)))

    def _link(self, command: Command) -> None:
        self._put(command.text(Field.PATH), self._at(command.text(Field.PATH_LINK)))

    def _remove(self, command: Command) -> None:
        self._take(command.text(Field.PATH))

    def _touch(self, command: Command) -> None:
        self._at(command.text(Field.PATH)).touched = True

    def _end(self, command: Command) -> None:
        """Nothing follows: see `sendstream.commands`."""


def _changes_range(length: Callable[[Command], int]) -> Callable[[Names, Command], None]:
    def change(names: Names, command: Command) -> None:
        entry = names._at(command.text(Field.PATH))
        entry.touched = True
        entry.ranges.append((command.number(Field.OFFSET), length(command)))

    return change


_DOES: dict[Verb, Callable[[Names, Command], None]] = {
    Verb.SUBVOLUME: Names._begin,  # which has no base, and so is not understood
    Verb.SNAPSHOT: Names._begin,
    **dict.fromkeys(
        (
            Verb.MAKE_FILE,
            Verb.MAKE_DIRECTORY,
            Verb.MAKE_NODE,
            Verb.MAKE_FIFO,
            Verb.MAKE_SOCKET,
            Verb.SYMLINK,
        ),
        Names._make,
    ),
    Verb.RENAME: Names._rename,
    Verb.LINK: Names._link,
    Verb.UNLINK: Names._remove,
    Verb.REMOVE_DIRECTORY: Names._remove,
    **dict.fromkeys(
        (
            Verb.SET_ATTRIBUTE,
            Verb.REMOVE_ATTRIBUTE,
            Verb.CHANGE_MODE,
            Verb.CHANGE_OWNER,
            Verb.TIMES,
            Verb.FLAGS,
            Verb.VERITY,
            Verb.TRUNCATE,  # what that changes is what both sizes say
        ),
        Names._touch,
    ),
    Verb.UPDATE_EXTENT: _changes_range(lambda command: command.number(Field.SIZE)),
    Verb.ALLOCATE: _changes_range(lambda command: command.number(Field.SIZE)),
    Verb.WRITE: _changes_range(lambda command: len(command.text(Field.DATA))),
    Verb.CLONE: _changes_range(lambda command: command.number(Field.CLONE_LENGTH)),
    Verb.ENCODED_WRITE: _changes_range(lambda command: command.number(Field.UNENCODED_LENGTH)),
    Verb.END: Names._end,
}
