"""The real parts: Docker Engine, Podman, Ceph RGW, rclone, file systems, and the snapvol daemon itself."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lab import rgw as lab_rgw
from support import containers, disks, filesystems, leftovers, needs, servers
from support.containers import Docker, Podman
from support.servers import Snapvol
from support.storage import PLAIN, STORAGE

Hosts = Callable[..., Snapvol]
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Bucket:
    """An empty bucket and how to reach it: ``settings(prefix)`` is a ``[repositories.NAME]``."""

    name: str
    endpoint: str
    credentials: lab_rgw.Credentials
    place: Path

    def settings(self, prefix: str = "repository") -> dict[str, Any]:
        return {
            "url": f"s3://{self.name}/{prefix}",
            "endpoint": self.endpoint,
            "addressing": "path",
            "region": "us-east-1",
            "password_file": servers.password_file(self.place),
            "credentials_file": servers.credentials_file(self.place, self.credentials),
        }

    @property
    def client(self) -> Any:
        """A boto3 client."""
        return servers.s3_client(self.endpoint, self.credentials)

    def restic(self, prefix: str = "repository") -> dict[str, str]:
        """The environment for stock restic."""
        return {
            "RESTIC_REPOSITORY": f"s3:{self.endpoint}/{self.name}/{prefix}",
            "RESTIC_PASSWORD_FILE": str(servers.password_file(self.place)),
            "AWS_ACCESS_KEY_ID": self.credentials.key,
            "AWS_SECRET_ACCESS_KEY": self.credentials.secret,
        }


def _bucket(endpoint: str, credentials: lab_rgw.Credentials, place: Path) -> Bucket:
    bucket = Bucket(f"bucket-{next(_numbers)}", endpoint, credentials, place)
    bucket.client.create_bucket(Bucket=bucket.name)
    return bucket


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """In a lab guest there is what has to do with its storage; elsewhere all but what needs a guest."""
    marker = "storage" if STORAGE else "lab"
    # A plugin's hook sees all items of the session, also those of other folders.
    here = {item for item in items if item.path.is_relative_to(Path(__file__).parent)}
    others = [item for item in here if bool(item.get_closest_marker(marker)) != bool(STORAGE)]
    config.hook.pytest_deselected(items=others)
    items[:] = [item for item in items if item not in set(others)]


@pytest.fixture(scope="session")
def rgw(place: Path) -> Iterator[lab_rgw.Rgw | servers.Rclone]:
    """Ceph RGW, one for the session; each test takes a `bucket`. It is too heavy for the lab's guests: rclone there."""
    if STORAGE:
        with servers.rclone(place / "rclone-for-rgw") as light:
            yield light
        return
    needs.program(*lab_rgw.PROGRAMS, what="rgw")
    directory = place / "rgw"
    directory.mkdir()
    server = lab_rgw.Rgw(directory)
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def bucket(rgw: lab_rgw.Rgw | servers.Rclone, tmp_path: Path) -> Bucket:
    """An empty bucket on the session's S3 server."""
    return _bucket(rgw.endpoint, rgw.credentials, tmp_path)


@pytest.fixture(scope="session")
def rclone(place: Path) -> Iterator[servers.Rclone]:
    """The second S3 server, one for the session."""
    with servers.rclone(place / "rclone") as server:
        yield server


@pytest.fixture
def rclone_bucket(rclone: servers.Rclone, tmp_path: Path) -> Bucket:
    """An empty bucket on ``rclone serve s3``."""
    return _bucket(rclone.endpoint, rclone.credentials, tmp_path)


@pytest.fixture(scope="session")
def plugins(place: Path) -> Path:
    """What the test's Docker Engine sees as /run/docker/plugins."""
    directory = place / "plugins"
    directory.mkdir()
    return directory


@pytest.fixture(scope="session")
def _engine(place: Path, plugins: Path) -> Iterator[Docker]:
    with containers.docker(place / "docker", plugins) as engine:
        yield engine


@pytest.fixture
def docker(_engine: Docker, snapvol: Hosts) -> Iterator[Docker]:
    """The session's Docker Engine, running, without containers.

    It asks for `snapvol` so that its containers end while their volumes' daemon is still there to be told.
    """
    if not _engine.server.running:
        _engine.start()
    yield _engine
    if _engine.server.running:
        _engine.clean()


@pytest.fixture
def own_docker(place: Path, snapvol: Hosts) -> Iterator[Callable[..., Docker]]:
    """Make Docker Engines that a test may kill and whose state it owns; their ``plugins`` is for a daemon's sockets."""
    with ExitStack() as stack:

        def make(live_restore: bool = False) -> Docker:
            directory = place / f"docker-{next(_numbers)}"
            return stack.enter_context(containers.docker(directory, directory / "plugins", live_restore))

        yield make


@pytest.fixture
def podman(place: Path, plugins: Path, snapvol: Hosts) -> Iterator[Podman]:
    """Podman with storage of its own, which finds the driver ``snapvol`` at the socket that Docker's has."""
    with containers.podman(place / f"podman-{next(_numbers)}", {"snapvol": plugins / "snapvol.sock"}) as pods:
        yield pods


@pytest.fixture
def filesystem(place: Path) -> Iterator[Callable[..., Path]]:
    """Make real file systems: ``filesystem("btrfs", size=…, options=…)`` gives the mount point."""
    with ExitStack() as stack:

        def make(kind: str, **how: Any) -> Path:
            return stack.enter_context(filesystems.mounted(kind, place / f"fs-{next(_numbers)}", **how))

        yield make


@pytest.fixture
def pool(filesystem: Callable[..., Path], place: Path) -> Iterator[Callable[[str], dict[str, Any]]]:
    """Make the settings of a pool: ``btrfs``, ``xfs`` (directory with reflinks), ``ext4`` (directory, full copies).

    In a lab guest also ``lvm`` or ``zfs``.
    """
    made: list[dict[str, Any]] = []

    def make(kind: str) -> dict[str, Any]:
        if kind in ("lvm", "zfs"):
            made.append(disks.another(kind))
            return {"backend": kind, **made[-1]}
        if kind == "btrfs":
            return {"backend": "btrfs", "path": filesystem("btrfs") / "pool"}
        if kind == "xfs":
            return {"backend": "directory", "path": filesystem("xfs") / "pool"}
        assert kind == "ext4"
        return {"backend": "directory", "path": place / f"pool-{next(_numbers)}", "full_copies": True}

    yield make
    for settings in made:
        disks.drop(settings)


@pytest.fixture
def snapvol(place: Path, plugins: Path, pool: Callable[[str], dict[str, Any]]) -> Iterator[Hosts]:
    """Make snapvol daemons, started and ready.

    ``snapvol("btrfs")`` has a pool of that kind and a local repository, and is Docker's and Podman's driver
    ``snapvol``. ``repository`` gives another ``[repositories.default]``, ``sockets`` another engine's plugin directory,
    ``driver`` another name, ``start=False`` leaves the start to the test; other keywords are sections of the settings.
    """
    made: list[Snapvol] = []

    def make(
        kind: str | Mapping[str, Any] = PLAIN,
        *,
        repository: Mapping[str, Any] | None = None,
        driver: str = "snapvol",
        start: bool = True,
        env: Mapping[str, str] | None = None,
        sockets: Path | None = None,
        **sections: Any,
    ) -> Snapvol:
        directory = place / f"snapvol-{next(_numbers)}"
        directory.mkdir()
        settings = {
            "pools": {"default": pool(kind) if isinstance(kind, str) else kind},
            "repositories": {
                "default": repository
                or {"url": directory / "repository", "password_file": servers.password_file(directory)}
            },
            **sections,
        }
        daemon = Snapvol(directory, settings, (sockets or plugins) / f"{driver}.sock", env)
        made.append(daemon)
        return daemon.start() if start else daemon

    yield make
    for daemon in made:
        daemon.stop()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report: pytest.TestReport = yield  # type: ignore[assignment]
    place = item.config.stash.get(leftovers.PLACE, None)
    if report.failed and place is not None:
        for log in sorted([*place.glob("snapvol-*/daemon.log"), *place.glob("docker*/dockerd.log")]):
            tail = log.read_text(errors="replace")[-3000:]
            if tail:
                report.sections.append((f"end of {log.relative_to(place)}", tail))
    return report  # type: ignore[return-value]
