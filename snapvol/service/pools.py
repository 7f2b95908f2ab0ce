"""The configured pools: built from the settings, opened side by side, opened again when their storage is back."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping

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
        raise SettingsError(
            f"{_where(settings, key)}: {key}.backend: there is no backend {wanted.backend!r}",
            nearest(wanted.backend, list(kinds)),
        )
    try:
        backend = kinds[wanted.backend](name, wanted.storage, root=settings.daemon.root)
    except SettingsError as error:
        raise SettingsError(f"{_where(settings, key)}: {error.message}", error.hint) from None
    defaults = volume_options.check_defaults(name, wanted, settings, kinds)
    return Pool(name, backend, defaults, settings.daemon.root / "pools")


def _where(settings: Settings, key: str) -> str:
    return next((origin for known, origin in settings.origins.items() if known.startswith(f"{key}.")), "settings")


class Pools:
    """Opens pools and looks after them. Storage that hangs keeps neither the other pools nor the caller waiting."""

    def __init__(self, catalog: Catalog, patience: float | None = None) -> None:
        self._catalog = catalog
        self._patience = PATIENCE if patience is None else patience
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
        self._each(self._refresh)
        opened = self._opened.is_set()
        self._opened.clear()
        return opened

    def close(self) -> None:
        """Let go of the pools."""
        for pool in self._catalog.pools.values():
            if pool.problem is None:
                pool.backend.close()

    def _each(self, work: Callable[[Pool, Iterable[threading.Thread]], None]) -> None:
        started: list[threading.Thread] = []
        for pool in self._catalog.pools.values():
            busy = self._busy.get(pool.name)
            if busy is None or not busy.is_alive():
                before = tuple(started)
                thread = threading.Thread(target=work, args=(pool, before), name=f"pool-{pool.name}", daemon=True)
                self._busy[pool.name] = thread
                started.append(thread)
                thread.start()
        self._await(started)

    def _await(self, threads: Iterable[threading.Thread]) -> None:
        until = time.monotonic() + self._patience
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))

    def _open(self, pool: Pool, before: Iterable[threading.Thread]) -> None:
        known = pool.problem
        try:
            # Side by side, but the volumes in the settings' order: the first of two with one name has it.
            pool.open(self._catalog.load, lambda: self._await(before))
        except Exception as error:
            if pool.problem != known:
                unexpected = not isinstance(error, SnapvolError | OSError)
                log.warning("pool '%s' is not available: %s", pool.name, pool.problem, exc_info=unexpected)
        else:
            log.info("pool '%s' is open", pool.name)
            self._opened.set()

    def _refresh(self, pool: Pool, before: Iterable[threading.Thread]) -> None:
        if pool.problem is None:
            self._check(pool)
        else:
            self._open(pool, before)

    def _check(self, pool: Pool) -> None:
        before = pool.health
        pool.check()
        if pool.health.problem != before.problem:
            log.warning("pool '%s': %s", pool.name, pool.health.problem or "well again")
        try:
            self._catalog.recheck_damages(pool)
        except SnapvolError as error:
            log.warning("pool '%s': %s", pool.name, error)
