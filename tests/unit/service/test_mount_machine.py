"""Random lives of dockerd, Podman, containers and the daemon against one model of who really uses the volume.

What must hold at every moment: removal is refused if and only if the kernel shows a user, whatever was announced; and
when everything has ended, nothing is left announced (G3, G6, T8, T10).
"""

from __future__ import annotations

import itertools
import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from snapvol.errors import InUse
from snapvol.service import holders as holders_module
from snapvol.service.holders import Client
from snapvol.service.service import Service
from support.service import FakeKernel, directory_service

PODMAN_ID = "2f73349cfc46"


class Mounts(RuleBasedStateMachine):
    """One volume, one dockerd at a time, several containers."""

    containers: Bundle[str] = Bundle("containers")

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="snapvol-mounts-"))
        self.kernel = FakeKernel()
        self.numbers = itertools.count(1)
        self.living: set[Client] = set()
        self.running: dict[str, bool] = {}  # mount ID → whether this dockerd will end it
        self._alive = holders_module.alive
        self.service: Service

    @initialize()
    def begin(self) -> None:
        self.service = self._start()
        self.service.create_volume("v")
        self.path = Path(self.service.volume("v").mountpoint)
        self.dockerd = self._client("dockerd")

    def _start(self) -> Service:
        service = directory_service(self.root, self.kernel)
        service._context.holders._alive = lambda client: client in self.living
        return service

    def _client(self, program: str) -> Client:
        client = Client(pid=100, start=next(self.numbers), program=program)
        self.living.add(client)
        return client

    def _show(self) -> None:
        self.kernel.leave(self.path)
        for container in self.running:
            self.kernel.use(self.path, container)

    @rule(target=containers)
    def docker_run(self) -> str:
        container = f"id{next(self.numbers)}"
        self.service.mount("v", container, self.dockerd)
        self.running[container] = True
        self._show()
        return container

    @rule(container=containers)
    def docker_cp(self, container: str) -> None:
        if container in self.running:
            self.service.mount("v", container, self.dockerd)
            self.service.unmount("v", container, self.dockerd)

    @rule(container=consumes(containers))
    def docker_stop(self, container: str) -> None:
        if container in self.running:
            del self.running[container]
            self._show()
            self.service.unmount("v", container, self.dockerd)

    @rule(container=consumes(containers))
    def container_crashes_and_docker_starts_it_again(self, container: str) -> None:
        """kill -9 of dockerd without live-restore: no Unmount, then a Mount with the same ID."""
        self.living.discard(self.dockerd)
        self.running.clear()
        self._show()
        self.dockerd = self._client("dockerd")
        self.service.mount("v", container, self.dockerd)
        self.running[container] = True
        self._show()
        del self.running[container]
        self._show()
        self.service.unmount("v", container, self.dockerd)

    @rule()
    def dockerd_restarts_under_living_containers(self) -> None:
        self.living.discard(self.dockerd)
        self.dockerd = self._client("dockerd")

    @rule(number=st.integers(1, 3))
    def unmount_of_something_unknown(self, number: int) -> None:
        self.service.unmount("v", f"unknown{number}", self.dockerd)

    @rule()
    def podman_run_and_stop(self) -> None:
        begins, ends = self._client("podman"), self._client("podman")
        self.service.mount("v", PODMAN_ID, begins)
        self.living.discard(begins)
        self.service.unmount("v", PODMAN_ID, ends)
        self.living.discard(ends)

    @rule()
    def daemon_is_killed(self) -> None:
        # What a kill leaves behind is what is on disk; closing adds nothing to the holders.
        self.service.close()
        self.service = self._start()

    @rule()
    def housekeeping(self) -> None:
        self.service.refresh_users()

    @invariant()
    def removal_is_refused_if_and_only_if_the_kernel_shows_a_user(self) -> None:
        if not hasattr(self, "service"):
            return
        try:
            self.service.remove_volume("v", dry_run=True)
            refused = False
        except InUse:
            refused = True
        assert refused == bool(self.running)

    @invariant()
    def who_runs_is_counted(self) -> None:
        if hasattr(self, "service") and self.running:
            assert self.service.volume("v").holders >= len(self.running)

    def teardown(self) -> None:
        if hasattr(self, "service"):
            self.running.clear()
            self._show()
            self.living.clear()
            self.service.refresh_users()
            assert self.service.volume("v").holders == 0
            assert not self.service.volume("v").mounted
            self.service.remove_volume("v")
            self.service.close()
        shutil.rmtree(self.root)


TestMounts = Mounts.TestCase
TestMounts.settings = settings(
    max_examples=25, stateful_step_count=25, suppress_health_check=[HealthCheck.too_slow], deadline=None
)
