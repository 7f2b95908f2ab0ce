"""Volumes that have to be mounted: there, once, by the kernel's word, and never removed while somebody uses them."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import pytest
from msgspec.structs import replace

from snapvol import mountinfo, shell
from snapvol.backends import lvmfilesystem
from snapvol.errors import SnapvolError, StorageFailed
from snapvol.model import Volume, now
from support.process import Server, run, wait_until
from support.storage import Pool, contents

pytestmark = pytest.mark.root


def mounts_at(point: Path) -> list[mountinfo.Mount]:
    return [mount for mount in mountinfo.own() if str(mount.mountpoint) == str(point)]


def test_contents_are_there_while_it_is_mounted(mounting: Pool) -> None:
    web = mounting.volume("web")
    point = mounting.backend.mountpoint(web)
    assert mounting.backend.mount(web) == point
    (point / "f").write_text("one")
    assert len(mounts_at(point)) == 1
    mounting.backend.unmount(web)
    assert mounts_at(point) == []
    assert mounting.backend.mount(web) == point
    assert contents(point) == {"f": b"one"}


def test_nothing_is_mounted_twice_and_mounts_outlive_the_daemon(mounting: Pool) -> None:
    """T10."""
    web = mounting.volume("web")
    point = mounting.backend.mount(web)
    with (point / "f").open("w") as file:
        mounting.backend.mount(web)
        mounting.reopen()
        mounting.backend.mount(web)
        assert len(mounts_at(point)) == 1
        file.write("still the same file system")
    assert contents(point) == {"f": b"still the same file system"}
    mounting.backend.unmount(web)
    assert mounts_at(point) == []


def test_nobody_writes_into_the_root_file_system_where_a_volume_should_be(mounting: Pool) -> None:
    """T7: neither before the first mount, nor after unmounting, nor after a crash left the directory."""
    web = mounting.volume("web")
    point = mounting.backend.mountpoint(web)
    for prepare in (lambda: None, lambda: mounting.backend.mount(web)):
        prepare()
        mounting.backend.unmount(web)
        with pytest.raises(OSError):  # noqa: PT011 (absent or immutable: both will do)
            (point / "f").write_text("x")
    mounting.backend.mount(web)
    run("umount", point)
    mounting.reopen()
    with pytest.raises(OSError):  # noqa: PT011
        (point / "f").write_text("x")
    assert mounting.get(web) == {}


def test_what_lies_where_a_volume_is_to_be_mounted_stays(mounting: Pool) -> None:
    """T9: somebody's files in the mountpoint's directory are neither lost nor taken for the volume's."""
    web = mounting.volume("web")
    point = mounting.backend.mountpoint(web)
    point.mkdir(parents=True, exist_ok=True)
    (point / "precious").write_text("x")
    assert "precious" not in mounting.get(web)
    mounting.reopen()
    mounting.backend.destroy(web)
    assert (point / "precious").read_text() == "x"
    (point / "precious").unlink()


def test_a_busy_volume_is_unmounted_all_the_same(mounting: Pool) -> None:
    """G7."""
    web = mounting.volume("web")
    point = mounting.backend.mount(web)
    with (point / "f").open("w+") as file:
        mounting.backend.unmount(web)
        assert mounts_at(point) == []
        file.write("kept")
    wait_until(lambda: mounting.get(web) == {"f": b"kept"}, 10)


@contextmanager
def mounted_elsewhere(point: Path, place: Path) -> Iterator[None]:
    """Mount what is at ``point`` in another process's mount namespace too, and nowhere else any more."""
    place.mkdir()
    script = 'mount --bind "$1" "$2" && echo mounted && exec sleep 600'
    words = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", str(point), str(place)]
    server = Server(words, place.with_suffix(".log"))
    try:
        wait_until(lambda: "mounted" in server.output())
        yield
    finally:
        server.kill_9()


def test_sources_name_the_contents_wherever_they_are_mounted(mounting: Pool) -> None:
    """T9, G3: mounts of other processes, and of other places, are known by what is mounted."""
    web, other = mounting.volume("web"), mounting.volume("other")
    for volume in (web, other):
        mounting.backend.mount(volume)
    (mount,) = mounts_at(mounting.backend.mountpoint(web))
    sources = mounting.backend.sources(web)
    assert {mount.device, mount.source} & set(sources)
    assert not set(sources) & set(mounting.backend.sources(other))
    run("mount", "--make-private", mount.mountpoint)
    with mounted_elsewhere(mounting.backend.mountpoint(web), mounting.root / "elsewhere"):
        mounting.backend.unmount(web)
        assert mounting.backend.sources(web) == sources


def test_what_somebody_still_has_mounted_is_not_destroyed(mounting: Pool) -> None:
    """T9: the storage itself refuses, whatever the caller believed; nothing of the volume is lost."""
    web = mounting.volume("web")
    mounting.put(web, f="precious")
    mounting.backend.mount(web)
    run("mount", "--make-private", mounting.backend.mountpoint(web))
    with mounted_elsewhere(mounting.backend.mountpoint(web), mounting.root / "elsewhere"):
        mounting.backend.unmount(web)
        with pytest.raises(SnapvolError, match="web"):
            mounting.backend.destroy(web)
        assert mounting.stored("web") == web
    wait_until(lambda: mounting.get(web) == {"f": b"precious"}, 10)


def test_what_happens_to_a_volume_in_the_trash_does_not_touch_another_of_its_name(mounting: Pool) -> None:
    """The name was free at once, and somebody uses the new volume of that name."""
    points = []
    for destroyed in (False, True):
        when = now()
        old = mounting.volume("web")
        mounting.backend.trash(old, when)
        web = mounting.volume("web")
        point = mounting.backend.mount(web)
        trashed = replace(old, deleted=when)
        if destroyed:
            mounting.backend.destroy(trashed)
        else:
            mounting.backend.undelete(trashed, "old")
        points.append(len(mounts_at(point)))
        mounting.backend.unmount(web)
        mounting.backend.destroy(web)
    assert points == [1, 1]


def test_a_clone_works_beside_its_origin_and_its_snapshot(mounting: Pool) -> None:
    """T11: XFS refuses a second file system of one UUID, and udev would confuse two of ext4."""
    web = mounting.volume("web")
    mounting.put(web, f="one")
    snapshot = mounting.snapshot(web, "s1")
    mounting.backend.create(mounting.record("clone"), source=snapshot)
    clone = mounting.stored("clone")
    with mounting.mounted(web) as one, mounting.mounted(clone) as two:
        (two / "f").write_text("cloned")
        with mounting.backend.open_snapshot(snapshot) as tree:
            assert (contents(one), contents(two), contents(tree.root)) == (
                {"f": b"one"},
                {"f": b"cloned"},
                {"f": b"one"},
            )
    if mounting.variant.backend == "lvm":
        uuids = {name: filesystem_uuid(mounting, volume) for name, volume in (("web", web), ("clone", clone))}
        assert uuids["web"] != uuids["clone"]


@pytest.mark.parametrize("step", ["probe", "in_use", "run"])
def test_a_clone_whose_maker_was_killed_has_its_own_uuid_once_it_is_mounted(blocks: Pool, step: str) -> None:
    """T11, T14: an ext4 is whole as soon as it is there, and blocks it goes on; of an XFS nothing is left."""
    web = blocks.volume("web")
    blocks.put(web, f="one")
    point = blocks.backend.mount(web)
    (point / "g").write_text("two")
    snapshot = blocks.snapshot(web, "s1")  # of what is mounted: with a journal to be replayed
    blocks.backend.unmount(web)
    blocks.backend.close()
    child = os.fork()
    if child == 0:
        try:
            backend = blocks.fresh()
            backend.open()
            place = shell if step == "run" else lvmfilesystem
            calls = 1 if step == "run" else 0  # lvcreate
            setattr(place, step, Killing(getattr(place, step), after=calls))
            backend.create(blocks.record("clone"), source=snapshot)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), "it was not killed"
    blocks.reopen()
    if blocks.variant.options["fs"] == "xfs":
        assert blocks.names() == {"web"}
        return
    clone = blocks.stored("clone")
    assert blocks.get(clone) == {"f": b"one", "g": b"two"}
    uuids = {filesystem_uuid(blocks, volume) for volume in (web, clone)}
    assert uuids == {str(lvmfilesystem.uuid_for(volume.id)) for volume in (web, clone)}


def test_a_clone_is_seen_once_it_has_its_own_uuid(blocks: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else somebody could mount it while tune2fs or xfs_admin is at work."""
    snapshot = blocks.snapshot(blocks.volume("web"), "s1")
    seen: list[set[str]] = []
    own = lvmfilesystem.own

    def looking(device: Path, uuid: UUID) -> None:
        seen.append(blocks.names())
        own(device, uuid)

    monkeypatch.setattr(lvmfilesystem, "own", looking)
    blocks.backend.create(blocks.record("clone"), source=snapshot)
    assert seen == [{"web"}]
    assert blocks.names() == {"web", "clone"}


class Killing:
    """A function that kills its process when it is called once more after so many calls."""

    def __init__(self, call: Callable[..., object], *, after: int) -> None:
        self.call, self.left = call, after

    def __call__(self, *arguments: object, **named: object) -> object:
        if not self.left:
            os.kill(os.getpid(), signal.SIGKILL)
        self.left -= 1
        return self.call(*arguments, **named)


def test_a_copy_that_cannot_get_its_own_uuid_is_mounted_all_the_same(
    ext4_blocks: Pool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    web = ext4_blocks.volume("web")
    monkeypatch.setattr(lvmfilesystem, "uuid_for", lambda _: UUID(int=7))
    monkeypatch.setattr(shell, "run", refusing(shell.run, "tune2fs"))
    ext4_blocks.put(web, f="one")
    assert "may have the UUID of what it is a copy of" in caplog.text


def refusing(run: Callable[..., str], *programs: str) -> Callable[..., str]:
    def refused(program: str, *words: str | os.PathLike[str], **named: object) -> str:
        if program in programs:
            raise StorageFailed(f"{program}: not today")
        return run(program, *words, **named)

    return refused


def filesystem_uuid(pool: Pool, volume: Volume) -> str:
    with pool.mounted(volume) as root:
        return run("findmnt", "--noheadings", "--output", "UUID", "--target", root).stdout.strip()


def test_a_volume_rolled_back_or_restored_works_beside_its_clone(mounting: Pool) -> None:
    """T11: what takes the place of the contents is a copy too."""
    web = mounting.volume("web")
    mounting.put(web, f="one")
    snapshot = mounting.snapshot(web, "s1")
    mounting.backend.create(mounting.record("clone"), source=snapshot)
    mounting.backend.rollback(web, snapshot)
    with mounting.mounted(web) as one, mounting.mounted(mounting.stored("clone")) as two:
        assert contents(one) == contents(two) == {"f": b"one"}
        with mounting.backend.open_snapshot(snapshot) as tree:
            assert contents(tree.root) == {"f": b"one"}


def test_a_snapshot_of_a_mounted_volume_has_all_that_was_written_before(mounting: Pool) -> None:
    """Also what still waits in memory: it is one instant of a consistent file system."""
    web = mounting.volume("web")
    with mounting.mounted(web) as root:
        for number in range(50):
            (root / f"f{number}").write_text(str(number))
        snapshot = mounting.snapshot(web, "s1")
        (root / "f0").write_text("later")
        expected = {f"f{number}": str(number).encode() for number in range(50)}
        with mounting.backend.open_snapshot(snapshot) as tree:
            assert contents(tree.root) == expected
    with mounting.backend.open_snapshot(snapshot) as tree:
        assert contents(tree.root) == expected


def test_a_snapshot_of_what_a_crash_left_has_all_that_was_synced(blocks: Pool) -> None:
    """The journal is replayed before, because nothing may be replayed into a snapshot."""
    web = blocks.volume("web")
    root = blocks.backend.mount(web)
    for number in range(20):
        with (root / f"f{number}").open("w") as file:
            file.write(str(number))
            file.flush()
            os.fsync(file.fileno())
    run("xfs_io", "-x", "-c", "shutdown", root)  # ext4 knows this ioctl of XFS too
    blocks.backend.unmount(web)
    snapshot = blocks.snapshot(web, "s1")
    with blocks.backend.open_snapshot(snapshot) as tree:
        assert contents(tree.root) == {f"f{number}": str(number).encode() for number in range(20)}
    assert len(blocks.get(web)) == 20


class Marker:
    """Writes a growing number into the first volume, and only then into the second, over and over."""

    def __init__(self, first: Path, second: Path) -> None:
        self.number = 0
        self._files = [first / "marker", second / "marker"]
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._write)

    def _write(self) -> None:
        descriptors = [os.open(file, os.O_CREAT | os.O_WRONLY | os.O_DSYNC) for file in self._files]
        while not self._ended.is_set():
            self.number += 1
            for descriptor in descriptors:
                os.pwrite(descriptor, b"%09d" % self.number, 0)
        for descriptor in descriptors:
            os.close(descriptor)

    def __enter__(self) -> Marker:
        self._thread.start()
        wait_until(lambda: self.number > 3)
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()


def test_snapshots_of_several_volumes_are_of_one_instant(mounting: Pool) -> None:
    """What was written first is in the snapshots wherever what was written after it is."""
    one, two = mounting.volume("one"), mounting.volume("two")
    with (
        mounting.mounted(one) as first,
        mounting.mounted(two) as second,
        Marker(first, second) as marker,
    ):
        # In either order, so that no accident of the order of work hides a gap.
        for turn, volumes in enumerate(([one, two], [two, one], [one, two], [two, one])):
            mounting.backend.snapshot(volumes, f"s{turn}")
            reached = marker.number
            wait_until(lambda reached=reached: marker.number > reached + 1)  # type: ignore[misc]
    for turn in range(4):
        numbers = []
        for volume in (one, two):
            (found,) = (snapshot for snapshot in mounting.snapshots(volume) if snapshot.name == f"s{turn}")
            with mounting.backend.open_snapshot(found) as tree:
                numbers.append(int((tree.root / "marker").read_text()))
        assert numbers[0] - numbers[1] in (0, 1), f"s{turn}: {numbers}"


def test_a_snapshot_does_not_stop_writers_for_long(mounting: Pool) -> None:
    web = mounting.volume("web")
    longest = 0.0
    with mounting.mounted(web) as root, Marker(root, root) as marker:
        ended = threading.Event()

        def watch() -> None:
            nonlocal longest
            last, since = marker.number, time.monotonic()
            while not ended.is_set():
                if marker.number != last:
                    last, since = marker.number, time.monotonic()
                longest = max(longest, time.monotonic() - since)
                time.sleep(0.01)

        watcher = threading.Thread(target=watch)
        watcher.start()
        mounting.snapshot(web, "s1")
        ended.set()
        watcher.join()
    assert longest < 20


def test_mountpoints_follow_names(mounting: Pool) -> None:
    web = mounting.volume("web")
    mounting.put(web, f="one")
    shop = mounting.backend.rename(web, "shop")
    with mounting.mounted(shop) as root:
        assert root.name == "shop"
        assert contents(root) == {"f": b"one"}
    mounting.backend.trash(shop, now())
    fresh = mounting.volume("shop")
    assert mounting.get(fresh) == {}
    (trashed,) = mounting.backend.trashed()
    assert isinstance(trashed, Volume)
    back = mounting.backend.undelete(trashed, "web")
    assert back == replace(web, name="web")
    assert mounting.get(back) == {"f": b"one"}


def test_snapshots_are_read_only_and_leave_no_mounts(mounting: Pool) -> None:
    web = mounting.volume("web")
    mounting.put(web, f="one")
    snapshot = mounting.snapshot(web, "s1")
    with mounting.backend.open_snapshot(snapshot) as tree, mounting.backend.open_snapshot(snapshot) as again:
        with pytest.raises(OSError, match=r"[Rr]ead-only"):
            (tree.root / "f").write_text("x")
        assert contents(again.root) == {"f": b"one"}
    assert mounting.leaks() == []


def test_what_a_killed_reader_had_open_is_let_go_of(mounting: Pool) -> None:
    web = mounting.volume("web")
    mounting.put(web, f="one")
    snapshot = mounting.snapshot(web, "s1")
    child = os.fork()
    if child == 0:
        mounting.fresh().open_snapshot(snapshot).__enter__()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    mounting.reopen()
    assert mounting.leaks() == []
    mounting.backend.destroy_snapshot(snapshot)
