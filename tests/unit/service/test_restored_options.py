"""What a restored volume gets from its backup beside the contents: options, labels and a size (T37)."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from snapvol.api import BackupInfo, JobState
from snapvol.docker import Docker
from snapvol.engine.manifest import ImageMeta, VolumeMeta
from snapvol.model import now
from snapvol.service import restored_options
from snapvol.service.library import Found
from snapvol.service.service import Service
from support.quick import initialise
from support.restoring import FILES, SECONDS, backed_up, fill, restore, write

GIB = 1 << 30


@pytest.fixture
def service(on_disk: Service) -> Service:
    initialise(on_disk.settings, "default")
    return on_disk


def test_T37_options_and_labels_come_back_as_far_as_the_pool_can_serve_them(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    adopted: dict[str, Mapping[str, str]] = {}
    given: dict[str, Mapping[str, str]] = {}

    def adopt(_: Docker, volume: str, labels: Mapping[str, str], options: Mapping[str, str]) -> bool:
        adopted[volume] = labels
        given[volume] = options
        return True

    monkeypatch.setattr(Docker, "adopt", adopt)
    service.create_volume("web", {"protect": "true", "policy": "none", "mode": "0750"}, {"project": "shop"})
    write(service.mountpoint("web"), FILES)
    catalog = service._context.catalog
    options = {**catalog.get("web").volume.options, "size": "10G", "btrfs.compression": "zstd"}
    catalog.change(catalog.get("web").volume.id, options=options)  # as if it lay in a btrfs pool
    backed_up(service)
    job = restore(service, "web", volume="web2")
    info = service.volume("web2")
    assert {key: info.options.get(key) for key in ("protect", "policy", "mode")} == {
        "protect": "true", "policy": "none", "mode": "0750",
    }  # fmt: skip
    assert "size" not in info.options
    assert "btrfs.compression" not in info.options
    assert [line.partition(" of the backup was not restored: ")[0] for line in job.warnings] == [
        "option btrfs.compression=zstd",
        "option size=10G",
    ]
    assert info.labels == {"project": "shop"}
    assert adopted == {"web2": {"project": "shop"}}
    assert given == {"web2": options}  # as Docker had them before: Compose compares


def test_T37_a_volume_from_the_trash_is_docker_s_again(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, Mapping[str, str], Mapping[str, str]]] = []
    monkeypatch.setattr(Docker, "adopt", lambda _, *told: asked.append(told))
    service.create_volume("web", {"mode": "0750"}, {"project": "shop"})
    backup = backed_up(service)
    restore(service, "web", volume="web2")
    asked.clear()
    for name in ("web", "web2"):
        service.remove_volume(name)
        service.undelete(name)
    assert service.volume("web2").options["backup"] == backup
    assert asked == [(name, {"project": "shop"}, {"mode": "0750"}) for name in ("web", "web2")]


def test_T37_what_is_asked_for_now_wins_over_the_backup(service: Service) -> None:
    fill(service, "web", policy="none", protect="true")
    backed_up(service)
    made = service.create_volume("web2", {"backup": "web", "protect": "false"})
    service.jobs.wait(str(made.job), SECONDS)
    options = service.volume("web2").options
    assert options.get("policy") == "none"
    assert "protect" not in options


def test_T37_docker_that_knew_the_volume_already_is_told_as_a_warning(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Docker, "adopt", lambda docker, volume, labels, options: False)
    service.create_volume("web", {}, {"project": "shop"})
    backed_up(service)
    job = restore(service, "web", volume="web2")
    assert job.state is JobState.DONE
    assert any("Docker knew volume 'web2' already" in line for line in job.warnings)


def found(
    kind: str = "files", *, size: int = 0, used: int | None = None, image: int | None = None, backend: str = "zfs"
) -> Found:
    meta = VolumeMeta(
        id="i",
        name="web",
        created=now(),
        taken=now(),
        used=used,
        backend=backend,
        image=ImageMeta(size=image, filesystem="ext4", chunk=1 << 20) if image else None,
    )
    return Found(backup=BackupInfo(id="b", time=now(), repository="default", kind=kind, size=size), meta=meta)


@pytest.mark.parametrize(
    ("options", "asked", "backup", "limit", "as_image", "size"),
    [
        ({}, {}, found(size=100 * GIB), None, False, None),  # no filesystem of its own: it grows as it is filled
        ({}, {}, found(size=5 * GIB), 10 * GIB, False, None),
        ({}, {}, found(size=8 * GIB), 10 * GIB, False, "12G"),
        ({}, {}, found(size=1, used=7 * GIB), 10 * GIB, False, "11G"),
        ({"size": "1G"}, {}, found(size=GIB), 10 * GIB, False, "2G"),  # a quota has no overhead, a filesystem has
        ({"size": "1G"}, {}, found(size=GIB, backend="lvm"), 10 * GIB, False, "1G"),
        ({"size": "20G"}, {}, found(size=8 * GIB), 10 * GIB, False, "20G"),
        ({"size": "1G"}, {"size": "1G"}, found(size=8 * GIB), 10 * GIB, False, "1G"),
        ({}, {}, found("image", size=10 * GIB, image=10 * GIB), 10 * GIB, True, None),
        ({}, {}, found("image", size=20 * GIB, image=20 * GIB), 10 * GIB, True, "20G"),
        ({}, {}, found("image", size=99 * GIB, image=99 * GIB, used=GIB), 10 * GIB, False, None),  # files out of it
    ],
)
def test_a_volume_gets_a_size_into_which_its_contents_fit(
    options: dict[str, str], asked: dict[str, str], backup: Found, limit: int | None, as_image: bool, size: str | None
) -> None:
    fitting = restored_options.fitting(options, asked, backup, limit, "lvm", as_image=as_image)
    assert fitting.get("size") == size
    changed = size != options.get("size")
    assert list(restored_options.enlarged(options, fitting)) == (
        [f"the volume gets size={size}, so that the contents fit{', instead of 1G' if options else ''}"]
        if changed
        else []
    )
