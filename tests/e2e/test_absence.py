"""A pool that is not there, through the real daemon and CLI: said, survived, and over when it is back (T40)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support import disks
from support.process import Result, wait_until
from support.servers import Snapvol
from support.storage import STORAGE

pytestmark = [pytest.mark.root, pytest.mark.storage, pytest.mark.lab]
Hosts = Callable[..., Snapvol]


@pytest.fixture
def host(snapvol: Hosts, pool: Callable[[str], dict[str, Any]]) -> Snapvol:
    """A daemon with a pool on the lab's storage, one in a directory, and a volume with a file in each."""
    made = snapvol(STORAGE, start=False)
    made.settings["pools"]["other"] = pool("ext4")
    made.settings["daemon"]["default_pool"] = "default"
    made.configure()
    made.start()
    for name, where in (("web", "default"), ("wiki", "other")):
        made.cli("create", name, "-o", f"pool={where}")
        Path(made.out("mount", name), "f").write_text(name)
        made.cli("unmount", name)
    return made


def missed(host: Snapvol) -> Result:
    """Return what `status` says; the other pool must work all the while."""
    root = Path(host.out("mount", "wiki"))
    assert (root / "f").read_text() == "wiki"
    host.cli("unmount", "wiki")
    told = host.cli("status", check=False)
    assert told.code == 1, told
    assert "default" in told.stdout + told.stderr, told
    assert "Traceback" not in told.stdout + told.stderr
    refused = host.cli("mount", "web", check=False)
    assert refused.code in (3, 5), refused
    assert len(refused.stderr.strip().splitlines()) == 1, refused
    assert host.cli("create", "new", check=False).code == 5
    return told


def found_again(host: Snapvol) -> None:
    def there() -> bool:
        return host.cli("mount", "web", check=False).code == 0

    wait_until(there, 60, lambda: f"the volume to be back: {host.cli('mount', 'web', check=False)}")
    root = Path(host.json("inspect", "web")["mountpoint"])
    assert (root / "f").read_text() == "web"
    host.cli("unmount", "web")
    host.cli("create", "new")
    assert {volume["name"] for volume in host.json("ls")} == {"web", "wiki", "new"}


def test_a_pool_that_goes_while_the_daemon_runs_is_missed_until_it_is_back(host: Snapvol) -> None:
    with disks.away(host.settings["pools"]["default"]):
        missed(host)
    found_again(host)


def test_a_pool_that_is_away_at_the_start_is_taken_in_when_it_comes(host: Snapvol) -> None:
    host.stop()
    with disks.away(host.settings["pools"]["default"]):
        host.start()
        missed(host)
    found_again(host)
