"""A pool of the `zfs` backend over a ZFS in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from msgspec.structs import replace

from snapvol import shell
from snapvol.backends import removal, zfspool, zfsstate
from snapvol.backends.claim import Claim
from snapvol.backends.mountpoints import Mountpoints
from snapvol.backends.ownership import Ownership
from snapvol.backends.zfs import Zfs
from snapvol.model import Snapshot, Volume, new_id, now
from snapvol.mountinfo import Mounts
from support.fake_zfs import FakeZfs

P = "tank/volumes"
PROPERTY = "org.snapvol:volume"


def install(monkeypatch: pytest.MonkeyPatch, place: Path) -> FakeZfs:
    """Put a ZFS in memory in the place of the real one, and of the kernel's mounts nothing; return it."""
    fake = FakeZfs()
    states = place / "kstat/zfs"
    (states / "tank").mkdir(parents=True)
    (states / "tank/state").write_text("ONLINE\n")
    monkeypatch.setattr(zfspool, "_STATES", states)
    monkeypatch.setattr(shell, "run", fake.run)
    monkeypatch.setattr(Claim, "take", lambda self: None)
    for name in ("mount", "unmount", "recover"):
        monkeypatch.setattr(Mountpoints, name, lambda *_, **__: None)
    monkeypatch.setattr(Mountpoints, "found", lambda *_: None)
    monkeypatch.setattr(zfsstate, "refuse_mounted", lambda *_: None)
    monkeypatch.setattr(removal, "mounted_below", lambda *_: [])
    monkeypatch.setattr(Mounts, "read", lambda: Mounts([], []))
    monkeypatch.setattr(Ownership, "give", lambda *_, **__: None)

    @contextmanager
    def borrowed(self: Mountpoints, source: str, *_: object, **__: object) -> Iterator[Path]:
        yield Path("/borrowed") / source

    monkeypatch.setattr(Mountpoints, "borrowed", borrowed)
    return fake


class Pool:
    """An open pool; `reopen` opens it as the next daemon would."""

    def __init__(self, zfs: FakeZfs, root: Path, **settings: object) -> None:
        self.zfs = zfs
        self._root, self._settings = root, {"dataset": P, **settings}
        self.backend = self.fresh()
        self.id = self.backend.open()

    def fresh(self) -> Zfs:
        return Zfs("pool", self._settings, root=self._root)

    def reopen(self) -> Zfs:
        self.backend.close()
        self.zfs.limit = None
        self.backend = self.fresh()
        self.backend.open(expected=self.id)
        return self.backend

    def make(self, name: str = "web", text: str = "", **options: str) -> Volume:
        volume = Volume(
            id=new_id(), name=name, created=now(), options={k.replace("_", "."): v for k, v in options.items()}
        )
        self.backend.create(volume)
        self.zfs.write(f"{P}/{name}", text or name)
        return replace(volume, pool="pool")

    def snapshot(self, volume: Volume, name: str) -> Snapshot:
        return self.backend.snapshot([volume], name)[0]

    def commands(self, call: Callable[[], object]) -> list[str]:
        """Return the programs that a call runs."""
        self.zfs.calls.clear()
        call()
        return [" ".join(words[:2]) for words in self.zfs.calls]

    def state(self) -> dict[str, object]:
        """Return all that people can see."""
        worker = self.fresh()
        seen: dict[str, object] = {}
        for volume in [*worker.volumes(), *worker.trashed()]:
            assert isinstance(volume, Volume), volume
            snapshots = {}
            for snapshot in worker.snapshots(volume):
                assert isinstance(snapshot, Snapshot), snapshot
                point = worker._find_point(snapshot)[2].name
                snapshots[snapshot.name] = (snapshot.id, self.zfs.read(point), snapshot.holds)
            head = worker.sources(volume)[0]
            seen[volume.name + ("!" if volume.deleted else "")] = (volume, self.zfs.read(head), snapshots)
        return seen

    def contents(self, volume: Volume) -> str:
        return self.zfs.read(self.backend.sources(volume)[0])
