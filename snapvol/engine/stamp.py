"""Owners, modes, extended attributes and times, put on what was restored."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from functools import partial

from snapvol.engine.descent import member
from snapvol.engine.node import Kind, Node, permissions
from snapvol.engine.progress import shown
from snapvol.errors import NoSpace

FULL = (errno.ENOSPC, errno.EDQUOT)
FATAL = (errno.EIO, errno.EROFS, errno.ENOMEM, errno.EMFILE, errno.ENFILE)  # nothing else will work either
_KERNELS_OWN = ("security.selinux",)  # the policy labels every new file, and lets nobody take the label off


def no_space(path: bytes, error: OSError) -> NoSpace:
    """Return the error for a full target."""
    return NoSpace(
        f"no space left for '{shown(path)}': {error.strerror}", "free space or raise the size, then restore again"
    )


def _times(node: Node) -> tuple[int, int]:
    modified = node.mtime_ns
    return (modified if node.atime == node.mtime else node.atime_ns), modified


class Stamp:
    """Sets everything but contents. What the target does not take is noted once per kind, not once per file."""

    def __init__(self) -> None:
        self._root = os.geteuid() == 0
        self._refused: dict[str, tuple[str, int]] = {}

    @property
    def notes(self) -> list[str]:
        """What could not be set: a line each, with the first path and the number of them."""
        return [
            f"{what}: {count} entries, the first is '{path}'" if count > 1 else f"{what}: '{path}'"
            for what, (path, count) in self._refused.items()
        ]

    def opened(self, fd: int, node: Node, path: Callable[[], bytes]) -> None:
        """Stamp an open file or directory.

        Args:
            fd: of it.
            node: what it shall be like.
            path: says where it is, for messages.

        Raises:
            NoSpace: an attribute did not fit.
        """
        self._try(path, "the owner was not set", lambda: os.chown(fd, node.uid, node.gid), owner=True)
        self._attributes(fd, node, path)
        # After the owner, whose change takes setuid away; before the times, which everything else may touch.
        self._try(path, "the mode was not set", lambda: os.chmod(fd, permissions(node.mode)))
        self._try(path, "the times were not set", lambda: os.utime(fd, ns=_times(node)))

    def entry(self, directory: int, name: bytes, node: Node, path: Callable[[], bytes]) -> None:
        """Stamp a link, device, FIFO or socket, without opening it and without following it.

        Raises:
            NoSpace: an attribute did not fit.
            OSError: it is gone.
        """
        self._try(
            path,
            "the owner was not set",
            lambda: os.chown(name, node.uid, node.gid, dir_fd=directory, follow_symlinks=False),
            owner=True,
        )
        if node.type == Kind.SYMLINK:
            self._attributes(member(directory, name), node, path)
        else:
            fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
            try:
                itself = b"/proc/self/fd/%d" % fd  # leads to this very inode, whatever has its name now
                self._attributes(itself, node, path, follow=True)
                self._try(path, "the mode was not set", lambda: os.chmod(itself, permissions(node.mode)))
            finally:
                os.close(fd)
        self._try(
            path,
            "the times were not set",
            lambda: os.utime(name, ns=_times(node), dir_fd=directory, follow_symlinks=False),
        )

    def _attributes(self, where: int | bytes, node: Node, path: Callable[[], bytes], follow: bool = False) -> None:
        follow = follow or isinstance(where, int)
        wanted = {attribute.name: attribute.value or b"" for attribute in node.extended_attributes or ()}
        try:
            present = os.listxattr(where, follow_symlinks=follow)
        except OSError as error:
            if error.errno != errno.ENOTSUP:
                raise
            present = []
        for name in present:
            if name not in wanted and name not in _KERNELS_OWN:
                remove = partial(os.removexattr, where, name, follow_symlinks=follow)
                self._try(path, f"attribute {name} was not removed", remove)
        for name, value in wanted.items():
            put = partial(os.setxattr, where, name, value, follow_symlinks=follow)
            self._try(path, f"attribute {name} was not set", put)

    def _try(self, path: Callable[[], bytes], what: str, change: Callable[[], None], owner: bool = False) -> None:
        try:
            change()
        except (OSError, OverflowError, ValueError) as error:
            if isinstance(error, OSError) and error.errno in FULL:
                raise no_space(path(), error) from error
            said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            if owner and not self._root:
                said = "only root can"
            first, count = self._refused.get(f"{what} ({said})", (shown(path()) or "/", 0))
            self._refused[f"{what} ({said})"] = (first, count + 1)
