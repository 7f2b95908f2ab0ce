"""Repositories in restic's format, version 2: `snapvol` writes what any stock `restic` reads."""

from __future__ import annotations

from snapvol.repository.findings import CheckReport, Problem
from snapvol.repository.ids import BlobKind
from snapvol.repository.keys import KeyInfo
from snapvol.repository.locks import Lock
from snapvol.repository.repository import Repository
from snapvol.repository.snapshots import SnapshotDocument
from snapvol.repository.writer import Tuning

__all__ = ["BlobKind", "CheckReport", "KeyInfo", "Lock", "Problem", "Repository", "SnapshotDocument", "Tuning"]
