"""The settings: defaults, over them the file, over it the environment, over it the command line's flags.

Every value knows where it came from. An unknown key is an error that names file, key and nearest valid key.
"""

from __future__ import annotations

import os
import re
import socket
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import msgspec
from msgspec import Struct, field

from snapvol.errors import InvalidName, SettingsError, UsageError, nearest
from snapvol.names import volume_name
from snapvol.policies import policy as parsing
from snapvol.policies.policy import Policy
from snapvol.units import size

CONFIG_FILE = Path("/etc/snapvol/config.toml")
ROOT = Path("/var/lib/snapvol")
DEFAULT_REPOSITORY = "default"


class DaemonSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[daemon]``.

    Attributes:
        root: where snapvol keeps its state, and everything else where no file says otherwise.
        runtime: what a reboot may empty: mount holders and the admin socket.
        default_pool: the pool of volumes that name none; the only pool where there is one.
        host: the name this host has in backups; the machine's own where empty.
        plugin_socket: Docker's side.
        api_socket: the CLI's side.
        socket_group: the group that may use the admin API.
        metrics: ``ADDRESS:PORT`` for Prometheus; empty for none.
        docker_socket: Docker's API, asked for volume labels; empty never asks.
        jobs: backups, restores and verifications that run at once; others wait.
        log_level: debug, info, warning or error.
    """

    root: Path = ROOT
    runtime: Path = Path("/run/snapvol")
    default_pool: str = ""
    host: str = ""
    plugin_socket: Path = Path("/run/docker/plugins/snapvol.sock")
    api_socket: Path = Path("/run/snapvol/api.sock")
    socket_group: str = "snapvol"
    metrics: str = ""
    docker_socket: str = "/run/docker.sock"
    jobs: int = 2
    log_level: str = "info"


class PoolSettings(Struct, frozen=True, kw_only=True):
    """``[pools.NAME]``.

    Attributes:
        backend: the kind of storage.
        defaults: volume options for volumes that do not give them.
        storage: every other key, which the backend checks.
    """

    backend: str
    defaults: dict[str, str] = field(default_factory=dict)
    storage: dict[str, object] = field(default_factory=dict)


class RepositorySettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[repositories.NAME]``.

    Attributes:
        url: an absolute path, or ``s3://bucket/prefix``.
        password_file: holds the password in its first line; mode 0600.
        endpoint: the S3 server's URL; AWS where empty.
        region: as the server wants it.
        addressing: how the bucket enters the URL.
        ca_file: certificates to trust instead of the system's.
        credentials_file: an AWS credentials file; where empty boto3 looks in its usual places.
        profile: the profile in it.
    """

    url: str
    password_file: Path | None = None
    endpoint: str = ""
    region: str = ""
    addressing: str = "auto"
    ca_file: Path | None = None
    credentials_file: Path | None = None
    profile: str = ""


class TrashSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[trash]``: ``keep`` is how long a removed volume can be brought back; ``0`` removes at once."""

    keep: str = "24h"

    @property
    def seconds(self) -> int:
        """``keep`` in seconds."""
        return duration(self.keep)


class CacheSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[cache]``: copies on this machine that spare requests to repositories.

    Attributes:
        path: where they lie.
        size: what all of them together may take; ``0`` keeps none.
    """

    path: Path = ROOT / "cache"
    size: str = "1G"

    @property
    def bytes(self) -> int:
        """``size`` in bytes."""
        return 0 if self.size == "0" else size(self.size)


class Settings(Struct, frozen=True, kw_only=True):
    """Everything, and where each value came from (``origins``: dotted key → default, file, variable or flag)."""

    daemon: DaemonSettings
    pools: dict[str, PoolSettings]
    repositories: dict[str, RepositorySettings]
    trash: TrashSettings
    cache: CacheSettings = CacheSettings()
    policies: dict[str, Policy] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)

    @property
    def default_pool(self) -> str:
        """The pool of volumes that name none."""
        return self.daemon.default_pool

    @property
    def host(self) -> str:
        """The name of this host in backups."""
        return self.daemon.host or socket.gethostname()

    @property
    def default_repository(self) -> str:
        """The repository where none is named: the only one, or the one called ``default``, which may not exist."""
        return next(iter(self.repositories)) if len(self.repositories) == 1 else DEFAULT_REPOSITORY

    def flag(self, repository: str) -> str:
        """Return what a command needs to mean this repository: nothing, or `` --repository NAME``."""
        return "" if repository == self.default_repository else f" --repository {repository}"

    def repository(self, name: str) -> RepositorySettings:
        """Return the repository called ``name``.

        Raises:
            SettingsError: there is none.
        """
        try:
            return self.repositories[name]
        except KeyError:
            raise SettingsError(f"no repository is called '{name}'", nearest(name, list(self.repositories))) from None


_DURATION = re.compile(r"([0-9]+)([smhdw]?)\Z")
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def duration(text: str) -> int:
    """Return the seconds of ``24h``, ``90m``, ``7d`` or ``0``.

    Raises:
        UsageError: it is not a duration.
    """
    match = _DURATION.match(text)
    if match is None:
        raise UsageError(f"{text!r} is not a duration", "write a whole number and s, m, h, d or w: 24h")
    return int(match[1]) * _SECONDS[match[2]]


Origins = dict[str, str]
Section = TypeVar("Section", bound=Struct)
_PLAIN_VARIABLES = {"SNAPVOL_CONFIG", "SNAPVOL_ROOT", "SNAPVOL_REPOSITORY", "SNAPVOL_PASSWORD_FILE", "SNAPVOL_SOCKET"}


def load(
    file: Path | None = None,
    environment: Mapping[str, str] | None = None,
    flags: Mapping[str, object] | None = None,
) -> Settings:
    """Return the effective settings.

    Args:
        file: the settings file; where None, ``SNAPVOL_CONFIG`` or, if it exists, `CONFIG_FILE`.
        environment: the process's own where None. ``SNAPVOL_ROOT`` moves everything below one directory, for a trial
            without root; ``SNAPVOL_DAEMON__HOST`` sets ``daemon.host``: two underscores stand for each dot.
        flags: dotted keys from the command line.

    Raises:
        SettingsError: unreadable, unknown or impossible, with file, key and what would be right.
    """
    environment = os.environ if environment is None else environment
    origins: Origins = {}
    table = _file_table(file, environment, origins)
    for variable, key, value in _variables(environment):
        _set(table, key, value)
        origins[key] = variable
    for key, flag in (flags or {}).items():
        _set(table, key, flag)
        origins[key] = "flag"
    return _settings(table, environment.get("SNAPVOL_ROOT"), origins)


def _file_table(file: Path | None, environment: Mapping[str, str], origins: Origins) -> dict[str, Any]:
    named = file or (Path(environment["SNAPVOL_CONFIG"]) if environment.get("SNAPVOL_CONFIG") else None)
    if named is None and "SNAPVOL_ROOT" in environment:
        return {}
    path = named or CONFIG_FILE
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if named is None:
            return {}
        raise SettingsError(f"{path}: there is no such file", "name an existing settings file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: cannot be read: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path}: {error}", "correct the TOML syntax there") from None
    for key in (*table, *_dotted(table)):
        origins[key] = str(path)
    return table


def _dotted(table: Mapping[str, Any], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in table.items():
        if isinstance(value, dict):
            flat |= _dotted(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _variables(environment: Mapping[str, str]) -> list[tuple[str, str, str]]:
    found = []
    for variable, value in sorted(environment.items()):
        if not variable.startswith("SNAPVOL_") or variable in _PLAIN_VARIABLES or variable.startswith("SNAPVOL_TEST_"):
            continue
        key = variable.removeprefix("SNAPVOL_").lower().replace("__", ".")
        if "." not in key:
            raise SettingsError(
                f"environment: {variable} is not a setting",
                nearest(variable, [*_PLAIN_VARIABLES, "SNAPVOL_DAEMON__HOST"]),
            )
        found.append((variable, key, value))
    return found


def _set(table: dict[str, Any], key: str, value: object) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        table = table.setdefault(parent, {})
        if not isinstance(table, dict):
            raise SettingsError(f"{key}: '{parent}' is a value, not a table")
    table[last] = value


def _settings(table: dict[str, Any], root: str | None, origins: Origins) -> Settings:
    sections = ["cache", "daemon", "policies", "pools", "repositories", "trash"]
    for section, value in table.items():
        if section not in sections:
            raise SettingsError(f"{_where(origins, section)}: unknown section '{section}'", nearest(section, sections))
        if not isinstance(value, dict):
            raise SettingsError(f"{_where(origins, section)}: '{section}' is a table", f"write [{section}]")
    daemon = _daemon(table.get("daemon", {}), root, origins)
    pools = {
        _name("pools", name, origins): _pool(f"pools.{name}", pool, origins)
        for name, pool in table.get("pools", {"default": _default_pool(daemon.root)}).items()
    }
    repositories = {
        _name("repositories", name, origins): _struct(f"repositories.{name}", repository, RepositorySettings, origins)
        for name, repository in table.get("repositories", {"default": _default_repository(daemon.root)}).items()
    }
    for name, repository in repositories.items():
        _check_repository(name, repository, origins)
    trash = _struct("trash", table.get("trash", {}), TrashSettings, origins)
    try:
        duration(trash.keep)
    except UsageError as error:
        raise SettingsError(f"{_where(origins, 'trash.keep')}: trash.keep: {error.message}", error.hint) from None
    return Settings(
        daemon=_with_default_pool(daemon, pools, origins),
        pools=pools,
        repositories=repositories,
        trash=trash,
        cache=_cache(table.get("cache", {}), daemon.root, origins),
        policies={
            _name("policies", name, origins): _policy(name, policy, origins)
            for name, policy in table.get("policies", {}).items()
        },
        origins=origins,
    )


def _cache(table: object, root: Path, origins: Origins) -> CacheSettings:
    cache = _struct("cache", table, CacheSettings, origins)
    try:
        _ = cache.bytes
    except UsageError as error:
        raise SettingsError(f"{_where(origins, 'cache.size')}: cache.size: {error.message}", error.hint) from None
    if not cache.path.is_absolute():
        raise SettingsError(f"{_where(origins, 'cache.path')}: cache.path is not an absolute path")
    given = isinstance(table, dict) and "path" in table
    return cache if given else msgspec.structs.replace(cache, path=root / "cache")


def _name(section: str, name: str, origins: Origins) -> str:
    try:
        return volume_name(name)
    except InvalidName as error:
        raise SettingsError(f"{_where(origins, section)}: [{section}]: {name!r} cannot be a name", error.hint) from None


def _policy(name: str, table: object, origins: Origins) -> Policy:
    try:
        return parsing.parse(name, table)
    except UsageError as error:
        where = _where(origins, f"policies.{name}.{error.message.split(':')[0]}")
        where = where if where != "settings" else _where(origins, f"policies.{name}")
        raise SettingsError(f"{where}: policies.{name}: {error.message}", error.hint) from None


def _default_pool(root: Path) -> dict[str, object]:
    return {"backend": "directory", "path": str(root / "pool"), "full_copies": True}


def _default_repository(root: Path) -> dict[str, object]:
    return {"url": str(root / "repository"), "password_file": str(root / "repository.password")}


def _daemon(table: Mapping[str, Any], root: str | None, origins: Origins) -> DaemonSettings:
    below: dict[str, Any] = {}
    if root is not None:
        base = Path(root).absolute()
        below = {
            "root": str(base),
            "runtime": str(base / "run"),
            "api_socket": str(base / "run/api.sock"),
            "plugin_socket": str(base / "run/plugin.sock"),
            "docker_socket": "",
            "socket_group": "",
        }
        for key in below:
            origins.setdefault(f"daemon.{key}", "SNAPVOL_ROOT")
    daemon = _struct("daemon", below | dict(table), DaemonSettings, origins)
    for key in ("root", "runtime", "plugin_socket", "api_socket"):
        if not getattr(daemon, key).is_absolute():
            raise SettingsError(f"{_where(origins, f'daemon.{key}')}: daemon.{key} is not an absolute path")
    if daemon.jobs < 1:
        raise SettingsError(f"{_where(origins, 'daemon.jobs')}: daemon.jobs is {daemon.jobs}", "at least 1 is needed")
    return daemon


def _with_default_pool(daemon: DaemonSettings, pools: Mapping[str, PoolSettings], origins: Origins) -> DaemonSettings:
    if not pools:
        raise SettingsError("no pool is configured", "add [pools.NAME] with backend = …")
    if not daemon.default_pool:
        if len(pools) > 1:
            raise SettingsError(
                f"{_where(origins, 'pools')}: daemon.default_pool is not set and there are {len(pools)} pools",
                f"set it to one of: {', '.join(sorted(pools))}",
            )
        return msgspec.structs.replace(daemon, default_pool=next(iter(pools)))
    if daemon.default_pool not in pools:
        raise SettingsError(
            f"{_where(origins, 'daemon.default_pool')}: daemon.default_pool: no pool is called '{daemon.default_pool}'",
            nearest(daemon.default_pool, list(pools)),
        )
    return daemon


def _pool(key: str, table: object, origins: Origins) -> PoolSettings:
    if not isinstance(table, dict):
        raise SettingsError(f"{_where(origins, key)}: '{key}' is a table", f"write [{key}]")
    if not isinstance(table.get("backend"), str):
        raise SettingsError(
            f"{_where(origins, key)}: {key}.backend is missing", 'write backend = "directory" or another'
        )
    defaults = table.get("defaults", {})
    if not isinstance(defaults, dict):
        raise SettingsError(f"{_where(origins, key)}: '{key}.defaults' is a table", f"write [{key}.defaults]")
    storage = {name: value for name, value in table.items() if name not in ("backend", "defaults")}
    return PoolSettings(backend=table["backend"], defaults=_options(defaults), storage=storage)


def _options(table: Mapping[str, Any]) -> dict[str, str]:
    return {key: str(value).lower() if isinstance(value, bool) else str(value) for key, value in _dotted(table).items()}


def _struct(key: str, table: object, kind: type[Section], origins: Origins) -> Section:
    if not isinstance(table, dict):
        raise SettingsError(f"{_where(origins, key)}: '{key}' is a table", f"write [{key}]")
    valid = list(get_type_hints(kind))
    for name in table:
        if name not in valid:
            raise SettingsError(f"{_where(origins, f'{key}.{name}')}: unknown key '{key}.{name}'", nearest(name, valid))
    try:
        return msgspec.convert(table, kind, strict=False, dec_hook=_path)
    except msgspec.ValidationError as error:
        name = str(error).rpartition("`$.")[2].rstrip("`") if "`$." in str(error) else ""
        dotted = f"{key}.{name}" if name else key
        raise SettingsError(f"{_where(origins, dotted)}: {dotted}: {str(error).split(' - at')[0]}") from None


def _path(kind: type[object], value: object) -> object:
    if kind is not Path or not isinstance(value, str):
        raise NotImplementedError
    return Path(value)


def _check_repository(name: str, repository: RepositorySettings, origins: Origins) -> None:
    where = _where(origins, f"repositories.{name}.url")
    if repository.url.startswith("s3://"):
        if not repository.url.removeprefix("s3://").strip("/"):
            raise SettingsError(f"{where}: repositories.{name}.url has no bucket", "write s3://BUCKET/PREFIX")
    elif not repository.url.startswith("/"):
        raise SettingsError(
            f"{where}: repositories.{name}.url {repository.url!r} is neither a path nor an S3 URL",
            "write /absolute/path or s3://BUCKET/PREFIX",
        )
    if repository.addressing not in ("auto", "path", "virtual"):
        raise SettingsError(
            f"{where}: repositories.{name}.addressing: {repository.addressing!r}",
            nearest(repository.addressing, ["auto", "path", "virtual"]),
        )


def _where(origins: Origins, key: str) -> str:
    if key in origins:
        return origins[key]
    inside = [origin for known, origin in origins.items() if known.startswith(f"{key}.")]
    return inside[0] if inside else "settings"
