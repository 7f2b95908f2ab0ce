"""Making volumes: empty ones, clones of snapshots, and ones that a job fills from a backup."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from msgspec import Struct

from snapvol import units
from snapvol.api import JobInfo
from snapvol.backend import Backend
from snapvol.errors import AlreadyExists, NotFound, NotReady, PoolUnavailable, UsageError
from snapvol.model import Snapshot, State, Volume, new_id, now
from snapvol.names import volume_name
from snapvol.service import options as volume_options
from snapvol.service.catalog import Entry
from snapvol.service.context import Context
from snapvol.service.pool import Pool
from snapvol.service.snapshots import Snapshots, free_name

log = logging.getLogger(__name__)

JOIN = 110.0  # seconds: Docker waits for 120 at most


Fill = Callable[[Volume, Mapping[str, str]], JobInfo]  # the volume that was made, and the options asked for


class _Request(Struct, frozen=True, kw_only=True):
    """What was asked for, checked.

    Attributes:
        asked: the options as given, in their one spelling, without ``pool``.
        explained: the options it gets without asking, where nothing else was asked: inherited and default ones.
        source: the volume to clone and its snapshot's name, or None for one taken now.
    """

    name: str
    pool: Pool
    asked: dict[str, str]
    explained: dict[str, str]
    labels: dict[str, str]
    source: tuple[str, str | None] | None = None

    @property
    def options(self) -> dict[str, str]:
        """The options of the volume to be."""
        options = self.explained | self.asked
        if options.get("protect") == "false":
            del options["protect"]
        return options


class Creation:
    """Makes volumes. A volume is seen by others once it is whole, or once the job that fills it is queued."""

    def __init__(self, context: Context, kinds: Mapping[str, type[Backend]], snapshots: Snapshots) -> None:
        self._context = context
        self._kinds = kinds
        self._snapshots = snapshots

    def create(
        self, name: str, options: Mapping[str, str], labels: Mapping[str, str], fill: Fill | None = None
    ) -> Entry:
        """Make a volume; return it also where it exists already with the same options.

        Whoever asks for a name that is just being made waits for it.

        Args:
            name: of the volume.
            options: as they were given.
            labels: Docker's, where they are known.
            fill: begins to restore into a volume with the option ``backup``; the restorer's own way where None.

        Raises:
            UsageError: the name or an option is wrong.
            AlreadyExists: there is one with other options; the message shows the difference.
            NotFound: what it is to be made from does not exist.
        """
        source = self._source(volume_name(name), options)
        existing = self._existing(name)
        if existing is not None:
            return self._same(existing, self._request(name, options, labels, source, existing))
        volumes = [name, *([source[0]] if source else [])]
        with self._context.locks.volumes(*volumes, doing=f"creation of '{name}'", wait=JOIN, mountable=True):
            existing = self._existing(name)
            request = self._request(name, options, labels, source, existing)
            if existing is not None:
                return self._same(existing, request)
            self._context.catalog.refuse_taken(name)
            return self._make(request, fill)

    # -- what is asked for --------------------------------------------------------------------------------------

    def _source(self, name: str, options: Mapping[str, str]) -> tuple[str, str | None] | None:
        source = volume_options.source_of(options)
        if source is not None and source[0] == name:
            raise UsageError(f"volume '{name}' cannot be made from itself", f"see: snapvol rollback {name}@SNAPSHOT")
        return source

    def _existing(self, name: str) -> Entry | None:
        try:
            entry = self._context.catalog.get(name)
        except NotFound:
            return None
        except (NotReady, PoolUnavailable):
            self._context.catalog.refuse_taken(name)
            return None  # it was mended meanwhile
        return entry if entry.volume.name == name else None

    def _request(
        self,
        name: str,
        given: Mapping[str, str],
        labels: Mapping[str, str],
        source: tuple[str, str | None] | None,
        existing: Entry | None,
    ) -> _Request:
        settings, catalog = self._context.settings, self._context.catalog
        named = volume_options.pool_of(given, settings)
        origin = None
        if source is not None:
            try:
                origin = catalog.get(source[0])
            except NotFound:
                if existing is None:
                    raise
        pool = catalog.pools[named or (origin.pool.name if origin else settings.default_pool)]
        asked = volume_options.read(given, settings, self._kinds, pool.kind)
        asked.pop("pool", None)
        if origin is not None and origin.pool is not pool:
            raise UsageError(
                f"volume '{origin.volume.name}' is in pool '{origin.pool.name}', its clone cannot be in '{pool.name}'",
                "leave 'pool' out, or back it up and create the volume from the backup",
            )
        explained = dict(pool.defaults)
        if origin is not None:
            explained |= volume_options.inherited(origin.volume.options, origin.backend)
        if existing is not None and ("snapshot" in asked or "backup" in asked):
            explained |= existing.volume.options  # what it was made from gave them, and may be gone
        return _Request(name=name, pool=pool, asked=asked, explained=explained, labels=dict(labels), source=source)

    def _same(self, existing: Entry, request: _Request) -> Entry:
        _refuse_other(existing, request)
        if existing.volume.state is State.FAILED:
            self._context.require_ready(existing)  # nobody must take it for made
        return existing

    # -- making -------------------------------------------------------------------------------------------------

    def _make(self, request: _Request, fill: Fill | None) -> Entry:
        backend = request.pool.require()
        options = request.options
        volume_options.check_features(options, backend.features, request.pool.name, backend.kind)
        if "backup" in options:
            return self._make_from_backup(request, fill or self._fill)
        snapshot, taken = self._origin(request)
        volume = Volume(
            id=new_id(),
            name=request.name,
            pool=request.pool.name,
            created=now(),
            options=options,
            labels=request.labels,
            parent=snapshot.full_name if snapshot else None,
        )
        try:
            backend.create(volume, size=_size(options), source=snapshot)
        except BaseException:
            if taken and snapshot is not None:
                self._snapshots.discard([snapshot])
            raise
        entry = self._context.catalog.add(volume, request.pool)
        self._context.note("create", volume, f"cloned from {volume.parent}" if snapshot else "created")
        return entry

    def _origin(self, request: _Request) -> tuple[Snapshot | None, bool]:
        """Return the snapshot to clone, and whether it was taken for that."""
        if request.source is None:
            return None, False
        source, name = request.source
        entry = self._context.catalog.get(source)
        if name is not None:
            return entry.snapshot(name), False
        self._context.require_ready(entry)
        taken = self._snapshots.take([entry], free_name([entry], now()), f"for the clone '{request.name}'", "clone")
        return taken[0], True

    def _fill(self, volume: Volume, asked: Mapping[str, str]) -> JobInfo:
        options = volume.options
        return self._context.restorer.fill(volume, options["backup"], options.get("repository"), asked)

    def _make_from_backup(self, request: _Request, fill: Fill) -> Entry:
        backend, options = request.pool.require(), request.options
        volume = Volume(
            id=new_id(),
            name=request.name,
            pool=request.pool.name,
            created=now(),
            options=options,
            labels=request.labels,
            parent=options["backup"],
            state=State.RESTORING,
        )
        backend.create(volume, size=_size(options))
        catalog = self._context.catalog
        catalog.add(volume, request.pool, hidden=True)
        try:
            job = fill(volume, request.asked)
        except BaseException:
            catalog.remove(volume)
            backend.destroy(volume)
            raise
        self._context.note("create", volume, f"created from backup {options['backup']}, job {job.id}")
        return catalog.show(volume.id)


def _size(options: Mapping[str, str]) -> int | None:
    return units.size(options["size"]) if "size" in options else None


def _refuse_other(existing: Entry, request: _Request) -> None:
    said = []
    if existing.pool is not request.pool:
        said.append(f"it is in pool '{existing.pool.name}', not '{request.pool.name}'")
    said += volume_options.differences(existing.volume.options, request.asked, request.explained)
    if request.labels and request.labels != existing.volume.labels:
        said.append("it has other labels")
    if said:
        raise AlreadyExists(
            f"volume '{request.name}' exists with other options: {'; '.join(said)}",
            f"choose another name, or change it: snapvol set {request.name} KEY=VALUE",
        )
