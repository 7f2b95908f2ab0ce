"""Which indexes there were when this machine made a backup: while all of them stand, no blob of it has left the index.

By that a backup may be built upon without a look at every blob that it needs. Only indexes that are replaced lose
blobs, which a repair does on purpose. It is known for backups of this machine alone, as long as its cache is kept;
otherwise each blob is looked up.
"""

from __future__ import annotations

from collections.abc import Set

from snapvol.errors import Damaged
from snapvol.repository.sealing import MasterKey
from snapvol.stores.cache import Cache

_FOLDER = "standing"
_SIZE = 32  # bytes of an id


class Standing:
    """Of the backups of one repository.

    Args:
        cache: of the repository.
        key: seals it.
    """

    def __init__(self, cache: Cache, key: MasterKey) -> None:
        self._cache = cache
        self._key = key

    def put(self, backup: str, indexes: Set[bytes], instead_of: str | None) -> None:
        """Note the ids of all indexes at the moment when ``backup`` was made, and forget those of another one."""
        if instead_of is not None:
            self._cache.remove([_name(instead_of)])
        self._cache.write(_name(backup), [self._key.seal(b"".join(sorted(indexes)))])

    def holds(self, backup: str, indexes: Set[bytes]) -> bool:
        """Return whether all indexes of that moment are among ``indexes``; False where that is not known."""
        sealed = self._cache.read(_name(backup))
        if sealed is None:
            return False
        try:
            known = self._key.open(sealed, _name(backup))
        except Damaged:
            return False
        return {known[at : at + _SIZE] for at in range(0, len(known), _SIZE)} <= indexes


def _name(backup: str) -> str:
    return f"{_FOLDER}/{backup}"
