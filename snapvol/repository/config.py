"""The object that makes a place a repository."""

from __future__ import annotations

import secrets

import msgspec
from msgspec import Struct

from snapvol.errors import Damaged, Unsupported
from snapvol.repository import polynomial, unpacked
from snapvol.repository.sealing import MasterKey
from snapvol.stores.base import CONFIG, Store

VERSION = 2


class Config(Struct, frozen=True):
    """What all clients agree on.

    Attributes:
        version: of the format.
        id: the repository's identity: 64 hexadecimal digits.
        chunker_polynomial: hexadecimal; stock clients cut files by it.
    """

    version: int
    id: str
    chunker_polynomial: str


def generate() -> Config:
    """Return the configuration of a new repository."""
    return Config(VERSION, secrets.token_hex(32), f"{polynomial.generate():x}")


def write(store: Store, key: MasterKey, config: Config) -> None:
    """Store ``config``, which is sealed JSON without compression.

    Raises:
        AlreadyExists: there is one.
    """
    store.put(CONFIG, key.seal(msgspec.json.encode(config)))


def read(store: Store, key: MasterKey, size: int | None = None) -> Config:
    """Return the configuration; ``size`` is its bytes where they are known: one request less.

    Raises:
        NotFound: there is none.
        Damaged: it is altered, or sealed with another key.
        Unsupported: it is of a version of the format that snapvol does not know.
    """
    config = unpacked.read(store, key, CONFIG, Config, size)
    if config.version != VERSION:
        hint = "raise it: restic migrate upgrade_repo_v2" if config.version == 1 else "snapvol knows version 2"
        raise Unsupported(f"{store.location} is a repository of format version {config.version}", hint)
    if len(config.id) != 64:
        raise Damaged(f"config in {store.location} has no proper id")
    return config
