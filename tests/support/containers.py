"""Docker Engine and Podman for tests, each with its own storage, and what they need to run a busybox."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support import leftovers, needs
from support.process import Result, Server, run

IMAGE = "busybox"
_ENGINE = "/usr/sbin/dockerd"
_CLIENT = "/usr/bin/docker"  # the client of this engine, also where a newer one comes first on the search path
# dockerd looks for plugins in one fixed directory. In a mount namespace of its own it finds this session's there, and
# no stale socket of anybody else can stall it; mounts made outside are still seen inside.
_NAMESPACE = """\
set -e
mkdir -p /run/docker
mount -t tmpfs -o mode=0755 snapvol-test /run/docker
mkdir /run/docker/plugins
mount --bind "$1" /run/docker/plugins
shift
exec "$@"
"""


def image_archive(place: Path) -> Path:
    """Return a tar of a root file system with a static busybox, and one file in /image for copy-up."""
    archive = place / "busybox.tar"
    if not archive.exists():
        root = place / "busybox"
        for directory in ("bin", "tmp", "image", "proc", "sys", "dev", "etc"):
            (root / directory).mkdir(parents=True)
        shutil.copy("/bin/busybox", root / "bin")
        for applet in run("/bin/busybox", "--list").stdout.split():
            if applet != "busybox":
                (root / "bin" / applet).symlink_to("busybox")
        (root / "image/from-image").write_text("from the image\n")
        run("tar", "--create", "--file", archive, "--directory", root, ".")
    return archive


class Docker:
    """A Docker Engine.

    Args:
        place: an existing directory for all it keeps.
        plugins: what it sees as ``/run/docker/plugins``: a driver's name is the name of its socket there.
        live_restore: containers survive a stop of the engine.
    """

    def __init__(self, place: Path, plugins: Path, live_restore: bool = False) -> None:
        self.place = place
        self.plugins = plugins
        self.socket = place / "docker.sock"
        self._live_restore = live_restore
        plugins.mkdir(parents=True, exist_ok=True)
        (place / "daemon.json").write_text("{}\n")
        self.start()
        if not self.run("image", "ls", "--quiet", IMAGE).stdout:
            self.run("import", str(image_archive(place)), IMAGE)

    def start(self) -> None:
        """Start it and wait until it answers."""
        # containerd refuses to start while the file names a process, and process ids come round again.
        for stale in (self.place / "pid", self.place / "exec/containerd/containerd.pid"):
            stale.unlink(missing_ok=True)
        self.server = Server(
            [
                *("unshare", "--mount", "--propagation", "slave", "sh", "-c", _NAMESPACE, "sh", self.plugins),
                *(_ENGINE, "--config-file", self.place / "daemon.json", "--host", f"unix://{self.socket}"),
                *("--data-root", self.place / "data", "--exec-root", self.place / "exec"),
                *("--pidfile", self.place / "pid", "--bridge", "none"),
                *("--iptables=false", "--ip-forward=false", "--ip-masq=false", "--userland-proxy=false"),
                f"--live-restore={str(self._live_restore).lower()}",
            ],
            log=self.place / "dockerd.log",
            env={"DOCKER_RAMDISK": "", "HTTP_PROXY": "", "HTTPS_PROXY": "", "NO_PROXY": "*"},
        )
        self.server.ready(lambda: self.run("version", check=False).code == 0, 120)

    def run(self, *argv: str, check: bool = True, seconds: float = 90, stdin: str = "") -> Result:
        """Run the ``docker`` command against this engine."""
        return run(_CLIENT, *argv, env=self._environment, check=check, seconds=seconds, stdin=stdin)

    @property
    def _environment(self) -> dict[str, str]:
        return {"DOCKER_HOST": f"unix://{self.socket}", "DOCKER_CONFIG": str(self.place / "client")}

    def out(self, *argv: str, seconds: float = 90) -> str:
        """Run the ``docker`` command and return what it printed, without the last newline."""
        return self.run(*argv, seconds=seconds).stdout.strip()

    def inspect(self, kind: str, name: str) -> Any:
        """Return ``docker KIND inspect NAME`` as Python data."""
        return json.loads(self.out(kind, "inspect", name))[0]

    def container(self, *argv: str, seconds: float = 90) -> str:
        """Run busybox to its end (``docker run --rm``; options first) and return what it printed."""
        return self.out("run", "--rm", "--network", "none", *argv, seconds=seconds)

    def background(self, name: str, *options: str, command: str = "sleep 3600") -> str:
        """Start a busybox called ``name`` that goes on running, and return its id."""
        return self.out("run", "--detach", "--network", "none", "--name", name, *options, IMAGE, "sh", "-c", command)

    def compose(self, file: Path, *argv: str, project: str, check: bool = True) -> Result:
        """Run ``docker-compose`` against this engine."""
        return run(
            *("/usr/bin/docker-compose", "--file", str(file), "--project-name", project, *argv),
            env={**self._environment, "COMPOSE_HTTP_TIMEOUT": "120"},
            check=check,
            seconds=120,
        )

    def clean(self) -> None:
        """Remove all containers; volumes are the drivers'."""
        containers = self.out("container", "ls", "--all", "--quiet").split()
        if containers:
            self.run("container", "rm", "--force", *containers)

    def kill_9(self) -> None:
        """Kill the engine and its containerd at once: containers go on running under their shims."""
        self.server.kill_9()
        for pid, command in leftovers.processes(self.place).items():
            if command.startswith("containerd "):
                os.kill(pid, signal.SIGKILL)

    def restart(self) -> None:
        """Stop it in an orderly way and start it again."""
        self.server.stop(60)
        self.start()

    def stop(self) -> None:
        """End it and all its containers."""
        if self.server.running:
            self.clean()
        self.server.stop(60)


class Podman:
    """Podman with its own storage.

    Args:
        place: an existing directory for all it keeps.
        plugins: volume drivers: name → socket.
    """

    def __init__(self, place: Path, plugins: dict[str, Path]) -> None:
        self.place = place
        lines = [f'{name} = "{socket}"' for name, socket in plugins.items()]
        # Debian's crun refuses a machine with both cgroup versions; the limits are those that this process may set.
        (place / "containers.conf").write_text(
            "[containers]\n"
            'default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]\n'
            'netns = "none"\nlog_driver = "k8s-file"\n'
            '[engine]\nruntime = "runc"\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n'
            "[engine.volume_plugins]\n" + "\n".join(lines) + "\n"
        )
        self.run("import", "--quiet", str(image_archive(place)), IMAGE)

    def run(self, *argv: str, check: bool = True, seconds: float = 90) -> Result:
        """Run the ``podman`` command with this storage."""
        own = ("--root", f"{self.place}/data", "--runroot", f"{self.place}/run", "--tmpdir", f"{self.place}/tmp")
        return run(
            *("podman", *own, *argv),
            env={"CONTAINERS_CONF": str(self.place / "containers.conf")},
            check=check,
            seconds=seconds,
        )

    def out(self, *argv: str, seconds: float = 90) -> str:
        """Run the ``podman`` command and return what it printed, without the last newline."""
        return self.run(*argv, seconds=seconds).stdout.strip()

    def inspect(self, kind: str, name: str) -> Any:
        """Return ``podman KIND inspect NAME`` as Python data."""
        return json.loads(self.out(kind, "inspect", name))[0]

    def container(self, *argv: str, seconds: float = 90) -> str:
        """Run busybox to its end (``podman run --rm``; options first) and return what it printed."""
        return self.out("run", "--rm", *argv, seconds=seconds)

    def stop(self) -> None:
        """Remove all its containers."""
        self.run("rm", "--all", "--force", "--time", "0", check=False)


@contextmanager
def docker(place: Path, plugins: Path, live_restore: bool = False) -> Iterator[Docker]:
    """A Docker Engine for the length of a ``with``."""
    needs.root("docker")
    needs.program(_ENGINE, _CLIENT, "containerd", "runc", "busybox", what="docker")
    place.mkdir(parents=True)
    engine = Docker(place, plugins, live_restore)
    try:
        yield engine
    finally:
        engine.stop()


@contextmanager
def podman(place: Path, plugins: dict[str, Path]) -> Iterator[Podman]:
    """Podman for the length of a ``with``."""
    needs.root("podman")
    needs.program("podman", "runc", "conmon", "busybox", what="podman")
    place.mkdir(parents=True)
    pods = Podman(place, plugins)
    try:
        yield pods
    finally:
        pods.stop()
