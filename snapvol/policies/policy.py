"""A policy: when to snapshot and back up, and what to keep; as a table of the settings, and with single fields changed.

[policies.standard]
snapshot = { schedule = "hourly", keep = "24h 7d" }
backup = { schedule = "03:00", keep = "7d 4w 12m", window = "22:00-06:00" }
time_zone = "Europe/Berlin"
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta, tzinfo
from typing import Any, TypeVar
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

import msgspec
from msgspec import Struct

from snapvol.errors import UsageError, nearest
from snapvol.policies import keep as keeping
from snapvol.policies import schedule as scheduling
from snapvol.policies import window as windows
from snapvol.policies.keep import Keep
from snapvol.policies.schedule import Schedule
from snapvol.policies.window import Window

Parsed = TypeVar("Parsed")
KEYS = ("snapshot", "backup", "time_zone", "jitter", "volumes", "labels")
FIELDS = {"snapshot": ("schedule", "keep"), "backup": ("schedule", "keep", "window")}
OVERRIDES = ("snapshot.schedule", "snapshot.keep", "backup.schedule", "backup.keep")
LONGEST_JITTER = timedelta(hours=12)


class Plan(Struct, frozen=True, kw_only=True):
    """When to make points of one kind, and which to keep.

    Attributes:
        schedule: when.
        keep: which; None for all.
        jitter: below this, every volume's times come later by an amount of its own.
        window: when it may begin; None for always.
    """

    schedule: Schedule
    keep: Keep | None = None
    jitter: timedelta = timedelta()
    window: Window | None = None

    def due(self, volume: str, last: datetime | None, now: datetime) -> datetime | None:
        """Return since when the volume with this identity is due; None where it is not."""
        moment = self.next(volume, last, now)
        return moment if moment <= now else None

    def next(self, volume: str, last: datetime | None, now: datetime) -> datetime:
        """Return when it is due next, in the past where that was missed; never outside the window.

        Args:
            volume: its identity.
            last: the time of its newest point of this kind; None where it has none.
            now: the present.
        """
        moment = self.schedule.next(last, now, scheduling.jitter(self.jitter, volume))
        if self.window is None:
            return moment
        # What was missed is made up for in the window that is open, or in the next.
        return self.window.opens(moment if moment > now else now) if self.window.opens(now) > now else moment


class Policy(Struct, frozen=True, kw_only=True):
    """See above.

    Attributes:
        name: what it is called.
        snapshot: None takes no snapshots.
        backup: None makes no backups.
        zone: whose calendar and clock it follows.
        time_zone: the zone's name.
        jitter: as it was given.
        volumes: patterns of the names of volumes that it protects without being named by them.
        labels: ``KEY`` or ``KEY=VALUE`` of Docker's labels, likewise.
    """

    name: str
    zone: tzinfo
    time_zone: str
    snapshot: Plan | None = None
    backup: Plan | None = None
    jitter: timedelta = timedelta()
    volumes: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()

    def shown(self) -> dict[str, str | list[str]]:
        """Return it as flat keys and values, as they are written in settings; what is not set is left out."""
        found: dict[str, str | list[str]] = {}
        for kind in FIELDS:
            plan: Plan | None = getattr(self, kind)
            if plan is not None:
                found[f"{kind}.schedule"] = str(plan.schedule)
                found |= {f"{kind}.{key}": str(value) for key in ("keep", "window") if (value := getattr(plan, key))}
        found |= {"time_zone": self.time_zone, "jitter": f"{self.jitter // timedelta(seconds=1)}s"}
        return found | {key: list(words) for key in ("volumes", "labels") if (words := getattr(self, key))}


def parse(name: str, table: object) -> Policy:
    """Read a policy.

    Raises:
        UsageError: it is wrong; the message begins with the key in it, as ``backup.keep``.
    """
    given = _table("", table, KEYS)
    time_zone, zone = _zone(given.get("time_zone"))
    jitter = _keyed("jitter", given.get("jitter", "0h"), _jitter)
    plans = {kind: _plan(kind, given[kind], zone, jitter) for kind in FIELDS if kind in given}
    if not plans:
        raise UsageError("it neither snapshots nor backs up", 'write snapshot = { schedule = "hourly", keep = "24h" }')
    return Policy(
        name=name,
        zone=zone,
        time_zone=time_zone,
        jitter=jitter,
        volumes=_words("volumes", given.get("volumes", [])),
        labels=_words("labels", given.get("labels", [])),
        **plans,
    )


def overridden(policy: Policy, options: Mapping[str, str]) -> Policy:
    """Return the policy with the fields changed that a volume's options give (`OVERRIDES`); ``none`` is no schedule."""
    changed = {}
    for kind in FIELDS:
        plan: Plan | None = getattr(policy, kind)
        said, keep = options.get(f"{kind}.schedule"), options.get(f"{kind}.keep")
        if said == "none":
            plan = None
        elif said is not None:
            schedule = scheduling.parse(said, policy.zone)
            plan = msgspec.structs.replace(plan, schedule=schedule) if plan else Plan(schedule=schedule)
        if plan is not None and keep is not None:
            plan = msgspec.structs.replace(plan, keep=keeping.parse(keep))
        changed[kind] = plan
    return msgspec.structs.replace(policy, **changed)


def own(options: Mapping[str, str]) -> Policy | None:
    """Return the policy of a volume that has none but schedules of its own; None where it has none of these either."""
    if not any(f"{kind}.schedule" in options for kind in FIELDS):
        return None
    time_zone, zone = _zone(None)
    return overridden(Policy(name="(own)", zone=zone, time_zone=time_zone), options)


def check_field(key: str, value: str) -> str:
    """Return a volume option of `OVERRIDES` in its one spelling.

    Raises:
        UsageError: it is wrong.
    """
    if key.endswith(".keep"):
        return str(keeping.parse(value))
    return "none" if value == "none" else str(scheduling.parse(value, _zone(None)[1]))


def _plan(kind: str, table: object, zone: tzinfo, jitter: timedelta) -> Plan:
    given = _table(f"{kind}.", table, FIELDS[kind])
    if "schedule" not in given:
        raise UsageError(f"{kind}.schedule is missing", f'write {kind} = {{ schedule = "daily", keep = "7d" }}')
    texts = {key: _keyed(f"{kind}.{key}", value, str) for key, value in given.items()}
    keep, window = texts.get("keep"), texts.get("window")
    return Plan(
        schedule=_keyed(f"{kind}.schedule", texts["schedule"], lambda text: scheduling.parse(text, zone)),
        keep=_keyed(f"{kind}.keep", keep, keeping.parse) if keep is not None else None,
        jitter=jitter,
        window=_keyed(f"{kind}.window", window, lambda text: windows.parse(text, zone)) if window is not None else None,
    )


def _table(prefix: str, table: object, valid: tuple[str, ...]) -> Mapping[str, Any]:
    if not isinstance(table, dict):
        raise UsageError(f"{prefix.removesuffix('.') or 'a policy'} is a table", 'write { schedule = "daily" }')
    for key in table:
        if key not in valid:
            raise UsageError(f"unknown key '{prefix}{key}'", nearest(key, list(valid)))
    return table


def _keyed(key: str, value: object, read: Callable[[str], Parsed]) -> Parsed:
    """Read a text; say which key was wrong."""
    if not isinstance(value, str):
        raise UsageError(f"{key}: {value!r} is not a text", f'write {key} = "…"')
    try:
        return read(value)
    except UsageError as error:
        raise UsageError(f"{key}: {error.message}", error.hint) from None


def _zone(name: object) -> tuple[str, tzinfo]:
    """Return a time zone by its name; the machine's own where there is none."""
    if name is None:
        import tzlocal

        try:
            name = tzlocal.get_localzone_name() or "UTC"
        except (ZoneInfoNotFoundError, ValueError, OSError):
            name = "UTC"
    if not isinstance(name, str):
        raise UsageError(f"time_zone: {name!r} is not a text", 'write time_zone = "Europe/Berlin"')
    try:
        return name, ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise UsageError(f"time_zone: there is no {name!r}", nearest(name, sorted(available_timezones()))) from None


def _jitter(text: str) -> timedelta:
    units = {"s": 1, "m": 60, "h": 3600}
    if not (text[:-1].isascii() and text[:-1].isdigit()) or text[-1:] not in units:
        raise UsageError(f"{text!r} is not a delay", "write as in: 10m")
    found = timedelta(seconds=min(int(text[:-1]), 10**6) * units[text[-1]])
    if found > LONGEST_JITTER:
        raise UsageError(f"{text!r} is longer than 12h", "write less")
    return found


def _words(key: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(word, str) and word.strip() for word in value):
        raise UsageError(f"{key}: {value!r} is not a list of texts", f'write {key} = ["…"]')
    return tuple(value)
