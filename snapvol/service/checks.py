"""What `doctor` looks at: each check tries the thing itself and says what it found, and the command that mends it."""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Iterable, Iterator, Set
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from snapvol import shell
from snapvol.api import Finding, Level
from snapvol.docker import Docker
from snapvol.errors import NotFound, SnapvolError
from snapvol.model import Health, Volume, now
from snapvol.mountinfo import Mounts
from snapvol.service import bases, points
from snapvol.service.catalog import Entry
from snapvol.service.library import Library
from snapvol.service.pool import Pool
from snapvol.service.repositories import notes
from snapvol.service.scratch import Scratch
from snapvol.settings import Settings

PATIENCE = 20.0  # seconds for a repository to open
PLUGIN_DIRECTORY = Path("/run/docker/plugins")

_TOOLS = {
    "btrfs": (("btrfs", "--version", "apt-get install btrfs-progs"),),
    "directory": (("cp", "--version", "apt-get install coreutils"),),
    "lvm": (
        ("lvm", "version", "apt-get install lvm2"),
        ("thin_check", "--version", "apt-get install thin-provisioning-tools"),
        ("mkfs.ext4", "-V", "apt-get install e2fsprogs"),
        ("mkfs.xfs", "-V", "apt-get install xfsprogs"),
    ),
    "zfs": (("zfs", "version", "apt-get install zfsutils-linux"),),
}
_FILESYSTEMS = {"btrfs": "btrfs", "zfs": "zfs"}


def _ok(subject: str, message: str) -> Finding:
    return Finding(level=Level.OK, subject=subject, message=message)


def _warning(subject: str, message: str, command: str | None = None) -> Finding:
    return Finding(level=Level.WARNING, subject=subject, message=message, command=command)


def _error(subject: str, message: str, command: str | None = None) -> Finding:
    return Finding(level=Level.ERROR, subject=subject, message=message, command=command)


def tools(settings: Settings) -> Iterator[Finding]:
    """Check that the programs which the configured kinds of storage need are there."""
    for kind in sorted({pool.backend for pool in settings.pools.values()}):
        for program, version, install in _TOOLS.get(kind, ()):
            try:
                said = shell.run(program, version, seconds=10).splitlines()
            except SnapvolError as error:
                yield _error(f"tool {program}", error.message, install)
            else:
                yield _ok(f"tool {program}", said[0] if said else "is there")


def kernel(settings: Settings) -> Iterator[Finding]:
    """Check what is needed of the kernel."""
    try:
        Mounts.read()
    except SnapvolError as error:
        yield _error("kernel", f"who has volumes mounted cannot be read: {error.message}", error.hint)
    else:
        yield _ok("kernel", f"Linux {os.uname().release}, mounts can be read")
    known = Path("/proc/filesystems").read_text(encoding="ascii", errors="replace").split()
    for kind in sorted({pool.backend for pool in settings.pools.values()}):
        wanted = _FILESYSTEMS.get(kind)
        if wanted is not None and wanted not in known:
            yield _error("kernel", f"it does not know {wanted}", f"modprobe {wanted}")


def propagation(every: Iterable[Pool], root: Path, proc: Path = Path("/proc")) -> Iterator[Finding]:
    """Check that Docker sees what the daemon mounts (T13): see `Backend` for where that is."""
    some = Volume(id="", name="x", created=now())
    mounting = sorted(pool.name for pool in every if pool.backend.mountpoint(some).is_relative_to(root / "mounts"))
    if not mounting:
        return
    try:
        apart = (proc / "self/ns/mnt").stat().st_ino != (proc / "1/ns/mnt").stat().st_ino
    except OSError as error:
        yield _warning("mounts", f"whether Docker sees them cannot be told: {error.strerror}", "run snapvol as root")
        return
    if apart:
        yield _warning(
            "mounts",
            f"the daemon has a mount namespace of its own: Docker may not see volumes of {', '.join(mounting)}",
            "leave PrivateTmp, PrivateMounts, ProtectSystem and ProtectHome out of its unit",
        )
    else:
        yield _ok("mounts", "are made in the machine's own mount namespace, where Docker sees them")


def sockets(settings: Settings) -> Iterator[Finding]:
    """Check that nobody but those who may can reach the daemon's sockets (T43)."""
    for path, widest in ((settings.daemon.plugin_socket, 0o600), (settings.daemon.api_socket, 0o660)):
        subject = f"socket {path}"
        try:
            found = path.stat()
        except FileNotFoundError:
            yield _warning(subject, "does not exist: is the daemon running?", "systemctl start snapvol")
            continue
        except OSError as error:
            yield _error(subject, f"cannot be looked at: {error.strerror}")
            continue
        mode = stat.S_IMODE(found.st_mode)
        if not stat.S_ISSOCK(found.st_mode):
            yield _error(subject, "is not a socket", f"rm {shlex.quote(str(path))}")
        elif mode & ~widest:
            yield _error(subject, f"is open to others (mode {mode:04o})", f"chmod {widest:o} {shlex.quote(str(path))}")
        else:
            yield _ok(subject, f"mode {mode:04o}")


def docker(settings: Settings, engine: Docker) -> Iterator[Finding]:
    """Check that Docker can find us, and we it."""
    daemon = settings.daemon
    if not daemon.docker_socket:
        yield _ok("docker", "is not asked: daemon.docker_socket is empty")
        return
    version = engine.version()
    if version is None:
        message = f"does not answer at {daemon.docker_socket}: labels of volumes are not backed up"
        yield _warning("docker", message, "systemctl status docker")
        return
    yield _ok("docker", f"version {version} answers")
    if daemon.plugin_socket.parent != PLUGIN_DIRECTORY:
        message = f"looks for plugins in {PLUGIN_DIRECTORY}, not in {daemon.plugin_socket.parent}"
        yield _warning("docker", message, "set daemon.plugin_socket")


def pools(every: Iterable[Pool]) -> Iterator[Finding]:
    """Check the pools, and say where a snapshot costs as much as the volume."""
    for pool in every:
        subject = f"pool '{pool.name}'"
        if pool.problem is not None:
            yield _error(subject, pool.problem)
            continue
        health, features = pool.backend.health(), pool.backend.features
        if not health.ok:
            yield _error(subject, health.problem or "it is not well")
        else:
            yield _ok(subject, f"{pool.kind}, {health.free >> 20} of {health.size >> 20} MiB free{_metadata(health)}")
            if health.problem is not None:
                yield _warning(subject, health.problem)
        if not features.snapshots:
            yield _warning(subject, f"has no snapshots, so no backups: {features.reason or 'its storage cannot'}")
        elif not features.shared_blocks:
            yield _warning(subject, "copies every byte for each snapshot and backup; XFS and btrfs would share them")


def _metadata(health: Health) -> str:
    if health.metadata_size is None or health.metadata_free is None:
        return ""
    return f", of its metadata {health.metadata_free >> 20} of {health.metadata_size >> 20} MiB"


def leftovers(
    entries: Iterable[Entry], scratch: Scratch, running: Set[str], repositories: Iterable[str]
) -> list[Finding]:
    """Find what jobs that no longer run have left, and snapshots that wait for backups which nobody will make.

    Args:
        entries: the volumes.
        scratch: where jobs keep temporary files.
        running: the ids of the jobs that run, or wait to.
        repositories: the names of those in the settings.
    """
    found = []
    for entry in entries:
        for snapshot in entry.snapshots:
            for hold in snapshot.holds:
                command = f"snapvol release {snapshot.full_name} --tag {shlex.quote(hold)}"
                repository, job = bases.repository_of(hold), points.job_of(hold)
                if repository is not None and repository not in repositories:
                    message = f"is kept for the next backup to repository '{repository}', which is not in the settings"
                elif job is not None and job not in running:
                    message = f"is held by backup job {job}, which does not run; the volume's next backup releases it"
                else:
                    continue
                found.append(_warning(f"snapshot '{snapshot.full_name}'", message, command))
    for place in scratch.left():
        if place.name not in running:
            message = "was left by a restore that does not run; the next start removes it"
            found.append(_warning(f"file {place}", message, f"rm -r --one-file-system {shlex.quote(str(place))}"))
    return found


def repositories(settings: Settings, library: Library) -> list[Finding]:
    """Check that each repository opens with its password, all at one time."""

    def check(name: str) -> list[Finding]:
        subject = f"repository '{name}'"
        url = settings.repository(name).url
        try:
            answered = library.open(name, PATIENCE)
        except NotFound as error:
            command = f"snapvol repo init{settings.flag(name)}"
            return [_warning(subject, error.message.removeprefix(f"{subject}: "), command)]
        except SnapvolError as error:
            return [_error(subject, error.message.removeprefix(f"{subject}: "), error.hint)]
        if not answered:
            return [_error(subject, f"{url} does not answer within {PATIENCE:.0f} s")]
        return [_ok(subject, f"{url} opens with its password"), *recovery_key(settings, name)]

    names = list(settings.repositories)
    # The threads live until all have answered: a worker ends with the thread that started it.
    with ThreadPoolExecutor(max(1, min(4, len(names)))) as threads:
        return [finding for found in threads.map(check, names) for finding in found]


def recovery_key(settings: Settings, name: str) -> list[Finding]:
    """Check that somebody confirmed to have stored the recovery key of a repository made here (T33)."""
    subject = f"repository '{name}'"
    try:
        known = notes(settings, name)
    except SnapvolError as error:
        return [_warning(subject, error.message, error.hint)]
    if known is None or known.recovery_confirmed is not None:
        return []
    command = f"snapvol repo key confirm{settings.flag(name)}"
    return [_warning(subject, "nobody has confirmed that its recovery key is stored away from this machine", command)]
