"""The trash: what was removed can be brought back for a while."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import timedelta

import msgspec

from snapvol.api import Action, Plan, TrashInfo
from snapvol.errors import NotFound, SnapvolError
from snapvol.model import now
from snapvol.names import volume_name
from snapvol.service import bases, views
from snapvol.service.catalog import Entry, Trashed
from snapvol.service.context import Context

log = logging.getLogger(__name__)


class Trash:
    """Removed volumes, until they expire."""

    def __init__(self, context: Context) -> None:
        self._context = context

    @property
    def keep(self) -> int:
        """How many seconds a removed volume is kept."""
        return self._context.settings.trash.seconds

    def put(self, entry: Entry) -> None:
        """Move a volume that the caller has claimed, and that nobody uses, into the trash. Its name is free then."""
        when = now()
        entry.backend.trash(entry.volume, when)
        self._context.catalog.trashed(msgspec.structs.replace(entry.volume, deleted=when), entry.pool)

    def list(self) -> Sequence[TrashInfo]:
        """Return what is in the trash, what was removed last first."""
        catalog = self._context.catalog
        return [
            *(views.trashed(trashed, self.keep) for trashed in catalog.trash()),
            *(views.damaged_trash(damage) for damage in catalog.damaged_trash()),
        ]

    def undelete(self, ref: str, name: str | None) -> Entry:
        """Bring a removed volume back.

        Args:
            ref: its id, or its name: then the one that was removed last.
            name: what it is called from now on; as before where None.

        Raises:
            NotFound: there is no such volume in the trash.
            AlreadyExists: its name is taken meanwhile.
        """
        catalog = self._context.catalog
        found = catalog.find_trash(ref)
        to = found.volume.name if name is None else volume_name(name)
        with self._context.locks.volumes(to, found.volume.id, doing=f"return of '{to}' from the trash"):
            found = catalog.find_trash(found.volume.id)
            catalog.refuse_taken(to)
            backend = found.pool.require()
            volume = backend.undelete(found.volume, to)
            catalog.untrashed(found.volume)
            entry = catalog.add(volume, found.pool, backend.snapshots(volume))
            self._context.note("undelete", volume, f"brought back from the trash as '{to}'")
        return entry

    def empty(self, ref: str | None, *, dry_run: bool) -> Plan:
        """Destroy what ``ref`` (an id, or a name: all removed under it) names, or everything where it is None.

        Raises:
            NotFound: there is nothing of that name.
        """
        everything = self._context.catalog.trash()
        chosen = [one for one in everything if ref is None or ref in (one.volume.id, one.volume.name)]
        if ref is not None and not chosen:
            raise NotFound(f"there is no '{ref}' in the trash", "see: snapvol trash")
        actions = [
            Action(
                verb="destroy",
                object=f"removed volume {one.volume.name}",
                detail=f"removed {one.volume.deleted:%Y-%m-%d %H:%M:%S} UTC, id {one.volume.id}",
            )
            for one in chosen
        ]
        if not dry_run:
            for one in chosen:
                self.destroy(one)
        return Plan(actions=actions, done=not dry_run)

    def expire(self) -> None:
        """Destroy what has been here for longer than `keep`. One that cannot be destroyed does not stop the others."""
        for one in self._context.catalog.trash():
            if one.volume.deleted is None or now() < one.volume.deleted + timedelta(seconds=self.keep):
                continue
            try:
                self.destroy(one)
            except SnapvolError as error:
                log.warning("removed volume '%s' (%s) stays in the trash: %s", one.volume.name, one.volume.id, error)

    def destroy(self, one: Trashed) -> None:
        """Destroy a removed volume for ever; gone already: nothing happens."""
        with self._context.locks.volumes(one.volume.id, doing=f"destruction of removed volume '{one.volume.name}'"):
            try:
                one = self._context.catalog.find_trash(one.volume.id)
            except NotFound:
                return
            backend = one.pool.require()
            if backend.features.keeps_base:
                bases.release_all(backend, one.volume, backend.snapshots(one.volume))
            backend.destroy(one.volume)
            self._context.catalog.untrashed(one.volume)
            self._context.note("destroy", one.volume, "removed from the trash for ever")
