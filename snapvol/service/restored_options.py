"""Which options a restored volume gets: its own of then, as far as the pool it comes to can serve them (T37)."""

from __future__ import annotations

from collections.abc import Mapping

from snapvol.backends import BACKENDS
from snapvol.engine.manifest import VolumeMeta
from snapvol.errors import SnapvolError
from snapvol.service import options as volume_options
from snapvol.service.pool import Pool
from snapvol.settings import Settings

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
