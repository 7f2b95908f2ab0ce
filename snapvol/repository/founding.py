"""What making a repository has to look at before its first step and after its last."""

from __future__ import annotations

from snapvol.errors import AlreadyExists, Damaged, NotFound
from snapvol.repository import config
from snapvol.repository.sealing import MasterKey
from snapvol.stores.base import CONFIG, Store


def clear_the_way(store: Store) -> None:
    """Make sure that there is no repository, and remove the keys that a killed `create` left: nothing needs them.

    Raises:
        AlreadyExists: there is one, or what is left of one whose config is lost and whose keys are worth keeping.
    """
    try:
        store.size(CONFIG)
    except NotFound:
        pass
    else:
        raise AlreadyExists(f"{store.location} already holds a repository", "open it, or choose another place")
    for prefix in ("snapshots/", "index/", "data/"):
        if next(store.list(prefix), None) is not None:
            raise AlreadyExists(
                f"{store.location} holds a repository that has lost its config",
                "bring config back from a copy, or choose another place",
            )
    store.delete([entry.name for entry in store.list("keys/")])


def is_ours(store: Store, key: MasterKey, settings: config.Config) -> bool:
    """Say whether the configuration in the store is the one that we wrote."""
    try:
        return config.read(store, key) == settings
    except Damaged:
        return False  # sealed with another key
