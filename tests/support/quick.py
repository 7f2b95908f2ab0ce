"""Repositories whose keys open in a millisecond: scrypt is tested elsewhere, and every worker process opens one."""

from __future__ import annotations

from unittest import mock

from snapvol.repository import keys
from snapvol.service import repositories
from snapvol.service.repositories import Made
from snapvol.settings import Settings
from support.repositories import CHEAP

_COST = keys.Cost


def _cost(*given: int) -> keys.Cost:
    return _COST(*given) if given else CHEAP


def initialise(settings: Settings, name: str = "default") -> Made:
    """Make a repository as `snapvol.service.repositories.initialise` does."""
    with mock.patch.object(keys, "Cost", _cost):
        return repositories.initialise(settings, name)
