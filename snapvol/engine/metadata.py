"""What a directory entry is, apart from its contents, read from the filesystem into a `Node`."""

from __future__ import annotations

import errno
import grp
import os
import pwd
import stat
from functools import lru_cache

from snapvol.engine import gotext
from snapvol.engine.node import Attribute, Kind, Node, kind_and_mode

_NO_ATTRIBUTES = (errno.ENOTSUP, errno.ENODATA)


@lru_cache(4096)
def user_name(uid: int) -> str:
    """Return the user's name, or nothing where there is none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OverflowError):
        return ""


@lru_cache(4096)
def group_name(gid: int) -> str:
    """Return the group's name, or nothing where there is none."""
    try:
        return grp.getgrgid(gid).gr_name
    except (KeyError, OverflowError):
        return ""


def attributes(where: int | bytes) -> list[Attribute] | None:
    """Read the extended attributes of a descriptor, or of a path whose last link is not followed.

    Raises:
        OSError: they cannot be read.
        ValueError: a name is not UTF-8, which restic's format cannot hold.
    """
    follow = isinstance(where, int)
    try:
        names = os.listxattr(where, follow_symlinks=follow)
    except OSError as error:
        if error.errno in _NO_ATTRIBUTES:
            return None
        raise
    if not names:
        return None
    found = []
    for name in names:
        if not name.isascii():
            try:
                name.encode()
            except UnicodeEncodeError:
                raise ValueError(f"the name of its extended attribute {name!r} is not UTF-8") from None
        found.append(Attribute(name, os.getxattr(where, name, follow_symlinks=follow)))
    return found


class Recorder:
    """Makes nodes of what one walk finds.

    Args:
        stable_inodes: inode numbers and change times mean something from one backup to the next. Where they do
            not, they are left out, so that an unchanged directory is the same tree object every time.
    """

    def __init__(self, stable_inodes: bool) -> None:
        self._stable = stable_inodes
        self._devices: dict[int, int] = {}

    def _device(self, device: int) -> int:
        # A snapshot has another device number every time it is mounted; only "the same or another" matters.
        return self._devices.setdefault(device, len(self._devices) + 1)

    def node(
        self,
        name: bytes,
        found: os.stat_result,
        *,
        attributes: list[Attribute] | None = None,
        content: list[str] | None = None,
        size: int = 0,
        subtree: str | None = None,
        target: bytes = b"",
    ) -> Node:
        """Return the node of an entry.

        Args:
            name: its name.
            found: its lstat.
            attributes: its extended attributes.
            content: a file's blob ids; the list may be filled later.
            size: the bytes that ``content`` stands for.
            subtree: a directory's tree id.
            target: a symbolic link's target.
        """
        mode = found.st_mode
        kind, go_mode = kind_and_mode(mode)
        mtime = gotext.time(found.st_mtime_ns)
        linked = found.st_nlink > 1 and kind is not Kind.DIRECTORY
        try:
            text, raw = target.decode(), None
        except UnicodeDecodeError:
            text, raw = "", target
        return Node(
            quoted=gotext.quote(name),
            type=kind.value,
            mode=go_mode,
            mtime=mtime,
            atime=mtime,  # as restic does: reading a file would otherwise make a new tree object
            ctime=gotext.time(found.st_ctime_ns) if self._stable else mtime,
            uid=found.st_uid,
            gid=found.st_gid,
            user=user_name(found.st_uid),
            group=group_name(found.st_gid),
            inode=found.st_ino if self._stable or linked else 0,
            device_id=self._device(found.st_dev) if linked else 0,
            size=size,
            links=0 if kind in (Kind.DIRECTORY, Kind.FIFO, Kind.SOCKET) and not linked else found.st_nlink,
            linktarget=text,
            linktarget_raw=raw,
            extended_attributes=attributes,
            device=found.st_rdev if stat.S_ISBLK(mode) or stat.S_ISCHR(mode) else 0,
            content=content,
            subtree=subtree,
        )

    def special(self, directory: int, name: bytes, found: os.stat_result, extended: list[Attribute] | None) -> Node:
        """Return the node of an entry that is neither a file nor a directory.

        Raises:
            OSError: it is gone or cannot be read.
        """
        target = os.readlink(name, dir_fd=directory) if stat.S_ISLNK(found.st_mode) else b""
        return self.node(name, found, attributes=extended, target=target)
