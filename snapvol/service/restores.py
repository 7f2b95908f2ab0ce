"""Restores: what is asked for, checked, planned and begun. `snapvol.service.restore_job` does it."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Mapping
from contextlib import suppress

import msgspec

from snapvol.api import Action, JobInfo, Plan
from snapvol.errors import AlreadyExists, Refused, SnapvolError, StorageFailed, UsageError
from snapvol.model import Volume
from snapvol.names import volume_name
from snapvol.service import points, restored_options
from snapvol.service.catalog import Entry
from snapvol.service.context import Context
from snapvol.service.jobs import Jobs
from snapvol.service.library import PATIENCE, Found, Library
from snapvol.service.restore_job import ELSEWHERE, RestoreJob, RestoreSpec

DOCKER_WAITS = 3.0  # seconds that Create spends on finding out whether the backup exists (Podman gives up after 5)

Fill = Callable[[Volume, Mapping[str, str]], JobInfo]
Make = Callable[[str, Mapping[str, str], Fill], Entry]  # name, options, and what begins to fill it


class Restores:
    """What people and programs ask of restores."""

    def __init__(self, context: Context, jobs: Jobs, library: Library, kind: RestoreJob, make: Make) -> None:
        self._context = context
        self._jobs = jobs
        self._library = library
        self._kind = kind
        self._make = make

    def find(self, text: str, repository: str | None, seconds: float = PATIENCE) -> Found:
        """Return the backup that ``text`` means.

        Raises:
            NotFound: there is none.
            StorageFailed: the repository did not say within ``seconds``.
        """
        name = self._repository(text, repository)
        found = self._library.find(text, name, seconds)
        if found is None:
            raise StorageFailed(f"repository '{name}': no answer within {seconds:.0f} s", "see: snapvol doctor")
        return found

    def fill(
        self, volume: Volume, backup: str, repository: str | None, asked: Mapping[str, str] | None = None
    ) -> JobInfo:
        """See `snapvol.service.backups.Backups.fill`."""
        name = self._repository(backup, repository)
        found = self._library.find(backup, name, DOCKER_WAITS)
        return self._begin(
            RestoreSpec(
                volume_id=volume.id,
                volume=volume.name,
                backup=found.backup.id if found is not None else backup,
                repository=name,
                asked=dict(volume.options if asked is None else asked),
            )
        )

    def restore(
        self,
        backup: str,
        *,
        volume: str | None,
        in_place: bool,
        path: str | None,
        repository: str | None,
        dry_run: bool,
    ) -> JobInfo | Plan:
        """See `snapvol.service.backups.Backups.restore`."""
        if volume is not None:
            volume_name(volume)
        path = None if path is None else _relative(path)
        found = self.find(backup, repository)
        if in_place:
            by_name = not found.backup.id.startswith(backup)
            return self._in_place(found, volume, path, dry_run, by_name=by_name)
        return self._new(found, volume, path, dry_run)

    # -- in place -----------------------------------------------------------------------------------------------

    def _in_place(
        self, found: Found, volume: str | None, path: str | None, dry_run: bool, *, by_name: bool
    ) -> JobInfo | Plan:
        entry = self._original(found) if volume is None else self._context.catalog.get(volume)
        if by_name:
            self._refuse_namesake(found, entry)
        self._context.require_ready(entry)
        name = entry.volume.name
        self._jobs.refuse_busy(entry.volume.id, name)
        self._kind.refuse_used(entry)
        points.require_undo(entry, ELSEWHERE)
        if dry_run:
            replaced = f"the contents of {name}" if path is None else f"/{path} in {name}"
            return Plan(
                actions=[
                    Action(
                        verb="snapshot", object=f"volume {name}", detail=f"as {name}@before-restore-TIME, which stays"
                    ),
                    Action(verb="replace", object=replaced, detail=_words(found)),
                ],
                done=False,
            )
        return self._begin(
            RestoreSpec(
                volume_id=entry.volume.id,
                volume=name,
                backup=found.backup.id,
                repository=found.backup.repository,
                in_place=True,
                path=path,
            )
        )

    def _refuse_namesake(self, found: Found, entry: Entry) -> None:
        """Check that a backup that was found by its name is not that of another host's volume of this name."""
        backup = found.backup
        if backup.volume_id in (None, entry.volume.id) or backup.host == self._context.settings.host:
            return
        raise Refused(
            f"the newest such backup, {backup.id[:8]}, is of another volume '{backup.volume}', on host '{backup.host}'",
            f"see: snapvol backups {backup.volume}; to take it all the same, name it by its ID",
        )

    def _original(self, found: Found) -> Entry:
        """Return the live volume that was backed up: by its identity, whatever its name is now, else by its name."""
        backup = found.backup
        entry = self._context.catalog.by_id(backup.volume_id) if backup.volume_id else None
        if entry is not None:
            return entry
        if backup.volume is None:
            raise UsageError(
                f"backup {backup.id[:8]} was not made by snapvol and names no volume", "name the volume to restore to"
            )
        return self._context.catalog.get(backup.volume)

    # -- a new volume -------------------------------------------------------------------------------------------

    def _new(self, found: Found, volume: str | None, path: str | None, dry_run: bool) -> JobInfo | Plan:
        backup = found.backup
        name = volume or backup.volume
        if name is None:
            raise UsageError(f"backup {backup.id[:8]} names no volume", "name the new volume: snapvol restore ID NEW")
        self._refuse_taken(volume_name(name), backup.id[:8])
        if dry_run:
            return self._plan_new(found, name, path)
        begun: list[JobInfo] = []

        def fill(made: Volume, asked: Mapping[str, str]) -> JobInfo:
            begun.append(
                self._begin(
                    RestoreSpec(
                        volume_id=made.id,
                        volume=made.name,
                        backup=backup.id,
                        repository=backup.repository,
                        path=path,
                        asked=dict(asked),
                    )
                )
            )
            return begun[0]

        options = {"backup": backup.id}
        if backup.repository != self._context.settings.default_repository:
            options["repository"] = backup.repository
        self._make(name, options, fill)
        return begun[0] if begun else self._already(name)

    def _already(self, name: str) -> JobInfo:
        raise AlreadyExists(f"volume '{name}' was created meanwhile", "see: snapvol ls")

    def _refuse_taken(self, name: str, backup: str) -> None:
        try:
            self._context.catalog.refuse_taken(name)
        except AlreadyExists as error:
            raise AlreadyExists(
                error.message,
                f"give a new name: snapvol restore {backup} NEW; or replace its contents: "
                f"snapvol restore {backup} {name} --in-place",
            ) from None

    def _plan_new(self, found: Found, name: str, path: str | None) -> Plan:
        settings = self._context.settings
        pool = self._context.catalog.pools[settings.default_pool]
        pool.require()
        options, warnings = restored_options.merge(found.meta, {}, pool, settings)
        said = ", ".join(f"{key}={value}" for key, value in sorted(options.items()))
        detail = "; ".join([f"in pool '{pool.name}'", *([said] if said else []), *warnings])
        create = Action(verb="create", object=f"volume {name}", detail=detail)
        what = "everything" if path is None else f"/{path}"
        return Plan(actions=[create, Action(verb="restore", object=what, detail=_words(found))], done=False)

    # -- both ---------------------------------------------------------------------------------------------------

    def _begin(self, spec: RestoreSpec) -> JobInfo:
        return self._jobs.submit("restore", spec.volume, msgspec.to_builtins(spec), spec.volume_id)

    def _repository(self, text: str, repository: str | None) -> str:
        """Return the repository to look in: a live volume's own, where ``text`` begins with its name."""
        if repository is not None:
            self._context.settings.repository(repository)
            return repository
        with suppress(SnapvolError):
            own = self._context.catalog.get(text.partition("@")[0]).volume.options.get("repository")
            if own is not None:
                return own
        return self._context.settings.default_repository


def _relative(path: str) -> str:
    """Return a path inside a volume, however it was written.

    Raises:
        UsageError: it leads out of the volume, or nowhere.
    """
    if "\0" in path or posixpath.normpath(path).strip("/") in ("", "."):
        raise UsageError(f"path {path!r} names nothing in a volume", "write it relative to the volume's root")
    if ".." in path.split("/"):
        raise UsageError(f"path {path!r} leads out of the volume", "write it relative to the volume's root")
    return posixpath.normpath(path).strip("/")


def _words(found: Found) -> str:
    backup = found.backup
    figures = [f"{backup.files} files in all"] if backup.files is not None else []
    if found.meta is not None and found.meta.image is not None:
        figures = [f"the image of a block device of {found.meta.image.size >> 20} MiB"]
    made = f"from backup {backup.id[:8]} of {backup.time:%Y-%m-%d %H:%M %Z}, made on host {backup.host or 'unknown'}"
    return ", ".join([made, *figures])
