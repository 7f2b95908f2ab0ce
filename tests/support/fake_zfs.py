"""A `zfs` and a `zpool` in memory, at the one place that runs programs; they refuse what Debian 12's refuse.

Contents are a word for each file system. A test sets and reads them with `write` and `read`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from snapvol.errors import ToolFailed

NATIVE = {
    "type": "filesystem", "compression": "off", "recordsize": "131072", "acltype": "off", "xattr": "on",
    "mountpoint": "/x", "canmount": "on", "snapdir": "hidden", "refquota": "0", "quota": "0", "readonly": "off",
    "referenced": "24576", "written": "0", "used": "24576", "available": "1073741824", "encryption": "off",
    "keyformat": "none", "keylocation": "none", "pbkdf2iters": "0", "casesensitivity": "sensitive",
    "normalization": "none", "utf8only": "off", "version": "5", "atime": "on",
}  # fmt: skip
_VALUES = {"compression": {"off", "on", "lz4", "zstd"}, "atime": {"on", "off"}}


@dataclass
class Point:
    """A snapshot."""

    guid: int
    txg: int
    contents: str
    properties: dict[str, str]
    holds: list[str] = field(default_factory=list)
    doomed: bool = False


@dataclass
class Dataset:
    """A file system."""

    guid: int
    contents: str = ""
    origin: Point | None = None
    properties: dict[str, str] = field(default_factory=dict)
    points: dict[str, Point] = field(default_factory=dict)


class FakeZfs:
    """One zpool, "tank", that is imported.

    Attributes:
        calls: the arguments of each run, in order.
        limit: how many more runs that change something are done; the next ones raise `Killed`.
        read_only: the zpool is imported so.
        busy: file systems that something has open.
    """

    def __init__(self) -> None:
        self.datasets: dict[str, Dataset] = {"tank": Dataset(1)}
        self.calls: list[tuple[str, ...]] = []
        self.limit: int | None = None
        self.read_only = False
        self.busy: set[str] = set()
        self._numbers = count(10)

    # -- for tests ----------------------------------------------------------------------------------------------

    def write(self, name: str, text: str) -> None:
        """Change a file system's contents."""
        self.datasets[name].contents = text

    def read(self, name: str) -> str:
        """Return the contents of a file system or snapshot."""
        dataset, _, leaf = name.partition("@")
        return self.datasets[dataset].points[leaf].contents if leaf else self.datasets[dataset].contents

    def names(self) -> list[str]:
        """Return everything there is, but for the zpool's own file system."""
        points = [f"{name}@{leaf}" for name, dataset in self.datasets.items() for leaf in dataset.points]
        return sorted([*self.datasets, *points])[1:]

    # -- what shell.run does --------------------------------------------------------------------------------------

    def run(self, program: str, *arguments: str | Path, **_: object) -> str:
        words = [str(argument) for argument in arguments]
        self.calls.append((program, *words))
        if program == "zpool":
            return "" if words[0] == "sync" else f"ONLINE\t{self._flag()}\n" if "health" in words[-2] else self._flag()
        verb, *rest = words
        if verb in ("get", "holds"):
            return str(getattr(self, f"_{verb}")(rest))
        if self.limit is not None:
            if self.limit == 0:
                raise Killed
            self.limit -= 1
        if self.read_only:
            raise self._failed("cannot do that: pool is read-only")
        getattr(self, f"_{verb.replace('-', '_')}")(rest)
        self._collect()
        return ""

    def _flag(self) -> str:
        return "on" if self.read_only else "off"

    def _failed(self, text: str) -> ToolFailed:
        return ToolFailed(list(self.calls[-1]), 1, text)

    def _options(self, words: list[str]) -> tuple[dict[str, str], list[str]]:
        properties, rest = {}, list(words)
        while rest and rest[0] == "-o":
            name, _, value = rest[1].partition("=")
            properties[name] = value
            rest = rest[2:]
        assert not any(word.startswith("-") for word in rest), rest
        return properties, rest

    def _dataset(self, name: str) -> Dataset:
        if name not in self.datasets:
            raise self._failed(f"cannot open '{name}': dataset does not exist")
        return self.datasets[name]

    def _point(self, name: str) -> Point:
        dataset, _, leaf = name.partition("@")
        if leaf not in self._dataset(dataset).points:
            raise self._failed(f"cannot open '{name}': dataset does not exist")
        return self.datasets[dataset].points[leaf]

    def _new(self, name: str, properties: dict[str, str]) -> None:
        if name in self.datasets:
            raise self._failed(f"cannot create '{name}': dataset already exists")
        if name.rpartition("/")[0] not in self.datasets:
            raise self._failed(f"cannot create '{name}': parent does not exist")
        for key, value in properties.items():
            if key not in NATIVE and ":" not in key:
                raise self._failed(f"cannot create '{name}': invalid property '{key}'")
            if value not in _VALUES.get(key, {value}):
                raise self._failed(f"cannot create '{name}': '{key}' must be one of '{_VALUES[key]}'")
            assert len(value.encode()) < 8192, key
        assert len(name) < 256, name
        self.datasets[name] = Dataset(next(self._numbers), properties=properties)

    def _create(self, words: list[str]) -> None:
        properties, (name,) = self._options(words)
        self._new(name, properties)

    def _clone(self, words: list[str]) -> None:
        properties, (source, name) = self._options(words)
        point = self._point(source)
        self._new(name, properties)
        self.datasets[name].origin = point
        self.datasets[name].contents = point.contents

    def _set(self, words: list[str]) -> None:
        pairs = [word for word in words if "=" in word]
        for name in [word for word in words if "=" not in word]:
            target = self._point(name).properties if "@" in name else self._dataset(name).properties
            target.update((key, value) for key, _, value in (pair.partition("=") for pair in pairs))

    def _rename(self, words: list[str]) -> None:
        old, new = words
        if "@" in old:
            dataset = self._dataset(old.partition("@")[0])
            self._point(old)
            leaves = {leaf: new.partition("@")[2] if leaf == old.partition("@")[2] else leaf for leaf in dataset.points}
            if len(set(leaves.values())) < len(leaves):
                raise self._failed(f"cannot rename '{old}': dataset already exists")
            dataset.points = {leaves[leaf]: point for leaf, point in dataset.points.items()}
            return
        self._dataset(old)
        if new in self.datasets:
            raise self._failed(f"cannot rename '{old}': dataset already exists")
        for name in [name for name in self.datasets if name == old or name.startswith(f"{old}/")]:
            self.datasets[new + name.removeprefix(old)] = self.datasets.pop(name)

    def _snapshot(self, words: list[str]) -> None:
        properties, names = self._options(words)
        txg = next(self._numbers)
        for name in names:
            if name.partition("@")[2] in self._dataset(name.partition("@")[0]).points:
                raise self._failed(f"cannot create snapshot '{name}': dataset already exists")
        for name in names:
            dataset, _, leaf = name.partition("@")
            contents = self.datasets[dataset].contents
            self.datasets[dataset].points[leaf] = Point(next(self._numbers), txg, contents, dict(properties))

    def _clones(self, point: Point) -> list[str]:
        return [name for name, dataset in self.datasets.items() if dataset.origin is point]

    def _destroy(self, words: list[str]) -> None:
        deferred = words[0] == "-d"
        name = words[-1]
        dataset, at, leaves = name.partition("@")
        if not at:
            self._destroy_dataset(name)
            return
        for leaf in leaves.split(","):
            point = self._point(f"{dataset}@{leaf}")
            if deferred:
                point.doomed = True
            elif point.holds:
                raise self._failed(f"cannot destroy snapshot {dataset}@{leaf}: dataset is busy")
            elif self._clones(point):
                raise self._failed(f"cannot destroy '{dataset}@{leaf}': snapshot has dependent clones")
        if not deferred:
            for leaf in leaves.split(","):
                del self.datasets[dataset].points[leaf]

    def _destroy_dataset(self, name: str) -> None:
        dataset = self._dataset(name)
        if name in self.busy:
            raise self._failed(f"cannot destroy '{name}': dataset is busy")
        if dataset.points or any(other.startswith(f"{name}/") for other in self.datasets):
            raise self._failed(f"cannot destroy '{name}': filesystem has children")
        del self.datasets[name]

    def _collect(self) -> None:
        for dataset in self.datasets.values():
            for leaf, point in list(dataset.points.items()):
                if point.doomed and not point.holds and not self._clones(point):
                    del dataset.points[leaf]

    def _promote(self, words: list[str]) -> None:
        clone = self._dataset(words[0])
        origin = clone.origin
        if origin is None:
            raise self._failed(f"cannot promote '{words[0]}': not a cloned filesystem")
        owner = next(dataset for dataset in self.datasets.values() if origin in dataset.points.values())
        moved = {leaf: point for leaf, point in owner.points.items() if point.txg <= origin.txg}
        if set(moved) & set(clone.points):
            raise self._failed(f"cannot promote '{words[0]}': snapshot name conflicts")
        owner.points = {leaf: point for leaf, point in owner.points.items() if leaf not in moved}
        clone.points = {**moved, **clone.points}
        clone.origin, owner.origin = owner.origin, origin

    def _rollback(self, words: list[str]) -> None:
        dataset = self._dataset(words[0].partition("@")[0])
        point = self._point(words[0])
        if list(dataset.points.values())[-1] is not point:
            raise self._failed(f"cannot rollback to '{words[0]}': more recent snapshots or bookmarks exist")
        dataset.contents = point.contents

    def _hold(self, words: list[str]) -> None:
        self._point(words[1]).holds.append(words[0])

    def _release(self, words: list[str]) -> None:
        self._point(words[1]).holds.remove(words[0])

    def _load_key(self, words: list[str]) -> None:
        if self._dataset(words[0]).properties.get("keystatus") != "unavailable":
            raise self._failed(f"Key load error: Key already loaded for '{words[0]}'.")
        for dataset in self.datasets.values():
            if dataset.properties.get("encryptionroot") == words[0]:
                dataset.properties["keystatus"] = "available"

    def _holds(self, words: list[str]) -> str:
        assert words[0] == "-H"
        return "".join(
            f"{name}\t{tag}\tMon Nov 23 06:59 2026\n" for name in words[1:] for tag in sorted(self._point(name).holds)
        )

    # -- zfs get ------------------------------------------------------------------------------------------------

    def _get(self, words: list[str]) -> str:
        assert words.pop(0) == "-Hp"
        depth, kinds = 0, "filesystem,snapshot"
        while words[0].startswith("-"):
            option, value, *words = words
            if option == "-d":
                depth = int(value)
            elif option == "-t":
                kinds = value
            else:
                assert (option, value) == ("-o", "name,property,value,source")
        wanted, *targets = words
        lines = []
        for target in targets:
            for name in self._below(target, depth, kinds):
                lines += [f"{name}\t{key}\t{text}\t{source}\n" for key, text, source in self._rows(name, wanted)]
        return "".join(dict.fromkeys(lines))

    def _below(self, target: str, depth: int, kinds: str) -> list[str]:
        if "@" in target:
            self._point(target)
            return [target]
        self._dataset(target)
        found = []
        for name, dataset in self.datasets.items():
            if name != target and not name.startswith(f"{target}/"):
                continue
            level = name.removeprefix(target).count("/")
            if "filesystem" in kinds and level <= depth:
                found.append(name)
            if "snapshot" in kinds and level + 1 <= depth:
                found += [f"{name}@{leaf}" for leaf in dataset.points]
        return found

    def _rows(self, name: str, wanted: str) -> list[tuple[str, str, str]]:
        keys = [*NATIVE, *self.datasets[name].properties] if wanted == "all" else wanted.split(",")
        return [(key, *self._value(name, key)) for key in dict.fromkeys(keys)]

    def _value(self, name: str, key: str) -> tuple[str, str]:
        dataset, _, leaf = name.partition("@")
        if leaf:
            point = self.datasets[dataset].points[leaf]
            facts = {
                "type": "snapshot", "guid": str(point.guid), "createtxg": str(point.txg),
                "userrefs": str(len(point.holds)), "defer_destroy": "on" if point.doomed else "off",
                "clones": ",".join(self._clones(point)), "referenced": "24576",
            }  # fmt: skip
            own = point.properties
        else:
            facts = {"guid": str(self.datasets[dataset].guid), "origin": self._origin(self.datasets[dataset])}
            own = self.datasets[dataset].properties
        if key in facts:
            return facts[key], "-"
        if key in own:
            return own[key], "local"
        if key.startswith("org.snapvol:"):
            return self._inherited(dataset if leaf else dataset.rpartition("/")[0], key)
        return (NATIVE[key], "default") if key in NATIVE and not leaf else ("-", "-")

    def _inherited(self, name: str, key: str) -> tuple[str, str]:
        while name:
            if key in self.datasets[name].properties:
                return self.datasets[name].properties[key], f"inherited from {name}"
            name = name.rpartition("/")[0]
        return "-", "-"

    def _origin(self, dataset: Dataset) -> str:
        for name, other in self.datasets.items():
            for leaf, point in other.points.items():
                if point is dataset.origin:
                    return f"{name}@{leaf}"
        return "-"


class Killed(BaseException):
    """The process was killed before it ran a program that would have changed something."""
