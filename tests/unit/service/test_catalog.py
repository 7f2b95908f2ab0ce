"""Pools that are away, damaged or double: said so, and no obstacle to the others (T40, T41)."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path

import pytest

from snapvol.api import VolumeInfo
from snapvol.errors import AlreadyExists, NotFound, NotReady, PoolUnavailable, SettingsError
from snapvol.model import Health, State
from snapvol.service import pools as pools_module
from snapvol.service.service import Service
from support.memory import Memory
from support.service import FakeKernel, directory_service, memory_service, settings_for

TWO = """
[daemon]
default_pool = "near"
[pools.far]
backend = "directory"
path = "{0}/far/pool"
full_copies = true
[pools.near]
backend = "directory"
path = "{0}/near"
full_copies = true
"""


def two_pools(root: Path) -> Service:
    return directory_service(root, FakeKernel(), TWO.format(root))


def by_name(service: Service) -> dict[str, VolumeInfo]:
    return {info.name: info for info in service.volumes()}


@pytest.fixture
def away(tmp_path: Path) -> Path:
    """A root whose pool `far` held a volume and whose storage is gone."""
    (tmp_path / "far").mkdir()
    service = two_pools(tmp_path)
    service.create_volume("here")
    service.create_volume("there", {"pool": "far"})
    service.close()
    (tmp_path / "far").rename(tmp_path / "unplugged")
    (tmp_path / "far").mkdir()
    return tmp_path


def test_a_pool_that_is_away_is_no_obstacle_to_the_others_t40(away: Path) -> None:
    service = two_pools(away)
    far = next(pool for pool in service.pools() if pool.name == "far")
    assert not far.ok
    assert far.problem is not None
    assert "but the pool was in use before" in far.problem
    assert not (away / "far/pool").exists()  # an empty directory where a disk is missing never becomes the pool
    service.create_volume("new")
    service.mount("here", "id1")
    with pytest.raises(PoolUnavailable, match="pool 'far' is not available"):
        service.create_volume("x", {"pool": "far"})
    service.close()


def test_what_is_known_of_a_volume_whose_pool_is_away_is_shown(away: Path) -> None:
    """G2: to Docker an error for Get would mean that the volume does not exist."""
    service = two_pools(away)
    info = service.volume("there")
    assert (info.pool, info.damaged, info.mountpoint) == ("far", True, f"{away}/far/pool/volumes/there/data")
    assert info.error is not None
    assert info.error.startswith("pool 'far' is not available: ")
    assert [(it.name, it.damaged) for it in service.volumes()] == [("here", False), ("there", True)]
    for refused in (lambda: service.mount("there", "id1"), lambda: service.remove_volume("there")):
        with pytest.raises(PoolUnavailable, match="volume 'there' is in pool 'far', which is not available"):
            refused()
    with pytest.raises(AlreadyExists, match="the name 'there' is taken"):
        service.create_volume("there", {"pool": "near"})
    service.unmount("there", "id1")
    with pytest.raises(NotFound):
        service.volume("unheard-of")
    service.close()


def test_a_volume_appears_when_its_pool_does_t40(away: Path) -> None:
    service = two_pools(away)
    service.refresh_pools()
    assert by_name(service)["there"].damaged
    (away / "far").rmdir()
    (away / "unplugged").rename(away / "far")
    service.refresh_pools()
    assert not by_name(service)["there"].damaged
    assert all(pool.ok for pool in service.pools())
    assert service.mount("there", "id1").is_dir()
    service.close()


def test_another_pool_in_the_place_of_the_one_known_is_refused(away: Path) -> None:
    (away / "stranger").mkdir()
    text = '[pools.far]\nbackend = "directory"\npath = "{}/far/pool"\n'
    stranger = directory_service(away / "stranger", FakeKernel(), text.format(away))
    stranger.create_volume("theirs")
    stranger.close()
    service = two_pools(away)
    far = next(pool for pool in service.pools() if pool.name == "far")
    assert far.problem is not None
    assert "is another pool" in far.problem
    assert by_name(service).keys() == {"here", "there"}
    service.close()


def test_an_unreadable_memory_of_a_pool_is_said_and_harms_nothing(away: Path) -> None:
    (away / "pools/far.json").write_text("{")
    (away / "pools/far.seen.json").write_text("[[")
    service = two_pools(away)
    far = next(pool for pool in service.pools() if pool.name == "far")
    assert far.problem is not None
    assert far.problem.startswith(f"{away}/pools/far.json cannot be read")
    assert by_name(service).keys() == {"here"}
    service.close()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"id": 7}', "null", '{"id": "x", "name": "other"}'])
def test_a_damaged_sidecar_is_shown_and_hides_nothing_t41(tmp_path: Path, content: str) -> None:
    service = directory_service(tmp_path)
    for name in ("bad", "good"):
        service.create_volume(name)
    service.close()
    sidecar = tmp_path / "pool/volumes/bad/volume.json"
    whole = sidecar.read_text()
    sidecar.write_text(content)
    service = directory_service(tmp_path)
    infos = by_name(service)
    assert infos.keys() == {"bad", "good"}
    assert (infos["bad"].damaged, infos["bad"].state) == (True, State.FAILED)
    assert infos["bad"].error
    assert service.volume("bad") == infos["bad"]
    with pytest.raises(NotReady, match="volume 'bad' is damaged: "):
        service.mount("bad", "id1")
    with pytest.raises((AlreadyExists, NotReady), match=r"is damaged|is taken"):
        service.create_volume("bad")
    assert sidecar.read_text() == content
    service.mount("good", "id1")
    sidecar.write_text(whole)
    service.refresh_pools()
    assert not service.volume("bad").damaged
    service.mount("bad", "id1")
    service.close()


def test_a_copied_volume_directory_is_damaged_and_its_origin_works_t41(tmp_path: Path) -> None:
    service = directory_service(tmp_path)
    service.create_volume("web")
    service.close()
    volumes = tmp_path / "pool/volumes"
    shutil.copytree(volumes / "web", volumes / "web2")
    sidecar = volumes / "web2/volume.json"
    sidecar.write_text(json.dumps({**json.loads(sidecar.read_text()), "name": "web2"}))
    service = directory_service(tmp_path)
    infos = by_name(service)
    assert (infos["web"].damaged, infos["web2"].damaged) == (False, True)
    assert "it has the id of volume 'web'" in (infos["web2"].error or "")
    service.remove_volume("web")
    assert by_name(service).keys() == {"web2"}
    service.close()


def test_a_damaged_snapshot_is_shown_and_hides_nothing_t41(tmp_path: Path) -> None:
    service = directory_service(tmp_path)
    service.create_volume("web")
    for name in ("s1", "s2"):
        service.snapshot(["web"], name)
    service.close()
    (tmp_path / "pool/volumes/web/snapshots/s1/snapshot.json").write_text("")
    service = directory_service(tmp_path)
    assert [(it.name, it.error is None) for it in service.snapshots("web")] == [("s2", True), ("s1", False)]
    assert service.volume("web").snapshots == 2
    with pytest.raises(NotReady, match="snapshot 'web@s1' is damaged"):
        service.rollback("web", "s1")
    service.close()


def test_what_others_put_into_the_pool_is_not_ours_t6(tmp_path: Path) -> None:
    service = directory_service(tmp_path)
    service.create_volume("web")
    service.close()
    foreign = tmp_path / "pool/volumes/theirs"
    foreign.mkdir()
    (foreign / "file").touch()
    service = directory_service(tmp_path)
    assert by_name(service).keys() == {"web"}
    with pytest.raises(AlreadyExists):
        service.create_volume("theirs")
    assert (foreign / "file").exists()
    service.close()


def test_one_name_in_two_pools_belongs_to_the_default_one_until_the_other_is_renamed(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    service = two_pools(tmp_path)
    first = service.create_volume("web")
    second = service.create_volume("web2", {"pool": "far"})
    service.close()
    # Somebody moved a disk: now both pools have a volume `web`.
    moved = tmp_path / "far/pool/volumes"
    sidecar = json.loads((moved / "web2/volume.json").read_text())
    (moved / "web2/volume.json").write_text(json.dumps({**sidecar, "name": "web"}))
    (moved / "web2").rename(moved / "web")
    service = two_pools(tmp_path)
    assert [(it.pool, it.id, it.damaged) for it in service.volumes()] == [
        ("near", first.id, False),
        ("far", second.id, True),
    ]
    assert service.volume("web").id == first.id
    assert service.volume(second.id).error == (
        f"pool 'near' has a volume of this name too; rename this one: snapvol rename {second.id} NEW-NAME"
    )
    renamed = service.rename_volume(second.id, "other")
    assert (renamed.id, renamed.damaged, renamed.error) == (second.id, False, None)
    assert [(it.name, it.damaged) for it in service.volumes()] == [("other", False), ("web", False)]
    service.close()


def test_a_copied_pool_is_told_from_the_first(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    service = two_pools(tmp_path)
    made = service.create_volume("web")
    service.close()
    (tmp_path / "near/volumes/web").rename(tmp_path / "kept")
    for place in (tmp_path / "near/volumes/web", tmp_path / "far/pool/volumes/web"):
        (place / "data").mkdir(parents=True)
        (place / "volume.json").write_text((tmp_path / "kept/volume.json").read_text())
    service = two_pools(tmp_path)
    assert service.volume("web").pool == "near"
    twin = next(it for it in service.volumes() if it.pool == "far")
    assert (twin.damaged, twin.error) == (
        True,
        f"pool 'near' has the same volume (id {made.id}): one pool is a copy of the other",
    )
    service.close()


class Hanging(Memory):
    """Storage that does not answer."""

    kind = "hanging"
    answer = threading.Event()

    def open(self, *, expected: str | None = None) -> str:
        assert self.answer.wait(30)
        return super().open(expected=expected)


def test_a_pool_that_hangs_keeps_nobody_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("support.service", fromlist=["KINDS"]).KINDS, "hanging", Hanging)
    monkeypatch.setattr(Hanging, "answer", threading.Event())
    monkeypatch.setattr(pools_module, "PATIENCE", 0.2)
    text = '[daemon]\ndefault_pool = "a"\n[pools.a]\nbackend = "memory"\n[pools.h]\nbackend = "hanging"\n'
    service = memory_service(tmp_path, text=text)
    service.create_volume("web")
    assert [(pool.name, pool.ok) for pool in service.pools()] == [("a", True), ("h", False)]
    with pytest.raises(PoolUnavailable, match="pool 'h' is not available: it has not been opened yet"):
        service.create_volume("x", {"pool": "h"})
    Hanging.answer.set()
    service._pools._busy["h"].join(20)
    assert service.create_volume("x", {"pool": "h"}).pool == "h"
    service.close()


def test_health_is_looked_at_and_remembered(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = service._context.catalog.pools["default"].backend
    monkeypatch.setattr(backend, "health", lambda: Health(ok=False, size=100, free=1, problem="1 % free"))
    assert service.pools()[0].ok
    service.refresh_pools()
    (pool,) = service.pools()
    assert (pool.ok, pool.problem, pool.size, pool.free, pool.default) == (False, "1 % free", 100, 1, True)


def test_wrong_pool_settings_name_the_key(tmp_path: Path) -> None:
    text = '[pools.default]\nbackend = "directory"\npath = "/srv/x"\nreserv = 5\n'
    with pytest.raises(
        SettingsError, match=r"config\.toml: \[pools\.default\] has no setting 'reserv'; did you mean 'reserve'"
    ):
        Service(settings_for(tmp_path, text))


def test_the_effective_settings_say_where_they_come_from(tmp_path: Path) -> None:
    service = memory_service(tmp_path, text='[pools.default]\nbackend = "memory"\n[trash]\nkeep = "7d"\n')
    config = service.config()
    assert config["trash.keep"] == {"value": "7d", "origin": str(tmp_path / "config.toml")}
    assert config["daemon.root"] == {"value": str(tmp_path), "origin": "SNAPVOL_ROOT"}
    assert config["daemon.jobs"] == {"value": 2, "origin": "default"}
    assert config["pools.default.backend"]["value"] == "memory"
    service.close()


def test_a_restore_that_no_job_carries_on_has_failed_at_the_next_start(tmp_path: Path) -> None:
    service = directory_service(tmp_path)
    made = service.create_volume("web")
    service._context.catalog.change(made.id, state=State.RESTORING)
    service.close()
    service = directory_service(tmp_path)
    assert (service.volume("web").state, service.volume("web").error) == (State.FAILED, "the restore was interrupted")
    service.remove_volume("web")
    service.close()
