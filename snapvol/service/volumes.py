"""What is done to one existing volume: mounting, renaming, resizing, changing its options, measuring it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

import msgspec

from snapvol import units
from snapvol.backend import Backend
from snapvol.errors import InUse, PoolUnavailable, Refused, SnapvolError, Unsupported
from snapvol.model import State, Volume
from snapvol.names import volume_name
from snapvol.service import options as volume_options
from snapvol.service.catalog import Entry
from snapvol.service.context import Context
from snapvol.service.holders import Client
from snapvol.service.kernel import Site

log = logging.getLogger(__name__)

CHANGEABLE = ("protect", "repository", "policy", "backup.kind", "backup.chunk")


class Volumes:
    """Existing volumes."""

    def __init__(self, context: Context, kinds: Mapping[str, type[Backend]]) -> None:
        self._context = context
        self._kinds = kinds

    # -- mounting -----------------------------------------------------------------------------------------------

    def mount(self, name: str, holder: str, client: Client | None) -> Path:
        """Make a volume available, note who holds it, return its mountpoint.

        Raises:
            NotReady: it is being restored, or could not be.
        """
        entry = self._context.catalog.get(name)
        self._context.require_ready(entry)
        with self._context.locks.mounting(entry.key):
            entry = self._context.catalog.get(name)
            self._context.require_ready(entry)
            path = entry.backend.mount(entry.volume)
            self._context.holders.add(entry.volume.id, holder, client)
            self._context.contents.later.discard(entry.volume.id)
        return path

    def unmount(self, name: str, holder: str, client: Client | None) -> None:
        """End one mount; one that is not known is no error. The last one unmounts, later where that cannot be now.

        Raises:
            NotFound: there is no such volume.
        """
        try:
            entry = self._context.catalog.get(name)
        except PoolUnavailable:
            for _, seen in self._context.catalog.missing():
                if name in (seen.name, seen.id):
                    self._context.holders.drop(seen.id, holder, client)
            return
        volume_id = entry.volume.id
        self._context.holders.drop(volume_id, holder, client)
        if self._context.holders.orphaned(volume_id) and self._unused(entry):
            # What is left was announced by a client that was killed: nobody will end it (G6).
            self._context.holders.forget_gone(volume_id)
        if self._context.holders.count(volume_id) == 0:
            self._context.users.pop(volume_id, None)
            self._context.contents.let_go(entry)

    def _unused(self, entry: Entry) -> bool:
        try:
            return not self._context.kernel_users(entry)
        except SnapvolError as error:
            log.warning("who uses volume '%s' is not known: %s", entry.volume.name, error)
            return False

    def refresh_users(self) -> None:
        """Ask the kernel once who uses which volume; drop holders that are gone and whom the kernel denies.

        What is mounted although nobody needs it, because the daemon was killed in between, is unmounted.

        Raises:
            StorageFailed: the kernel's account cannot be read in full; nothing was dropped.
        """
        context = self._context
        entries = {entry.volume.id: entry for entry in context.catalog.entries()}
        before = {volume_id: context.holders.count(volume_id) for volume_id in entries}
        sites = self._sites(entries.values())
        found = context.kernel.survey(sites)
        unknown = {
            volume_id: context.users[volume_id] for volume_id in entries.keys() - sites if volume_id in context.users
        }
        context.users.clear()
        context.users.update({**unknown, **found.users})
        # A mount announced since the kernel was asked may not be visible there yet.
        freed = context.holders.drop_orphans(
            lambda volume_id: (
                volume_id in sites
                and volume_id not in found.users
                and context.holders.count(volume_id) == before.get(volume_id)
            )
        )
        idle = found.mounted - found.users.keys()
        context.contents.later &= entries.keys()
        for volume_id in {*freed, *idle, *context.contents.later} & entries.keys():
            if context.restorer.active(volume_id) is None:
                context.contents.let_go(entries[volume_id])

    def _sites(self, entries: Iterable[Entry]) -> dict[str, Site]:
        """Return where each volume is; those whose storage does not say are left out: nothing is known of them."""
        sites = {}
        for entry in entries:
            try:
                sites[entry.volume.id] = self._context.site(entry)
            except SnapvolError as error:
                log.info("who uses volume '%s' is not known: %s", entry.volume.name, error)
        return sites

    # -- changing -----------------------------------------------------------------------------------------------

    def rename(self, name: str, to: str) -> Entry:
        """Give a volume another name; its snapshots follow, and its backups know it by its id.

        Raises:
            InUse: somebody uses it: its path would change under them.
            AlreadyExists: ``to`` is taken.
        """
        volume_name(to)
        present = self._context.catalog.get(name)
        self._context.require_ready(present)
        with self._context.locks.volumes(present.key, to, doing=f"renaming of '{name}' to '{to}'"):
            entry = self._context.catalog.get(name)
            if entry.volume.name == to and entry.shadowed is None:
                return entry
            self._context.catalog.refuse_taken(to)
            self._context.require_ready(entry)
            self._context.refuse_used(entry, "rename it")
            entry.backend.unmount(entry.volume)
            renamed = msgspec.structs.replace(entry.backend.rename(entry.volume, to), pool=entry.pool.name)
            entry = self._context.catalog.renamed(renamed)
            self._context.holders.forget(renamed.id)
            self._context.note("rename", renamed, f"renamed from '{name}' to '{to}'")
        return entry

    def resize(self, name: str, size: str) -> Entry:
        """Set a volume's size.

        Raises:
            Unsupported: its pool has no quotas, or cannot change them.
            Refused: more than that is in use.
        """
        return self.set_options(name, {"size": size})

    def set_options(self, name: str, changes: Mapping[str, str | None]) -> Entry:
        """Change options; None takes one away. All are checked before the first is changed.

        Raises:
            UsageError: an option or value is wrong.
            Refused: an option is fixed once the volume exists; says what to do instead.
        """
        with self._context.claim(name, "a change of options", mountable=True) as entry:
            backend = entry.pool.require()
            changed = self._changed(entry, changes)
            if changed == entry.volume.options:
                return entry
            size = changed.get("size")
            if size is not None and size != entry.volume.options.get("size"):
                backend.resize(entry.volume, units.size(size))
            volume = self._context.catalog.change(entry.volume.id, options=changed)
            self._context.note("set", volume, _spelled(entry.volume.options, changed))
        return self._context.catalog.by_id(volume.id) or entry

    def _changed(self, entry: Entry, changes: Mapping[str, str | None]) -> dict[str, str]:
        """Return the options as they will be."""
        present = entry.volume.options
        given = {key: value for key, value in changes.items() if value is not None}
        taken = [key for key, value in changes.items() if value is None]
        settings, kind = self._context.settings, entry.pool.kind
        checked = volume_options.read(given, settings, self._kinds, kind)
        for key in taken:
            volume_options.check_key(key, self._kinds, kind)
        if checked.get("pool") == entry.pool.name:
            del checked["pool"]
        if checked.get("protect") == "false":
            taken.append("protect")  # false is not written down
        volume_options.check_features(checked, entry.backend.features, entry.pool.name, kind)
        for key in [*checked, *taken]:
            if key not in CHANGEABLE and checked.get(key) != present.get(key):
                self._refuse_fixed(entry, key, checked.get(key))
        return {key: value for key, value in (present | checked).items() if key not in taken}

    def _refuse_fixed(self, entry: Entry, key: str, value: str | None) -> None:
        name = entry.volume.name
        if key == "size" and value is not None:
            if not entry.backend.features.resize:
                raise Unsupported(f"pool '{entry.pool.name}' cannot resize volumes", entry.backend.features.reason)
            return
        # Where volumes are real mounts, the path is there only while somebody has it mounted.
        mounts = bool(entry.backend.sources(entry.volume))
        where = f"$(snapvol mount {name}); then: snapvol unmount {name}" if mounts else str(_root(entry))
        instead = {
            "size": "set a larger one",
            "pool": f"back it up, and create another volume from the backup there: -o backup={name} -o pool={value}",
            "uid": f"run: chown {value} {where}",
            "gid": f"run: chgrp {value} {where}",
            "mode": f"run: chmod {value} {where}",
            "backup": f"restore into it: snapvol restore {value} --in-place",
            "snapshot": f"go back to one of its own: snapvol rollback {name}@SNAPSHOT",
        }.get(key, "create another volume with it, and copy the contents")
        raise Refused(f"option '{key}' of volume '{name}' cannot be {'changed' if value else 'taken away'}", instead)

    # -- measuring ----------------------------------------------------------------------------------------------

    def refresh_usage(self, name: str | None) -> None:
        """Measure one volume, or all of them; of all, one that cannot be measured does not stop the others.

        Raises:
            SnapvolError: the one volume cannot be measured.
        """
        if name is not None:
            self._measure(self._context.catalog.get(name))
            return
        for entry in self._context.catalog.entries():
            if entry.pool.problem is None and entry.volume.state is State.READY:
                try:
                    self._measure(entry)
                except SnapvolError as error:
                    log.info("volume '%s' was not measured: %s", entry.volume.name, error)

    def _measure(self, entry: Entry) -> None:
        used = entry.pool.require().usage(entry.volume).used
        if self._context.catalog.by_id(entry.volume.id) is not None:
            self._context.state.set_usage(entry.volume.id, used)

    # -- starting -----------------------------------------------------------------------------------------------

    def give_up_lost_restores(self) -> None:
        """Mark as failed the volumes whose restore no job carries on: a daemon that was killed has left them."""
        for entry in self._context.catalog.entries():
            volume = entry.volume
            if volume.state is State.RESTORING and self._context.restorer.active(volume.id) is None:
                with suppress(InUse), self._context.locks.volumes(entry.key, doing="giving up its restore", wait=0):
                    self._give_up(volume)

    def _give_up(self, volume: Volume) -> None:
        try:
            self._context.catalog.change(volume.id, state=State.FAILED, error="the restore was interrupted")
        except SnapvolError as error:
            log.warning("volume '%s' cannot be marked as not restored: %s", volume.name, error)


def _root(entry: Entry) -> Path:
    return entry.backend.mountpoint(entry.volume)


def _spelled(before: Mapping[str, str], after: Mapping[str, str]) -> str:
    changes = [f"{key}={value}" for key, value in sorted(after.items()) if before.get(key) != value]
    return ", ".join([*changes, *(f"{key} taken away" for key in sorted(before.keys() - after.keys()))])
