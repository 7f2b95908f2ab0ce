"""Key files: the master key, sealed with a key that scrypt makes of a password. One file is one password."""

from __future__ import annotations

import base64
import binascii
import getpass
import os
import secrets
import socket
from collections.abc import Iterator
from datetime import datetime
from hashlib import sha256

import msgspec
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from msgspec import Struct

from snapvol.errors import Damaged, NotFound, Refused, RepositoryError, UsageError, WrongPassword
from snapvol.model import now
from snapvol.repository import unpacked
from snapvol.repository.sealing import MasterKey
from snapvol.stores.base import Store

RECOVERY = "recovery"  # the user name of the key whose password `create` prints
_ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"  # nothing that is mistaken for something else when read from paper
_LARGEST_MEMORY = 512 << 20  # bytes that a key file of somebody else may make scrypt take
_LARGEST_FILE = 64 << 10


class Cost(Struct, frozen=True):
    """What trying one password costs: ``128 * n * r`` bytes of memory, ``p`` times the work.

    The default takes 32 MiB and a fifth of a second; it is one of OWASP's equivalents of n = 2^17, p = 1.
    """

    n: int = 1 << 15
    r: int = 8
    p: int = 3


class _KeyFile(Struct, kw_only=True):
    created: datetime
    username: str = ""
    hostname: str = ""
    kdf: str
    N: int
    r: int
    p: int
    salt: str
    data: str


class _MacKey(Struct):
    k: str
    r: str


class _Master(Struct):
    mac: _MacKey
    encrypt: str


class KeyInfo(Struct, frozen=True, kw_only=True):
    """A password of the repository, as far as it can be shown.

    Attributes:
        id: the key file's id.
        created: when.
        username: who made it; ``recovery`` for the one that `create` printed.
        hostname: where.
        in_use: whether this repository was opened with it.
    """

    id: str
    created: datetime
    username: str
    hostname: str
    in_use: bool = False


def recovery_password() -> str:
    """Return a new password with 148 bits of chance, to be written down: six groups of five."""
    return "-".join("".join(secrets.choice(_ALPHABET) for _ in range(5)) for _ in range(6))


def add(store: Store, master: MasterKey, password: str, *, username: str = "", cost: Cost | None = None) -> str:
    """Write a key file that opens ``master`` with ``password``; return its id.

    Raises:
        UsageError: the password is empty.
    """
    if not password:
        raise UsageError("the password is empty", "give one: everything in the repository is encrypted with it")
    cost = cost or Cost()
    salt = os.urandom(64)
    secret = _Master(_MacKey(_encode(master.k), _encode(master.r)), _encode(master.encrypt))
    sealed = _derive(password, salt, cost).seal(msgspec.json.encode(secret))
    file = _KeyFile(
        created=now(),
        username=username or _user(),
        hostname=socket.gethostname(),
        kdf="scrypt",
        N=cost.n,
        r=cost.r,
        p=cost.p,
        salt=_encode(salt),
        data=_encode(sealed),
    )
    text = msgspec.json.encode(file)
    name = sha256(text).hexdigest()
    store.put(f"keys/{name}", text)
    return name


def listed(store: Store, in_use: str = "") -> list[KeyInfo]:
    """Return all keys, oldest first.

    Raises:
        Damaged: a key file cannot be read.
    """
    found = []
    for name, size in _names(store).items():
        file = _read(store, name, size)
        found.append(
            KeyInfo(
                id=name, created=file.created, username=file.username, hostname=file.hostname, in_use=name == in_use
            )
        )
    return sorted(found, key=lambda key: key.created.timestamp())


def remove(store: Store, name: str, in_use: str, *, even_in_use: bool = False) -> None:
    """Delete a key file: its password opens the repository no more.

    Args:
        store: where the repository lies.
        name: the key's id or the beginning of it.
        in_use: the key by which the repository was opened.
        even_in_use: whether that one may be meant.

    Raises:
        NotFound: there is no such key.
        Refused: it is the last one, or the one in use.
    """
    names = _names(store)
    matching = [key for key in names if key.startswith(name)] if name else []
    if not matching:
        raise NotFound(f"no key of {store.location} is called {name!r}", "list them: snapvol repo key ls")
    if len(matching) > 1:
        raise UsageError(f"{len(matching)} keys begin with {name!r}", "write more of it")
    if len(names) == 1:
        raise Refused(
            f"{matching[0][:8]} is the last key of {store.location}", "add another first: snapvol repo key add"
        )
    if matching[0] == in_use and not even_in_use:
        raise Refused(f"{matching[0][:8]} is the key in use", "open the repository with another password, or force it")
    store.delete([f"keys/{matching[0]}"])


def opened(store: Store, password: str) -> Iterator[tuple[str, MasterKey]]:
    """Yield each key file's id with the master key that ``password`` opens from it, the likeliest first.

    There is usually one; a second is that of another repository, which somebody copied here.

    Raises:
        WrongPassword: it opens none.
        RepositoryError: there is no key file at all.
        Damaged: it opens none, and one file cannot be read.
    """
    sizes = _names(store)
    if not sizes:
        raise RepositoryError(
            f"{store.location} has no key file", "bring its keys/ back from a copy: no password opens it without one"
        )
    damaged: list[Damaged] = []
    found = False
    for name, file in _likeliest_first(store, sizes, damaged):
        try:
            master = _open(file, password, f"keys/{name} in {store.location}")
        except Damaged as error:
            damaged.append(error)
            continue
        if master is not None:
            found = True
            yield name, master
    if not found and damaged:
        raise damaged[0]
    if not found:
        raise WrongPassword(f"the password opens none of the {len(sizes)} keys of {store.location}", "try another one")


def opened_one(store: Store, password: str, name: str, size: int) -> MasterKey | None:
    """Return the master key that ``password`` opens from one key file of ``size`` bytes; None where it does not.

    Raises:
        NotFound: there is no such key file.
        Damaged: it cannot be read.
    """
    return _open(_read(store, name, size), password, f"keys/{name} in {store.location}")


def _likeliest_first(store: Store, sizes: dict[str, int], damaged: list[Damaged]) -> list[tuple[str, _KeyFile]]:
    """Trying a password takes a fifth of a second: keys of this host first, the one that lies in a safe last."""
    files = []
    for name, size in sizes.items():
        try:
            files.append((name, _read(store, name, size)))
        except Damaged as error:
            damaged.append(error)
    here = socket.gethostname()
    return sorted(files, key=lambda item: (item[1].username == RECOVERY, item[1].hostname != here))


def _names(store: Store) -> dict[str, int]:
    """Return the ids of all key files, and the bytes of each."""
    return {name.removeprefix("keys/"): size for name, size in sorted((it.name, it.size) for it in store.list("keys/"))}


def _read(store: Store, name: str, size: int) -> _KeyFile:
    what = f"keys/{name} in {store.location}"
    if size > _LARGEST_FILE:
        raise Damaged(f"{what} is too large for a key file")
    text = store.get(f"keys/{name}", 0, size)
    if sha256(text).hexdigest() != name:
        raise Damaged(f"{what} is altered: its contents are not those it is named after")
    file = unpacked.decode(text, _KeyFile, what)
    if file.kdf != "scrypt":
        raise Damaged(f"{what} needs the key derivation {file.kdf[:20]!r}, which no version of the format has")
    return file


def _open(file: _KeyFile, password: str, what: str) -> MasterKey | None:
    power_of_two = file.N > 1 and not file.N & (file.N - 1)
    if not (power_of_two and 0 < file.r <= 64 and 0 < file.p <= 64 and 128 * file.N * file.r <= _LARGEST_MEMORY):
        raise Damaged(f"{what} asks for an absurd amount of work")
    outer = _derive(password, _decode(file.salt, what), Cost(file.N, file.r, file.p))
    sealed = _decode(file.data, what)
    try:
        text = outer.open(sealed, what)
    except Damaged:
        return None  # the password of another key
    secret = unpacked.decode(text, _Master, what)
    return MasterKey(_decode(secret.encrypt, what), _decode(secret.mac.k, what), _decode(secret.mac.r, what))


def _derive(password: str, salt: bytes, cost: Cost) -> MasterKey:
    key = Scrypt(salt=salt, length=64, n=cost.n, r=cost.r, p=cost.p).derive(password.encode())
    return MasterKey(key[:32], key[32:48], key[48:])


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _decode(text: str, what: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Damaged(f"{what} has contents that are not base64") from error


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # an account without a name
        return str(os.getuid())
