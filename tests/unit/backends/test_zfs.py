"""The `zfs` backend over a ZFS in memory: what it asks of it, and what a kill between two commands leaves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from msgspec.structs import replace

from snapvol import shell
from snapvol.backends import removal, zfspool, zfsstate, zfstool
from snapvol.backends.claim import Claim
from snapvol.backends.mountpoints import Mountpoints
from snapvol.backends.ownership import Ownership
from snapvol.backends.zfs import Zfs
from snapvol.errors import (
    AlreadyExists,
    InUse,
    NoSpace,
    NotFound,
    NotReady,
    PoolUnavailable,
    Protected,
    Refused,
    SettingsError,
    SnapvolError,
    ToolFailed,
    UnknownOption,
    Unsupported,
    UsageError,
)
from snapvol.model import Damage, Snapshot, Volume, new_id, now
from snapvol.mountinfo import Mounts
from support.fake_zfs import FakeZfs, Killed

P = "tank/volumes"
WHEN = datetime(2026, 11, 20, 3, 0, tzinfo=UTC)
PROPERTY = "org.snapvol:volume"


@pytest.fixture
def zfs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeZfs:
    fake = FakeZfs()
    states = tmp_path / "kstat/zfs"
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


@pytest.fixture
def pool(zfs: FakeZfs, tmp_path: Path) -> Pool:
    return Pool(zfs, tmp_path)


# -- the pool ---------------------------------------------------------------------------------------------------


def test_a_pool_is_made_once_and_known_again(zfs: FakeZfs, tmp_path: Path) -> None:
    pool = Pool(zfs, tmp_path)
    made = zfs.datasets[P].properties
    assert (made["mountpoint"], made["canmount"]) == ("none", "off")
    assert pool.reopen().open() == pool.id
    with pytest.raises(PoolUnavailable, match="is another pool"):
        pool.fresh().open(expected=new_id())
    del zfs.datasets[P]
    with pytest.raises(PoolUnavailable, match="tank/volumes does not exist, but the pool was in use before"):
        pool.fresh().open(expected=pool.id)
    zfs.run("zfs", "create", P)
    with pytest.raises(PoolUnavailable, match=r"has no org\.snapvol:pool, but the pool was in use before"):
        pool.fresh().open(expected=pool.id)


def test_an_empty_dataset_is_taken_and_somebody_else_s_is_not(zfs: FakeZfs, tmp_path: Path) -> None:
    zfs.run("zfs", "create", P)
    zfs.run("zfs", "create", f"{P}/photos")
    with pytest.raises(PoolUnavailable, match=r"tank/volumes is in use for something else \('photos'\)"):
        Pool(zfs, tmp_path)
    zfs.run("zfs", "destroy", f"{P}/photos")
    pool = Pool(zfs, tmp_path)
    pool.make()
    del zfs.datasets[P].properties["org.snapvol:pool"]
    with pytest.raises(PoolUnavailable, match=r"has volumes but no org\.snapvol:pool; restore it: zfs set"):
        pool.fresh().open()


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "is not understood"), ("{", "is not understood"), ('{"id":"x","version":2}', "this snapvol knows 1")],
)
def test_a_damaged_marker_closes_the_pool(pool: Pool, text: str, message: str) -> None:
    """T41."""
    pool.zfs.datasets[P].properties["org.snapvol:pool"] = text
    with pytest.raises(PoolUnavailable, match=message):
        pool.fresh().open()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "lacks the required field `dataset`"),
        ({"dataset": "-rf"}, "is no dataset; write it like tank/volumes"),
        ({"dataset": "tank/a b"}, "is no dataset"),
        ({"dataset": "tank//x"}, "is no dataset"),
        ({"dataset": "tank/x@y"}, "is no dataset"),
        ({"dataset": f"tank/{'x' * 90}"}, "at most 85 leave room"),
        ({"dataset": "tank", "datset": "x"}, "has no setting 'datset'; did you mean 'dataset'?"),
        ({"dataset": "tank", "reserve": 91}, "<= 90"),
    ],
)
def test_settings_are_refused_by_key(settings: dict[str, object], message: str) -> None:
    """T5, T16."""
    with pytest.raises(SettingsError, match=message):
        Zfs("pool", settings)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (None, "zpool 'tank' is not imported; zpool import tank"),
        ("SUSPENDED", "zpool 'tank' is SUSPENDED; mend its disks, then: zpool clear tank"),
    ],
)
def test_a_zpool_that_does_not_answer_is_not_asked(pool: Pool, state: str | None, message: str) -> None:
    """T40: the kernel says so; no program is started that would hang."""
    web = pool.make()
    place = zfspool._STATES / "tank/state"
    if state is None:
        place.unlink()
    else:
        place.write_text(state)
    pool.zfs.calls.clear()
    calls: list[Callable[[], object]] = [
        pool.backend.volumes,
        pool.backend.trashed,
        lambda: pool.backend.create(replace(web, id=new_id(), name="new")),
        lambda: pool.backend.mount(web),
        lambda: pool.backend.snapshots(web),
        lambda: pool.backend.usage(web),
        lambda: pool.backend.destroy(web),
        lambda: pool.fresh().open(expected=pool.id),
    ]
    for call in calls:
        with pytest.raises(PoolUnavailable, match=message):
            call()
    health = pool.backend.health()
    assert not health.ok
    assert message.partition(";")[0] in str(health.problem)
    assert pool.zfs.calls == []
    place.write_text("ONLINE")
    assert pool.backend.volumes() == [web]


def test_a_zpool_that_has_lost_a_disk_works_and_says_so(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """T40."""
    real = shell.run

    def degraded(program: str, *arguments: str, **options: object) -> str:
        text = real(program, *arguments, **options)  # type: ignore[arg-type]
        return text.replace("ONLINE", "DEGRADED")

    monkeypatch.setattr(shell, "run", degraded)
    health = pool.backend.health()
    assert health.ok
    assert "DEGRADED" in str(health.problem)


def test_a_read_only_zpool_is_told(pool: Pool) -> None:
    """T40."""
    web = pool.make()
    pool.zfs.read_only = True
    assert pool.backend.volumes() == [web]
    assert "imported read-only" in str(pool.backend.health().problem)
    with pytest.raises(PoolUnavailable, match="read-only"):
        pool.make("new")
    with pytest.raises(PoolUnavailable, match="read-only; zpool export tank && zpool import tank"):
        pool.fresh().open()


def test_a_nearly_full_pool_takes_nothing_new(zfs: FakeZfs, tmp_path: Path) -> None:
    """T39."""
    pool = Pool(zfs, tmp_path, reserve=90)
    web = pool.make()
    zfs.datasets[P].properties["available"] = str(100 << 20)
    assert not pool.backend.health().ok
    message = r"'pool' has 100 MiB of 1024 MiB free, less than its reserve of 90 %; free space, or lower `reserve`"
    with pytest.raises(NoSpace, match=message):
        pool.make("new")
    with pytest.raises(NoSpace, match=message):
        pool.snapshot(web, "s1")
    pool.backend.trash(web, WHEN)
    pool.backend.destroy(replace(web, deleted=WHEN))


# -- what is ours -----------------------------------------------------------------------------------------------


def test_children_that_inherit_our_properties_are_no_volumes(pool: Pool) -> None:
    """T6."""
    web = pool.make()
    pool.zfs.run("zfs", "create", f"{P}/theirs")
    pool.zfs.run("zfs", "create", f"{P}/web/inner")
    pool.zfs.run("zfs", "snapshot", f"{P}/web@autosnap")
    assert pool.backend.volumes() == [web]
    assert pool.backend.snapshots(web) == []
    before = pool.zfs.names()
    pool.reopen()
    assert pool.zfs.names() == before
    with pytest.raises(AlreadyExists, match=r"'theirs' exists in pool 'pool' already \(tank/volumes/theirs\)"):
        pool.make("theirs")


def test_what_others_have_made_in_a_volume_keeps_it(pool: Pool) -> None:
    """T6."""
    web = pool.make()
    snapshot = pool.snapshot(web, "s1")
    pool.snapshot(web, "s2")
    pool.zfs.run("zfs", "create", f"{P}/web/inner")
    for call in (
        lambda: pool.backend.destroy(web),
        lambda: pool.backend.trash(web, WHEN),
        lambda: pool.backend.rename(web, "new"),
        lambda: pool.backend.rollback(web, snapshot),
    ):
        with pytest.raises(Refused, match="tank/volumes/web/inner is not snapvol's; move it: zfs rename"):
            call()
    pool.zfs.run("zfs", "destroy", f"{P}/web/inner")
    pool.zfs.run("zfs", "snapshot", f"{P}/web@autosnap")
    with pytest.raises(Refused, match="snapshot tank/volumes/web@autosnap is not snapvol's; zfs destroy"):
        pool.backend.destroy(web)
    pool.backend.rollback(web, snapshot)
    assert [name for name in pool.zfs.names() if name.endswith("@autosnap")]
    assert [it.name for it in pool.backend.snapshots(web) if isinstance(it, Snapshot)] == ["s1", "s2"]


DAMAGES = {
    "empty": ("", "org.snapvol:volume is empty"),
    "cut short": ('{"volume": {', "is not understood: Input data was truncated"),
    "lines": ("a\tlocal\nb\t-\tc", "is not understood"),
    "wrong shape": ("[]", "Expected `object`, got `array`"),
    "no name": (
        '{"volume":{"id":"x","name":"../x","created":"2026-11-20T03:00:00Z"}}', "volume name '../x' is not allowed",
    ),
    "no id": ('{"volume":{"id":"-x","name":"x","created":"2026-11-20T03:00:00Z"}}', "'-x' is not allowed"),
    "no zone": ('{"volume":{"id":"x","name":"x","created":"2026-11-20T03:00:00"}}', "a time without a zone"),
    "parts": ("+9:{", "is not understood"),
    "too many parts": ("+999999999:{", "is not understood"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_property_is_told_and_hides_nothing(pool: Pool, damage: str) -> None:
    """T41."""
    text, reason = DAMAGES[damage]
    web, other = pool.make("web"), pool.make("other")
    good = pool.zfs.datasets[f"{P}/web"].properties[PROPERTY]
    pool.zfs.datasets[f"{P}/web"].properties[PROPERTY] = text
    backend = pool.reopen()
    listed, found = backend.volumes()
    assert listed == other
    assert isinstance(found, Damage)
    assert (found.name, found.pool) == ("web", "pool")
    assert reason in found.reason
    with pytest.raises(NotReady, match=r"volume 'web' is damaged: .*; mend its properties"):
        backend.mount(web)
    backend.rename(other, "renamed")
    pool.zfs.datasets[f"{P}/web"].properties[PROPERTY] = good
    assert web in backend.volumes()


def test_a_damaged_snapshot_is_told_and_hides_nothing(pool: Pool) -> None:
    """T41."""
    web = pool.make()
    bad, good = pool.snapshot(web, "bad"), pool.snapshot(web, "good")
    pool.zfs.datasets[f"{P}/web"].points["bad"].properties["org.snapvol:snapshot"] = "{}"
    listed, damage = pool.backend.snapshots(web)
    assert listed == good
    assert isinstance(damage, Damage)
    assert damage.name == "web@bad"
    with pytest.raises(NotReady, match="web@bad' is damaged"), pool.backend.open_snapshot(bad):
        pass
    pool.backend.destroy(web)
    assert pool.zfs.names() == [P]


def test_earlier_contents_are_never_taken_for_damaged_present_ones(pool: Pool) -> None:
    """T41: of a volume that was rolled back, or trashed after that."""
    web = pool.make(text="one")
    first = pool.snapshot(web, "s1")
    pool.snapshot(web, "s2")
    pool.backend.rollback(web, first)
    present = pool.zfs.datasets[f"{P}/web"]
    good, present.properties[PROPERTY] = present.properties[PROPERTY], "{"
    (damage,) = pool.reopen().volumes()
    assert isinstance(damage, Damage)
    with pytest.raises(NotReady):
        pool.backend.mount(web)
    present.properties[PROPERTY] = good
    pool.backend.trash(web, WHEN)
    present.properties[PROPERTY] = "{"
    assert pool.reopen().volumes() == []
    (damage,) = pool.backend.trashed()
    assert isinstance(damage, Damage)


def test_a_copy_of_a_volume_is_not_a_second_one(pool: Pool) -> None:
    """Such as `zfs send -p | zfs receive` makes."""
    web = pool.make()
    pool.zfs.run("zfs", "create", "-o", f"{PROPERTY}={pool.zfs.datasets[f'{P}/web'].properties[PROPERTY]}", f"{P}/copy")
    found = pool.backend.volumes()
    assert web in found
    (damage,) = [it for it in found if isinstance(it, Damage)]
    assert (damage.name, "one is a copy of the other" in damage.reason) == ("copy", True)


def test_long_metadata_goes_on_in_further_properties(pool: Pool) -> None:
    web = pool.make()
    for length in (30_000, 10, 2500):
        web = replace(web, labels={"key": "ü" * length})
        pool.backend.record(web)
        assert pool.fresh().volumes() == [web]
    with pytest.raises(UsageError, match="use fewer or shorter labels"):
        pool.backend.record(replace(web, labels={"key": "x" * 100_000}))
    assert pool.fresh().volumes() == [web]


def test_every_name_has_a_dataset_of_its_own(pool: Pool) -> None:
    """T1, T4."""
    names = ["a", "A", "n" * 255, "n" * 254, "n" * 97, "n" * 96, "x.new", "tmp", "0", "vol1", "vol10"]
    for name in names:
        pool.backend.create(Volume(id=new_id(), name=name, created=now()))
    found = pool.reopen().volumes()
    assert {volume.name for volume in found} == set(names)
    for volume in found:
        assert isinstance(volume, Volume)
        pool.snapshot(volume, "s" * 255)
        pool.snapshot(volume, "s" * 254)
        assert len(pool.backend.snapshots(volume)) == 2
        pool.backend.destroy(volume)
    assert pool.zfs.names() == [P]


# -- options ----------------------------------------------------------------------------------------------------


def test_native_properties_are_passed_on(pool: Pool) -> None:
    pool.backend.create(
        Volume(id=new_id(), name="web", created=now(), options={"zfs.compression": "lz4"}), size=1 << 20
    )
    made = pool.zfs.datasets[f"{P}/web"].properties
    assert {key: made[key] for key in ("compression", "refquota", "mountpoint", "canmount", "acltype", "xattr")} == {
        "compression": "lz4", "refquota": "1048576", "mountpoint": "legacy", "canmount": "noauto",
        "acltype": "posixacl", "xattr": "sa",
    }  # fmt: skip


def test_what_the_administrator_has_set_above_stands(pool: Pool) -> None:
    pool.zfs.datasets[P].properties["xattr"] = "on"
    pool.reopen()
    pool.make()
    assert "xattr" not in pool.zfs.datasets[f"{P}/web"].properties


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"zfs_compresion": "lz4"}, UnknownOption,
         "this ZFS has no property 'compresion'; did you mean 'zfs.compression'?"),
        ({"zfs_used": "1"}, UnknownOption, "no property 'used'"),
        ({"zfs_mountpoint": "/x"}, Unsupported, "'zfs.mountpoint' is not offered: snapvol mounts"),
        ({"zfs_refquota": "1"}, Unsupported, "that is the option 'size'"),
        ({"zfs_org.snapvol:volume": "x"}, Unsupported, "snapvol's own"),
        ({"zfs_compression": "best"}, UsageError, "zfs.compression=best: it must be one of"),
        ({"zfs_encryption": "on", "zfs_keyformat": "raw"}, UsageError, "zfs.keylocation=file:///PATH"),
    ],
)  # fmt: skip
def test_options_that_cannot_be_served_make_nothing(
    pool: Pool, options: dict[str, str], kind: type[SnapvolError], message: str
) -> None:
    """T16."""
    with pytest.raises(kind, match=message):
        pool.make(**options)
    assert pool.zfs.names() == [P]


def test_a_clone_cannot_differ_in_what_is_settled_at_creation(pool: Pool) -> None:
    snapshot = pool.snapshot(pool.make(), "s1")
    clone = Volume(id=new_id(), name="clone", created=now(), options={"zfs.encryption": "aes-256-gcm"})
    with pytest.raises(Unsupported, match="encryption=aes-256-gcm was asked for, its origin has encryption=off"):
        pool.backend.create(clone, source=snapshot)
    same = replace(clone, options={"zfs.casesensitivity": "sensitive", "zfs.atime": "off"})
    pool.backend.create(same, source=snapshot)
    assert pool.zfs.datasets[f"{P}/clone"].properties["atime"] == "off"


def lock(pool: Pool, name: str, root: str, location: str) -> None:
    """Make a dataset one that is encrypted with the key of ``root``, which is not loaded."""
    for dataset in {name, root}:
        pool.zfs.datasets[dataset].properties |= {"keystatus": "unavailable", "encryptionroot": root}
    pool.zfs.datasets[root].properties["keylocation"] = location


def test_a_key_is_loaded_from_its_file_or_asked_for(pool: Pool, tmp_path: Path) -> None:
    web = pool.make()
    snapshot = pool.snapshot(web, "s1")
    for location, hint in (
        ("prompt", "zfs load-key"),
        (f"file://{tmp_path}/gone", "bring the file back, or: zfs load-key"),
    ):
        lock(pool, f"{P}/web", f"{P}/web", location)
        assert pool.backend.volumes() == [web]
        with pytest.raises(
            NotReady, match=r"'web' .*is encrypted, and the key of tank/volumes/web is not loaded"
        ) as error:
            pool.backend.mount(web)
        assert error.value.hint == f"{hint} tank/volumes/web"
        with pytest.raises(NotReady, match=r"'web@s1' cannot be read"), pool.backend.open_snapshot(snapshot):
            pass
    (tmp_path / "key").write_bytes(bytes(32))
    lock(pool, f"{P}/web", "tank", f"file://{tmp_path}/key")
    assert pool.commands(lambda: pool.backend.mount(web)) == ["zfs get", "zfs get", "zfs load-key"]
    assert pool.commands(lambda: pool.backend.mount(web)) == ["zfs get"]


def test_the_key_of_all_volumes_is_loaded_at_the_start(pool: Pool, tmp_path: Path) -> None:
    lock(pool, P, "tank", "prompt")
    pool.reopen()
    (tmp_path / "key").write_bytes(bytes(32))
    lock(pool, P, P, f"file://{tmp_path}/key")
    pool.reopen()
    assert pool.zfs.datasets[P].properties["keystatus"] == "available"


# -- rollback ---------------------------------------------------------------------------------------------------


def test_going_back_keeps_everything_however_often(pool: Pool) -> None:
    """T6: what others have snapshotted, too."""
    web = pool.make(text="0")
    made = {}
    for number in range(4):
        made[number] = pool.snapshot(web, f"s{number}")
        pool.zfs.run("zfs", "snapshot", f"{P}/web@theirs{number}")
        pool.zfs.write(f"{P}/web", str(number + 1))
    for target in (2, 0, 3, 3, 1, 0, 2):
        pool.backend.rollback(web, made[target])
        assert pool.contents(web) == str(target)
        state = pool.state()["web"]
        assert isinstance(state, tuple)
        assert state[2] == {f"s{number}": (made[number].id, str(number), ()) for number in made}
        theirs = [name for name in pool.zfs.names() if "@theirs" in name]
        assert sorted(name.partition("@")[2] for name in theirs) == [f"theirs{number}" for number in range(4)]
    assert pool.backend.sources(web) == (f"{P}/web",)


def test_what_was_set_by_hand_stays_through_going_back(pool: Pool) -> None:
    web = pool.make(zfs_compression="lz4")
    first = pool.snapshot(web, "s1")
    pool.snapshot(web, "s2")
    pool.backend.resize(web, 1 << 30)
    pool.zfs.run("zfs", "set", "recordsize=16384", "com.sun:auto-snapshot=false", f"{P}/web")
    pool.backend.rollback(web, first)
    now_set = pool.zfs.datasets[f"{P}/web"].properties
    expected = {"compression": "lz4", "recordsize": "16384", "com.sun:auto-snapshot": "false", "refquota": str(1 << 30)}
    assert expected.items() <= now_set.items()


def test_nothing_is_left_of_a_volume_that_was_rolled_back_cloned_and_destroyed(pool: Pool) -> None:
    web = pool.make(text="0")
    points = []
    for number in range(3):
        points.append(pool.snapshot(web, f"s{number}"))
        pool.zfs.write(f"{P}/web", str(number + 1))
    for point in (points[1], points[2], points[0]):
        pool.backend.rollback(web, point)
        clone = Volume(id=new_id(), name=f"clone-{point.name}", created=now())
        pool.backend.create(clone, source=point)
    clones = [it for it in pool.backend.volumes() if isinstance(it, Volume) and it.name != "web"]
    pool.backend.destroy(web)
    assert {volume.name: pool.contents(volume) for volume in clones} == {f"clone-s{n}": str(n) for n in range(3)}
    for clone in clones:
        assert pool.backend.snapshots(clone) == []
        pool.snapshot(clone, "s1")
        pool.backend.destroy(clone)
    assert pool.zfs.names() == [P]


def test_a_snapshot_that_a_clone_needs_goes_with_it_and_its_name_is_free_at_once(pool: Pool) -> None:
    """T18, T2."""
    web = pool.make(text="one")
    snapshot = pool.snapshot(web, "s1")
    clone = Volume(id=new_id(), name="clone", created=now())
    pool.backend.create(clone, source=snapshot)
    pool.backend.destroy_snapshot(snapshot)
    assert pool.backend.snapshots(web) == []
    with pytest.raises(NotFound):
        pool.backend.destroy_snapshot(snapshot)
    again = pool.snapshot(web, "s1")
    assert again.id != snapshot.id
    pool.backend.destroy(replace(clone, pool="pool"))
    assert pool.zfs.names() == [P, f"{P}/web", f"{P}/web@s1"]


def test_a_foreign_clone_or_hold_in_the_way_is_named(pool: Pool) -> None:
    """T18."""
    web = pool.make()
    snapshot = pool.snapshot(web, "s1")
    pool.zfs.run("zfs", "clone", f"{P}/web@s1", "tank/test")
    message = r"tank/test is a clone of web@s1 .*; zfs destroy tank/test; or, to keep it: zfs promote tank/test"
    with pytest.raises(Protected, match=message):
        pool.backend.destroy_snapshot(snapshot)
    with pytest.raises(Refused, match=message):
        pool.backend.destroy(web)
    pool.zfs.run("zfs", "destroy", "tank/test")
    pool.zfs.run("zfs", "hold", "syncoid", f"{P}/web@s1")
    message = "web@s1 is held .syncoid, by another program.; zfs release 'syncoid' tank/volumes/web@s1"
    with pytest.raises(Protected, match=message):
        pool.backend.destroy_snapshot(snapshot)
    with pytest.raises(Refused, match=message):
        pool.backend.destroy(web)
    pool.backend.hold(snapshot, "audit")
    with pytest.raises(Protected, match=r"is held \(audit, syncoid, by another program\); snapvol release web@s1"):
        pool.backend.destroy_snapshot(snapshot)
    assert pool.backend.snapshots(web) == [replace(snapshot, holds=("audit",))]


def test_holds_are_listed_as_they_came(pool: Pool) -> None:
    snapshot = pool.snapshot(pool.make(), "s1")
    tags = ("z", "backup-1", "a b", "-f", "t:1:x")
    for tag in (*tags, "z"):
        pool.backend.hold(snapshot, tag)
    (found,) = pool.fresh().snapshots(pool.backend.volumes()[0])  # type: ignore[arg-type]
    assert isinstance(found, Snapshot)
    assert found.holds == tags
    with pytest.raises(UsageError, match="240 bytes"):
        pool.backend.hold(snapshot, "x" * 250)
    for tag in tags:
        pool.backend.release(snapshot, tag)
    pool.backend.destroy_snapshot(snapshot)


def test_what_something_still_has_open_is_destroyed_later_and_its_name_is_free(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zfstool, "_PAUSES", (0.0, 0.0))
    web, other = pool.make("web"), pool.make("other")
    pool.snapshot(web, "s1")
    pool.zfs.busy |= {f"{P}/web", f"{P}/other"}
    with pytest.raises(InUse, match=r"volume 'other' cannot be removed: .*is busy"):
        pool.backend.destroy(other)
    pool.backend.destroy(web)
    assert pool.backend.volumes() == [other]
    again = pool.make("web")
    pool.zfs.busy.clear()
    assert pool.reopen().volumes() == [other, again]
    assert pool.zfs.names() == [P, f"{P}/other", f"{P}/web"]


# -- kills ------------------------------------------------------------------------------------------------------


def restored(pool: Pool, web: Volume) -> None:
    pool.backend.stage(web)
    pool.zfs.write(f"{P}/.{web.id}.new", "restored")
    pool.backend.adopt_stage(web)


def clone_of(snapshot: Snapshot) -> Volume:
    return Volume(id="clone", name="clone", created=WHEN, options={"uid": "5"})


OPERATIONS: dict[str, Callable[[Pool, Volume, Snapshot], object]] = {
    "create": lambda pool, web, s: pool.backend.create(Volume(id="n", name="n", created=WHEN, options={"uid": "5"})),
    "clone": lambda pool, web, s: pool.backend.create(clone_of(s), source=s),
    "rename": lambda pool, web, s: pool.backend.rename(web, "shop"),
    "trash": lambda pool, web, s: pool.backend.trash(web, WHEN),
    "rollback": lambda pool, web, s: pool.backend.rollback(web, s),
    "restore": lambda pool, web, s: restored(pool, web),
    "destroy": lambda pool, web, s: pool.backend.destroy(web),
    "destroy snapshot": lambda pool, web, s: pool.backend.destroy_snapshot(s),
    "hold": lambda pool, web, s: pool.backend.hold(s, "audit"),
}


@pytest.mark.parametrize("history", ["fresh", "rolled back", "cloned"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_killed_between_any_two_commands_it_is_done_or_not_begun(
    zfs: FakeZfs, tmp_path: Path, operation: str, history: str
) -> None:
    """T14, also for what workers see before the next daemon has tidied up."""
    outcomes = []
    for limit in range(30):
        zfs.__init__()  # type: ignore[misc]
        pool = Pool(zfs, tmp_path)
        web = pool.make(text="one")
        snapshot = pool.snapshot(web, "s1")
        zfs.write(f"{P}/web", "two")
        later = pool.snapshot(web, "s2")
        if history == "rolled back":
            pool.backend.rollback(web, snapshot)
            pool.backend.rollback(web, later)
        if history == "cloned":
            pool.backend.create(Volume(id="c", name="c", created=WHEN), source=snapshot)
        undone = pool.state()
        zfs.limit = limit
        try:
            OPERATIONS[operation](pool, web, snapshot)
        except Killed:
            ended = False
        else:
            ended = True
        zfs.limit = None
        seen = pool.state()
        pool.reopen()
        assert pool.state() == seen
        assert_accounted(pool)
        outcomes.append(seen != undone)
        if ended:
            break
    assert outcomes == sorted(outcomes)
    assert (outcomes[0], outcomes[-1]) == (False, True)
    for volume in [*pool.backend.volumes(), *pool.backend.trashed()]:
        assert isinstance(volume, Volume)
        for found in pool.backend.snapshots(volume):
            assert isinstance(found, Snapshot)
            pool.backend.release(found, "audit")
        pool.backend.destroy(volume)
    assert zfs.names() == [P]


def assert_accounted(pool: Pool) -> None:
    """Check that each dataset has its place, and is there for its contents or for a snapshot."""
    survey = pool.backend._survey(points=True)
    assert not survey.unfinished
    known = set()
    for family in survey.families.values():
        assert not family.gone
        assert family.head.leaf == family.place
        assert all(dataset.needed for dataset in family.history)
        known |= {dataset.name for dataset in family.datasets}
    assert {name for name in pool.zfs.datasets if name.startswith(f"{P}/")} == known


# -- what it costs ----------------------------------------------------------------------------------------------


def test_operations_take_few_commands(pool: Pool) -> None:
    pool.make("first")
    commands = pool.commands
    assert commands(lambda: pool.make("web")) == ["zfs create"]
    web = next(it for it in pool.backend.volumes() if it.name == "web")
    assert isinstance(web, Volume)
    backend = pool.backend
    assert commands(lambda: backend.snapshot([web], "s1")) == ["zfs snapshot", "zfs get"]
    (first,) = backend.snapshots(web)
    assert isinstance(first, Snapshot)
    pool.snapshot(web, "s2")
    clone = Volume(id=new_id(), name="clone", created=now())
    assert commands(lambda: backend.create(clone, source=first)) == ["zfs get", "zfs clone"]
    assert commands(lambda: backend.rollback(web, first)) == [
        "zfs get", "zfs get", "zfs rename", "zfs clone", "zfs promote",
    ]  # fmt: skip
    assert commands(lambda: backend.snapshot([web], "s3")) == ["zfs get", "zfs snapshot", "zfs get"]
    assert commands(lambda: backend.trash(web, WHEN)) == ["zfs get", "zfs rename", "zfs set"]
    assert commands(lambda: backend.mount(replace(clone, pool="pool"))) == ["zfs get"]


def test_a_dataset_that_somebody_has_put_in_a_volume_s_place_is_not_snapshotted(pool: Pool) -> None:
    """T6."""
    web, other = pool.make("web"), pool.make("other")
    for property in ({}, dict(pool.zfs.datasets[f"{P}/other"].properties)):
        pool.zfs.datasets[f"{P}/web"].properties = property
        with pytest.raises((NotFound, NotReady), match="volume 'web'"):
            pool.backend.snapshot([other, web], "s1")
        assert [name for name in pool.zfs.names() if "@" in name] == []


def test_hundreds_of_volumes_are_listed_by_two_commands(pool: Pool) -> None:
    for number in range(300):
        pool.snapshot(pool.make(f"v{number}"), "s1")
    pool.reopen()
    pool.zfs.calls.clear()
    found = pool.backend.volumes()
    assert len(found) == 300
    assert all(len(pool.backend.snapshots(volume)) == 1 for volume in found if isinstance(volume, Volume))
    assert len(pool.zfs.calls) == 2


def test_a_failed_listing_is_not_taken_for_an_empty_one(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    web = pool.make()

    def fail(program: str, *arguments: str, **_: object) -> str:
        raise ToolFailed([program, *arguments], 1, "cannot open 'tank/volumes': I/O error")

    monkeypatch.setattr(shell, "run", fail)
    for call in (pool.backend.volumes, pool.backend.trashed, lambda: pool.backend.snapshots(web)):
        with pytest.raises(SnapvolError, match="cannot be listed: cannot open"):
            call()


def test_going_back_to_more_than_the_size_is_possible(pool: Pool) -> None:
    """T39: ZFS lets a volume grow a little beyond its size, and refuses to make a clone of that with that size."""
    web = pool.make(text="one")
    first = pool.snapshot(web, "s1")
    pool.snapshot(web, "s2")
    pool.zfs.datasets[f"{P}/web"].properties["refquota"] = "24000"
    pool.backend.rollback(web, first)
    assert pool.backend.usage(web).limit == 24576


@pytest.mark.parametrize("message", ["\n" * 1000, "ü" * 1000, "\U0001f600" * 1000, '"' * 1000])
def test_a_long_message_is_kept(pool: Pool, message: str) -> None:
    web = pool.make()
    made = pool.backend.snapshot([web], "s1", message=message)
    assert pool.fresh().snapshots(web) == list(made)
    with pytest.raises(UsageError, match="shorten it"):
        pool.backend.snapshot([web], "s2", message="x" * 9000)
