"""The job that reads and checks every byte of a backup."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from snapvol.service import work
from snapvol.service.job import Kind, Run
from snapvol.service.library import Library


class VerifySpec(Struct, frozen=True, kw_only=True):
    """Which backup, by its full id."""

    backup: str
    repository: str


class VerifyJob(Kind):
    """Has a worker verify a backup."""

    name = "verify"

    def __init__(self, library: Library) -> None:
        self._library = library

    def conduct(self, run: Run) -> dict[str, Any]:
        """See `Kind`."""
        spec = msgspec.convert(run.spec, VerifySpec)
        result = run.perform(work.Verify(repository=self._library.place(spec.repository), backup=spec.backup))
        return {"repository": spec.repository, "backup": spec.backup, **result}
