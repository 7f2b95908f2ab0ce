"""Keys of encrypted datasets: loaded where they lie in a file, asked for where they do not."""

from __future__ import annotations

import os

from snapvol.backends.zfstool import Tool, explained
from snapvol.errors import NotReady, StorageFailed, ToolFailed

_FILE = "file://"


def load(tool: Tool, dataset: str, root: str, location: str, what: str) -> None:
    """Load a key that is not loaded.

    Args:
        tool: for the pool.
        dataset: what is encrypted.
        root: the dataset whose key it is encrypted with.
        location: where the key of ``dataset`` is, which says something where that is ``root`` itself.
        what: what cannot be done without it, for the message.

    Raises:
        NotReady: nobody but its owner can load it; says how.
    """
    locked = f"{what}: it is encrypted, and the key of {root} is not loaded"
    command = f"zfs load-key {root}"
    if root != dataset:
        try:
            location = tool.get(("keylocation",), [root])[root]["keylocation"].text
        except ToolFailed as error:
            raise explained(what, error) from error
    if not location.startswith(_FILE):
        raise NotReady(locked, command)
    if not os.access(location.removeprefix(_FILE), os.R_OK):
        raise NotReady(f"{locked}: {location} cannot be read", f"bring the file back, or: {command}")
    try:
        tool.change(what, "load-key", root)
    except StorageFailed as error:
        if "already loaded" not in error.message:  # somebody else was faster
            raise NotReady(f"{locked}: {error.message}", command) from error
