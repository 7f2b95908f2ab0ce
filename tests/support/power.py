"""A daemon at work on a machine whose power may go at any moment, and the account of what it had acknowledged.

Run in a lab guest as ``python -m support.power prepare|work|check``. The first disk has the pool; the second the
daemon's state, the repository, and the account: what was begun, and what was acknowledged, each line synced. After a
cut everything must be as the account says; what was begun and not acknowledged may be done or not.
"""

from __future__ import annotations

import json
import os
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from snapvol.backend import Backend
from snapvol.backends import BACKENDS
from snapvol.client import Client, RestoreRequest
from snapvol.errors import SnapvolError
from snapvol.model import Damage, Snapshot, Volume
from support import disks
from support.process import run, wait_until
from support.servers import Snapvol, password_file
from support.storage import LAB, STORAGE, Pool, contents

KEPT = Path("/var/lib/snapvol/kept")
MOST = 4  # volumes at a time
SIZE = 320
FILE = "f"


@dataclass
class Account:
    """What must be there.

    Attributes:
        live: name → what its file holds.
        snapshots: name → snapshot → what its file holds.
        gone: names of volumes that were removed for ever, or are in the trash.
    """

    live: dict[str, str] = field(default_factory=dict)
    snapshots: dict[str, dict[str, str]] = field(default_factory=dict)

    def apply(self, step: dict[str, Any]) -> None:
        """Do what a step does."""
        name, verb = step["volume"], step["verb"]
        if verb == "create":
            self.live[name], self.snapshots[name] = step["text"], {}
        elif verb == "write":
            self.live[name] = step["text"]
        elif verb == "snapshot":
            self.snapshots[name][step["snapshot"]] = self.live[name]
        elif verb == "destroy snapshot":
            del self.snapshots[name][step["snapshot"]]
        elif verb == "rollback":
            self.live[name] = self.snapshots[name][step["snapshot"]]
        elif verb == "restore":
            self.live[name] = step["text"]
        elif verb == "clone":
            self.live[step["to"]], self.snapshots[step["to"]] = self.snapshots[name][step["snapshot"]], {}
        elif verb == "remove":
            del self.live[name], self.snapshots[name]


def journal() -> Path:
    return KEPT / "account"


def note(kind: str, step: dict[str, Any]) -> None:
    """Write a line of the account, and have it on the disk."""
    with journal().open("a") as file:
        file.write(json.dumps({"kind": kind, **step}) + "\n")
        file.flush()
        os.fsync(file.fileno())
    print(kind, step["verb"], step["volume"], flush=True)


def told() -> tuple[Account, dict[str, Any] | None]:
    """Return what was acknowledged, and the step that was begun after it."""
    account, begun = Account(), None
    for line in journal().read_text().splitlines():
        with suppress(ValueError):  # the last line, cut short
            entry = json.loads(line)
            if entry["kind"] == "done":
                account.apply(entry)
            begun = entry if entry["kind"] == "begun" else None
    return account, begun


# -- the machine ------------------------------------------------------------------------------------------------


@contextmanager
def machine() -> Iterator[tuple[Snapvol, Client]]:
    """The disks in place and the daemon running, as after any boot."""
    KEPT.mkdir(parents=True, exist_ok=True)
    run("mount", disks.given()[1], KEPT)
    if STORAGE == "zfs":
        run("zpool", "import", "-aN", check=False)
    settings = disks.pool(STORAGE)
    host = Snapvol(
        KEPT,
        {
            "pools": {"default": {"backend": STORAGE, **settings}},
            "repositories": {"default": {"url": KEPT / "repository", "password_file": password_file(KEPT)}},
            "daemon": {"runtime": "/run/snapvol"},
        },
    )
    host.api_socket = Path("/run/snapvol/api.sock")
    host.settings["daemon"] |= {"api_socket": host.api_socket}
    host.configure()
    Path("/run/snapvol").mkdir(mode=0o755, exist_ok=True)
    host.start(120)
    try:
        yield host, Client(host.api_socket)
    finally:
        host.stop()


def prepare() -> None:
    run("mkfs.ext4", "-q", disks.given()[1])
    with machine() as (host, client):
        host.cli("repo", "init")
        client.create("base", options(), {})
        put(client, "base", "backed up")
        finished(client, client.back_up(["base"])[0].id)
        journal().touch()
        note("done", {"verb": "create", "volume": "base", "text": "backed up"})
    run("sync")


def options() -> dict[str, str]:
    return {"size": f"{SIZE}M"}


def put(client: Client, name: str, text: str) -> None:
    """Write the volume's file as those do who mean it to last."""
    root = client.mount(name, "power")
    try:
        with (root / ".new").open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.rename(root / ".new", root / FILE)
        directory = os.open(root, os.O_DIRECTORY)
        os.fsync(directory)
        os.close(directory)
    finally:
        client.unmount(name, "power")


def finished(client: Client, job: str) -> None:
    wait_until(lambda: client.job(job).state not in ("waiting", "queued", "running"), 120)
    assert client.job(job).state == "done", client.job(job)


# -- work -------------------------------------------------------------------------------------------------------


def work() -> None:
    """Do one thing after another until the power goes."""
    chance = random.Random(os.environ.get("SNAPVOL_TEST_SEED", "") + os.environ["SNAPVOL_TEST_BOOT"])
    account, _ = told()
    with machine() as (_, client):
        for number in range(1_000_000):
            step = chosen(chance, account, f"{os.environ['SNAPVOL_TEST_BOOT']}-{number}")
            note("begun", step)
            perform(client, step)
            account.apply(step)
            note("done", step)


def chosen(chance: random.Random, account: Account, mark: str) -> dict[str, Any]:
    """Return a step that is possible."""
    name = chance.choice(sorted(account.live))
    verbs = ["write", "snapshot", "resize", "restore"]
    if account.snapshots[name]:
        verbs += ["rollback", "rollback", "destroy snapshot"]
    if len(account.live) < MOST:
        verbs += ["create", "clone"] if account.snapshots[name] else ["create"]
    if len(account.live) > 2 and name != "base":
        verbs += ["remove", "remove"]
    verb = chance.choice(verbs)
    step: dict[str, Any] = {"verb": verb, "volume": name}
    if verb == "create":
        step |= {"volume": f"v{mark}", "text": ""}
    elif verb == "write":
        step |= {"text": mark * 100}
    elif verb == "snapshot":
        step |= {"snapshot": f"s{mark}"}
    elif verb == "restore":
        step |= {"text": "backed up"}
    elif verb in ("rollback", "destroy snapshot", "clone"):
        step |= {"snapshot": chance.choice(sorted(account.snapshots[name])), "to": f"c{mark}"}
    elif verb == "remove":
        step |= {"permanent": chance.random() < 0.5}
    return step


def perform(client: Client, step: dict[str, Any]) -> None:
    name, verb = step["volume"], step["verb"]
    if verb == "create":
        client.create(name, options(), {})
    elif verb == "write":
        put(client, name, step["text"])
    elif verb == "snapshot":
        client.snapshot([name], step["snapshot"], "")
    elif verb == "destroy snapshot":
        client.destroy_snapshot(name, step["snapshot"])
    elif verb == "rollback":
        client.rollback(name, step["snapshot"])
    elif verb == "resize":
        size = (client.volume(name).size or SIZE << 20) + (32 << 20)
        client.resize(name, str(size))
    elif verb == "restore":
        request = RestoreRequest(backup="base", volume=name, in_place=True)
        finished(client, client.restore(request).id)
    elif verb == "clone":
        client.create(step["to"], {"snapshot": f"{name}@{step['snapshot']}"}, {})
    elif verb == "remove":
        client.remove(name, permanent=step["permanent"])


# -- the account is asked for -----------------------------------------------------------------------------------


def check() -> None:
    """Compare with the account; what was begun and not acknowledged is then settled, as it turned out."""
    account, begun = told()
    with machine() as (_, client):
        wait_until(lambda: all(job.state not in ("waiting", "queued", "running") for job in client.jobs()), 120)
        seen, broken = look(client)
        touched = {begun["volume"], begun.get("to", "")} if begun else set()
        assert broken <= touched, f"{broken - touched} broken, and nobody was at work there"
        after = Account(dict(account.live), {name: dict(known) for name, known in account.snapshots.items()})
        if begun:
            after.apply(begun)
        assert within(seen, account) or within(seen, after), f"{seen}\nneither {account}\nnor, after {begun}: {after}"
        if begun and within(seen, after):
            note("done", {name: value for name, value in begun.items() if name != "kind"})
        elif begun:
            note("undone", {name: value for name, value in begun.items() if name != "kind"})
        for name in broken:
            client.remove(name, permanent=True)
        client.empty_trash()
    leaks()
    print("well:", len(seen.live), "volumes,", sum(map(len, seen.snapshots.values())), "snapshots", flush=True)


def look(client: Client) -> tuple[Account, set[str]]:
    """Return what is there, and the volumes that cannot be mounted but say why."""
    seen, broken = Account(), set()
    backend = opened()
    for volume in backend.volumes():
        assert not isinstance(volume, Damage), volume
        told = client.volume(volume.name)
        assert not told.damaged, told
        if told.state != "ready":
            assert told.error, told
            broken.add(volume.name)
            continue
        root = client.mount(volume.name, "look")
        seen.live[volume.name] = contents(root).get(FILE, b"").decode()
        client.unmount(volume.name, "look")
        seen.snapshots[volume.name] = {}
        for snapshot in backend.snapshots(volume):
            assert isinstance(snapshot, Snapshot), snapshot
            with backend.open_snapshot(snapshot) as tree:
                seen.snapshots[volume.name][snapshot.name] = contents(tree.root).get(FILE, b"").decode()
    return seen, broken


def within(seen: Account, expected: Account) -> bool:
    """Return whether what is seen is what is expected; what the daemon itself has snapshotted may be there too."""
    return seen.live == expected.live and all(
        known.items() <= seen.snapshots[name].items()
        and all(not other.startswith("s") or other in known for other in seen.snapshots[name])
        for name, known in expected.snapshots.items()
    )


def opened() -> Backend:
    """Return the backend as a worker beside the daemon has it."""
    return BACKENDS[STORAGE]("default", disks.pool(STORAGE), root=KEPT / "state")


def leaks() -> None:
    """Compare with the storage's own lists, when the daemon has ended."""
    variant = next(variant for variant in LAB.values() if variant.backend == STORAGE)
    backend = opened()
    pool = Pool(backend, variant, disks.pool(STORAGE), KEPT / "state", backend.open())
    for volume in backend.volumes():
        assert isinstance(volume, Volume)
        backend.unmount(volume)
    assert pool.leaks() == []
    backend.close()


if __name__ == "__main__":
    try:
        {"prepare": prepare, "work": work, "check": check}[sys.argv[1]]()
    except SnapvolError as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from error
