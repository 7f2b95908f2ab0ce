"""Who has a directory mounted: the kernel's answer, from every mount namespace.

A mount is known by the filesystem's device and the directory in that filesystem which it shows, never by comparing
path strings of different namespaces: a container sees the same directory under another path.
"""

from __future__ import annotations

import errno
import os
import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from msgspec import Struct

from snapvol.errors import StorageFailed

_OCTAL = re.compile(r"\\([0-7]{3})")
_HEX_ID = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
_GONE = (errno.ENOENT, errno.ESRCH, errno.EINVAL)  # EINVAL: a zombie has no mount namespace any more
_DELETED = "//deleted"
_SOURCE_IS_NAME = "zfs"  # its devices are anonymous


class Mount(Struct, frozen=True, kw_only=True):
    """One line of a mountinfo file.

    Attributes:
        id: the mount's number, unique while it lasts.
        parent: the number of the mount it lies on.
        device: ``major:minor`` of the filesystem; of a btrfs the same for all its subvolumes, unlike ``st_dev``.
        root: the directory of the filesystem that is shown.
        mountpoint: where, in that namespace.
        filesystem: its type.
        source: what was mounted.
        options: the filesystem's own options.
        follows: it is shared or a slave: it gets its peers' mounts and unmounts.
    """

    id: int
    parent: int
    device: str
    root: PurePosixPath
    mountpoint: PurePosixPath
    filesystem: str
    source: str
    options: tuple[str, ...] = ()
    follows: bool = False


class Location(Struct, frozen=True, kw_only=True):
    """A directory as its filesystem knows it.

    Attributes:
        mount: the mount through which we see it.
        root: the directory, from the filesystem's root.
    """

    mount: Mount
    root: PurePosixPath


class Namespace(Struct, frozen=True, kw_only=True):
    """The mounts that one process, and all others of its mount namespace, see."""

    pid: int
    command: str
    container: str | None
    mounts: tuple[Mount, ...]


class MountUser(Struct, frozen=True, kw_only=True):
    """A mount that keeps a directory in use.

    Attributes:
        pid: the lowest process id of its mount namespace.
        command: that process's name.
        mountpoint: as that process sees it.
        container: the container's id, where the process belongs to one.
        here: this process sees a mount at the same place: its own, or one that was copied from or to it.
    """

    pid: int
    command: str
    mountpoint: PurePosixPath
    container: str | None = None
    here: bool = False


def parse(text: str) -> list[Mount]:
    """Return the mounts that a mountinfo file lists, in its order.

    Args:
        text: the file's contents, undecodable bytes as surrogate escapes.

    Raises:
        StorageFailed: a line is not one of mountinfo.
    """
    return [_mount(line) for line in text.split("\n") if line]


def _mount(line: str) -> Mount:
    before, dash, after = line.partition(" - ")
    head = before.split(" ")
    tail = after.split(" ")
    if not dash or len(head) < 6 or len(tail) < 3 or not (head[0].isdigit() and head[1].isdigit()):
        raise StorageFailed(f"the kernel's list of mounts has a line that is not understood: {line!r}")
    return Mount(
        id=int(head[0]),
        parent=int(head[1]),
        device=head[2],
        root=PurePosixPath(_plain(head[3]).removesuffix(_DELETED)),
        mountpoint=PurePosixPath(_plain(head[4])),
        filesystem=_plain(tail[0]),
        source=_plain(tail[1]),
        options=tuple(tail[2].split(",")),
        follows=any(field.startswith(("shared:", "master:")) for field in head[6:]),
    )


def _plain(escaped: str) -> str:
    """Undo the kernel's octal escapes of blank, tab, newline and backslash."""
    return os.fsdecode(os.fsencode(_OCTAL.sub(lambda match: chr(int(match[1], 8)), escaped)))


def own() -> list[Mount]:
    """Return the mounts of this process's namespace."""
    return parse(_text(Path("/proc/self/mountinfo")))


def locate(path: Path, mounts: Sequence[Mount] | None = None) -> Location:
    """Find the mount through which ``path`` is seen, and what the filesystem itself calls the directory.

    The kernel names the mount of an open file, so mounts that hide others need no guessing.

    Args:
        path: an existing directory or file.
        mounts: this process's mounts, where they were read already.

    Raises:
        FileNotFoundError: there is no ``path``.
        StorageFailed: its mount is not in the list.
    """
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        facts = _text(Path(f"/proc/self/fdinfo/{descriptor}"))
        real = PurePosixPath(os.readlink(f"/proc/self/fd/{descriptor}"))
    finally:
        os.close(descriptor)
    number = next((int(line.split()[1]) for line in facts.splitlines() if line.startswith("mnt_id:")), None)
    for mount in mounts if mounts is not None else own():
        if mount.id == number:
            return Location(mount=mount, root=mount.root / real.relative_to(mount.mountpoint))
    raise StorageFailed(f"{path} lies on a mount that the kernel does not list")


def mounted_below(path: Path) -> list[PurePosixPath]:
    """Return the mountpoints of this process's namespace at or below ``path``; none for a ``path`` that is not there.

    A mount that shows ``path`` elsewhere is not among them: see `Mounts.users`.
    """
    mounts = own()
    try:
        location = locate(path, mounts)
    except FileNotFoundError:
        return []
    return [mount.mountpoint for mount, place in _placed(mounts) if _lies_on(place, mount, location)]


class Mounts:
    """The mounts of all processes at one time.

    Args:
        namespaces: one for each mount namespace.
        own: the mounts of this process.
    """

    def __init__(self, namespaces: Iterable[Namespace], own: Sequence[Mount]) -> None:
        self.namespaces = tuple(namespaces)
        self._own = tuple(own)

    @classmethod
    def read(cls, proc: Path = Path("/proc")) -> Mounts:
        """Ask the kernel, once for each mount namespace.

        Processes that end meanwhile are passed over. Out of reach is a namespace in which no process lives (kept by
        a bind mount of its nsfs file, by a file descriptor or by a single thread of a process that lives elsewhere).

        Raises:
            StorageFailed: a process may not be looked at, so that the answer would be incomplete.
        """
        return cls(_namespaces(proc), own())

    def users(self, path: Path, sources: Sequence[str] = ()) -> list[MountUser]:
        """Return the mounts, in any namespace, that show ``path`` or something below it, or lie at or below it.

        Mounts that merely contain ``path``, such as that of its filesystem, are not among them. Nor is the mount at
        ``path`` itself, and what other namespaces got of it: its unmount is passed on to them.

        Args:
            path: a directory.
            sources: what the kernel calls the filesystem that is, or would be, mounted at ``path``: ``MAJOR:MINOR``,
                or a dataset's name. Who mounts that anywhere else is a user, too.

        Raises:
            FileNotFoundError: there is no ``path``, and there are no ``sources``.
        """
        try:
            found = self.showing(locate(path, self._own))
        except FileNotFoundError:
            if not sources:
                raise
            found = []
        return list(dict.fromkeys([*found, *self._elsewhere(path, sources)])) if sources else found

    def showing(self, location: Location) -> list[MountUser]:
        """Return the users of a directory that was located before; see `users`."""
        at = self._places.get(location.mount.id)
        return [
            self._user(space, mount)
            for space, mount, place in self._near(location)
            if not _is_copy(mount, place, location.mount, at)
            and (_shows(mount, location) or _lies_on(place, mount, location))
        ]

    def mounted(self, path: Path) -> bool:
        """Return whether something is mounted at ``path``, in this process's namespace."""
        return _real(path) in self._here

    def _elsewhere(self, path: Path, sources: Sequence[str]) -> Iterator[MountUser]:
        """Yield the mounts of ``sources`` but the one at ``path``, and what others got of that."""
        point = _real(path)
        ours = next((mount for mount in reversed(self._own) if mount.mountpoint == point), None)
        at = self._places.get(ours.id) if ours is not None else None
        for number in sorted({number for source in sources for number in self._of_source.get(source, ())}):
            space, mount, place = self._placed[number]
            if ours is None or not _is_copy(mount, place, ours, at):
                yield self._user(space, mount)

    def _user(self, space: Namespace, mount: Mount) -> MountUser:
        return MountUser(
            pid=space.pid,
            command=space.command,
            mountpoint=mount.mountpoint,
            container=space.container,
            here=mount.mountpoint in self._here,
        )

    @cached_property
    def _places(self) -> Mapping[int, _Place | None]:
        return {mount.id: place for mount, place in _placed(self._own)}

    @cached_property
    def _of_source(self) -> Mapping[str, Sequence[int]]:
        found: dict[str, list[int]] = {}
        for number, (_, mount, _) in enumerate(self._placed):
            found.setdefault(mount.source if mount.filesystem == _SOURCE_IS_NAME else mount.device, []).append(number)
        return found

    @cached_property
    def _here(self) -> frozenset[PurePosixPath]:
        return frozenset(mount.mountpoint for mount in self._own)

    def _near(self, location: Location) -> list[_Placed]:
        """Return the mounts that show or cover something at or below the directory, and no others' device."""
        below = _key(location.root)
        found = self._index.get(location.mount.device, [])
        first = bisect_left(found, (below, 0))
        last = bisect_left(found, (below[:-1] + "0", 0))  # "0" comes right after "/"
        return [self._placed[number] for number in sorted({number for _, number in found[first:last]})]

    @cached_property
    def _placed(self) -> list[_Placed]:
        return [(space, mount, place) for space in self.namespaces for mount, place in _placed(space.mounts)]

    @cached_property
    def _index(self) -> dict[str, list[tuple[str, int]]]:
        """By device, sorted: the directories that mounts show or cover, and which mounts those are."""
        index: dict[str, list[tuple[str, int]]] = {}
        for number, (_, mount, place) in enumerate(self._placed):
            index.setdefault(mount.device, []).append((_key(mount.root), number))
            if place is not None:
                index.setdefault(place.device, []).append((_key(place.directory), number))
        for found in index.values():
            found.sort()
        return index


class _Place(NamedTuple):
    """What a mount lies on, and whether that `Mount` follows others."""

    device: str
    directory: PurePosixPath
    follows: bool


_Placed = tuple[Namespace, Mount, _Place | None]


def _real(path: Path) -> PurePosixPath:
    """Return a path as the kernel's lists have it; its last part may not exist."""
    return PurePosixPath(os.path.realpath(path.parent)) / path.name


def _is_copy(mount: Mount, place: _Place | None, other: Mount, at: _Place | None) -> bool:
    """Tell whether a mount is what another namespace, or another place, got of ``other``, and loses with it."""
    if (mount.device, mount.root) != (other.device, other.root):
        return False
    if place is None or at is None or (place.device, place.directory) != (at.device, at.directory):
        return False
    return mount.mountpoint == other.mountpoint or (place.follows and at.follows)


def _key(path: PurePosixPath) -> str:
    return f"{str(path).rstrip('/')}/"


def users(path: Path) -> list[MountUser]:
    """Return who has ``path`` mounted; see `Mounts.users`. For many paths read `Mounts` once."""
    return Mounts.read().users(path)


def _shows(mount: Mount, location: Location) -> bool:
    if mount.device != location.mount.device or not mount.root.is_relative_to(location.root):
        return False
    through = location.mount
    # The directory can be the whole of its mount: then that mount, and its copies in other namespaces, contain it.
    return (mount.root, mount.mountpoint) != (through.root, through.mountpoint)


def _lies_on(place: _Place | None, mount: Mount, location: Location) -> bool:
    if place is None or place.device != location.mount.device or not place.directory.is_relative_to(location.root):
        return False
    through = location.mount
    # Where the directory is the whole of its mount, a mount on it is one over or inside, not that mount itself.
    return (mount.device, mount.root, mount.mountpoint) != (through.device, through.root, through.mountpoint)


def _placed(mounts: Sequence[Mount]) -> Iterator[tuple[Mount, _Place | None]]:
    """Pair each mount with the device and directory that it covers."""
    by_id: Mapping[int, Mount] = {mount.id: mount for mount in mounts}
    for mount in mounts:
        parent = by_id.get(mount.parent)
        if parent is None or parent is mount or not mount.mountpoint.is_relative_to(parent.mountpoint):
            yield mount, None
        else:
            directory = parent.root / mount.mountpoint.relative_to(parent.mountpoint)
            yield mount, _Place(parent.device, directory, parent.follows)


def _namespaces(proc: Path) -> Iterator[Namespace]:
    seen: set[object] = set()
    for pid in sorted(int(entry) for entry in os.listdir(proc) if entry.isdigit()):
        home = proc / str(pid)
        try:
            key: object = _namespace_key(home)
            if key in seen:
                continue
            text = _text(home / "mountinfo")
            # Without the right to see which namespace it is, equal contents stand for the same namespace.
            if key is None and text in seen:
                continue
            seen.update((text,) if key is None else (key,))
            command, cgroup = _text(home / "comm").rstrip("\n"), _text(home / "cgroup")
        except OSError as error:
            if error.errno in _GONE:
                continue
            raise StorageFailed(
                f"cannot see what process {pid} has mounted: {error.strerror}", "run snapvol as root"
            ) from error
        mounts = tuple(parse(text))
        yield Namespace(pid=pid, command=command, container=_container(cgroup, mounts), mounts=mounts)


def _namespace_key(home: Path) -> int | None:
    try:
        return os.stat(home / "ns" / "mnt").st_ino
    except PermissionError:
        return None


def _container(cgroup: str, mounts: Sequence[Mount]) -> str | None:
    """Return the container's id: Docker and Podman put it into the control group's name, or into what they mount."""
    match = _HEX_ID.search(cgroup)
    if match:
        return match[0]
    for mount in mounts:
        if mount.mountpoint == PurePosixPath("/etc/hostname"):
            match = _HEX_ID.search(str(mount.root))
            return match[0] if match else None
    return None


def _text(path: Path) -> str:
    return os.fsdecode(path.read_bytes())
