"""What only thin pools get into: full of data or metadata, not zeroing, halted by a process that was killed (T39)."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from snapvol import shell
from snapvol.backends import BACKENDS, devicemapper, freeze
from snapvol.backends.lvmtools import Tools
from snapvol.errors import InUse, NoSpace, PoolUnavailable, SettingsError, StorageFailed
from snapvol.model import Volume
from support import disks
from support.process import run, wait_until
from support.storage import VARIANTS, Pool, Variant

pytestmark = pytest.mark.root
THIN = [VARIANTS[name] for name in ("lvm-ext4",) if name in VARIANTS]


@pytest.fixture(params=[pytest.param(variant, id="lvm-ext4") for variant in THIN])
def small(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pool]:
    """A pool of its own, of 128 MiB, which fails writes when it is full."""
    variant: Variant = request.param
    settings = disks.another("lvm", "128M")
    run("lvchange", "--errorwhenfull", "y", called(settings))
    backend = BACKENDS["lvm"]("pool", settings, root=tmp_path)
    pool = Pool(backend, variant, settings, tmp_path, backend.open())
    try:
        yield pool
    finally:
        pool.backend.close()
        disks.drop(settings)


def called(settings: object) -> str:
    assert isinstance(settings, dict)
    return f"{settings['volume_group']}/{settings['thin_pool']}"


def marked(pool: Pool, **marks: int) -> None:
    """Open the pool with other marks."""
    pool.backend.close()
    pool.settings = {**pool.settings, **marks}
    pool.reopen()


def filled(pool: Pool, volume: Volume, size: int) -> None:
    with pool.mounted(volume) as root, (root / "filler").open("wb") as file:
        for _ in range(size >> 20):
            file.write(os.urandom(1 << 20))
        file.flush()
        os.fsync(file.fileno())


def test_nothing_new_is_made_beyond_a_mark(small: Pool) -> None:
    """T39: refused before anything fails half way, with the numbers; what there is goes on."""
    web = small.volume("web")
    first = small.snapshot(web, "s1")
    for mark, what in (("data_mark", "data"), ("metadata_mark", "metadata")):
        filled(small, web, 8 << 20)
        marked(small, **{"data_mark": 100, "metadata_mark": 100, mark: 2})
        calls: list[Callable[[], object]] = [
            lambda: small.volume("new"),
            lambda: small.snapshot(web, "s2"),
            lambda: small.backend.create(small.record("clone"), source=first),
            lambda: small.backend.stage(web),
            lambda: small.backend.stage_image(web, 8 << 20),
        ]
        for call in calls:
            with pytest.raises(NoSpace, match=rf"the {what} of the thin pool .* is \d+\.\d % full, its mark is 2 %"):
                call()
        health = small.backend.health()
        assert not health.ok
        assert mark in str(health.problem)
        assert small.names() == {"web"}
        small.put(web, f="still")
        small.backend.resize(web, 12 << 30)
        small.backend.rollback(web, first)
    marked(small, data_mark=100, metadata_mark=100)
    small.snapshot(web, "s2")
    small.clear()


def test_a_pool_that_ran_full_is_told_and_can_be_emptied(small: Pool) -> None:
    """T39."""
    marked(small, data_mark=100)
    web, other = small.volume("web"), small.volume("other")
    small.put(other, f="one")
    with pytest.raises(OSError, match=r"error|No space"):
        filled(small, web, 160 << 20)
    wait_until(lambda: not small.backend.health().ok, 20)
    assert "full" in str(small.backend.health().problem)
    with pytest.raises((NoSpace, PoolUnavailable)):
        small.snapshot(other, "s1")
    small.reopen()
    assert small.names() == {"web", "other"}
    small.backend.unmount(web)
    small.backend.destroy(web)
    wait_until(lambda: small.backend.health().ok, 20)
    small.snapshot(other, "s1")
    assert small.get(other) == {"f": b"one"}


def test_a_pool_that_does_not_zero_is_refused(small: Pool) -> None:
    """A new volume would show what others have removed."""
    small.backend.close()
    run("lvchange", "--zero", "n", called(small.settings))
    try:
        with pytest.raises(PoolUnavailable, match=r"what others left in them; lvchange --zero y"):
            small.fresh().open()
        assert not small.fresh().health().ok
    finally:
        run("lvchange", "--zero", "y", called(small.settings))
    small.reopen()


def test_what_is_no_thin_pool_is_refused(small: Pool) -> None:
    group = str(small.settings["volume_group"])
    run("lvcreate", "--size", "4M", "--name", "linear", group)
    try:
        wrong = {"volume_group": group, "thin_pool": "linear"}
        with pytest.raises(SettingsError, match="is a linear volume, not a thin pool"):
            BACKENDS["lvm"]("other", wrong, root=small.root).open()
        with pytest.raises(PoolUnavailable, match=r"there is no thin pool .*nothing"):
            BACKENDS["lvm"]("other", {**wrong, "thin_pool": "nothing"}, root=small.root).open()
    finally:
        run("lvremove", "--yes", f"{group}/linear")


def test_a_pool_that_lost_its_tag_is_not_taken_for_a_new_one(small: Pool) -> None:
    """T40, T41."""
    web = small.volume("web")
    small.backend.close()
    tag = f"snapvol.pool={small.identity}"
    run("lvchange", "--deltag", tag, called(small.settings))
    for expected in (None, small.identity):
        with pytest.raises(PoolUnavailable, match=f"lvchange --addtag {tag}"):
            small.fresh().open(expected=expected)
    run("lvchange", "--addtag", tag, called(small.settings))
    small.reopen()
    assert small.stored("web") == web


def test_nobody_stands_still_when_the_one_who_halted_them_is_killed(
    small: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = small.volume("one"), small.volume("two")
    devices = []
    for volume in (one, two):
        point = small.backend.mount(volume)
        devices.append(Path(run("findmnt", "-n", "-o", "SOURCE", point).stdout.strip()).name)
    small.backend.close()

    def killed(*_: object) -> None:
        assert all(map(devicemapper.suspended, devices))
        os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        try:
            backend = small.fresh()
            backend.open()
            monkeypatch.setattr(devicemapper, "message", killed)
            backend.snapshot([one, two], "s1")
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    began = time.monotonic()
    wait_until(lambda: not any(map(devicemapper.suspended, devices)), freeze.SECONDS)
    assert time.monotonic() - began < freeze.SECONDS / 2
    small.reopen()
    for volume in (one, two):
        assert small.snapshots(volume) == []
        small.backend.mountpoint(volume).joinpath("f").write_text("goes on")
        small.backend.unmount(volume)
    small.clear()
    assert disks.logical_volumes(disks.MORE) == []


def test_halting_for_too_long_makes_no_snapshot(small: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = small.volume("one"), small.volume("two")
    for volume in (one, two):
        small.backend.mount(volume)
    monkeypatch.setattr(freeze, "SECONDS", 1)
    message = devicemapper.message

    def slow(device: str, text: str) -> None:
        time.sleep(1)
        message(device, text)

    monkeypatch.setattr(devicemapper, "message", slow)
    with pytest.raises(Exception, match="had to go on after 1 s"):
        small.backend.snapshot([one, two], "s1")
    monkeypatch.undo()
    for volume in (one, two):
        assert small.snapshots(volume) == []
        small.backend.mountpoint(volume).joinpath("f").write_text("goes on")
        small.backend.unmount(volume)
    small.clear()
    assert disks.logical_volumes(disks.MORE) == []


def test_what_somebody_has_halted_is_not_snapshotted(small: Pool) -> None:
    """LVM would say that it has made the snapshot, and nothing could be made in the pool any more (Linux 6.1)."""
    web = small.volume("web")
    small.backend.mount(web)
    device = Path(run("findmnt", "-n", "-o", "SOURCE", small.backend.mountpoint(web)).stdout.strip()).name
    devicemapper.suspend(device)
    try:
        with pytest.raises(InUse, match=f"somebody has halted .*{device}; dmsetup resume {device}"):
            small.backend.snapshot([web], "s1")
        assert devicemapper.suspended(device)
    finally:
        devicemapper.resume(device)
    small.snapshot(web, "s1")
    small.volume("other")
    assert small.backend.health().ok


def test_an_operation_runs_no_program_that_it_can_do_without(small: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """An LVM command takes a twentieth of a second where it is fast."""
    ran: list[str] = []
    run_it = shell.run

    def noted(program: str, *words: str | os.PathLike[str]) -> str:
        ran.append(program)
        return run_it(program, *words)

    monkeypatch.setattr(shell, "run", noted)

    def programs(operation: Callable[[], object]) -> list[str]:
        ran.clear()
        operation()
        return list(ran)

    backend = small.backend
    assert programs(lambda: backend.create(small.record("web"))) == ["lvcreate", "mkfs.ext4", "lvchange"]
    web = small.stored("web")
    assert programs(lambda: backend.snapshot([web], "s1")) == ["lvcreate"]
    (snapshot,) = small.snapshots(web)
    assert programs(lambda: backend.create(small.record("clone"), source=snapshot)) == ["lvcreate", "tune2fs"]
    clone = small.stored("clone")
    assert programs(lambda: (backend.mount(web), backend.mount(clone))) == []
    assert programs(lambda: backend.snapshot([web], "s2")) == ["lvcreate"]
    assert programs(lambda: backend.rollback(web, snapshot)) == ["lvcreate", "lvremove"]
    base, later = small.snapshots(web)
    assert programs(lambda: backend.image_changes(base, later)) == []
    backend.unmount(clone)
    assert programs(lambda: backend.destroy(clone)) == ["lvremove"]


def test_a_snapshot_keeps_its_identity_whatever_is_done_to_it(small: Pool) -> None:
    """T2: what the next backup is based on is the same snapshot, or another, and never both."""
    one, two = small.volume("one"), small.volume("two")
    points = [small.backend.mount(volume) for volume in (one, two)]
    made = [*small.backend.snapshot([one, two], "s1")]  # taken anew at one instant
    made += small.backend.snapshot([one], "s2")
    for point, volume in zip(points, (one, two), strict=True):
        (point / "f").write_text("later")
        small.backend.unmount(volume)
    small.backend.hold(made[0], "audit")
    small.backend.resize(one, 12 << 30)
    one = small.backend.rename(one, "renamed")
    group, held = str(small.settings["volume_group"]), made[0].id.partition("/")[0]
    run("lvrename", group, run("lvs", "--noheadings", "-o", "lv_name", "-S", f"lv_uuid={held}").stdout.strip(), "other")
    small.backend.close()
    run("vgchange", "--activate", "n", group)
    run("lvconvert", "--yes", "--repair", called(small.settings))
    run("vgchange", "--activate", "y", group)
    small.reopen()
    found = [snapshot.id for volume in (one, two) for snapshot in small.snapshots(volume)]
    assert sorted(found) == sorted(snapshot.id for snapshot in made)
    assert len(set(found)) == len({identity.rpartition("/")[2] for identity in found}) == 3
    with small.backend.open_image(small.snapshots(one)[0]) as image:
        assert image.mapped
    assert small.backend.image_changes(*small.snapshots(one))


def test_an_lvm_that_dies_leaves_nobody_standing_still(small: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemon lets the volume go on at once; what a daemon that died too has left, the next one."""
    web = small.volume("web")
    point = small.backend.mount(web)
    device = Path(run("findmnt", "-n", "-o", "SOURCE", point).stdout.strip()).name

    def killed(*_: object) -> None:
        devicemapper.suspend(device)
        raise StorageFailed("lvcreate failed (exit -9): no message")

    monkeypatch.setattr(Tools, "create", killed)
    with pytest.raises(StorageFailed, match="exit -9"):
        small.backend.snapshot([web], "s1")
    monkeypatch.undo()
    assert not devicemapper.suspended(device)
    pool = f"{called(small.settings).replace('/', '-')}-tpool"
    for halted in (device, pool):
        devicemapper.suspend(halted)
        small.reopen()
        assert not devicemapper.suspended(halted)
    (point / "f").write_text("goes on")
    small.snapshot(web, "s1")


def test_a_file_system_that_has_not_grown_with_its_device_grows_when_asked_again(small: Pool) -> None:
    """`lvextend` was through, and then something failed: to say that it is done would not be true."""
    size = 16 << 20
    small.backend.create(small.record("web"), size=size)
    web = small.stored("web")
    (name,) = (lv.name for lv in disks.logical_volumes(disks.MORE) if lv.name.startswith("web"))
    run("lvextend", "--size", f"{2 * size}b", f"{small.settings['volume_group']}/{name}")
    small.reopen().resize(web, 2 * size)
    with small.mounted(web) as root:
        facts = os.statvfs(root)
        assert facts.f_blocks * facts.f_frsize > size


def untold(settings: Mapping[str, object], place: Path, message: str) -> None:
    """Let LVM not know that a message has come to the thin pool, as after a power cut and the next activation."""
    group, pool = str(settings["volume_group"]), str(settings["thin_pool"])
    run("vgcfgbackup", "--file", place / "group", group)
    text = (place / "group").read_text()
    begin = text.index('type = "thin-pool"', text.index(f"\n\t\t{pool} {{\n"))
    end = text.index("\n\t\t\t}", begin)
    (place / "group").write_text(f"{text[:end]}\n\t\t\t\tmessage1 {{\n{message}\n}}{text[end:]}")
    run("vgcfgrestore", "--yes", "--force", "--file", place / "group", group)


def test_what_is_removed_after_a_cut_is_gone_from_the_pool(small: Pool, tmp_path: Path) -> None:
    """T14: LVM takes the removal for done where an earlier message was done, and nobody told it."""
    made = [small.volume(name) for name in ("one", "two", "three")]
    point = small.backend.mount(made[0])
    small.backend.close()
    newest = next(lv.name for lv in disks.logical_volumes(disks.MORE) if lv.name.startswith("three"))
    (two,) = (lv for lv in disks.logical_volumes(disks.MORE) if lv.name.startswith("two"))
    run("lvchange", "--addtag", "snapvol.fresh", f"{disks.MORE}/{two.name}")
    untold(small.settings, tmp_path, f'create = "{newest}"')
    small.reopen()
    assert small.names() == {"one", "three"}
    assert disks.strays(small.settings) == set()
    untold(small.settings, tmp_path, "delete = 99")
    small.backend.destroy(made[2])
    assert disks.strays(small.settings) == set()
    (point / "f").write_text("goes on")
    small.snapshot(made[0], "s1")
    assert small.backend.health().problem is None


def test_what_lvm_has_lost_in_the_pool_is_told_and_is_in_no_new_volume(small: Pool, tmp_path: Path) -> None:
    """T14, T39: to remove it is for people, who may have lost LVM's metadata."""
    web, lost = small.volume("web"), small.volume("lost")
    filled(small, lost, 8 << 20)
    untold(small.settings, tmp_path, "delete = 99")
    (name,) = (lv.name for lv in disks.logical_volumes(disks.MORE) if lv.name.startswith("lost"))
    run("lvremove", "--yes", f"{disks.MORE}/{name}")
    (number,) = disks.strays(small.settings)
    small.reopen()
    health = small.backend.health()
    assert health.ok
    command = f"dmsetup message {called(small.settings).replace('/', '-')}-tpool 0 'delete {number}'"
    assert command in str(health.problem)
    with pytest.raises(StorageFailed, match=rf"has a volume {number} that no logical volume is") as seen:
        small.snapshot(web, "s1")
    assert command in str(seen.value.hint)
    new = small.volume("new")
    assert small.backend.usage(new).used < 8 << 20
    assert disks.strays(small.settings) == set()
    assert small.backend.health().problem is None
    small.snapshot(web, "s1")
