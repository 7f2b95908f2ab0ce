"""Which policy protects which volume."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase

from msgspec import Struct

from snapvol.model import State, Volume
from snapvol.policies import policy as policies
from snapvol.policies.policy import Policy
from snapvol.service.catalog import Catalog, Entry

NONE = "none"


class Ward(Struct, frozen=True, kw_only=True):
    """A volume and the policy that protects it, with what the volume's own options change in it."""

    entry: Entry
    policy: Policy


def wards(catalog: Catalog, known: Mapping[str, Policy]) -> Iterator[Ward]:
    """Yield every volume that has a policy and can be protected now."""
    for entry in catalog.entries():
        if entry.volume.state is not State.READY or entry.shadowed or entry.pool.problem is not None:
            continue
        policy = policy_of(entry, known)
        if policy is not None:
            yield Ward(entry=entry, policy=policy)


def policy_of(entry: Entry, known: Mapping[str, Policy]) -> Policy | None:
    """Return a volume's policy: that of its option, else the first that selects it, else its pool's default.

    Where there is none, the volume's own schedules are one. One that does not exist any more protects nothing: see
    `missing`.
    """
    options = entry.volume.options
    name = _named(entry, known)
    if name == NONE:
        return None
    if name is None:
        return policies.own(options)
    return policies.overridden(known[name], options) if name in known else None


def missing(entry: Entry, known: Mapping[str, Policy]) -> str | None:
    """Return the policy that a volume should have and that does not exist."""
    name = _named(entry, known)
    return name if name not in (None, NONE) and name not in known else None


def _named(entry: Entry, known: Mapping[str, Policy]) -> str | None:
    return entry.volume.options.get("policy") or _selected(entry.volume, known) or entry.pool.defaults.get("policy")


def _selected(volume: Volume, known: Mapping[str, Policy]) -> str | None:
    return next((name for name, policy in sorted(known.items()) if _selects(policy, volume)), None)


def _selects(policy: Policy, volume: Volume) -> bool:
    labels = {f"{key}={value}" for key, value in volume.labels.items()} | set(volume.labels)
    return any(fnmatchcase(volume.name, pattern) for pattern in policy.volumes) or bool(labels & set(policy.labels))
