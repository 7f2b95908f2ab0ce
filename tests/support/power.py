"""A daemon at work on a machine whose power may go at any moment, and what must be there when it is back.

Run in a lab guest as ``python -m support.power prepare|check``; all but the last check go on to work. The first disk
has the pool; the second the daemon's state, the repository and the account (`support.account`). After a cut all is as
the account says; the step that was begun and not acknowledged is done as a whole, or not at all.
"""

from __future__ import annotations

import os
import random
import shutil
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lab.cuts import SIGN
from snapvol.api import BASE_HOLD
from snapvol.backend import Backend
from snapvol.backends import BACKENDS
from snapvol.client import Client, RestoreRequest
from snapvol.errors import Protected, SnapvolError
from snapvol.model import Snapshot, Volume
from support import disks
from support.account import BACKED_UP, Account, Journal, Kept, Known, Step, chosen
from support.process import run, wait_until
from support.servers import Snapvol, password_file
from support.storage import LAB, STORAGE, Pool

KEPT = Path("/var/lib/snapvol/kept")
JOURNAL = Journal(KEPT / "account")
SIZE, MORE = 320 << 20, 32 << 20  # bytes
FILE = "f"
EARLY = 0.3  # so often the power may go again while the daemon sees what the last cut has left
UNDISTURBED = 12  # so many steps at most before the time until the cut begins to count
REPEATED = 20_000  # a file that is written by halves shows it
BOOT = os.environ.get("SNAPVOL_TEST_BOOT", "")
SEED = os.environ.get("SNAPVOL_TEST_SEED", "")
LAST = os.environ.get("SNAPVOL_TEST_CUTS", "")
HOLDER, PASSER = "held", "passer"
RUNTIME = Path("/run/snapvol")
CLIENT = Client(RUNTIME / "api.sock")


def machine() -> Snapvol:
    """Return the daemon that is to run, with the disks in place, as after any boot."""
    KEPT.mkdir(parents=True, exist_ok=True)
    run("mount", disks.given()[1], KEPT)
    RUNTIME.mkdir(exist_ok=True)
    host = Snapvol(
        KEPT,
        {
            "pools": {"default": {"backend": STORAGE, **disks.pool(STORAGE)}},
            "repositories": {"default": {"url": KEPT / "repository", "password_file": password_file(KEPT)}},
            "daemon": {"runtime": RUNTIME, "api_socket": RUNTIME / "api.sock"},
        },
        RUNTIME / "plugin.sock",
    )
    host.api_socket = RUNTIME / "api.sock"
    return host


def prepare() -> None:
    run("mkfs.ext4", "-q", disks.given()[1])
    host = machine().start(120)
    host.cli("repo", "init")
    for step in (
        {"verb": "create", "volume": "base", "fs": "ext4"},
        {"verb": "write", "volume": "base", "text": BACKED_UP},
    ):
        perform(step, set())
        JOURNAL.note("done", step)
    finish(CLIENT.back_up(["base"])[0].id)
    run("sync")


# -- work -------------------------------------------------------------------------------------------------------


def work() -> None:
    """Do one thing after another until the power goes."""
    chance = random.Random(f"{SEED}/{BOOT}")
    undisturbed = chance.randint(0, UNDISTURBED)
    account, _ = JOURNAL.read()
    mounted: set[str] = set()
    for number in range(1_000_000):
        if number == undisturbed:
            print(SIGN, flush=True)
        step = chosen(chance, account, f"{BOOT}-{number}")
        if step["verb"] == "resize":
            step["size"] = (CLIENT.volume(step["volume"]).size or SIZE) + MORE
        JOURNAL.note("begun", step)
        try:
            perform(step, mounted)
        except Protected as error:  # such as a snapshot that clones need
            print(f"refused: {error}", flush=True)
            JOURNAL.note("undone", step)
            continue
        name = step["to"] if step["verb"] in ("clone", "restore", "rename", "undelete") else step["volume"]
        with suppress(SnapvolError):  # it has been removed
            step["size"] = CLIENT.volume(name).size
        account = account.after(step)
        JOURNAL.note("done", step)


def perform(step: Step, mounted: set[str]) -> None:
    """Do a step. Some leave the volume mounted, which others must not find."""
    name, verb = step["volume"], step["verb"]
    if verb in ("rollback", "refill", "remove", "rename") and name in mounted:
        CLIENT.unmount(name, HOLDER)
        mounted.discard(name)
    if verb == "create":
        CLIENT.create(name, _options(step), {})
    elif verb == "clone":
        CLIENT.create(step["to"], {"snapshot": f"{name}@{step['snapshot']}"}, {})
    elif verb == "write":
        write(name, step["text"])
    elif verb == "mount":
        (CLIENT.mount(name, HOLDER) / ".unsaved").write_text(FILE * REPEATED)
        mounted.add(name)
    elif verb == "resize":
        CLIENT.resize(name, str(step["size"]))
    elif verb == "rename":
        CLIENT.rename(name, step["to"])
    else:
        _perform_more(step)


def _perform_more(step: Step) -> None:
    name, verb = step["volume"], step["verb"]
    if verb == "snapshot":
        CLIENT.snapshot([name, *step["others"]], step["snapshot"], "")
    elif verb == "hold":
        CLIENT.hold(name, step["snapshot"], "user")
    elif verb == "release":
        CLIENT.release(name, step["snapshot"], "user")
    elif verb == "destroy":
        CLIENT.destroy_snapshot(name, step["snapshot"])
    elif verb == "rollback":
        CLIENT.rollback(name, step["snapshot"])
    elif verb == "refill":
        finish(CLIENT.restore(RestoreRequest(backup="base", volume=name, in_place=True)).id)
    elif verb == "restore":
        finish(CLIENT.restore(RestoreRequest(backup="base", volume=step["to"])).id)
    elif verb == "remove":
        CLIENT.remove(name, permanent=step["permanent"])
    elif verb == "undelete":
        CLIENT.undelete(name, step["to"])
    elif verb == "expel":
        CLIENT.empty_trash(name)
    else:
        raise ValueError(verb)


def _options(step: Step) -> dict[str, str]:
    return {"size": str(SIZE), **({"fs": step["fs"]} if STORAGE == "lvm" else {})}


def body(text: str) -> str:
    return (text + "\n") * REPEATED if text else ""


def write(name: str, text: str) -> None:
    """Write the volume's file as those do who mean it to last, and another as those do who do not."""
    root = CLIENT.mount(name, PASSER)
    try:
        with (root / ".new").open("w") as file:
            file.write(body(text))
            file.flush()
            os.fsync(file.fileno())
        os.rename(root / ".new", root / FILE)
        directory = os.open(root, os.O_DIRECTORY)
        os.fsync(directory)
        os.close(directory)
        (root / ".unsaved").write_text(body(text)[::-1])
    finally:
        CLIENT.unmount(name, PASSER)


def read(root: Path) -> str:
    """Return the text that a volume or snapshot holds."""
    if not (root / FILE).exists():
        return ""
    found = (root / FILE).read_text(errors="replace")
    text = found.partition("\n")[0]
    return text if found == body(text) else f"a part of: {text}"


def finish(job: str) -> None:
    """Wait until a job is done."""
    wait_until(lambda: CLIENT.job(job).state.ended, 120)
    assert CLIENT.job(job).state == "done", CLIENT.job(job)


# -- the account is asked for -----------------------------------------------------------------------------------


@dataclass
class Look:
    """What is there.

    Attributes:
        found: all that can be read.
        broken: volumes that say why they cannot be mounted.
        own: snapshots that the daemon made by itself, with their volumes' names.
    """

    found: Account
    broken: set[str]
    own: list[tuple[str, str]]


def check() -> None:
    """Compare with the account; what was begun and not acknowledged is then settled, as it turned out."""
    host = machine()
    account, begun = JOURNAL.read()
    start = host.log.stat().st_size
    if BOOT != LAST and random.Random(f"{SEED}/check/{BOOT}").random() < EARLY:
        print(SIGN, flush=True)
    try:
        host.start(120)
        wait_until(lambda: all(job.state.ended for job in CLIENT.jobs()), 120)
        look = looked(account)
        turned_out = settled(look, account, begun)
        for name in look.broken:
            CLIENT.remove(name, permanent=True)
        for volume, snapshot in look.own:
            with suppress(Protected):
                CLIENT.destroy_snapshot(volume, snapshot)
        if begun:
            JOURNAL.note(turned_out, begun)
        if BOOT == LAST:
            finale()
        leaks()
    finally:
        print(host.log.read_bytes()[start:].decode(), flush=True)
    held = sum(len(known.snapshots) for known in look.found.live.values())
    print(f"well: {len(look.found.live)} volumes, {held} snapshots, {len(look.found.trash)} removed", flush=True)


def settled(look: Look, account: Account, begun: Step | None) -> str:
    """Hold what is there against the account, and return how the step that was begun has turned out."""
    touched = {begun["volume"], begun.get("to", "")} if begun else set()
    assert look.broken <= touched, f"{look.broken - touched}: broken, and nobody was at work there"
    before = account.differences(look.found)
    after = account.after(begun).differences(look.found) if begun else before
    assert not before or not after, "\n".join([f"{begun}", "as if undone:", *before, "as if done:", *after])
    return "done" if before else "undone"


def looked(expected: Account) -> Look:
    """Look at everything there is. What the removed volumes hold is seen when they are brought back."""
    look = Look(Account(), set(), [])
    backend = opened()
    for volume in [*backend.volumes(), *backend.trashed()]:
        assert isinstance(volume, Volume), volume
        snapshots = seen_snapshots(backend, volume)
        if volume.deleted is not None:
            old = expected.trash.get(volume.name) or expected.live.get(volume.name)
            look.found.trash[volume.name] = Known(old.text if old else "", old.size if old else None, snapshots)
            continue
        told = CLIENT.volume(volume.name)
        assert not told.damaged, told
        if told.state != "ready":
            assert told.error, told
            look.broken.add(volume.name)
            continue
        look.own += [(volume.name, name) for name in snapshots if not name.startswith("s")]
        root = CLIENT.mount(volume.name, PASSER)
        room = shutil.disk_usage(root).total
        assert room > 0.7 * (told.size or 0), f"{volume.name}: its file system has {room} bytes, of {told.size}"
        look.found.live[volume.name] = Known(read(root), told.size, snapshots)
        CLIENT.unmount(volume.name, PASSER)
    assert not [one for one in CLIENT.trash() if one.error], CLIENT.trash()
    return look


def seen_snapshots(backend: Backend, volume: Volume) -> dict[str, Kept]:
    found = {}
    for snapshot in backend.snapshots(volume):
        assert isinstance(snapshot, Snapshot), snapshot
        with backend.open_snapshot(snapshot) as tree:
            held = any(not tag.startswith(BASE_HOLD) for tag in snapshot.holds)
            found[snapshot.name] = Kept(read(tree.root), held)
    return found


def finale() -> None:
    """Use every volume that all the cuts have left, and destroy it."""
    for volume in CLIENT.volumes():
        write(volume.name, "last")
        CLIENT.snapshot([volume.name], "last", "")
        for snapshot in CLIENT.snapshots(volume.name):
            for tag in snapshot.holds:
                CLIENT.release(volume.name, snapshot.name, tag)
    for volume in CLIENT.volumes():
        CLIENT.remove(volume.name, permanent=True)
    CLIENT.empty_trash()


def opened() -> Backend:
    """Return the backend as a worker beside the daemon has it."""
    return BACKENDS[STORAGE]("default", disks.pool(STORAGE), root=KEPT / "state")


def leaks() -> None:
    """Compare with the storage's own lists."""
    variant = next(variant for variant in LAB.values() if variant.backend == STORAGE)
    backend = opened()
    everything = [volume for volume in [*backend.volumes(), *backend.trashed()] if isinstance(volume, Volume)]
    pool = Pool(backend, variant, disks.pool(STORAGE), KEPT / "state", "")
    assert pool.leaks() == [], pool.inventory()
    if STORAGE == "lvm":
        assert disks.strays(pool.settings) == set(), "in the thin pool, and no logical volume"
    if STORAGE == "zfs":
        told = run("zfs", "list", "-Hp", "-r", "-t", "snapshot", "-o", "name,clones", str(pool.settings["dataset"]))
        needed = dict(line.split("\t") for line in told.stdout.splitlines())
        unseen = sorted(name for name in needed if "@gone:" in name)  # destroyed, and there for a clone
        assert all(needed[name] not in ("", "-") for name in unseen), needed
        listed = [it for volume in everything for it in backend.snapshots(volume)]
        assert len(listed) == len(needed) - len(unseen), f"{listed}\n{needed}"
    if BOOT == LAST:
        assert pool.inventory() == []


if __name__ == "__main__":
    try:
        {"prepare": prepare, "check": check}[sys.argv[1]]()
        if BOOT != LAST:
            work()
    except SnapvolError as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from error
