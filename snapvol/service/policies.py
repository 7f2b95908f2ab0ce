"""The policies there are: those of the settings, and those that were set while the daemon runs."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from snapvol.errors import NotFound, Refused, SnapvolError, UsageError, nearest
from snapvol.names import volume_name
from snapvol.policies import policy as parsing
from snapvol.policies.policy import Policy
from snapvol.service.repositories import write_durably

log = logging.getLogger(__name__)

Table = dict[str, Any]
HERE = "snapvol policy set"  # where a policy comes from that is not in the settings
LISTS = ("volumes", "labels")


class Policies:
    """Policies by name. May be used from any thread; reading is from memory.

    Args:
        settings: those of the settings, which nobody changes here.
        path: where the others are kept.
    """

    def __init__(self, settings: Mapping[str, Policy], path: Path) -> None:
        self._settings = dict(settings)
        self._path = path
        self._lock = threading.Lock()
        self.problem: str | None = None  # why those that were set here are not known
        self._tables = self._load()
        self._all = self._parsed()

    def all(self) -> Mapping[str, Policy]:
        """Return all policies. Never changed: a change puts another mapping in its place."""
        return self._all

    def get(self, name: str) -> Policy:
        """Return the policy called ``name``.

        Raises:
            NotFound: there is none.
        """
        try:
            return self._all[name]
        except KeyError:
            raise NotFound(f"there is no policy '{name}'", nearest(name, list(self._all)) or _FIRST) from None

    def origin(self, name: str) -> str:
        """Return where a policy comes from: ``settings``, or the command that set it."""
        return "settings" if name in self._settings else HERE

    def reload(self, settings: Mapping[str, Policy]) -> None:
        """Take up the policies of changed settings."""
        with self._lock:
            self._settings = dict(settings)
            self._all = self._parsed()

    def set(self, name: str, changes: Mapping[str, str | None]) -> Policy:
        """Make a policy, or change one that was made here.

        Args:
            name: of it.
            changes: dotted keys as in the settings, ``backup.keep``; lists separated by commas; None takes a key away.

        Raises:
            UsageError: it would be wrong.
            Refused: it is one of the settings.
        """
        volume_name(name)
        with self._lock:
            self._refuse_settings(name, "change")
            table = _changed(self._tables.get(name, {}), changes)
            policy = parsing.parse(name, table)
            self._keep({**self._tables, name: table})
        return policy

    def remove(self, name: str) -> None:
        """Remove a policy that was made here.

        Raises:
            NotFound: there is none.
            Refused: it is one of the settings.
        """
        self.get(name)
        with self._lock:
            self._refuse_settings(name, "remove")
            self._keep({other: table for other, table in self._tables.items() if other != name})

    def _refuse_settings(self, name: str, to: str) -> None:
        if self.problem is not None:
            raise Refused(f"policies cannot be changed: {self.problem}", f"mend or remove {self._path}")
        if name in self._settings:
            raise Refused(
                f"policy '{name}' is set in the settings file",
                f"{to} it there: [policies.{name}]; then: systemctl reload snapvol",
            )

    def _keep(self, tables: dict[str, Table]) -> None:
        write_durably(self._path, msgspec.json.format(msgspec.json.encode(tables), indent=2) + b"\n", os.replace)
        self._tables = tables
        self._all = self._parsed()

    def _load(self) -> dict[str, Table]:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=dict[str, Table])
        except FileNotFoundError:
            return {}
        except (OSError, msgspec.MsgspecError) as error:
            self.problem = f"{self._path} cannot be read: {error}"
            log.error("%s", self.problem)
            return {}

    def _parsed(self) -> dict[str, Policy]:
        found: dict[str, Policy] = {}
        for name, table in self._tables.items():
            try:
                found[name] = parsing.parse(name, table)
            except SnapvolError as error:
                self.problem = f"policy '{name}' in {self._path} is wrong: {error.message}"
                log.error("%s", self.problem)
        return found | self._settings


_FIRST = "make one: snapvol policy set NAME snapshot.schedule=hourly snapshot.keep='24h 7d'"


def _changed(table: Table, changes: Mapping[str, str | None]) -> Table:
    if not changes:
        raise UsageError("nothing to set", "write as in: snapshot.schedule=hourly snapshot.keep='24h 7d'")
    made = {key: dict(value) if isinstance(value, dict) else value for key, value in table.items()}
    for dotted, value in changes.items():
        kind, dot, key = dotted.partition(".")
        place, last = (made.setdefault(kind, {}), key) if dot else (made, kind)
        if not isinstance(place, dict):
            raise UsageError(f"'{kind}' is no table", f"write {kind}=…")
        if value is None:
            place.pop(last, None)
        else:
            place[last] = [word.strip() for word in value.split(",")] if dotted in LISTS else value
    return {key: value for key, value in made.items() if value != {}}
