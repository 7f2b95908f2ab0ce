"""The real parts work by themselves, so that a failure elsewhere is ours."""

from __future__ import annotations

import os
import subprocess  # noqa: TID251
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from support import leftovers
from support.containers import IMAGE, Docker, Podman
from support.process import Failed, run, wait_until

pytestmark = pytest.mark.root


def test_docker_runs_a_container_and_sees_mounts_made_later(docker: Docker, filesystem: Callable[..., Path]) -> None:
    point = filesystem("xfs")
    (point / "file").write_text("made outside\n")
    assert docker.container("-v", f"{point}:/data", IMAGE, "cat", "/data/file") == "made outside"


def test_containers_outlive_a_killed_engine(own_docker: Callable[..., Docker]) -> None:
    docker = own_docker(live_restore=True)
    docker.background("survivor")
    before = docker.inspect("container", "survivor")["State"]["Pid"]
    docker.kill_9()
    os.kill(before, 0)
    docker.start()
    state = docker.inspect("container", "survivor")["State"]
    assert (state["Running"], state["Pid"]) == (True, before)


def test_compose_starts_a_project(docker: Docker, tmp_path: Path) -> None:
    file = tmp_path / "compose.yaml"
    file.write_text(
        f'version: "3"\nservices:\n  one:\n    image: {IMAGE}\n    network_mode: none\n'
        "    command: cat /image/from-image\n"
    )
    assert "from the image" in docker.compose(file, "up", "--no-color", project="parts").stdout


def test_podman_runs_a_container(podman: Podman) -> None:
    assert podman.container(IMAGE, "cat", "/image/from-image") == "from the image"


@pytest.mark.parametrize("kind", ["bucket", "rclone_bucket"])
def test_s3_gives_back_what_it_took(kind: str, request: pytest.FixtureRequest) -> None:
    bucket = request.getfixturevalue(kind)
    bucket.client.put_object(Bucket=bucket.name, Key="a/b", Body=b"content")
    answer = bucket.client.get_object(Bucket=bucket.name, Key="a/b", Range="bytes=3-5")
    assert answer["Body"].read() == b"ten"


def test_restic_works_on_rgw(bucket: Any, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/file").write_text("content")
    env = {**bucket.restic(), "RESTIC_CACHE_DIR": str(tmp_path / "cache")}
    run("restic", "init", env=env)
    run("restic", "backup", "tree", env=env, cwd=tmp_path)
    assert "no errors were found" in run("restic", "check", "--read-data", env=env).stdout


def test_nothing_outlives_a_killed_test_runner(tmp_path: Path) -> None:
    (tmp_path / "test_inner.py").write_text(
        "import time\n"
        "def test_inner(docker, filesystem, rclone, place):\n"
        "    filesystem('btrfs')\n"
        "    docker.background('sleeper')\n"
        f"    open({str(tmp_path / 'place')!r}, 'w').write(str(place))\n"
        "    time.sleep(600)\n"
    )
    tests = Path(__file__).parents[1]
    inner = subprocess.Popen(
        [
            *(sys.executable, "-m", "pytest", "-c", str(tests.parent / "pyproject.toml")),
            *("-p", "conftest", "-p", "e2e.conftest", str(tmp_path / "test_inner.py")),
        ],
        env={**os.environ, "PYTHONPATH": str(tests)},
        cwd=tests.parent,
        stdout=subprocess.DEVNULL,
    )
    try:
        wait_until((tmp_path / "place").exists, 60, "the inner session's container")
        time.sleep(0.2)
        place = Path((tmp_path / "place").read_text())
        report = leftovers.report(place, seconds=0)
        assert any("dockerd" in line for line in report)
        assert any(line.startswith("loop device") for line in report)
    finally:
        inner.kill()
        inner.wait()
    left = partial(leftovers.report, place, 0)
    wait_until(lambda: not place.exists() and not left(), 30, lambda: f"the end of {left()}")


def test_a_program_without_end_is_an_error() -> None:
    with pytest.raises(Failed, match=r"no end after 0\.2 s"):
        run("sleep", "10", seconds=0.2)
