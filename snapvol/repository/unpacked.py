"""Objects that are sealed JSON by themselves: indexes, snapshots, locks and the configuration."""

from __future__ import annotations

from hashlib import sha256
from typing import TypeVar

import msgspec

from snapvol.errors import Damaged
from snapvol.repository.compression import compress, decompress_up_to
from snapvol.repository.sealing import MasterKey
from snapvol.stores.base import CONFIG, Store

T = TypeVar("T")

LARGEST = 64 << 20  # plain bytes; stock clients stay below 16 MiB
_LEVEL = 3
_ZSTD = 2


def write(store: Store, key: MasterKey, directory: str, document: object) -> str:
    """Store ``document`` in ``directory`` (``index``, ``snapshots``, ``locks``) and return its id in hexadecimal."""
    sealed = key.seal(bytes((_ZSTD,)) + compress(msgspec.json.encode(document), _LEVEL))
    name = sha256(sealed).hexdigest()
    store.put(f"{directory}/{name}", sealed)
    return name


def read(store: Store, key: MasterKey, name: str, kind: type[T], size: int | None = None) -> T:
    """Return the object called ``name`` as a ``kind``; ``size`` as in `read_text`.

    Raises:
        NotFound: there is none.
        Damaged: its bytes are not those that its name states, or are not such a document.
    """
    return decode(read_text(store, key, name, size), kind, f"{name} in {store.location}")


def read_text(store: Store, key: MasterKey, name: str, size: int | None = None) -> bytes:
    """Return the JSON of the object called ``name``; ``size`` is its bytes where a listing told them: one request less.

    Raises:
        NotFound: there is none.
        Damaged: its bytes are not those that its name states.
    """
    what = f"{name} in {store.location}"
    size = store.size(name) if size is None else size
    if size > LARGEST:
        raise Damaged(f"{what} is too large")
    sealed = store.get(name, 0, size) if name == CONFIG else store.get(name)
    if name != CONFIG and sha256(sealed).hexdigest() != name.rpartition("/")[2]:
        raise Damaged(f"{what} is altered: its contents are not those it is named after")
    return _text(key.open(sealed, what), what)


def _text(opened: bytes, what: str) -> bytes:
    if opened[:1] in (b"{", b"["):
        return opened
    if opened[:1] == bytes((_ZSTD,)):
        return decompress_up_to(memoryview(opened)[1:], LARGEST, what)
    raise Damaged(f"{what} has contents of an unknown form")


def decode(text: bytes, kind: type[T], what: str) -> T:
    """Return JSON as a ``kind``.

    Raises:
        Damaged: it is not JSON, or not of that kind.
    """
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Damaged(f"{what} has contents that cannot be read: {error}") from error
