"""The settings in force, flat, each with where it came from: for ``snapvol config``. No secret is among them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from snapvol.settings import Settings


def effective(settings: Settings) -> dict[str, Any]:
    """Return dotted key → ``{"value": …, "origin": …}``; the origin is a file, a variable, ``flag`` or ``default``."""
    tables: dict[str, Any] = {
        "daemon": msgspec.to_builtins(settings.daemon, enc_hook=str),
        "cache": msgspec.to_builtins(settings.cache, enc_hook=str),
        "trash": msgspec.to_builtins(settings.trash),
    }
    for name, pool in settings.pools.items():
        tables[f"pools.{name}"] = {"backend": pool.backend, **pool.storage}
        tables[f"pools.{name}.defaults"] = pool.defaults
    for name, repository in settings.repositories.items():
        tables[f"repositories.{name}"] = msgspec.to_builtins(repository, enc_hook=str)
    for name, policy in settings.policies.items():
        tables[f"policies.{name}"] = policy.shown()
    return {
        f"{table}.{key}": {"value": value, "origin": _origin(settings.origins, f"{table}.{key}")}
        for table, values in tables.items()
        for key, value in values.items()
    }


def _origin(origins: Mapping[str, str], key: str) -> str:
    return origins.get(key, "default")
