"""Which datasets a volume consists of, found out by their properties.

A volume is a family of datasets: one has its present contents, the others are earlier ones, kept for the snapshots that
only they have. A rollback to a snapshot that others are newer than makes a new dataset, a clone of that snapshot, and
leaves the old one with the newer snapshots. The highest generation has the present contents, whatever it is called: so
one command that marks a dataset changes a volume at once, and names are set right afterwards. A new dataset counts from
the rename that ends its making (`zfsnames`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from snapvol.backends import zfsnames, zfsrecords
from snapvol.backends.zfsrecords import Record, Role, SnapshotRecord
from snapvol.backends.zfstool import Rows, Tool, Value
from snapvol.model import Damage, Snapshot, Volume

_DATASET = (
    "type", "guid", "origin", "refquota", "referenced", "written",
    "keystatus", "encryptionroot", "keylocation", zfsrecords.VOLUME,
)  # fmt: skip
_SNAPSHOT = ("guid", "createtxg", "userrefs", "defer_destroy", "clones", "referenced", zfsrecords.SNAPSHOT)
_NOTHING = Value("-", "-")


class Point(Struct, frozen=True, kw_only=True):
    """A snapshot of a dataset, ours or not.

    Attributes:
        dataset: whose it is.
        leaf: what follows the ``@``.
        guid: its identity.
        txg: orders the snapshots of a pool by time.
        held: something holds it.
        doomed: it was destroyed, and is there only as long as clones need it.
        clones: the datasets that need it.
        referenced: bytes.
        record: what makes it ours; in words what is wrong with that; None for somebody else's.
    """

    dataset: str
    leaf: str
    guid: str
    txg: int
    held: bool
    doomed: bool
    clones: tuple[str, ...]
    referenced: int
    record: SnapshotRecord | str | None

    @property
    def name(self) -> str:
        """The whole name."""
        return f"{self.dataset}@{self.leaf}"

    @property
    def alive(self) -> bool:
        """Whether anybody wants it."""
        return not self.doomed


class Dataset(Struct, frozen=True, kw_only=True):
    """A file system below the pool's parent.

    Attributes:
        name: whole.
        limit: the quota of its contents in bytes; 0 for none.
        referenced: bytes that its contents take.
        written: bytes of those that no snapshot and no origin has.
        origin: the snapshot of which it is a clone.
        keyless: it is encrypted, and the key is not there.
        key: the dataset whose key that is.
        keylocation: where that key comes from, if the dataset is that one.
        record: what makes it ours; in words what is wrong with that; None for somebody else's.
        points: its snapshots.
        children: file systems and volumes below it.
    """

    name: str
    limit: int
    referenced: int
    written: int
    origin: str | None
    keyless: bool
    key: str
    keylocation: str
    record: Record | str | None
    points: tuple[Point, ...] = ()
    children: tuple[str, ...] = ()

    @property
    def leaf(self) -> str:
        """The last part of the name."""
        return self.name.rpartition("/")[2]

    @property
    def needed(self) -> bool:
        """Whether it has a snapshot that somebody wants."""
        return any(point.alive for point in self.points)


class Family(Struct, frozen=True, kw_only=True):
    """The datasets of one volume.

    Attributes:
        volume: its metadata, as stored with the present contents.
        head: what has the present contents.
        history: what has earlier ones.
    """

    volume: Volume
    head: Dataset
    history: tuple[Dataset, ...] = ()

    @property
    def datasets(self) -> tuple[Dataset, ...]:
        """All of them, the present contents first."""
        return (self.head, *self.history)

    @property
    def record(self) -> Record:
        """What the present contents' properties say."""
        assert isinstance(self.head.record, Record)
        return self.head.record

    @property
    def gone(self) -> bool:
        """Whether the volume was destroyed, and only its remains are there."""
        return self.record.role is Role.GONE

    @property
    def is_aside(self) -> bool:
        """Whether it is a live volume whose contents have made way for others, of which nothing is known."""
        return self.volume.deleted is None and not self.gone and zfsnames.of_hidden(self.head.leaf) is not None

    @property
    def points(self) -> list[Point]:
        """The snapshots that anybody wants, somebody else's among them, oldest first."""
        found = [point for dataset in self.datasets for point in dataset.points if point.alive]
        return sorted(found, key=lambda point: point.txg)

    @property
    def place(self) -> str:
        """What the dataset with the present contents should be called, without the parent."""
        return place(self.record)


class Survey(Struct, frozen=True, kw_only=True):
    """What there is below a pool's parent.

    Attributes:
        families: the volumes by their ids, also those that were destroyed and whose remains are there.
        damages: what is ours and cannot be understood.
        unfinished: what a kill has left, or what is being made just now.
    """

    families: Mapping[str, Family]
    damages: tuple[Damage, ...]
    unfinished: tuple[Dataset, ...]


def place(record: Record) -> str:
    """Return what the dataset with a volume's present contents should be called, without the parent."""
    volume = record.volume
    if volume.deleted is not None:
        return zfsnames.hidden(volume.id, record.generation)
    return zfsnames.volume(volume.name)


def read(tool: Tool, targets: Sequence[str]) -> list[Dataset]:
    """Return datasets with their snapshots and children.

    Raises:
        ToolFailed: also where one of them does not exist.
    """
    properties = [*_DATASET, *(name for name in _SNAPSHOT if name not in _DATASET)]
    rows = tool.get(properties, targets, kinds="filesystem,volume,snapshot", depth=1)
    return _datasets(tool, rows, targets)


def read_all(tool: Tool, parent: str, *, points: bool) -> list[Dataset]:
    """Return all datasets right below the parent, with their children, and with their snapshots if wanted.

    Raises:
        ToolFailed: the listing failed.
    """
    rows = tool.get(_DATASET, [parent], depth=2)
    targets = [name for name in rows if name.rpartition("/")[0] == parent]
    if points and targets:
        rows |= tool.get(_SNAPSHOT, [parent], kinds="snapshot", depth=2)
    return _datasets(tool, rows, targets)


def _datasets(tool: Tool, rows: Rows, targets: Iterable[str]) -> list[Dataset]:
    wanted = dict.fromkeys(targets)
    _complete(tool, rows, wanted)
    points: dict[str, list[Point]] = {}
    children: dict[str, list[str]] = {}
    for name, values in rows.items():
        dataset, at, leaf = name.partition("@")
        if at:
            points.setdefault(dataset, []).append(_point(dataset, leaf, values))
        else:
            children.setdefault(name.rpartition("/")[0], []).append(name)
    return [
        _dataset(name, rows[name], points.get(name, ()), children.get(name, ()))
        for name in wanted
        if name in rows and rows[name]["type"].text == "filesystem"
    ]


def _complete(tool: Tool, rows: Rows, targets: Iterable[str]) -> None:
    """Read on where records are longer than one property."""
    long = {
        name: zfsrecords.parts_of(rows[name][zfsrecords.VOLUME].own or "")
        for name in targets
        if name in rows and rows[name][zfsrecords.VOLUME].own is not None
    }
    long = {name: parts for name, parts in long.items() if parts > 1}
    if long:
        for name, values in tool.get(zfsrecords.further(max(long.values())), list(long)).items():
            rows[name] |= values


def _dataset(name: str, values: Mapping[str, Value], points: Iterable[Point], children: Iterable[str]) -> Dataset:
    return Dataset(
        name=name,
        limit=values["refquota"].number,
        referenced=values["referenced"].number,
        written=values["written"].number,
        origin=None if values["origin"].text in ("-", "") else values["origin"].text,
        keyless=values["keystatus"].text == "unavailable",
        key=values["encryptionroot"].text,
        keylocation=values["keylocation"].text,
        record=zfsrecords.read_volume(values),
        points=tuple(sorted(points, key=lambda point: point.txg)),
        children=tuple(children),
    )


def _point(dataset: str, leaf: str, values: Mapping[str, Value]) -> Point:
    clones = values.get("clones", _NOTHING).text
    return Point(
        dataset=dataset,
        leaf=leaf,
        guid=values["guid"].text,
        txg=values["createtxg"].number,
        held=values["userrefs"].number > 0,
        doomed=values["defer_destroy"].text == "on",
        clones=tuple(clones.split(",")) if clones not in ("-", "") else (),
        referenced=values["referenced"].number,
        record=zfsrecords.read_snapshot(values),
    )


def survey(datasets: Iterable[Dataset], pool: str) -> Survey:
    """Sort out whose the datasets are; each stands right below the pool's parent."""
    members: dict[str, list[Dataset]] = {}
    damaged: dict[str, Damage] = {}
    foreign, unfinished = {}, []
    for dataset in datasets:
        record = dataset.record
        if zfsnames.in_the_making(dataset.leaf) and not (dataset.points or dataset.children):
            unfinished.append(dataset)
        elif isinstance(record, str):
            damaged[dataset.leaf] = _damage(dataset, record, pool)
        elif record is not None and record.finished:
            members.setdefault(record.volume.id, []).append(dataset)
        elif record is not None:
            unfinished.append(dataset)
        else:
            foreign[dataset.leaf] = dataset
    families = {}
    for volume_id, found in members.items():
        family, copies = _family(found, pool)
        damaged |= {copy.leaf: _damage(copy, _is_copy(family), pool) for copy in copies}
        if family.is_aside and family.place in foreign:
            damaged[family.place] = _damage(foreign[family.place], _is_nameless(family), pool)
        if not _hidden_by(family, damaged):
            families[volume_id] = family
    for family in _namesakes(families):
        damaged[family.head.leaf] = _damage(family.head, f"another volume is called '{family.volume.name}'", pool)
        del families[family.volume.id]
    return Survey(families=families, damages=tuple(damaged.values()), unfinished=tuple(unfinished))


def _family(datasets: Sequence[Dataset], pool: str) -> tuple[Family, list[Dataset]]:
    """Return the family of the datasets of one id, and those of them that are copies of another."""

    def rank(dataset: Dataset) -> tuple[int, bool]:
        assert isinstance(dataset.record, Record)
        return dataset.record.generation, dataset.leaf == place(dataset.record)

    head, *others = sorted(datasets, key=rank, reverse=True)
    assert isinstance(head.record, Record)
    gone = head.record.role is Role.GONE
    copies = [other for other in others if rank(other)[0] == head.record.generation and not gone]
    history = tuple(other for other in others if other not in copies)
    return Family(volume=replace(head.record.volume, pool=pool), head=head, history=history), copies


def _is_nameless(family: Family) -> str:
    return (
        f"it has no {zfsrecords.VOLUME}, and {family.head.name} has earlier contents of volume '{family.volume.name}'"
    )


def _is_copy(family: Family) -> str:
    return f"it has the id of volume '{family.volume.name}' ({family.volume.id}): one is a copy of the other"


def _hidden_by(family: Family, damaged: Mapping[str, Damage]) -> bool:
    """Return whether a damaged dataset may have the present contents: then older ones must not be taken for them."""
    if family.head.leaf == family.place:
        return False
    later = (zfsnames.of_hidden(leaf) for leaf in damaged)
    return family.place in damaged or any(
        found is not None and found[0] == family.volume.id and found[1] > family.record.generation for found in later
    )


def _namesakes(families: Mapping[str, Family]) -> list[Family]:
    """Return the live volumes whose name another one has with more right to it."""
    by_name: dict[str, list[Family]] = {}
    for family in families.values():
        if family.volume.deleted is None and not family.gone:
            by_name.setdefault(family.volume.name, []).append(family)
    return [
        family for found in by_name.values() for family in sorted(found, key=lambda it: it.head.leaf != it.place)[1:]
    ]


def _damage(dataset: Dataset, reason: str, pool: str) -> Damage:
    return Damage(name=dataset.leaf, reason=f"{dataset.name}: {reason}", pool=pool)


def shown(family: Family, holds: Mapping[str, Sequence[str]]) -> list[Snapshot | Damage]:
    """Return a volume's snapshots, oldest first, the damaged ones last.

    Args:
        family: the volume.
        holds: our tags on its snapshots, by their whole names.
    """
    volume = family.volume
    good: list[Snapshot] = []
    damages = []
    for point in family.points:
        if isinstance(point.record, str):
            name = f"{volume.name}@{point.leaf}"
            damages.append(Damage(name=name, reason=f"{point.name}: {point.record}", pool=volume.pool))
        elif point.record is not None:
            good.append(snapshot(volume, point, tuple(holds.get(point.name, ()))))
    return [*sorted(good, key=lambda it: it.created), *damages]


def snapshot(volume: Volume, point: Point, holds: tuple[str, ...] = ()) -> Snapshot:
    """Return a snapshot of ours as the contract has it."""
    assert isinstance(point.record, SnapshotRecord)
    return Snapshot(
        volume=volume.name,
        volume_id=volume.id,
        name=point.record.name,
        id=point.guid,
        created=point.record.created,
        message=point.record.message,
        holds=holds,
        made_by=point.record.made_by,
    )
