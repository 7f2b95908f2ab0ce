"""Which options a restored volume gets: its own of then, as far as the pool it comes to can serve them (T37)."""

from __future__ import annotations

from collections.abc import Mapping

from snapvol import units
from snapvol.backends import BACKENDS
from snapvol.engine.manifest import BackupKind, VolumeMeta
from snapvol.errors import SnapvolError
from snapvol.service import options as volume_options
from snapvol.service.library import Found
from snapvol.service.pool import Pool
from snapvol.settings import Settings

_GIB = 1 << 30
# Where a volume lies and what it was made from is of the volume that was, not of the one that is made now.
NOT_RESTORED = frozenset({"pool", "snapshot", "backup"})


def given(options: Mapping[str, str], parent: str | None, pool: Pool) -> dict[str, str]:
    """Return the options that a volume's creator gave.

    Not among them are the ``backup`` that a restore noted for itself, and what the pool gives every volume.
    """
    added = {**pool.defaults, **({"backup": parent} if parent is not None else {})}
    return {key: value for key, value in options.items() if added.get(key) != value}


def merge(
    meta: VolumeMeta | None, asked: Mapping[str, str], pool: Pool, settings: Settings
) -> tuple[dict[str, str], list[str]]:
    """Return the options of a volume that is restored into ``pool``, and a warning for each that could not be kept.

    What was asked for now wins over what the backup says, and that over the pool's defaults.
    """
    options = dict(pool.defaults)
    warnings = []
    kinds = {**BACKENDS, pool.kind: type(pool.backend)}
    for key, value in sorted(meta.options.items()) if meta is not None else []:
        if key in NOT_RESTORED or key in asked:
            continue
        try:
            checked = volume_options.read({key: value}, settings, kinds, pool.kind)
            volume_options.check_features(checked, pool.backend.features, pool.name, pool.kind)
        except SnapvolError as error:
            warnings.append(f"option {key}={value} of the backup was not restored: {error.message}")
            continue
        options |= checked
    options |= asked
    if options.get("protect") == "false":
        del options["protect"]
    return options, warnings


def fitting(
    options: Mapping[str, str], asked: Mapping[str, str], found: Found, limit: int | None, kind: str, *, as_image: bool
) -> dict[str, str]:
    """Return the options with a size into which the contents fit, where a volume is no larger than its size.

    Args:
        options: of the restored volume.
        asked: those that were asked for: a size among them stays.
        found: the backup.
        limit: the volume's present size in bytes; None where storage has no filesystem of its own for each volume.
        kind: the pool's kind of storage: from the same one, the size that the volume had is right.
        as_image: the backup's image becomes the contents as it is.
    """
    if limit is None or "size" in asked:
        return dict(options)
    meta = found.meta
    present = units.size(options["size"]) if "size" in options else limit
    if as_image and meta is not None and meta.image is not None:
        least = meta.image.size
    elif meta is not None and meta.backend == kind and "size" in options:
        least = present
    else:
        used = (meta.used if meta is not None else None) or 0
        files = found.backup.size or 0 if found.backup.kind == BackupKind.FILES else 0
        least = max(used, files) * 3 // 2  # a filesystem takes some of it for itself
        least = _rounded_up(least) if least > present else present
    return {**options, "size": units.spelled(least)} if least > present else dict(options)


def enlarged(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """Return a warning where `fitting` has made a volume larger than it was to be."""
    size, was = after.get("size"), before.get("size")
    if size == was:
        return []
    return [f"the volume gets size={size}, so that the contents fit{f', instead of {was}' if was else ''}"]


def _rounded_up(size: int) -> int:
    return -(-size // _GIB) * _GIB
