"""`kill -9` before every single thing that an operation changes: each volume is whole or absent afterwards (T14).

The child that performs the operation counts its own system-visible steps by Python's audit events (renames, opens for
writing, directories made and removed, programs started, ioctls) and kills itself before the n-th; n grows until the
operation is through. The states that may be left are those before and those after, nothing between. In a guest only
some operations take their turn, unless ``SNAPVOL_TEST_THOROUGH=1``.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest
from msgspec.structs import replace

from snapvol.backend import Backend
from snapvol.model import Damage, Snapshot, Volume
from support.storage import THOROUGH, VARIANTS, Pool, Variant, contents, parameters, record

pytestmark = pytest.mark.root
WHEN = datetime(2026, 11, 20, 3, 0, tzinfo=UTC)
STEPS = {
    "os.rename",
    "os.mkdir",
    "os.remove",
    "os.rmdir",
    "os.chmod",
    "os.chown",
    "os.setxattr",
    "os.fork",
    "subprocess.Popen",
    "fcntl.ioctl",
}
KINDS = ("directory-xfs", "btrfs", "lvm-ext4", "zfs")
MOST_STEPS = 200

State = dict[str, object]


def state(pool: Pool) -> State:
    """Return all that people can see of the pool: volumes, what is in them, their snapshots; nothing damaged."""
    backend = pool.backend
    seen: State = {}
    for volume in [*backend.volumes(), *backend.trashed()]:
        assert not isinstance(volume, Damage), volume
        where = "trash" if volume.deleted else "live"
        snapshots = {}
        for snapshot in pool.snapshots(volume):
            with backend.open_snapshot(snapshot) as tree:
                snapshots[snapshot.name] = (contents(tree.root), snapshot.holds)
        files = None if volume.deleted else pool.get(volume)
        seen[f"{where} {volume.name}"] = (volume.id, volume.labels, files, snapshots, limit(pool, volume))
    return seen


def limit(pool: Pool, volume: Volume) -> int | None:
    return pool.backend.usage(volume).limit


def leftovers(pool: Pool) -> list[str]:
    """Return what lies in the pool beside whole volumes."""
    found = pool.leaks()
    if pool.variant.mounts:
        return found
    parts = {"volume.json", "data", "snapshots"}
    for volume in [*pool.tree.glob("volumes/*"), *pool.tree.glob("trash/*")]:
        found += [str(entry) for entry in volume.iterdir() if entry.name not in parts]
        for snapshot in volume.glob("snapshots/*"):
            found += [str(entry) for entry in snapshot.iterdir() if entry.name not in ("snapshot.json", "data")]
    return found


# A step takes a second or ten in a guest: of everything there only what consists of most steps.
SLOW = ("create", "snapshot of two", "rollback", "restore")


@dataclass(frozen=True)
class Before:
    """What every operation finds."""

    web: Volume
    other: Volume
    trashed: Volume
    snapshot: Snapshot


def prepare(pool: Pool) -> Before:
    size = 4 * pool.variant.size if pool.backend.features.quota else None
    for name in ("web", "other", "old"):
        pool.backend.create(pool.record(name), size=size)
        pool.put(pool.stored(name), f=f"{name} one")
    web, other, old = (pool.stored(name) for name in ("web", "other", "old"))
    snapshot = pool.snapshot(web, "s1")
    pool.put(web, f="web two")
    pool.backend.trash(old, WHEN)
    return Before(web, other, replace(old, deleted=WHEN), snapshot)


def restored(backend: Backend, web: Volume) -> None:
    (backend.stage(web) / "f").write_text("restored")
    backend.adopt_stage(web)


OPERATIONS: dict[str, Callable[[Backend, Before], object]] = {
    "create": lambda backend, at: backend.create(record("new", mode="0700", uid="5")),
    "create with a size": lambda backend, at: backend.create(
        record("new"), size=32 << 20 if backend.features.quota else None
    ),
    "clone": lambda backend, at: backend.create(record("new"), source=at.snapshot),
    "snapshot": lambda backend, at: backend.snapshot([at.web], "s2"),
    "snapshot of two": lambda backend, at: backend.snapshot([at.web, at.other], "s2"),
    "rename": lambda backend, at: backend.rename(at.web, "new"),
    "trash": lambda backend, at: backend.trash(at.web, WHEN),
    "undelete": lambda backend, at: backend.undelete(at.trashed, "new"),
    "rollback": lambda backend, at: backend.rollback(at.web, at.snapshot),
    "restore": lambda backend, at: restored(backend, at.web),
    "destroy": lambda backend, at: backend.destroy(at.web),
    "destroy from the trash": lambda backend, at: backend.destroy(at.trashed),
    "destroy snapshot": lambda backend, at: backend.destroy_snapshot(at.snapshot),
    "record": lambda backend, at: backend.record(replace(at.web, labels={"a": "b"})),
    "hold": lambda backend, at: backend.hold(at.snapshot, "audit"),
}


def cleared(pool: Pool) -> None:
    pool.clear()
    assert leftovers(pool) == []
    assert pool.subvolumes() == []
    pool.backend.close()


def killed_at(step: int, pool: Pool, operation: Callable[[Backend, Before], object], before: Before) -> bool:
    """Perform the operation in a process that dies before its ``step``-th step; return whether it came that far."""
    pool.backend.close()
    child = os.fork()
    if child == 0:
        code = 3
        try:
            backend = pool.fresh()
            backend.open(expected=pool.identity)
            sys.addaudithook(Countdown(step))
            operation(backend, before)
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0, "the operation failed"
    return False


class Countdown:
    """An audit hook that kills its process before the n-th step."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def __call__(self, event: str, arguments: tuple[object, ...]) -> None:
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if event in STEPS or (writes and str(arguments[0]) != os.devnull):
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("variant", parameters({name: VARIANTS[name] for name in KINDS if name in VARIANTS}))
@pytest.mark.parametrize("operation", OPERATIONS if THOROUGH else SLOW)
def test_killed_at_every_step_it_is_done_or_not_begun(
    opening: Callable[[Variant], Pool], variant: Variant, operation: str
) -> None:
    undone, done = reference(opening(variant), operation)
    assert undone != done
    found: list[bool] = []
    pool: Pool | None = None
    killed = True
    while killed:
        step = len(found) + 1
        assert step < MOST_STEPS, f"{operation} does not end"
        if pool is None:
            pool = opening(variant)
            before = prepare(pool)
        killed = killed_at(step, pool, OPERATIONS[operation], before)
        at_death = inside(pool)
        pool.reopen()
        seen = shape(state(pool))
        assert seen in (undone, done), f"step {step}: {at_death}"
        assert leftovers(pool) == [], f"step {step}: {at_death}"
        found.append(seen == done)
        if found[-1]:
            cleared(pool)
            pool = None
    # It begins undone, ends done, and never goes back in between.
    assert found == sorted(found)
    assert found[0] is False
    # One command of LVM can be all that there is to be interrupted.
    assert len(found) > (1 if variant.backend == "lvm" else 2), "so few steps: the test does not see them"
    assert found[-1] is True


def inside(pool: Pool) -> list[str]:
    """Return what is in the pool, for a message."""
    if pool.variant.mounts:
        return pool.inventory()
    return [str(path.relative_to(pool.tree)) for path in sorted(pool.tree.rglob("*"))]


def shape(seen: State) -> State:
    """Leave out the identities, which differ from run to run."""
    return {name: entry[1:] if isinstance(entry, tuple) else entry for name, entry in seen.items()}


def reference(pool: Pool, operation: str) -> tuple[State, State]:
    """Return what is seen before the operation and after it, undisturbed."""
    before = prepare(pool)
    undone = shape(state(pool))
    OPERATIONS[operation](pool.backend, before)
    done = shape(state(pool))
    cleared(pool)
    return undone, done
