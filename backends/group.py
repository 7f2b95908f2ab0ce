"""Publishing snapshots of several volumes: all of them or none, whatever is killed when.

Each lies finished in one directory of tmp. A record beside them, once written, promises that all will be moved to their
places: after a kill `finish_groups` keeps the promise.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from msgspec import Struct

from snapvol.backends import durable
from snapvol.backends.place import Place

_RECORD = "group.json"


class _Promise(Struct, frozen=True, kw_only=True):
    name: str
    volume_ids: list[str]


class Group:
    """Snapshots that were made in tmp and wait to be published.

    Args:
        work: the directory that holds one for each volume, under the volume's id.
        name: the snapshots' name.
        volume_ids: of which volumes.
    """

    def __init__(self, work: Path, name: str, volume_ids: Sequence[str]) -> None:
        self._work = work
        self._name = name
        self._ids = list(volume_ids)

    def publish(self, volumes: Sequence[Path]) -> None:
        """Move each snapshot into the directory of its volume.

        Raises:
            OSError: none is published.
        """
        record = self._work / _RECORD
        if len(self._ids) > 1:
            durable.write(record, _Promise(name=self._name, volume_ids=self._ids))
        pairs = [
            (self._work / volume_id, Place.snapshot(volume, self._name))
            for volume_id, volume in zip(self._ids, volumes, strict=True)
        ]
        try:
            for made, published in pairs:
                durable.move(made, published)
        except OSError:
            # Back first, then the promise: a kill in between still ends with all of them published.
            for made, published in pairs:
                if not durable.exists(made):
                    durable.move(published, made)
            with suppress(FileNotFoundError):
                os.unlink(record)
            raise
        if len(self._ids) > 1:
            os.unlink(record)


def finish_groups(place: Place, live: Callable[[], Mapping[str, Path]]) -> None:
    """Publish what a kill left half published.

    Args:
        place: the pool's.
        live: gives the directories of the live volumes by identity; called only where it is needed.
    """
    for record in sorted(place.tmp.glob(f"*/{_RECORD}")):
        try:
            promise = durable.read(record, _Promise)
        except durable.Unreadable:
            continue  # it was written whole or not at all, so this is not ours to act on
        volumes = live()
        for volume_id in promise.volume_ids:
            made = record.parent / volume_id
            if durable.exists(made) and volume_id in volumes:
                target = Place.snapshot(volumes[volume_id], promise.name)
                if not durable.exists(target):
                    durable.move(made, target)
        os.unlink(record)
