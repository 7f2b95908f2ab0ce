"""What a backend declares: true, and an error with a way out where it says no."""

from __future__ import annotations

import re

import pytest

from snapvol.backend import Backend, Features
from snapvol.backends import BACKENDS
from snapvol.errors import SettingsError, Unsupported
from snapvol.model import Snapshot, now
from support.memory import Memory
from support.storage import EVERYTHING, NO_BASE, Pool


def test_every_backend_of_the_registry_is_exercised() -> None:
    assert {variant.backend for variant in EVERYTHING.values()} == {*BACKENDS, "memory"}
    assert all(kind == backend.kind for kind, backend in BACKENDS.items())
    assert all(option.key.startswith(f"{kind}.") for kind, backend in BACKENDS.items() for option in backend.options)


def test_features_are_those_of_the_storage(pool: Pool) -> None:
    names = (*Features.__struct_fields__, "keeps_base")
    flags = {name for name in names if isinstance(getattr(pool.backend.features, name), bool)}
    assert {name for name in flags if not getattr(pool.backend.features, name)} == pool.variant.missing


def test_what_is_missing_is_refused_with_the_way_out(pool: Pool) -> None:
    volume = pool.volume()
    backend = pool.backend
    missing = pool.variant.missing
    if "quota" in missing:
        with pytest.raises(Unsupported, match="no quotas") as refused:
            backend.create(pool.record("sized"), size=64 << 20)
        assert refused.value.hint == backend.features.reason
    if "resize" in missing:
        with pytest.raises(Unsupported) as refused:
            backend.resize(volume, 64 << 20)
        assert refused.value.hint == backend.features.reason
    if "snapshots" in missing:
        snapshot = Snapshot(volume="web", volume_id=volume.id, name="s", id="s", created=now())
        with pytest.raises(Unsupported) as refused:
            backend.snapshot([volume], "s")
        assert "`full_copies = true` in [pools.pool]" in str(refused.value)
        with pytest.raises(Unsupported, match="full_copies"):
            backend.create(pool.record("clone"), source=snapshot)
        with pytest.raises(Unsupported, match="full_copies"):
            backend.rollback(volume, snapshot)
    assert pool.names() == {"web"}
    assert (backend.features.reason is None) == (not missing - NO_BASE)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("directory", {}, "[pools.p] lacks the required field `path`"),
        ("directory", {"path": "pool"}, "[pools.p] path = 'pool' is not absolute; start it with '/'"),
        ("directory", {"path": 5}, "[pools.p] Expected `str`, got `int` - at `$.path`"),
        ("directory", {"path": "/p", "fullcopies": True}, "[pools.p] has no setting 'fullcopies'; did you mean"
         " 'full_copies'?"),
        ("directory", {"path": "/p", "full_copies": "yes"},
         "[pools.p] Expected `bool`, got `str` - at `$.full_copies`"),
        ("directory", {"path": "/p", "reserve": 99}, "[pools.p] Expected `int` <= 90 - at `$.reserve`"),
        ("btrfs", {"path": "/p", "full_copies": True}, "[pools.p] has no setting 'full_copies'; valid: path, reserve"),
        ("btrfs", {"pth": "/p"}, "[pools.p] has no setting 'pth'; did you mean 'path'?"),
    ],
)  # fmt: skip
def test_settings_are_refused_by_key(kind: str, settings: dict[str, object], message: str) -> None:
    """T16."""
    with pytest.raises(SettingsError, match=f"^{re.escape(message)}$"):
        BACKENDS[kind]("p", settings)


def test_the_memory_backend_has_no_settings() -> None:
    with pytest.raises(SettingsError, match="no setting 'path'"):
        Memory("p", {"path": "/p"})


def test_every_override_points_to_the_contract_or_documents_itself() -> None:
    for backend in BACKENDS.values():
        for name in Backend.__abstractmethods__ - {"__init__"}:
            member = getattr(backend, name)
            assert member.__doc__, f"{backend.kind}.{name}"
