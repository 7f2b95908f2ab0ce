"""The daemon's unix sockets: taken over from a dead daemon, never from a live one; narrow from the first moment."""

from __future__ import annotations

import fcntl
import grp
import logging
import os
import socket
import stat
from dataclasses import dataclass
from pathlib import Path

from snapvol.errors import InUse, Refused, SettingsError
from snapvol.settings import DaemonSettings

log = logging.getLogger(__name__)
BACKLOG = 4096  # after a restart dockerd asks for all its volumes at once, each on a connection of its own (G13)
LONGEST = 107  # bytes of a socket's path: sockaddr_un, less its NUL
_PROBE_SECONDS = 2.0


@dataclass(frozen=True)
class Listener:
    """A listening socket.

    Attributes:
        socket: it.
        path: where clients find it.
        file: device and inode of the file that we made; None where systemd made it.
    """

    socket: socket.socket
    path: Path
    file: tuple[int, int] | None

    def release(self) -> None:
        """Stop listening, with `remove`."""
        self.remove()
        self.socket.close()

    def remove(self) -> None:
        """Remove the file if it is still the one that we made: who comes now shall not wait for us."""
        if self.file is None:
            return
        try:
            if _identity(os.lstat(self.path)) == self.file:
                self.path.unlink()
        except FileNotFoundError:
            return
        except OSError as error:
            log.warning("%s: cannot be removed: %s", self.path, error)


def claim_all(settings: DaemonSettings, handed: list[tuple[str, socket.socket]]) -> tuple[Listener, Listener]:
    """Return the plugin's listener and the admin API's; both listen already, so that requests wait for us.

    Args:
        settings: where they belong and who may use them.
        handed: the sockets that systemd opened, with their names there.

    Raises:
        InUse: somebody answers there.
        Refused: something else is in the way, or others could write there.
        SettingsError: a path cannot be a socket's, or not both sockets'.
    """
    paths = {"plugin": settings.plugin_socket, "api": settings.api_socket}
    if settings.plugin_socket == settings.api_socket:
        raise SettingsError(
            f"daemon.plugin_socket and daemon.api_socket are both {settings.api_socket}", "give each its own path"
        )
    taken = _adopted(handed, paths)
    try:
        for name, path in paths.items():
            if name not in taken:
                group = settings.socket_group if name == "api" else ""
                taken[name] = claim(path, group, f"daemon.{name}_socket")
    except BaseException:
        for listener in taken.values():
            listener.release()
        raise
    return taken["plugin"], taken["api"]


def _adopted(handed: list[tuple[str, socket.socket]], paths: dict[str, Path]) -> dict[str, Listener]:
    taken = {}
    for given, sock in handed:
        address = sock.getsockname() if sock.family == socket.AF_UNIX else ""
        name = next((name for name, path in paths.items() if str(path) == address), None)
        if name is None:
            raise Refused(
                f"systemd hands over the socket '{given}' at {address or 'no path'}, which is not ours",
                f"let ListenStream= name {' or '.join(str(path) for path in paths.values())}",
            )
        mode = stat.S_IMODE(paths[name].stat().st_mode)
        if mode & 0o007:
            raise Refused(
                f"{address} can be used by everyone (mode {mode:04o})",
                f"chmod o-rwx {address}, and set SocketMode= in its unit",
            )
        taken[name] = Listener(sock, paths[name], None)
    return taken


def claim(path: Path, group: str, key: str) -> Listener:
    """Listen at ``path`` with mode 0600, or 0660 for ``group`` where that exists.

    Raises:
        InUse: somebody answers there.
        Refused: something else is in the way, or others could write to the directory.
        SettingsError: the path is too long for a socket; ``key`` is the setting to change.
    """
    if len(os.fsencode(path)) > LONGEST:
        raise SettingsError(f"{key}: {path} is longer than {LONGEST} bytes", "choose a shorter path for this socket")
    try:
        place = _directory(path.parent)
        try:
            fcntl.flock(place, fcntl.LOCK_EX)  # of two daemons that start at once, one finds the other's socket alive
            if not _is_free(path):
                raise InUse(f"another daemon answers at {path}", "stop that one first: systemctl stop snapvol")
            return _listen(path, group)
        finally:
            os.close(place)
    except OSError as error:
        raise Refused(f"{key}: no socket can be made at {path}: {error.strerror or error}") from None


def _directory(path: Path) -> int:
    missing = [parent for parent in (path, *path.parents) if not parent.exists()]
    for parent in reversed(missing):
        parent.mkdir()
        parent.chmod(0o755)
    place = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    mode = os.fstat(place).st_mode
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        os.close(place)
        raise Refused(f"{path} can be written by everyone, who could replace the socket", f"chmod o-w {path}")
    return place


def _is_free(path: Path) -> bool:
    """Tell whether nobody listens at ``path``. No answer to the question is no "yes"."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return True
    if not stat.S_ISSOCK(mode):
        raise Refused(f"{path} exists and is not a socket", "move it away, or name another path in the settings")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as probe:
        probe.settimeout(_PROBE_SECONDS)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return True
        except (TimeoutError, BlockingIOError):
            return False  # its backlog is full: somebody has it open
    return False


def _listen(path: Path, group: str) -> Listener:
    _unlink(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        # Linux gives the file the mode of the unbound socket, less the umask: it is never wider, not for a moment.
        os.fchmod(sock.fileno(), 0o600)
        sock.bind(str(path))
        os.chmod(path, 0o600)
        _share(path, group)
        sock.listen(BACKLOG)
        return Listener(sock, path, _identity(os.lstat(path)))
    except BaseException:
        sock.close()
        _unlink(path)
        raise


def _share(path: Path, group: str) -> None:
    if not group:
        return
    try:
        os.chown(path, -1, grp.getgrnam(group).gr_gid)
        os.chmod(path, 0o660)
    except KeyError:
        log.info("%s: there is no group '%s': only this user can use it", path, group)
    except PermissionError:
        log.warning("%s: cannot be given to group '%s': only this user can use it", path, group)


def _unlink(path: Path) -> None:
    try:
        path.unlink()
    except FileNotFoundError:
        return


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def claim_root(root: Path) -> int:
    """Make ``root`` where it is missing, and return the descriptor that holds its lock: one daemon per root.

    Raises:
        InUse: another daemon has it.
        Refused: it cannot be made or written.
    """
    file = root / "daemon.lock"
    try:
        root.mkdir(mode=0o711, parents=True, exist_ok=True)
        lock = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Refused(f"{file} cannot be made: {error.strerror or error}", "run the daemon as root") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    except BlockingIOError:
        other = os.pread(lock, 32, 0).decode(errors="replace").strip()
        os.close(lock)
        raise InUse(f"another daemon serves {root} (process {other})", "stop that one first") from None
    return lock
