"""Snapshot documents: what restic calls a snapshot and snapvol a backup."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from msgspec import Struct


class SnapshotDocument(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A snapshot as the format has it.

    Attributes:
        time: when it was taken, with a zone.
        tree: the id of its root tree.
        paths: what was backed up; stock clients group by host and paths.
        parent: the snapshot that unchanged files were compared with.
        hostname: where.
        username: by whom.
        uid: of that account.
        gid: of that account.
        excludes: patterns that a stock client was told to leave out.
        tags: words.
        original: the snapshot that this one was rewritten from.
        program_version: what wrote it.
        summary: figures, which differ by client.
    """

    time: datetime
    parent: str | None = None
    tree: str
    paths: list[str]
    hostname: str = ""
    username: str = ""
    uid: int = 0
    gid: int = 0
    excludes: list[str] | None = None
    tags: list[str] | None = None
    original: str | None = None
    program_version: str | None = None
    summary: dict[str, Any] | None = None
