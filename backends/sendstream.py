"""The stream that `btrfs send` writes, command by command: its frame is checked here, its meaning in `sendchanges`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import IntEnum
from struct import Struct as Layout
from struct import error as LayoutError
from typing import IO

import google_crc32c
from msgspec import Struct

from snapvol.errors import StorageFailed

_MAGIC = b"btrfs-stream\0"
_VERSION = Layout("<I")
_COMMAND = Layout("<IHI")  # bytes of attributes, number, CRC of both with this field zero
_ATTRIBUTE = Layout("<HH")  # number, bytes
_NUMBER = Layout("<Q")
_KNOWN = (1, 2)
_LARGEST = 64 << 20  # bytes of a command; without data they have a path or two
_ONES = 0xFFFFFFFF


class Verb(IntEnum):
    """What a command does."""

    SUBVOLUME = 1
    SNAPSHOT = 2
    MAKE_FILE = 3
    MAKE_DIRECTORY = 4
    MAKE_NODE = 5
    MAKE_FIFO = 6
    MAKE_SOCKET = 7
    SYMLINK = 8
    RENAME = 9
    LINK = 10
    UNLINK = 11
    REMOVE_DIRECTORY = 12
    SET_ATTRIBUTE = 13
    REMOVE_ATTRIBUTE = 14
    WRITE = 15
    CLONE = 16
    TRUNCATE = 17
    CHANGE_MODE = 18
    CHANGE_OWNER = 19
    TIMES = 20
    END = 21
    UPDATE_EXTENT = 22
    ALLOCATE = 23
    FLAGS = 24
    ENCODED_WRITE = 25
    VERITY = 26


class Field(IntEnum):
    """The attributes of commands that matter here."""

    UUID = 1
    SIZE = 4
    PATH = 15
    PATH_TO = 16
    PATH_LINK = 17
    OFFSET = 18
    DATA = 19
    BASE_UUID = 20
    CLONE_LENGTH = 24
    UNENCODED_LENGTH = 27


class Unknown(Exception):
    """The stream has something that is not understood: what it tells is not known, and nothing of it is a guess."""


class Command(Struct, frozen=True):
    """One command.

    Attributes:
        verb: what it does.
        fields: its attributes by their numbers, as they are.
    """

    verb: Verb
    fields: Mapping[int, bytes]

    def text(self, field: Field) -> bytes:
        """Return an attribute that must be there.

        Raises:
            Unknown: it is not.
        """
        try:
            return self.fields[field]
        except KeyError:
            raise Unknown(f"its command '{self.verb.name}' has no {field.name}") from None

    def number(self, field: Field) -> int:
        """Return an attribute that is a number.

        Raises:
            Unknown: it is none.
        """
        try:
            return int(_NUMBER.unpack(self.text(field))[0])
        except LayoutError:
            raise Unknown(f"in its command '{self.verb.name}', {field.name} is no number") from None


def commands(stream: IO[bytes]) -> Iterator[Command]:
    """Yield the commands of one subvolume, up to its end.

    Args:
        stream: positioned at its first byte.

    Raises:
        StorageFailed: it ends early, is damaged, or goes on after its end.
        Unknown: it is of a later version, or has a command that no version up to now has.
    """
    if _exactly(stream, len(_MAGIC)) != _MAGIC:
        raise StorageFailed("what btrfs sends is no stream of changes")
    (version,) = _VERSION.unpack(_exactly(stream, _VERSION.size))
    if version not in _KNOWN:
        raise Unknown(f"it is of version {version}")
    while True:
        command = _command(stream, version)
        yield command
        if command.verb is Verb.END:
            break
    if stream.read(1):
        raise StorageFailed("the stream of changes goes on after its end")


def _command(stream: IO[bytes], version: int) -> Command:
    head = _exactly(stream, _COMMAND.size)
    length, number, said = _COMMAND.unpack(head)
    if length > _LARGEST:
        raise StorageFailed(f"the stream of changes has a command of {length} bytes")
    body = _exactly(stream, length)
    # The kernel's CRC-32C begins with zero and is not inverted; the library's is both.
    found = google_crc32c.extend(google_crc32c.extend(_ONES, _COMMAND.pack(length, number, 0)), body) ^ _ONES
    if found != said:
        raise StorageFailed("the stream of changes is damaged: a command has another checksum")
    try:
        verb = Verb(number)
    except ValueError:
        raise Unknown(f"it has a command {number}") from None
    return Command(verb, dict(_fields(body, version)))


def _fields(body: bytes, version: int) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(body):
        try:
            if version > 1 and int.from_bytes(body[at : at + 2], "little") == Field.DATA:
                # Since version 2 it comes last and has no length: it may be larger than the field for that can say.
                yield Field.DATA, body[at + 2 :]
                return
            number, length = _ATTRIBUTE.unpack_from(body, at)
        except LayoutError:
            raise StorageFailed("the stream of changes is damaged: an attribute is cut short") from None
        at += _ATTRIBUTE.size
        if at + length > len(body):
            raise StorageFailed("the stream of changes is damaged: an attribute is longer than its command")
        yield number, body[at : at + length]
        at += length


def _exactly(stream: IO[bytes], length: int) -> bytes:
    data = stream.read(length)
    if len(data) != length:
        raise StorageFailed("the stream of changes ends early")
    return data
