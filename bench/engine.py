"""The engine as a program, for `bench/backup.py`: one repository, one tree, without daemon or snapshot.

Usage: engine.py REPOSITORY PASSWORD_FILE init | backup TREE | restore TARGET
"""

from __future__ import annotations

import sys
from pathlib import Path

from snapvol.backend import Tree
from snapvol.engine.archiver import back_up, latest_parent
from snapvol.engine.manifest import VolumeMeta
from snapvol.engine.progress import Silent
from snapvol.engine.restorer import restore
from snapvol.model import now
from snapvol.repository import Repository
from snapvol.settings import RepositorySettings
from snapvol.stores import open_store

VOLUME = "benchmark"


def main() -> None:
    url, password_file, verb, *where = sys.argv[1:]
    store = open_store(RepositorySettings(url=url))
    password = Path(password_file).read_text().splitlines()[0]
    if verb == "init":
        Repository.create(store, password)
        return
    repository = Repository.open(store, password)
    newest = latest_parent(repository, VOLUME)
    if verb == "backup":
        meta = VolumeMeta(id=VOLUME, name=VOLUME, created=now(), taken=now())
        tree = Tree(root=Path(where[0]), identity="", stable_inodes=True)
        back_up(repository, tree, meta, parent=newest, progress=Silent())
    elif newest is not None:
        target = Path(where[0])
        target.mkdir()
        restore(repository, newest, target, progress=Silent())


if __name__ == "__main__":
    main()
