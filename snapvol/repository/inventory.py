"""When this machine last saw that every pack is there: so that not every backup lists all of them.

It saves requests and decides nothing. Before a snapshot is written, every pack that it needs is looked for all the
same. Where one is lost, that fails the run, which leaves no inventory: the next one lists, and uploads again what is
lost. Likewise after a run that was killed, whose packs without an index the next one is to find.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import msgspec
from msgspec import Struct

from snapvol.errors import Damaged
from snapvol.model import now
from snapvol.repository import unpacked
from snapvol.repository.sealing import MasterKey
from snapvol.stores.cache import Cache

VALID = timedelta(hours=24)  # other machines' killed runs leave packs without an index too
_FILE = "inventory"


class _Inventory(Struct, frozen=True):
    time: datetime


class Inventory:
    """Of one repository on this machine.

    Args:
        cache: of the repository.
        key: seals it.
    """

    def __init__(self, cache: Cache, key: MasterKey) -> None:
        self._cache = cache
        self._key = key

    def take(self) -> datetime | None:
        """Return when all packs were seen, if that is recent, and forget it: whoever took it puts it back when done."""
        sealed = self._cache.read(_FILE)
        if sealed is None:
            return None
        self._cache.remove([_FILE])
        try:
            found = unpacked.decode(self._key.open(sealed, _FILE), _Inventory, _FILE)
        except Damaged:
            return None
        try:
            age = now() - found.time
        except TypeError:  # a time without a zone
            return None
        return found.time if timedelta() <= age < VALID else None

    def put(self, time: datetime) -> None:
        """Note that all packs were seen at ``time``."""
        self._cache.write(_FILE, [self._key.seal(msgspec.json.encode(_Inventory(time)))])
