"""Real file systems on loop devices."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support import needs
from support.process import run

_MAKE = {
    "btrfs": ("mkfs.btrfs", "--quiet"),
    "xfs": ("mkfs.xfs", "-q", "-m", "reflink=1"),
    "ext4": ("mkfs.ext4", "-q", "-E", "lazy_itable_init=0"),
}


@contextmanager
def mounted(kind: str, place: Path, size: int = 1 << 30, options: str = "defaults") -> Iterator[Path]:
    """Give the mount point of a new file system in a sparse file of ``size`` bytes below ``place``."""
    needs.root(kind)
    make = _MAKE[kind]
    needs.program(make[0], what=kind)
    point, image = place / kind, place / f"{kind}.img"
    point.mkdir(parents=True)
    with image.open("xb") as file:
        os.truncate(file.fileno(), size)
    run(*make, image)
    done = run("mount", "-o", f"loop,{options}", image, point, check=False)
    if done.code:
        needs.missing(kind, f"this kernel does not mount it: {done.stderr.strip()}")
    try:
        yield point
    finally:
        # A container that is just ending may still hold it for a moment.
        if run("umount", point, check=False).code:
            run("umount", "--lazy", point)
        image.unlink()
