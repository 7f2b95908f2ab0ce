"""What a volume's datasets and snapshots are called, below the pool's parent dataset.

A name says little: properties do (`zfsrecords`). It is there for people who look at `zfs list`: they find a volume
under its own name, and everything else of a volume under its id, behind a leading dot::

    PARENT/web                 the contents of the live volume "web"
    PARENT/.VOLUME-ID.0        earlier contents, with the snapshots that only they have; or a volume in the trash
    PARENT/.VOLUME-ID.new      contents in the making: of a new volume, or those that are being restored
    PARENT/.VOLUME-ID.back     likewise: those that the volume is going back to

Only the last two names say something: what is called so does not count yet, whatever its properties are. `zfs create`
and `zfs clone` set those after the dataset is there, and a power cut can come between the two: so a new dataset takes
its place by a rename, when all its properties are set.

ZFS allows 255 bytes for a whole name with its snapshot. What does not fit is cut, and told apart by a hash after a
colon, which no name of a volume or snapshot has.
"""

from __future__ import annotations

import re
from hashlib import sha256

from snapvol.names import snapshot_name, volume_name

_LONGEST_VOLUME, _LONGEST_SNAPSHOT = 96, 72
LONGEST_PARENT = 255 - _LONGEST_VOLUME - _LONGEST_SNAPSHOT - len("/@")
_DIGITS = 16
_NEW, _BACK = ".new", ".back"
_MAKING = re.compile(rf"\.[0-9a-f]{{8}}(-[0-9a-f]{{4}}){{3}}-[0-9a-f]{{12}}({re.escape(_NEW)}|{re.escape(_BACK)})")


def volume(name: str) -> str:
    """Return the last part of the name of a live volume's dataset. Checks the name once more (T5)."""
    return _fitted(volume_name(name), _LONGEST_VOLUME)


def snapshot(name: str) -> str:
    """Return the part after the ``@``. Checks the name once more (T5)."""
    return _fitted(snapshot_name(name), _LONGEST_SNAPSHOT)


def hidden(volume_id: str, generation: int) -> str:
    """Return the last part of the name of contents that are not a live volume's present ones."""
    return f".{volume_name(volume_id)}.{generation}"


def staged(volume_id: str) -> str:
    """Return the last part of the name of contents in the making."""
    return f".{volume_name(volume_id)}{_NEW}"


def going_back(volume_id: str) -> str:
    """Return the last part of the name of a clone that is about to take the place of a volume's present contents."""
    return f".{volume_name(volume_id)}{_BACK}"


def in_the_making(leaf: str) -> bool:
    """Return whether `staged` or `going_back` made the name; others may call a dataset of theirs ``.old.new`` (T6)."""
    return _MAKING.fullmatch(leaf) is not None


def of_hidden(leaf: str) -> tuple[str, int] | None:
    """Return the id and generation that `hidden` made a name of; None for another name."""
    volume_id, _, number = leaf.removeprefix(".").rpartition(".")
    return (volume_id, int(number)) if leaf.startswith(".") and number.isdigit() else None


def doomed(guid: str) -> str:
    """Return the name, after the ``@``, of a snapshot that is destroyed as soon as no clone needs it any more."""
    return f"gone:{guid}"


def _fitted(name: str, longest: int) -> str:
    if len(name) <= longest:
        return name
    digest = sha256(name.encode()).hexdigest()[:_DIGITS]
    return f"{name[: longest - _DIGITS - 1]}:{digest}"
