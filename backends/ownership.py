"""The options that every tree storage knows: who owns a volume's root, and who may enter it."""

from __future__ import annotations

import os
from pathlib import Path

from msgspec import Struct

from snapvol.errors import UsageError
from snapvol.model import Volume

_MODE = 0o755


class Ownership(Struct, frozen=True, kw_only=True):
    """The options ``uid``, ``gid`` and ``mode`` of a volume; None where it has none."""

    uid: int | None
    gid: int | None
    mode: int | None

    @classmethod
    def of(cls, volume: Volume) -> Ownership:
        """Read the options of ``volume``.

        Raises:
            UsageError: one is not a number that it can be.
        """
        return cls(
            uid=_number(volume, "uid", 10, 2**32 - 2),
            gid=_number(volume, "gid", 10, 2**32 - 2),
            mode=_number(volume, "mode", 8, 0o7777),
        )

    @property
    def any(self) -> bool:
        """Whether there is any of them."""
        return (self.uid, self.gid, self.mode) != (None, None, None)

    def give(self, root: Path, *, fresh: bool) -> None:
        """Apply them to ``root``; one that is not ``fresh`` keeps what no option names."""
        if self.uid is not None or self.gid is not None:
            os.chown(root, -1 if self.uid is None else self.uid, -1 if self.gid is None else self.gid)
        if self.mode is not None or fresh:
            # After chown, which drops set-user-id bits; and not by mkdir, which the umask would change.
            os.chmod(root, _MODE if self.mode is None else self.mode)


def _number(volume: Volume, key: str, base: int, largest: int) -> int | None:
    text = volume.options.get(key)
    if text is None:
        return None
    try:
        value = int(text, base)
    except ValueError:
        value = -1
    if not 0 <= value <= largest:
        kind = "an octal mode" if base == 8 else "a whole number"
        hint = "write it like 0750" if base == 8 else "write the number, not the name"
        raise UsageError(f"volume '{volume.name}': {key} = '{text}' is not {kind}", hint)
    return value
