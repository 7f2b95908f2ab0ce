"""A service over an in-memory pool and a kernel that says what the test wants."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from snapvol import settings
from snapvol.backend import Backend, Features
from snapvol.backends import BACKENDS
from snapvol.model import Usage, Volume
from snapvol.service.kernel import Site, Survey
from snapvol.service.service import Service
from snapvol.settings import Settings
from support.imaged import Imaged, Mounted
from support.memory import Memory


class FakeKernel:
    """A kernel whose account of mounts the test writes."""

    def __init__(self) -> None:
        self.used: dict[str, list[str]] = {}
        self.asked = 0

    def use(self, what: str | Path, by: str = "container abc (process 7 sh)") -> None:
        """Let somebody use a path, or a source, as `Backend.sources` names it."""
        self.used.setdefault(str(what), []).append(by)

    def leave(self, what: str | Path) -> None:
        self.used.pop(str(what), None)

    def users(self, site: Site) -> list[str]:
        return self.survey({"": site}).users.get("", [])

    def survey(self, sites: Mapping[str, Site]) -> Survey:
        self.asked += 1
        found = {
            key: [user for what in (str(site.path), *site.sources) for user in self.used.get(what, [])]
            for key, site in sites.items()
        }
        return Survey(
            users={key: users for key, users in found.items() if users},
            mounted=frozenset(key for key, site in sites.items() if site.sources and site.path.is_symlink()),
        )


class Quotas(Memory):
    """The in-memory pool with sizes, which it only notes."""

    kind = "quotas"

    def __init__(
        self, pool: str = "memory", settings: Mapping[str, object] | None = None, *, root: Path = settings.ROOT
    ) -> None:
        super().__init__(pool, settings, root=root)
        self.limits: dict[str, int] = {}

    @property
    def features(self) -> Features:
        return Features(
            snapshots=True, instant=False, quota=True, resize=True, shared_blocks=False, stable_inodes=False
        )

    def create(self, volume: Volume, *, size: int | None = None, source: object = None) -> None:
        super().create(volume, source=source)  # type: ignore[arg-type]
        if size is not None:
            self.limits[volume.id] = size

    def resize(self, volume: Volume, size: int) -> None:
        self.limits[volume.id] = size

    def usage(self, volume: Volume) -> Usage:
        return Usage(used=super().usage(volume).used, limit=self.limits.get(volume.id))


KINDS: dict[str, type[Backend]] = {"memory": Memory, "quotas": Quotas, "mounted": Mounted, "imaged": Imaged}


def settings_for(root: Path, text: str = "") -> Settings:
    """Return settings below ``root``: as ``text`` (TOML) says, else with one pool in memory."""
    file = root / "config.toml"
    root.mkdir(parents=True, exist_ok=True)
    file.write_text(text or '[pools.default]\nbackend = "memory"\n')
    return settings.load(file, {"SNAPVOL_ROOT": str(root)})


def memory_service(root: Path, kernel: FakeKernel | None = None, text: str = "") -> Service:
    """Return a started service whose pools are in memory; the caller closes it."""
    service = Service(settings_for(root, text), kinds=KINDS, kernel=kernel or FakeKernel())
    service.start()
    return service


def directory_service(root: Path, kernel: FakeKernel | None = None, text: str = "") -> Service:
    """Return a started service over directories below ``root``; the caller closes it."""
    written = text or f'[pools.default]\nbackend = "directory"\npath = "{root}/pool"\nfull_copies = true\n'
    service = Service(settings_for(root, written), kernel=kernel or FakeKernel())
    service.start()
    return service


def imaged_service(root: Path, kernel: FakeKernel | None = None) -> Service:
    """Return a started service over volumes that are block devices, and a pool ``trees`` of directories."""
    written = (
        '[daemon]\ndefault_pool = "default"\n[pools.default]\nbackend = "imaged"\n'
        f'[pools.trees]\nbackend = "directory"\npath = "{root}/trees"\nfull_copies = true\n'
    )
    service = Service(settings_for(root, written), kinds={**BACKENDS, **KINDS}, kernel=kernel or FakeKernel())
    service.start()
    return service


def imaged_pool(service: Service) -> Imaged:
    """Return the pool of `imaged_service` whose volumes are block devices."""
    backend = service._context.catalog.pools["default"].backend
    assert isinstance(backend, Imaged)
    return backend
