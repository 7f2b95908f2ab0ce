"""Volume options (DESIGN §7): known keys, right values, one spelling for each value, and whose option it is."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from snapvol import units
from snapvol.backend import Backend, Features, Option
from snapvol.errors import SettingsError, SnapvolError, UnknownOption, Unsupported, UsageError, nearest
from snapvol.names import split_snapshot
from snapvol.policies import policy as policies
from snapvol.settings import PoolSettings, Settings

GENERAL = (
    "pool", "size", "fs", "snapshot", "backup", "repository", "policy", *policies.OVERRIDES,
    "backup.kind", "backup.chunk", "uid", "gid", "mode", "protect",
)  # fmt: skip
# Podman reads `--opt o=uid=…,size=…` itself and then passes on both `o` and these.
IGNORED = frozenset({"o", "UID", "GID", "SIZE", "INODES", "NOQUOTA"})
# What a volume is made from or what its first contents get; the rest can be set later.
NOT_IN_DEFAULTS = ("pool", "snapshot", "backup")
# What a clone has from its source where nobody says otherwise; the rest comes with the contents or is its own.
INHERITED = ("size", "fs", "repository", "policy", "backup.kind", "backup.chunk")
HIGHEST_ID = 2**32 - 2
SMALLEST_CHUNK, LARGEST_CHUNK = 64 << 10, 4 << 20
# Kinds of storage whose code comes later, by the prefix of their options.
_PREFIXES = {"zfs": "zfs", "lvm": "lvm", "btrfs": "btrfs"}
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def read(given: Mapping[str, str], settings: Settings, kinds: Mapping[str, type[Backend]], kind: str) -> dict[str, str]:
    """Check options for a pool of one kind of storage and bring every value into its one spelling.

    Args:
        given: as people wrote them. What Podman adds on its own is left out.
        settings: for the names of pools and repositories.
        kinds: all kinds of storage.
        kind: the pool's.

    Raises:
        UnknownOption: no such option, or it is for another kind of storage; with the nearest valid one (T16).
        UsageError: a value is wrong.
    """
    checked: dict[str, str] = {}
    for key, value in given.items():
        if key in IGNORED:
            continue
        check_key(key, kinds, kind)
        checked[key] = _value(key, value, settings, kinds[kind])
    return checked


def source_of(given: Mapping[str, str]) -> tuple[str, str | None] | None:
    """Return the volume that the option ``snapshot`` names, and the snapshot, or None for one taken now.

    Raises:
        UsageError: it is not ``VOLUME[@SNAPSHOT]``, or ``backup`` is given too.
    """
    if "snapshot" not in given:
        return None
    if "backup" in given:
        raise UsageError("options 'snapshot' and 'backup' exclude each other", "a volume is made from one of them")
    try:
        return split_snapshot(given["snapshot"].strip())
    except SnapvolError as error:
        raise type(error)(f"option 'snapshot': {error.message}", error.hint) from None


def pool_of(given: Mapping[str, str], settings: Settings) -> str | None:
    """Return the pool that options name; None where they name none.

    Raises:
        UsageError: no such pool.
    """
    name = given.get("pool")
    return None if name is None else _pool(name, settings)


def check_defaults(
    name: str, pool: PoolSettings, settings: Settings, kinds: Mapping[str, type[Backend]]
) -> dict[str, str]:
    """Return a pool's default options, checked.

    Raises:
        SettingsError: one is wrong, with its key and where it was set.
    """
    for key, value in pool.defaults.items():
        place = f"pools.{name}.defaults.{key}"
        where = f"{settings.origins.get(place, 'settings')}: {place}"
        if key in NOT_IN_DEFAULTS:
            raise SettingsError(f"{where}: '{key}' cannot be a default", "give it with each volume")
        try:
            read({key: value}, settings, kinds, pool.backend)
        except SnapvolError as error:
            raise SettingsError(f"{where}: {error.message}", error.hint) from None
    return read(pool.defaults, settings, kinds, pool.backend)


def check_features(options: Mapping[str, str], features: Features, pool: str, kind: str) -> None:
    """Refuse what this pool cannot do.

    Raises:
        Unsupported: with the pool and the reason.
    """
    what = f"pool '{pool}' ({kind})"
    if "size" in options and not features.quota:
        raise Unsupported(f"option 'size': {what} has no quotas", features.reason or "leave 'size' out")
    if "snapshot" in options and not features.snapshots:
        raise Unsupported(f"option 'snapshot': {what} has no snapshots", features.reason)
    if "fs" in options and options["fs"] not in features.filesystems:
        if features.filesystems:
            raise Unsupported(f"option 'fs': {what} makes {' or '.join(features.filesystems)}")
        raise Unsupported(f"option 'fs': {what} makes no filesystems of its own", "leave 'fs' out")
    if "backup.chunk" in options and "image" not in features.backup_kinds:
        raise Unsupported(f"option 'backup.chunk': {what} has no image backups", "leave it out")
    if "backup.kind" in options and options["backup.kind"] not in features.backup_kinds:
        offered = " or ".join(f"backup.kind={word}" for word in features.backup_kinds)
        raise Unsupported(f"option 'backup.kind': {what} has no {options['backup.kind']} backups", f"write {offered}")


def inherited(options: Mapping[str, str], backend: Backend) -> dict[str, str]:
    """Return what a clone takes over from its source's options: see `INHERITED`, and the storage's own."""
    own = of_storage(options, backend)
    return {key: value for key, value in options.items() if key in INHERITED or key in own}


def differences(existing: Mapping[str, str], asked: Mapping[str, str], explained: Mapping[str, str]) -> list[str]:
    """Return in words where an existing volume's options differ from those asked for; empty: they are the same.

    Args:
        existing: the volume's options.
        asked: what was asked for, checked.
        explained: options that a volume has without being asked: the pool's defaults, what a clone inherits.
    """
    said = []
    if "protect" in asked:
        existing = {"protect": "false", **existing}  # false is not written down
    for key in sorted(existing.keys() | asked.keys()):
        has, wanted = existing.get(key), asked.get(key, explained.get(key))
        if key not in existing:
            if key in asked:
                said.append(f"{key}={wanted} was asked for, it has none")
        elif wanted is None:
            said.append(f"it has {key}={has}")
        elif has != wanted:
            said.append(f"it has {key}={has}, {key}={wanted} was asked for")
    return said


def check_key(key: str, kinds: Mapping[str, type[Backend]], kind: str) -> None:
    """Check that there is such an option for pools of this kind.

    Raises:
        UnknownOption: there is not; says whose it is, or the nearest valid one.
    """
    if key in GENERAL or _option(key, kinds[kind]) is not None:
        return
    valid = [*GENERAL, *(option.key for option in kinds[kind].options)]
    owner = next((name for name, backend in kinds.items() if _option(key, backend) is not None), None)
    owner = owner or _PREFIXES.get(key.partition(".")[0] if "." in key else "")
    if owner is not None and owner != kind:
        raise UnknownOption(f"option {_shown(key)} is for {owner} pools, this one is of kind {kind}", "leave it out")
    raise UnknownOption(f"unknown option {_shown(key)}", nearest(key[:100], valid))


def of_storage(options: Mapping[str, str], backend: Backend) -> list[str]:
    """Return which of the options only this kind of storage knows: those that decide how contents are kept."""
    return [key for key in options if key == "fs" or _option(key, type(backend)) is not None]


def _option(key: str, backend: type[Backend]) -> Option | None:
    """Return the option of the storage that ``key`` is; one that ends in ``.*`` stands for all that begin so."""
    for option in backend.options:
        stem = option.key.removesuffix("*")
        if key == option.key if stem == option.key else len(key) > len(stem) and key.startswith(stem):
            return option
    return None


def _value(key: str, value: str, settings: Settings, backend: type[Backend]) -> str:
    if _CONTROL.search(value) or not value.strip():
        raise UsageError(f"option '{key}': {_shown(value)} is not a value")
    reader = _READERS.get(key)
    try:
        if key in policies.OVERRIDES:
            return policies.check_field(key, value.strip())
        if reader is not None:
            return reader(value.strip(), settings)
        option = _option(key, backend)
        if option is not None and option.choices:
            return _choice(value.strip(), option.choices)
    except SettingsError as error:
        raise UsageError(f"option '{key}': {error.message}", error.hint) from None
    except SnapvolError as error:
        raise type(error)(f"option '{key}': {error.message}", error.hint) from None
    return value.strip()


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}...")


def _size(text: str, _: Settings) -> str:
    return units.spelled(units.size(text))


def _chunk(text: str, _: Settings) -> str:
    size = units.size(text)
    if not SMALLEST_CHUNK <= size <= LARGEST_CHUNK or size & (size - 1):
        raise UsageError(f"{_shown(text)} is not a power of two from 64K to 4M", "write 256K, or leave it out for 1M")
    return units.spelled(size)


def _flag(text: str, _: Settings) -> str:
    words = {"true": "true", "yes": "true", "1": "true", "false": "false", "no": "false", "0": "false"}
    if text.lower() not in words:
        raise UsageError(f"{_shown(text)} is neither true nor false")
    return words[text.lower()]


def _owner(text: str, _: Settings) -> str:
    if not (text.isascii() and text.isdigit()) or len(text) > 12 or int(text) > HIGHEST_ID:
        raise UsageError(f"{_shown(text)} is not a number from 0 to {HIGHEST_ID}")
    return str(int(text))


def _mode(text: str, _: Settings) -> str:
    if not re.fullmatch("[0-7]{1,5}", text) or int(text, 8) > 0o7777:
        raise UsageError(f"{_shown(text)} is not an octal mode", "write it like 0750")
    return f"{int(text, 8):04o}"


def _choice(text: str, valid: tuple[str, ...]) -> str:
    if text not in valid:
        raise UsageError(f"{_shown(text)} is not a choice", nearest(text[:100], valid))
    return text


def _pool(text: str, settings: Settings) -> str:
    if text not in settings.pools:
        raise UsageError(f"no pool is called {_shown(text)}", nearest(text[:100], list(settings.pools)))
    return text


def _repository(text: str, settings: Settings) -> str:
    if text not in settings.repositories:
        raise UsageError(f"no repository is called {_shown(text)}", nearest(text[:100], list(settings.repositories)))
    return text


def _policy(text: str, settings: Settings) -> str:
    if text != "none" and text not in settings.policies:
        known = [*settings.policies, "none"]
        raise UsageError(f"no policy is called {_shown(text)}", nearest(text[:100], known))
    return text


def _snapshot(text: str, _: Settings) -> str:
    split_snapshot(text)
    return text


_READERS: Mapping[str, Callable[[str, Settings], str]] = {
    "pool": _pool,
    "size": _size,
    "fs": lambda text, _: _choice(text, ("ext4", "xfs")),
    "snapshot": _snapshot,
    "backup": lambda text, _: text,
    "repository": _repository,
    "policy": _policy,
    "backup.kind": lambda text, _: _choice(text, ("image", "files")),
    "backup.chunk": _chunk,
    "uid": _owner,
    "gid": _owner,
    "mode": _mode,
    "protect": _flag,
}
