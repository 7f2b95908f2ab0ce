"""The command line in this process, against a daemon that answers as a test says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from snapvol.backend import Tree
from snapvol.cli.program import run
from snapvol.engine.archiver import back_up
from snapvol.engine.manifest import VolumeMeta
from snapvol.engine.progress import Silent
from snapvol.repository import Repository
from snapvol.stores.local import LocalStore
from support.fake_api import Api, Result, as_terminal, serving
from support.repositories import CHEAP, PASSWORD


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    """A daemon that the command line finds."""
    with serving() as made:
        monkeypatch.setenv("SNAPVOL_SOCKET", str(made.path))
        yield made


@pytest.fixture
def snapvol(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run the program in this process, with ``terminal=True`` as on a terminal."""

    def call(*argv: str, terminal: bool = False) -> Result:
        with monkeypatch.context() as patch:
            if terminal:
                as_terminal(patch)
            code = run(argv)
        out, err = capfd.readouterr()
        return Result(code, out, err)

    return call


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with ``repository``, in which are two backups of ``wiki`` and one of ``db``."""
    place = tmp_path_factory.mktemp("direct")
    tree = place / "tree"
    (tree / "pages").mkdir(parents=True)
    (tree / "pages/home.md").write_text("# Home\n")
    (tree / "odd\nname").write_bytes(b"\0\1\2")
    (tree / "link").symlink_to("pages/home.md")
    (place / "password").touch(mode=0o600)
    (place / "password").write_text(PASSWORD + "\n")
    repository, _ = Repository.create(LocalStore(place / "repository"), PASSWORD, cost=CHEAP)
    repository.close()
    for volume in ("wiki", "db", "wiki"):
        meta = VolumeMeta(id=f"id-{volume}", name=volume, created=datetime.now(UTC), taken=datetime.now(UTC))
        with Repository.open(LocalStore(place / "repository"), PASSWORD) as repository:
            source = Tree(root=tree, identity=volume, stable_inodes=True)
            back_up(repository, source, meta, parent=None, progress=Silent(), host="here")
        (tree / "later").write_text("more")
    return place


@pytest.fixture
def there(made: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The same, named by the environment; the daemon's place is an empty directory."""
    monkeypatch.setenv("SNAPVOL_ROOT", str(made / "root"))
    monkeypatch.setenv("SNAPVOL_REPOSITORY", str(made / "repository"))
    monkeypatch.setenv("SNAPVOL_PASSWORD_FILE", str(made / "password"))
    yield made
    assert not (made / "root").exists()
