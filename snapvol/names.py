"""What a name may be. Every name passes here once, where it enters; inside, names are trusted."""

from __future__ import annotations

import re

from snapvol.errors import InvalidName

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*\Z")
LONGEST = 255


def _checked(what: str, name: str, longest: int) -> str:
    if not name:
        raise InvalidName(f"{what} name is empty", "use letters, digits, '_', '.' and '-'")
    shown = name if len(name) <= 60 else f"{name[:57]}..."
    if len(name) > longest:
        raise InvalidName(f"{what} name {shown!r} has {len(name)} characters", f"at most {longest} are allowed")
    if not _NAME.match(name):
        raise InvalidName(
            f"{what} name {shown!r} is not allowed",
            "start with a letter or digit, go on with letters, digits, '_', '.' or '-'",
        )
    return name


def volume_name(name: str) -> str:
    """Return ``name`` if Docker and Podman both accept it for a volume.

    Raises:
        InvalidName: it is empty, longer than 255, or has other characters than ``[a-zA-Z0-9][a-zA-Z0-9_.-]*``.
    """
    return _checked("volume", name, LONGEST)


def snapshot_name(name: str) -> str:
    """Return ``name`` if it can name a snapshot: the rules of volume names.

    Raises:
        InvalidName: as for volumes.
    """
    return _checked("snapshot", name, LONGEST)


def split_snapshot(text: str) -> tuple[str, str | None]:
    """Split ``VOLUME[@SNAPSHOT]`` and check both parts.

    Raises:
        InvalidName: a part is not a name.
    """
    volume, at, snapshot = text.partition("@")
    return volume_name(volume), snapshot_name(snapshot) if at else None
