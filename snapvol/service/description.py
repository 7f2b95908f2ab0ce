"""What a restored volume is, beside its contents: options, size and labels, as the backup and whoever asked say."""

from __future__ import annotations

from collections.abc import Mapping

from snapvol import units
from snapvol.docker import Docker
from snapvol.errors import Refused, SnapvolError, Unsupported, UsageError
from snapvol.service import options as volume_options
from snapvol.service import restored_options
from snapvol.service.catalog import Entry
from snapvol.service.context import Context
from snapvol.service.job import Run
from snapvol.service.library import Found
from snapvol.service.transfer import Transfer


class Description:
    """Describes restored volumes."""

    def __init__(self, context: Context, docker: Docker) -> None:
        self._context = context
        self._docker = docker

    def apply(self, run: Run, entry: Entry, asked: Mapping[str, str], found: Found, transfer: Transfer) -> Entry:
        """Give a volume that was made for a restore the options and labels of the backup, before anybody sees it.

        Docker gets the labels, too. What cannot be kept is a warning.

        Raises:
            SnapvolError: the storage failed.
        """
        volume, meta = entry.volume, found.meta
        options, warnings = restored_options.merge(meta, asked, entry.pool, self._context.settings)
        if transfer.as_image(entry.backend) and transfer.image is not None:
            options["fs"] = transfer.image.filesystem
        limit = entry.backend.usage(volume).limit if entry.backend.features.filesystems else None
        fitting = restored_options.fitting(
            options, asked, found, limit, entry.pool.kind, as_image=transfer.as_image(entry.backend)
        )
        for warning in (*warnings, *restored_options.enlarged(options, fitting)):
            run.warn(warning)
        if transfer.as_image(entry.backend) and transfer.image is not None and "size" in asked:
            _refuse_smaller(entry, asked["size"], transfer.image.size)
        smaller = limit is not None and "size" in fitting and units.size(fitting["size"]) < limit
        options = fitting if smaller else self._resized(run, entry, fitting)
        labels = (meta.labels if meta is not None else {}) | volume.labels
        self._context.catalog.change(volume.id, options=options, labels=labels, parent=found.backup.id)
        given = restored_options.given(meta.options, meta.parent, entry.pool) if meta is not None else {}
        if (labels or given) and self._docker.adopt(volume.name, labels, given) is False:
            run.warn(f"Docker knew volume '{volume.name}' already, and keeps the labels that it has")
        entry = self._context.catalog.by_id(volume.id) or entry
        if transfer.as_image(entry.backend):
            return entry
        if not smaller and not volume_options.of_storage(options, entry.backend):
            return entry
        return self._prepared(run, entry, asked, adopt=transfer.image is None)

    def _prepared(self, run: Run, entry: Entry, asked: Mapping[str, str], *, adopt: bool) -> Entry:
        """Begin with a root that has the storage's own options, which work on what is written after them, and size."""
        backend, volume = entry.backend, entry.volume
        try:
            backend.stage(volume)
        except (UsageError, Unsupported) as error:
            own = volume_options.of_storage(volume.options, backend)
            dropped = [key for key in own if key not in asked and key not in entry.pool.defaults]
            if not dropped:
                raise
            said = ", ".join(f"{key}={volume.options[key]}" for key in dropped)
            run.warn(f"option {said} of the backup was not restored: {error.message}")
            options = {key: value for key, value in volume.options.items() if key not in dropped}
            volume = self._context.catalog.change(volume.id, options=options)
            backend.stage(volume)
        if adopt:
            backend.adopt_stage(volume)
        return self._context.catalog.by_id(volume.id) or entry

    def note_filesystem(self, entry: Entry, transfer: Transfer) -> None:
        """Record which filesystem a volume has now that an image has become its contents."""
        image, backend = transfer.image, entry.backend
        if image is None or not transfer.as_image(backend):
            return
        options = entry.volume.options
        if options.get("fs", backend.features.filesystems[0]) != image.filesystem:
            self._context.catalog.change(entry.volume.id, options={**options, "fs": image.filesystem})

    def _resized(self, run: Run, entry: Entry, options: dict[str, str]) -> dict[str, str]:
        size = options.get("size")
        if size is None or size == entry.volume.options.get("size"):
            return options
        try:
            entry.backend.resize(entry.volume, units.size(size))
        except SnapvolError as error:
            run.warn(f"size={size} of the backup was not restored: {error.message}")
            return {key: value for key, value in options.items() if key != "size"}
        return options


def _refuse_smaller(entry: Entry, asked: str, image: int) -> None:
    if units.size(asked) < image:
        least = units.spelled(image)
        raise Refused(
            f"volume '{entry.volume.name}' was asked for with size={asked}, the image in the backup has {least}",
            f"remove it, snapvol rm {entry.volume.name}, and create it without a size, or with size={least} or more",
        )
