"""Proof that what is said to be unchanged is: a random part of it is looked at and read again."""

from __future__ import annotations

import os
import random
import stat
from collections.abc import Iterable, Sequence
from hashlib import sha256

import msgspec
from msgspec import Struct

from snapvol.backend import Tree
from snapvol.engine.account import Account
from snapvol.engine.descent import Descent, member
from snapvol.engine.manifest import VolumeMeta
from snapvol.engine.metadata import Recorder, attributes
from snapvol.engine.node import Kind, Node
from snapvol.engine.parent import Unusable
from snapvol.engine.pieces import Piece, pieces
from snapvol.engine.progress import shown
from snapvol.engine.reading import Unreadable, load_tree
from snapvol.errors import BaseMismatch
from snapvol.repository import Repository

_MOST = 16  # looks at entries that were taken whole, and as many at parts of files
_MOST_BYTES = 8 << 20  # read of either


class _Candidate(Struct, frozen=True):
    """Something that was taken from the earlier backup.

    Attributes:
        names: the way from the root.
        entry: the earlier backup's, where all of it was taken.
        pieces: of a file that was read in part, those that were taken.
    """

    names: tuple[bytes, ...]
    entry: Node | None = None
    pieces: Sequence[Piece] = ()


class _Chosen:
    """Some of all that is offered: each with the same chance, however many there will be."""

    def __init__(self) -> None:
        self._offered = 0
        self._kept: list[_Candidate] = []

    def offer(self, candidate: _Candidate) -> None:
        self._offered += 1
        if len(self._kept) < _MOST:
            self._kept.append(candidate)
        # Not a secret, but no pattern either: the next run looks elsewhere.
        elif (at := random.randrange(self._offered)) < _MOST:
            self._kept[at] = candidate

    def looks(self) -> list[_Candidate]:
        """Return what to look at; of a few candidates, each several times, and elsewhere in it each time."""
        return [*self._kept, *random.choices(self._kept, k=_MOST - len(self._kept))] if self._kept else []


class Sample:
    """Gathers what is taken from an earlier backup without a look, and looks at some of it when the rest is done.

    Args:
        repository: with its index loaded.
        account: is told what was read.
        meta: of the volume.
        base: the earlier backup's full id, for messages.
    """

    def __init__(self, repository: Repository, account: Account, meta: VolumeMeta, base: str) -> None:
        self._repository = repository
        self._account = account
        self._volume = meta.name
        self._taken = int(meta.taken.timestamp() * 1_000_000_000)
        self._base = base
        self._entries = _Chosen()
        self._parts = _Chosen()
        self._left = 0

    def offer(self, names: tuple[bytes, ...], entry: Node) -> None:
        """Note an entry that was taken whole; a directory stands for all that is in it."""
        self._entries.offer(_Candidate(names, entry=entry))

    def offer_pieces(self, names: tuple[bytes, ...], taken: Sequence[Piece]) -> None:
        """Note parts of a file that were not read."""
        self._parts.offer(_Candidate(names, pieces=taken))

    def check(self, tree: Tree, recorder: Recorder) -> None:
        """Look at some of what was offered.

        Raises:
            BaseMismatch: it differs from the earlier backup.
            Unusable: it cannot be compared.
        """
        for chosen in (self._entries, self._parts):
            self._left = _MOST_BYTES
            self._look_at(tree, recorder, chosen.looks())

    def _look_at(self, tree: Tree, recorder: Recorder, candidates: Iterable[_Candidate]) -> None:
        for candidate in candidates:
            try:
                self._look(tree, recorder, candidate)
            except (FileNotFoundError, NotADirectoryError):
                raise self._mismatch(candidate.names, "is not there") from None
            except OSError as error:
                path = shown(b"/".join(candidate.names))
                raise Unusable(f"'{path}' cannot be looked at: {error.strerror}") from error
            except Unreadable as error:
                raise Unusable(error.message) from error
            self._account.progress.cancelled()

    def _look(self, tree: Tree, recorder: Recorder, candidate: _Candidate) -> None:
        *above, name = candidate.names
        with Descent(tree.root) as place:
            for directory in above:
                place.enter(directory)
            entry: Node | None = candidate.entry
            while entry is not None and entry.type == Kind.DIRECTORY:
                entry = self._directory(place, recorder, entry)
            if entry is not None:
                self._same(place, recorder, entry)
                name = entry.name
            if entry is None or entry.type == Kind.FILE:
                self._piece(place, name, candidate.pieces if entry is None else pieces(self._repository, entry))

    def _directory(self, place: Descent, recorder: Recorder, entry: Node) -> Node | None:
        """Compare a directory and go into it; return one of its entries."""
        self._same(place, recorder, entry)
        place.enter(entry.name)
        inside = load_tree(self._repository, entry.subtree or "")
        if sorted(os.fsencode(name) for name in os.listdir(place.fd)) != [below.name for below in inside]:
            raise self._mismatch(place.names, "has other entries than")
        return random.choice(inside) if inside else None

    def _same(self, place: Descent, recorder: Recorder, entry: Node) -> None:
        name = entry.name
        found = os.stat(name, dir_fd=place.fd, follow_symlinks=False)
        extended = attributes(member(place.fd, name))
        if stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode):
            size = found.st_size if stat.S_ISREG(found.st_mode) else 0
            now = recorder.node(name, found, attributes=extended, size=size)
        else:
            now = recorder.special(place.fd, name, found, extended)
        # Times after the snapshot are made up: by btrfs, for the place of a subvolume that a snapshot leaves out.
        # Names of users and groups are this machine's; what is in it is compared for itself.
        if found.st_ctime_ns <= self._taken and _bare(now) != _bare(entry):
            raise self._mismatch((*place.names, name), "differs from")

    def _piece(self, place: Descent, name: bytes, parts: Sequence[Piece] | None) -> None:
        if parts is None:
            raise Unusable("a part of it is not in the repository any more")
        fitting = [piece for piece in parts if piece.length <= self._left]
        if not fitting:
            return
        piece = random.choice(fitting)
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        fd = os.open(name, flags, dir_fd=place.fd)
        try:
            data = os.pread(fd, piece.length, piece.offset)
        finally:
            os.close(fd)
        self._left -= piece.length
        self._account.bytes_read += len(data)
        self._account.bytes_checked += len(data)
        if sha256(data).hexdigest() != piece.blob:
            raise self._mismatch((*place.names, name), f"from byte {piece.offset} on differs from")

    def _mismatch(self, names: Sequence[bytes], how: str) -> BaseMismatch:
        than = "" if how.endswith("there") else f" backup {self._base[:8]}"
        return BaseMismatch(
            f"volume '{self._volume}': '{shown(b'/'.join(names))}' {how}{than}, "
            "though the storage says that nothing has changed there since",
            "its earlier backups may lack changes too",
        )


def _bare(entry: Node) -> Node:
    return msgspec.structs.replace(entry, user="", group="", content=None, subtree=None)
