"""Removing volumes: into the trash where there is something to lose, for ever where there is not or where asked."""

from __future__ import annotations

import logging
import threading
from contextlib import suppress
from datetime import timedelta

from snapvol.api import Action, Plan
from snapvol.errors import NotFound, Protected, Refused, SnapvolError
from snapvol.model import State, Volume, now
from snapvol.service import bases
from snapvol.service.catalog import Entry, Trashed
from snapvol.service.context import Context
from snapvol.service.snapshots import refuse_held
from snapvol.service.trash import Trash

log = logging.getLogger(__name__)

PATIENCE = 3.0  # seconds that a removal without trash waits for the storage; the rest goes on behind


class Removal:
    """Removes volumes."""

    def __init__(self, context: Context, trash: Trash) -> None:
        self._context = context
        self._trash = trash

    def remove(self, name: str, *, dry_run: bool, permanent: bool) -> Plan:
        """Move a volume to the trash, or destroy it: where asked, where the trash keeps nothing, or half restored.

        Raises:
            NotFound: there is none.
            Protected: ``protect=true``, or one of its snapshots is held.
            InUse: somebody uses it by the kernel's account; holders that the kernel does not show are no obstacle.
        """
        entry = self._context.catalog.get(name)
        self._refuse(entry)
        if entry.volume.state is not State.READY and not dry_run:
            with suppress(Refused):  # it has ended meanwhile
                self._context.restorer.cancel(entry.volume.id)  # first: the job claims the volume while it runs
        with self._context.locks.volumes(entry.key, doing="removal"):
            entry = self._context.catalog.get(name)
            self._refuse(entry)
            if entry.volume.state is not State.READY:
                return self._remove_unfinished(entry, dry_run=dry_run)
            self._context.refuse_used(entry, "remove it")
            if permanent:
                return self._destroy(entry, dry_run=dry_run)
            plan = self._plan(entry, done=not dry_run)
            if not dry_run:
                entry.backend.unmount(entry.volume)
                self._trash.put(entry)
                self._forget(entry, "removed, in the trash" if self._trash.keep else "removed")
        if not dry_run and not self._trash.keep:
            self._destroy_trashed(self._context.catalog.find_trash(entry.volume.id))
        return plan

    def _refuse(self, entry: Entry) -> None:
        volume = entry.volume
        entry.pool.require()
        if volume.options.get("protect") == "true":
            raise Protected(
                f"volume '{volume.name}' is protected", f"allow its removal: snapvol set {volume.name} protect=false"
            )
        if volume.state is State.READY:
            self._context.refuse_worked_on(entry, "remove it")  # before the hold that a backup has: this is what helps
        refuse_held(entry.snapshots)

    def _plan(self, entry: Entry, *, done: bool) -> Plan:
        volume, keep = entry.volume, self._trash.keep
        if not keep:
            return _destruction(entry, "and trash.keep is 0: it cannot be brought back", done=done)
        until = now() + timedelta(seconds=keep)
        action = Action(
            verb="move",
            object=f"volume {volume.name}",
            target="to the trash",
            detail=f"with {_counted(entry)}; until {until:%Y-%m-%d %H:%M} UTC: snapvol undelete {volume.name}",
        )
        return Plan(actions=[action], done=done)

    def _remove_unfinished(self, entry: Entry, *, dry_run: bool) -> Plan:
        """Destroy what a restore has not finished: everything in it is in the backup."""
        volume = entry.volume
        plan = _destruction(entry, f"its restore from {_parent(volume)} is not complete", done=not dry_run)
        if not dry_run:
            entry.backend.unmount(volume)  # a restore that was killed left it mounted
            entry.backend.destroy(volume)
            self._context.catalog.remove(volume)
            self._forget(entry, f"removed while {volume.state}")
        return plan

    def _destroy(self, entry: Entry, *, dry_run: bool) -> Plan:
        plan = _destruction(entry, "it cannot be brought back", done=not dry_run)
        if not dry_run:
            entry.backend.unmount(entry.volume)
            left = bases.release_all(entry.backend, entry.volume, entry.snapshots)
            self._context.catalog.set_snapshots(entry.volume.id, lambda _: left)
            entry.backend.destroy(entry.volume)
            self._context.catalog.remove(entry.volume)
            self._forget(entry, "destroyed for ever")
        return plan

    def _forget(self, entry: Entry, message: str) -> None:
        self._context.holders.forget(entry.volume.id)
        self._context.users.pop(entry.volume.id, None)
        self._context.note("remove", entry.volume, message)

    def _destroy_trashed(self, trashed: Trashed) -> None:
        """Destroy what was just removed, behind the caller's back where it takes longer than Docker should wait."""

        def destroy() -> None:
            try:
                self._trash.destroy(trashed)
            except NotFound:
                pass
            except SnapvolError as error:
                log.warning("removed volume '%s' is still in the trash: %s", trashed.volume.name, error)

        thread = threading.Thread(target=destroy, name=f"destroy-{trashed.volume.id}", daemon=True)
        thread.start()
        thread.join(PATIENCE)


def _destruction(entry: Entry, why: str, *, done: bool) -> Plan:
    action = Action(verb="destroy", object=f"volume {entry.volume.name}", detail=f"with {_counted(entry)}; {why}")
    return Plan(actions=[action], done=done)


def _parent(volume: Volume) -> str:
    return f"backup {volume.parent[:8]}" if volume.parent else "a backup"


def _counted(entry: Entry) -> str:
    number = len(entry.snapshots) + len(entry.damaged_snapshots)
    return "1 snapshot" if number == 1 else f"{number or 'no'} snapshots"
