"""The configured pools: built from the settings, opened side by side, opened again when their storage is back."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping

from snapvol.backend import Backend
from snapvol.errors import SettingsError, SnapvolError, nearest
from snapvol.service import options as volume_options
from snapvol.service.catalog import Catalog
from snapvol.service.pool import Pool
from snapvol.settings import Settings

log = logging.getLogger(__name__)

PATIENCE = 10.0  # seconds for one look at a pool; storage that hangs longer is left behind in its thread


def configured(settings: Settings, kinds: Mapping[str, type[Backend]]) -> list[Pool]:
    """Return the pools of the settings, none of them open, the default one first.

    Raises:
        SettingsError: a backend, setting or default option is wrong.
    """
    names = sorted(settings.pools, key=lambda name: name != settings.default_pool)
    return [_pool(name, settings, kinds) for name in names]


def _pool(name: str, settings: Settings, kinds: Mapping[str, type[Backend]]) -> Pool:
    wanted = settings.pools[name]
    key = f"pools.{name}"
    if wanted.backend not in kinds:
        where = settings.origins.get(f"{key}.backend", "settings")
        raise SettingsError(
            f"{where}: {key}.backend: there is no backend {wanted.backend!r}", nearest(wanted.backend, list(kinds))
        )
    try:
        backend = kinds[wanted.backend](name, wanted.storage)
    except SettingsError as error:
        raise SettingsError(f"{settings.origins.get(key, 'settings')}: {error.message}", error.hint) from None
    defaults = volume_options.check_defaults(name, wanted, settings, kinds)
    return Pool(name, backend, defaults, settings.daemon.root / "pools")


class Pools:
    """Opens pools and looks after them. Storage that hangs keeps neither the other pools nor the caller waiting."""

    def __init__(self, catalog: Catalog, patience: float = PATIENCE) -> None:
        self._catalog = catalog
        self._patience = patience
        self._busy: dict[str, threading.Thread] = {}
        self._opened = threading.Event()

    def open(self) -> None:
        """Open all pools. Those that cannot be opened are remembered with their problem."""
        self._each(self._open)
        self._opened.clear()

    def refresh(self) -> bool:
        """Look at each pool's health, mended volumes included; try again to open those that are not open.

        Returns:
            Whether one was opened since the last time.
        """
        self._each(lambda pool: self._open(pool) if pool.problem is not None else self._check(pool))
        opened = self._opened.is_set()
        self._opened.clear()
        return opened

    def close(self) -> None:
        """Let go of the pools."""
        for pool in self._catalog.pools.values():
            if pool.problem is None:
                pool.backend.close()

    def _each(self, work: Callable[[Pool], None]) -> None:
        started = []
        for pool in self._catalog.pools.values():
            busy = self._busy.get(pool.name)
            if busy is None or not busy.is_alive():
                thread = threading.Thread(target=work, args=(pool,), name=f"pool-{pool.name}", daemon=True)
                self._busy[pool.name] = thread
                started.append(thread)
                thread.start()
        for thread in started:
            thread.join(self._patience)

    def _open(self, pool: Pool) -> None:
        known = pool.problem
        try:
            pool.open(self._catalog.load)
        except Exception as error:
            if str(error) != known:
                unexpected = not isinstance(error, SnapvolError | OSError)
                log.warning("pool '%s' is not available: %s", pool.name, error, exc_info=unexpected)
        else:
            log.info("pool '%s' is open", pool.name)
            self._opened.set()

    def _check(self, pool: Pool) -> None:
        before = pool.health
        pool.check()
        if pool.health.problem != before.problem:
            log.warning("pool '%s': %s", pool.name, pool.health.problem or "well again")
        try:
            self._catalog.recheck_damages(pool)
        except SnapvolError as error:
            log.warning("pool '%s': %s", pool.name, error)
