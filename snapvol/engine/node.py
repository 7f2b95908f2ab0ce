"""A tree object's entries, to and from the very bytes that stock restic writes."""

from __future__ import annotations

import base64
import stat
from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta, Raw, Struct

from snapvol.engine import gotext
from snapvol.errors import Damaged

Unsigned = Annotated[int, Meta(ge=0)]
Identity = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
ZERO_TIME = "0001-01-01T00:00:00Z"

_GO_DIRECTORY = 1 << 31
_GO_SYMLINK = 1 << 27
_GO_DEVICE = 1 << 26
_GO_FIFO = 1 << 25
_GO_SOCKET = 1 << 24
_GO_SETUID = 1 << 23
_GO_SETGID = 1 << 22
_GO_CHARACTER = 1 << 21
_GO_STICKY = 1 << 20


class Kind(StrEnum):
    """What a node stands for, in restic's words."""

    FILE = "file"
    DIRECTORY = "dir"
    SYMLINK = "symlink"
    BLOCK_DEVICE = "dev"
    CHARACTER_DEVICE = "chardev"
    FIFO = "fifo"
    SOCKET = "socket"


_KINDS = {
    stat.S_IFREG: (Kind.FILE, 0),
    stat.S_IFDIR: (Kind.DIRECTORY, _GO_DIRECTORY),
    stat.S_IFLNK: (Kind.SYMLINK, _GO_SYMLINK),
    stat.S_IFBLK: (Kind.BLOCK_DEVICE, _GO_DEVICE),
    stat.S_IFCHR: (Kind.CHARACTER_DEVICE, _GO_DEVICE | _GO_CHARACTER),
    stat.S_IFIFO: (Kind.FIFO, _GO_FIFO),
    stat.S_IFSOCK: (Kind.SOCKET, _GO_SOCKET),
}
_SPECIAL = tuple(
    (
        (special & stat.S_ISUID and _GO_SETUID)
        | (special & stat.S_ISGID and _GO_SETGID)
        | (special & 0o1000 and _GO_STICKY)
    )
    for special in (bits << 9 for bits in range(8))
)


def kind_and_mode(mode: int) -> tuple[Kind, int]:
    """Return the kind and Go's ``fs.FileMode`` of a ``st_mode``."""
    kind, bits = _KINDS[stat.S_IFMT(mode)]
    return kind, bits | _SPECIAL[mode >> 9 & 7] | mode & 0o777


def time_of(when: datetime) -> str:
    """Return an aware time as nodes have it."""
    return gotext.time(int(when.timestamp() * 1_000_000) * 1000)


def permissions(go_mode: int) -> int:
    """Return the twelve permission bits, as chmod takes them, of Go's ``fs.FileMode``."""
    return (
        go_mode & 0o777
        | (stat.S_ISUID if go_mode & _GO_SETUID else 0)
        | (stat.S_ISGID if go_mode & _GO_SETGID else 0)
        | (stat.S_ISVTX if go_mode & _GO_STICKY else 0)
    )


class Attribute(Struct, frozen=True):
    """An extended attribute."""

    name: str
    value: bytes | None = None


class Node(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One entry of a directory, with its fields in the order in which they are written.

    Attributes:
        quoted: the name as `gotext.quote` writes it; see `name`.
        type: a `Kind`, or what a later restic invents.
        mode: Go's ``fs.FileMode``.
        mtime: RFC 3339; so are ``atime`` and ``ctime``.
        device_id: tells equal inode numbers of several filesystems apart; only needed for hard links.
        size: of a file, in bytes.
        linktarget_raw: a symbolic link's target where it is not UTF-8.
        generic_attributes: what restic keeps of other systems' files, as JSON; empty for nothing.
        device: ``st_rdev``.
        content: hexadecimal blob ids of a file; None for anything else.
        subtree: hexadecimal tree id of a directory.
        error: what restic wrote there of a file that it could not read.
        unknown: fields that are not listed here, as JSON, by name.
    """

    quoted: str = msgspec.field(name="name")
    type: str
    mode: Unsigned = 0
    mtime: str = ZERO_TIME
    atime: str = ZERO_TIME
    ctime: str = ZERO_TIME
    uid: Annotated[int, Meta(ge=0, lt=2**32)] = 0
    gid: Annotated[int, Meta(ge=0, lt=2**32)] = 0
    user: str = ""
    group: str = ""
    inode: Unsigned = 0
    device_id: Unsigned = 0
    size: Unsigned = 0
    links: Unsigned = 0
    linktarget: str = ""
    linktarget_raw: bytes | None = None
    extended_attributes: list[Attribute] | None = None
    generic_attributes: Raw = Raw()
    device: Unsigned = 0
    content: list[Identity] | None = None
    subtree: Identity | None = None
    error: str = ""
    unknown: dict[str, bytes] = msgspec.field(name="(unknown)", default_factory=dict)

    @property
    def name(self) -> bytes:
        """The name's bytes.

        Raises:
            Damaged: what is stored is not a quoted name.
        """
        try:
            return gotext.unquote(self.quoted)
        except ValueError as error:
            raise Damaged(f"a tree holds an entry whose name cannot be read: {error}") from None

    @property
    def target(self) -> bytes:
        """A symbolic link's target."""
        return self.linktarget_raw if self.linktarget_raw is not None else self.linktarget.encode()

    @property
    def mtime_ns(self) -> int:
        """When the contents last changed, in nanoseconds since 1970; 0 where that cannot be read."""
        return _instant(self.mtime)

    @property
    def atime_ns(self) -> int:
        """When it was last read, in nanoseconds since 1970; 0 where that cannot be read."""
        return _instant(self.atime)


def _instant(text: str) -> int:
    try:
        return gotext.nanoseconds(text)
    except ValueError:
        return 0


class _Tree(Struct, frozen=True):
    nodes: list[Node] | None = None


class _LooseTree(Struct, frozen=True):
    nodes: list[dict[str, Raw]] | None = None


_strict = msgspec.json.Decoder(_Tree)
_loose = msgspec.json.Decoder(_LooseTree)
_node = msgspec.json.Decoder(Node)
_FIELDS = frozenset(field.encode_name for field in msgspec.structs.fields(Node)) - {"(unknown)"}


def _attributes(attributes: Iterable[Attribute]) -> str:
    return ",".join(
        f'{{"name":{gotext.string(attribute.name)},"value":'
        + ("null" if attribute.value is None else f'"{base64.b64encode(attribute.value).decode()}"')
        + "}"
        for attribute in attributes
    )


def _rare(node: Node) -> str:
    """Return the fields between ``links`` and ``content``, which few files have."""
    text = ""
    if node.linktarget or node.linktarget_raw:
        raw = node.linktarget_raw
        target = node.linktarget if raw is None else raw.decode("utf-8", "surrogateescape")
        text = f',"linktarget":{gotext.string(target)}'
        if raw is not None:
            text += f',"linktarget_raw":"{base64.b64encode(raw).decode()}"'
    if node.extended_attributes:
        text += f',"extended_attributes":[{_attributes(node.extended_attributes)}]'
    if generic := bytes(node.generic_attributes):
        text += f',"generic_attributes":{generic.decode()}'
    if node.device:
        text += f',"device":{node.device}'
    return text


def encode(node: Node) -> bytes:
    """Return the node's JSON as Go's ``encoding/json`` writes it; fields that restic omits when empty are omitted."""
    content = node.content
    listed = "null" if content is None else '["' + '","'.join(content) + '"]' if content else "[]"
    text = (
        f'{{"name":{gotext.string(node.quoted)},"type":{gotext.string(node.type)}'
        f"{f',{chr(34)}mode{chr(34)}:{node.mode}' if node.mode else ''}"
        f',"mtime":"{node.mtime}","atime":"{node.atime}","ctime":"{node.ctime}","uid":{node.uid},"gid":{node.gid}'
    )
    if node.user:
        text += f',"user":{gotext.string(node.user)}'
    if node.group:
        text += f',"group":{gotext.string(node.group)}'
    for key, number in (
        ("inode", node.inode),
        ("device_id", node.device_id),
        ("size", node.size),
        ("links", node.links),
    ):
        if number:
            text += f',"{key}":{number}'
    text += f'{_rare(node)},"content":{listed}'
    if node.subtree is not None:
        text += f',"subtree":"{node.subtree}"'
    if node.error:
        text += f',"error":{gotext.string(node.error)}'
    for key, value in node.unknown.items():
        text += f",{gotext.string(key)}:{value.decode()}"
    return (text + "}").encode()


def encode_tree(nodes: Iterable[bytes]) -> bytes:
    """Return a tree object of nodes that are encoded already and sorted by the bytes of their names."""
    return b'{"nodes":[' + b",".join(nodes) + b"]}\n"


def decode_tree(data: bytes) -> list[Node]:
    """Return the nodes of a tree object.

    Raises:
        Damaged: it is not one.
    """
    try:
        return _strict.decode(data).nodes or []
    except msgspec.ValidationError:
        pass
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Damaged(f"a tree object cannot be read: {error}") from None
    try:
        return [_with_unknown(fields) for fields in _loose.decode(data).nodes or ()]
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Damaged(f"a tree object cannot be read: {error}") from None


def _with_unknown(fields: dict[str, Raw]) -> Node:
    unknown = {key: bytes(value) for key, value in fields.items() if key not in _FIELDS}
    known = {key: value for key, value in fields.items() if key in _FIELDS}
    return msgspec.structs.replace(_node.decode(msgspec.json.encode(known)), unknown=unknown)
