"""What makes a tree a backup of a volume: the manifest beside it, and restic's snapshot document."""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Sequence
from datetime import datetime

from snapvol import __version__
from snapvol.engine import manifest, node
from snapvol.engine.manifest import VolumeMeta
from snapvol.engine.node import Kind, Node
from snapvol.engine.reading import TAG
from snapvol.model import now
from snapvol.repository import BlobKind, Repository, SnapshotDocument


def top_tree(repository: Repository, meta: VolumeMeta, volume: Node) -> str:
    """Store the manifest and the tree that holds it and the volume; return that tree's hexadecimal id.

    Raises:
        SnapvolError: the repository failed.
    """
    data = manifest.encode(meta)
    taken = node.time_of(meta.taken)
    file = Node(
        quoted=manifest.FILE.decode(),
        type=Kind.FILE,
        mode=0o600,
        mtime=taken,
        atime=taken,
        ctime=taken,
        size=len(data),
        links=1,
        content=[repository.add(BlobKind.DATA, data)[0].hex()],
    )
    tree = node.encode_tree([node.encode(file), node.encode(volume)])
    return repository.add(BlobKind.TREE, tree)[0].hex()


def document(
    meta: VolumeMeta,
    root: str,
    *,
    host: str | None,
    begun: datetime,
    tags: Sequence[str],
    summary: dict[str, object],
) -> SnapshotDocument:
    """Return the document of a backup; ``meta.base`` becomes its parent.

    Args:
        meta: as stored in the backup.
        root: the id of its `top_tree`.
        host: the name under which backups are grouped; this machine's by default.
        begun: when the backup began; it ends now.
        tags: beside those that every backup of ours has.
        summary: restic's figures, and more.
    """
    times: dict[str, object] = {"backup_start": begun.isoformat(), "backup_end": now().isoformat()}
    return SnapshotDocument(
        time=meta.taken,  # of the data: the newest backup is the one that lost least, whenever it was made
        parent=meta.base,
        tree=root,
        paths=[f"/snapvol/{meta.name}"],
        hostname=host or socket.gethostname(),
        username=getpass.getuser(),
        uid=os.getuid(),
        gid=os.getgid(),
        tags=[TAG, f"volume={meta.name}", f"volume-id={meta.id}", *_policy(meta), *tags],
        program_version=f"snapvol {__version__}",
        summary=times | summary,
    )


def _policy(meta: VolumeMeta) -> list[str]:
    return [f"policy={meta.policy}"] if meta.policy else []
