"""A pool of ZFS datasets: opening it, recovering what a kill left, and finding volumes and snapshots in it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from snapvol import mountinfo
from snapvol.backend import Backend, Features, Option
from snapvol.backends import zfsfamily, zfsgarbage, zfsholds, zfskeys, zfsnames, zfsrecords
from snapvol.backends.mountpoints import PRIVATE, Mountpoints
from snapvol.backends.place import read_settings
from snapvol.backends.removal import refuse_mounted
from snapvol.backends.zfsfamily import Dataset, Family, Point, Survey
from snapvol.backends.zfspool import Parent, ZfsSettings
from snapvol.backends.zfsrecords import Record, Role, SnapshotRecord
from snapvol.backends.zfstool import Tool, explained
from snapvol.errors import AlreadyExists, InUse, NotFound, NotReady, PoolUnavailable, SnapvolError, ToolFailed
from snapvol.model import Damage, Health, Snapshot, Volume
from snapvol.settings import ROOT

log = logging.getLogger(__name__)

_FRESH = 10.0  # seconds for which what a listing of everything found serves the first question about each volume


class Known(Struct, frozen=True, kw_only=True):
    """Where a volume was found last, so that it can be asked about without listing all of them.

    Attributes:
        name: the volume's, while it is live.
        datasets: the one with the present contents first.
    """

    name: str | None
    datasets: tuple[str, ...]


class ZfsPool(Backend):
    """One pool below one dataset."""

    kind = "zfs"
    options = (Option(key="zfs.*", help="a native property, such as zfs.compression=zstd: see man zfsprops"),)

    def __init__(self, pool: str, settings: Mapping[str, object], *, root: Path = ROOT) -> None:
        self.pool = pool
        self._tool = Tool()
        self._parent = Parent(pool, read_settings(pool, settings, ZfsSettings), self._tool)
        self._mountpoints = Mountpoints(pool, root)
        self._known: dict[str, Known] = {}
        self._staged: dict[str, str] = {}  # volume id → dataset
        self._listed: tuple[float, int, dict[str, tuple[Volume, list[Snapshot | Damage]]]] = (0.0, 0, {})

    # -- the pool -----------------------------------------------------------------------------------------------

    def open(self, *, expected: str | None = None) -> str:
        """See `Backend.open`."""
        try:
            identity = self._parent.open(expected)
            self._unlock_parent()
            self._mountpoints.recover()
            self._recover()
        except SnapvolError:
            self._parent.close()
            raise
        return identity

    def close(self) -> None:
        """See `Backend.close`."""
        self._parent.close()

    @property
    def features(self) -> Features:
        """See `Backend.features`."""
        if self._parent.id is None:
            raise PoolUnavailable(f"pool '{self.pool}' is not open")
        return Features(snapshots=True, instant=True, quota=True, resize=True, shared_blocks=True, stable_inodes=True)

    def health(self) -> Health:
        """See `Backend.health`."""
        return self._parent.health()

    def _unlock_parent(self) -> None:
        values = self._parent.properties
        if "keystatus" in values and values["keystatus"].text == "unavailable":
            root, location = values["encryptionroot"].text, values["keylocation"].text
            what = f"nothing in pool '{self.pool}' can be read"
            self._attempt(lambda: zfskeys.load(self._tool, self._parent.name, root, location, what))

    def _recover(self) -> None:
        self._staged.clear()
        survey = self._survey(points=True)
        before = self._tool.changes
        for dataset in survey.unfinished:
            self._sweep(dataset.name)
        for family in survey.families.values():
            if family.gone:
                self._bury(family)
        for family in survey.families.values():
            if not family.gone:
                self._settle(family)
        if self._tool.changes != before:
            self._survey(points=False)

    def _bury(self, family: Family) -> None:
        """Finish a destruction. What was not yet marked would be taken for the volume once the rest of it is gone."""
        try:
            for dataset in family.history:
                if isinstance(dataset.record, Record) and dataset.record.role is not Role.GONE:
                    words = zfsrecords.properties(replace(dataset.record, role=Role.GONE))
                    pairs = [f"{name}={value}" for name, value in words.items()]
                    self._tool.change(f"{dataset.name} cannot be removed", "set", *pairs, dataset.name)
        except SnapvolError as error:
            log.warning("pool '%s': %s", self.pool, error)
        else:
            self._sweep(*(dataset.name for dataset in family.datasets))

    def _settle(self, family: Family) -> None:
        """Finish what a kill has interrupted once it had come to pass: names follow what the properties say."""
        self._sweep(*(dataset.name for dataset in family.history if not dataset.needed), spare=True)
        target = self._parent.below(family.place)
        if family.head.name != target:
            try:
                self._tool.change(f"{family.head.name} cannot be renamed", "rename", family.head.name, target)
            except SnapvolError as error:
                log.warning("pool '%s': %s", self.pool, error)

    def _sweep(self, *names: str, known: Sequence[Dataset] = (), spare: bool = False) -> list[str]:
        """Remove datasets that nobody sees any more; what cannot be removed now waits for the next `open`.

        Args:
            names: the datasets.
            known: see `zfsgarbage.destroy`.
            spare: likewise.

        Returns:
            Those that may still be there.
        """
        if not names:
            return []
        try:
            return zfsgarbage.destroy(self._tool, names, f"{names[0]} cannot be removed", known=known, spare=spare)
        except SnapvolError as error:
            log.warning("pool '%s': %s", self.pool, error)
            return list(names)

    @contextmanager
    def _swept_on_failure(self, dataset: str) -> Iterator[None]:
        """Remove a dataset in the making where it does not come to take its place."""
        try:
            yield
        except BaseException:
            self._sweep(dataset)
            raise

    # -- listing ------------------------------------------------------------------------------------------------

    def _survey(self, *, points: bool) -> Survey:
        self._parent.check()
        changes = self._tool.changes
        try:
            found = zfsfamily.read_all(self._tool, self._parent.name, points=points)
        except ToolFailed as error:
            raise explained(f"the volumes of pool '{self.pool}' cannot be listed", error) from error
        survey = zfsfamily.survey(found, self.pool)
        known = {family.volume.id: _known(family) for family in survey.families.values()}
        if changes == self._tool.changes:
            self._known = known
        else:
            # Whoever was changing something knows better: the listing may be older, and of no one moment.
            for volume_id, one in known.items():
                self._known.setdefault(volume_id, one)
        return survey

    def volumes(self) -> Sequence[Volume | Damage]:
        """See `Backend.volumes`."""
        changes = self._tool.changes
        survey = self._survey(points=True)
        found = [family for family in survey.families.values() if not family.gone]
        holds = self._our_holds(point for family in found for point in family.points)
        listed = {family.volume.id: (family.volume, zfsfamily.shown(family, holds)) for family in found}
        self._listed = (time.monotonic(), changes, listed)
        damages = [damage for damage in survey.damages if not damage.name.startswith(".")]
        return [*(family.volume for family in found if family.volume.deleted is None), *damages]

    def trashed(self) -> Sequence[Volume | Damage]:
        """See `Backend.trashed`."""
        survey = self._survey(points=False)
        found = [family.volume for family in survey.families.values() if not family.gone]
        damages = [damage for damage in survey.damages if damage.name.startswith(".")]
        return [*(volume for volume in found if volume.deleted is not None), *damages]

    def snapshots(self, volume: Volume) -> Sequence[Snapshot | Damage]:
        """See `Backend.snapshots`."""
        self._parent.check()
        when, changes, listed = self._listed
        if changes == self._tool.changes and time.monotonic() - when < _FRESH:
            known, snapshots = listed.pop(volume.id, (None, []))
            if known is not None and same(known, volume):
                return snapshots
        family = self._find(volume)
        return zfsfamily.shown(family, self._our_holds(family.points))

    def _our_holds(self, points: Iterable[Point]) -> dict[str, tuple[str, ...]]:
        found = zfsholds.read(self._tool, [point for point in points if point.held])
        return {name: holds.ours for name, holds in found.items()}

    # -- finding ------------------------------------------------------------------------------------------------

    def _look_up(self, *volume_ids: str) -> Survey:
        """Return what there is of some volumes, read anew with one command where they are where they were."""
        self._parent.check()
        known = [self._known[volume_id] for volume_id in volume_ids if volume_id in self._known]
        if len(known) == len(volume_ids):
            # Where one is not there any more, a listing of everything says what is the matter.
            with suppress(ToolFailed):
                survey = self._read(name for one in known for name in one.datasets)
                if all(_in_place(survey.families.get(volume_id)) for volume_id in volume_ids):
                    return survey
        everything = self._survey(points=False)
        families = [everything.families[volume_id] for volume_id in volume_ids if volume_id in everything.families]
        if not families:
            return everything
        try:
            survey = self._read(dataset.name for family in families for dataset in family.datasets)
        except ToolFailed as error:
            raise explained(f"pool '{self.pool}' cannot be read", error) from error
        return replace(everything, families=survey.families)

    def _read(self, names: Iterable[str]) -> Survey:
        return zfsfamily.survey(zfsfamily.read(self._tool, list(dict.fromkeys(names))), self.pool)

    def _find(self, volume: Volume) -> Family:
        """Return the volume, live or in the trash, as stored.

        Raises:
            NotFound: it is gone, or another one has its name.
            NotReady: its metadata cannot be read.
        """
        return self._find_all([volume])[0]

    def _find_all(self, volumes: Sequence[Volume]) -> list[Family]:
        survey = self._look_up(*(volume.id for volume in volumes))
        found = []
        for volume in volumes:
            family = survey.families.get(volume.id)
            if family is None or family.gone or not same(family.volume, volume):
                raise self._missing(volume, survey.damages)
            found.append(family)
        return found

    def _missing(self, volume: Volume, damages: Iterable[Damage]) -> NotFound | NotReady:
        for damage in damages:
            hidden = zfsnames.of_hidden(damage.name)
            if damage.name == zfsnames.volume(volume.name) or (hidden is not None and hidden[0] == volume.id):
                remove = f"zfs destroy -r {self._parent.below(damage.name)}"
                return NotReady(
                    f"volume '{volume.name}' is damaged: {damage.reason}",
                    f"mend its properties with `zfs set`, or remove it: {remove}",
                )
        return NotFound(f"no volume '{volume.name}' with id {volume.id} in pool '{self.pool}'", "snapvol ls")

    def _find_point(self, snapshot: Snapshot) -> tuple[Family, Dataset, Point]:
        """Return a snapshot with the dataset that has it and the volume.

        Raises:
            NotFound: it is gone, or a later one has its name.
            NotReady: its metadata cannot be read.
        """
        family = self._look_up(snapshot.volume_id).families.get(snapshot.volume_id)
        for dataset in family.datasets if family is not None and not family.gone else ():
            for point in dataset.points:
                if point.guid == snapshot.id and point.alive and point.record is not None:
                    if not isinstance(point.record, SnapshotRecord):
                        raise NotReady(
                            f"snapshot '{snapshot.full_name}' is damaged: {point.record}",
                            f"mend it with `zfs set`, or remove it: zfs destroy {point.name}",
                        )
                    assert family is not None
                    return family, dataset, point
        raise NotFound(f"no snapshot '{snapshot.full_name}' with id {snapshot.id} in pool '{self.pool}'")

    def _refuse_taken(self, name: str) -> None:
        """Check that no volume of ours has the name; whether somebody else's dataset has it, ZFS says."""
        if self._knows(name):
            self._survey(points=False)  # it may have been removed while a listing went on
            if self._knows(name):
                raise self._taken(name)

    def _knows(self, name: str) -> bool:
        return any(known.name == name for known in list(self._known.values()))

    def _taken(self, name: str) -> AlreadyExists:
        where = self._parent.below(zfsnames.volume(name))
        return AlreadyExists(f"'{name}' exists in pool '{self.pool}' already ({where})", "choose another name")

    # -- changing -----------------------------------------------------------------------------------------------

    def _remember(self, family: Family, volume: Volume, *datasets: str) -> None:
        """Note where a volume is now: ``datasets``, and what of its history there was."""
        names = tuple(dict.fromkeys((*datasets, *(dataset.name for dataset in family.history))))
        self._known[volume.id] = Known(name=_live_name(volume), datasets=names)

    def _take_away(self, family: Family, what: str) -> bool:
        """Unmount a volume before something happens to its dataset; return whether it was mounted.

        Raises:
            InUse: something is mounted in it, or it is mounted somewhere else (T9).
            Refused: somebody has made a dataset in it (T6).
        """
        zfsgarbage.refuse_children(family.head, what)
        point = self.mountpoint(family.volume)
        mounts = mountinfo.own()
        ours = self._mountpoints.found(point, mounts) if family.volume.deleted is None else None
        if ours is not None:
            refuse_mounted(point, what)
        for mount in mounts:
            elsewhere = (mount.filesystem, mount.source) == ("zfs", family.head.name)
            if elsewhere and (ours is None or mount.mountpoint != ours.mountpoint):
                raise InUse(f"{what}: something is mounted at {mount.mountpoint}", f"umount {mount.mountpoint}")
        if ours is not None:
            self._mountpoints.unmount(point)
        return ours is not None

    def _bring_back(self, volume: Volume, dataset: str, *, mounted: bool) -> None:
        """Mount a volume again that was mounted before."""
        if mounted:
            self._mountpoints.mount(self.mountpoint(volume), dataset, "zfs")

    def mountpoint(self, volume: Volume) -> Path:
        """See `Backend.mountpoint`."""
        return self._mountpoints.of(volume.name)

    def _aside(self, family: Family) -> str:
        """Return what the dataset with the present contents is called once it has made way."""
        return self._parent.below(zfsnames.hidden(family.volume.id, family.record.generation))

    def _private_point(self, volume: Volume) -> Path:
        return self._mountpoints.directory / PRIVATE / volume.id

    def _attempt(self, *steps: Callable[[], None]) -> None:
        """Tidy up as far as possible, such as after a failure; what is left waits for the next `open`."""
        for step in steps:
            try:
                step()
            except SnapvolError as error:
                log.warning("pool '%s': %s", self.pool, error)


def _known(family: Family) -> Known:
    return Known(
        name=None if family.gone else _live_name(family.volume),
        datasets=tuple(dataset.name for dataset in family.datasets),
    )


def _in_place(family: Family | None) -> bool:
    """Return whether a volume's present contents are where they belong: else there may be newer ones."""
    return family is not None and family.head.leaf == family.place


def _live_name(volume: Volume) -> str | None:
    return volume.name if volume.deleted is None else None


def same(stored: Volume, volume: Volume) -> bool:
    """Return whether what is stored is the volume that somebody means."""
    return (
        stored.id == volume.id and stored.name == volume.name and (stored.deleted is None) == (volume.deleted is None)
    )
