"""From a password to the master key and the configuration: the two things without which nothing else can be read."""

from __future__ import annotations

from hashlib import sha256
from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta, Struct

from snapvol.errors import Damaged, NotFound, RepositoryError
from snapvol.repository import config, keys
from snapvol.repository.sealing import MasterKey
from snapvol.stores.base import CONFIG, Store
from snapvol.stores.cache import CachePlace

_MEMORY = "openings"
_Size = Annotated[int, Meta(gt=0, le=1 << 20)]


class Admission(NamedTuple):
    """What a password opened.

    Attributes:
        key_id: the key file.
        key: the master key.
        settings: the configuration.
    """

    key_id: str
    key: MasterKey
    settings: config.Config


class _Remembered(Struct, frozen=True):
    """Names and sizes of what opened last time: which key file, of several, and that both need not be asked for."""

    key_id: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    key_size: _Size
    config_size: _Size


def admitted(store: Store, password: str, place: CachePlace | None) -> Admission:
    """Open a repository: by the key file that opened it last time on this machine, where it still does, else by any.

    Raises:
        NotFound: there is none.
        WrongPassword: none of its keys opens with the password.
        Damaged: its configuration is damaged, or the key belongs to another repository.
    """
    name = sha256(store.location.encode()).hexdigest()
    text = None if place is None else place.of(_MEMORY).read(name)
    return _as_last_time(store, password, text) or _searched(store, password, name, place)


def _as_last_time(store: Store, password: str, text: bytes | None) -> Admission | None:
    if text is None:
        return None
    try:
        known = msgspec.json.decode(
            text, type=_Remembered
        )  # unsealed, as it is read before the key: anything may be it
        key = keys.opened_one(store, password, known.key_id, known.key_size)
        settings = None if key is None else config.read(store, key, known.config_size)
    except (msgspec.MsgspecError, UnicodeDecodeError, NotFound, RepositoryError):
        return None  # whatever is wrong: that is for the search to find out
    return None if key is None or settings is None else Admission(known.key_id, key, settings)


def _searched(store: Store, password: str, name: str, place: CachePlace | None) -> Admission:
    try:
        size = store.size(CONFIG)
    except NotFound:
        raise NotFound(f"no repository at {store.location}", "make one: snapvol repo init") from None
    failure: Damaged | None = None
    for key_id, key in keys.opened(store, password):
        try:
            settings = config.read(store, key, size)
        except Damaged as error:
            failure = error
            continue
        if place is not None:
            known = _Remembered(key_id, store.size(f"keys/{key_id}"), size)
            place.of(_MEMORY).write(name, [msgspec.json.encode(known)])
        return Admission(key_id, key, settings)
    raise Damaged(
        f"the password opens a key at {store.location}, but not the repository's config: {failure}",
        "the key file is another repository's, or config is damaged: bring both back from a copy",
    )
