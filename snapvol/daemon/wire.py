"""What goes over Docker's side: requests as Docker and Podman send them, answers as they understand them.

`PROTOCOL.md` has the facts behind each rule; G1 … G20 are its numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
from aiohttp import web
from msgspec import Struct, field

from snapvol.api import VolumeInfo
from snapvol.errors import UsageError
from snapvol.service.pool import Seen

CONTENT_TYPE = "application/vnd.docker.plugins.v1.1+json"
IMPLEMENTS = b'{"Implements":["VolumeDriver"]}'
CAPABILITIES = b'{"Capabilities":{"Scope":"local"}}'  # G19
DONE = b'{"Err":""}'
_PODMAN_COPIES = ("UID", "GID", "SIZE", "INODES", "NOQUOTA")


class Unreadable(UsageError):
    """The body is no request."""


class Request(Struct, frozen=True):
    """The body of every request that has one; fields that do not matter to an endpoint are absent or empty.

    Attributes:
        name: the volume; may be empty in traffic that is otherwise normal (G17).
        id: who mounts; may be empty.
        options: absent, null, empty or a map (G20).
    """

    name: str = field(name="Name", default="")
    id: str = field(name="ID", default="")
    options: dict[str, str] | None = field(name="Opts", default=None)


class _Volume(Struct, frozen=True, omit_defaults=True):
    name: str = field(name="Name")
    mountpoint: str = field(name="Mountpoint")
    created: datetime | None = field(name="CreatedAt", default=None)  # with its zone, or absent (G5)
    status: dict[str, Any] | None = field(name="Status", default=None)


_request = msgspec.json.Decoder(Request)
_encode = msgspec.json.Encoder().encode


def request(body: bytes) -> Request:
    """Return what ``body`` asks for.

    Raises:
        Unreadable: it is not a JSON object with fields of the right types.
    """
    try:
        return _request.decode(body)
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"the request cannot be read: {error}", "send a JSON object with Name, ID and Opts") from None


def options(given: dict[str, str] | None) -> dict[str, str]:
    """Return the volume options that ``Opts`` means.

    Podman takes ``--opt o=uid=7,size=1G`` apart for itself and sends it on twice: whole in ``o``, and each known part
    again in capitals. ``o`` is taken apart here as well; the copies are dropped.

    Raises:
        UsageError: ``o`` repeats an option with another value, or has a part that is no ``KEY=VALUE``.
    """
    plain = dict(given or {})
    if "o" not in plain:
        return plain
    parts = plain.pop("o")
    for copy in _PODMAN_COPIES:
        plain.pop(copy, None)
    for part in parts.split(","):
        key, equals, value = part.partition("=")
        if not equals:
            raise UsageError(f"option 'o' has the part '{part}'", "write o=KEY=VALUE,… or one -o KEY=VALUE each")
        if plain.get(key, value) != value:
            raise UsageError(f"option '{key}' is given twice: '{plain[key]}' and '{value}'", "give it once")
        plain[key] = value
    return plain


def mountpoint(path: str) -> bytes:
    """Return the answer to Mount and Path: absolute, never empty (G15)."""
    return _encode({"Mountpoint": path, "Err": ""})


def volume(info: VolumeInfo) -> bytes:
    """Return the answer to Get."""
    return _encode({"Volume": _Volume(info.name, info.mountpoint, info.created, status(info)), "Err": ""})


def volumes(seen: Sequence[Seen]) -> bytes:
    """Return the answer to List. Docker drops everything but names and mountpoints."""
    return _encode({"Volumes": [_Volume(it.name, it.mountpoint, it.created) for it in seen], "Err": ""})


def status(info: VolumeInfo) -> dict[str, Any]:
    """Return what ``docker volume inspect`` shows as Status: always an object, without what is not known."""
    backup = info.last_backup
    known = {
        "id": info.id,
        "pool": info.pool,
        "backend": info.backend,
        "state": "damaged" if info.damaged else info.state.value,
        "error": info.error,
        "size": info.size,
        "used": info.used,
        "used_at": info.used_at,
        "snapshots": info.snapshots,
        "last_snapshot": info.last_snapshot,
        "last_backup": {"id": backup.id, "time": backup.time, "repository": backup.repository} if backup else None,
        "mounted": info.mounted,
        "holders": info.holders,
        "users": info.users or None,
        "parent": info.parent,
        "job": info.job,
        "progress": info.progress,
        "options": info.options or None,
    }
    return {key: value for key, value in known.items() if value is not None}


def answer(body: bytes, status_code: int = 200) -> web.Response:
    """Return a whole answer. The connection is closed after each (G14)."""
    response = web.Response(body=body, status=status_code, headers={"Content-Type": CONTENT_TYPE})
    response.force_close()
    return response


def failure(message: str, status_code: int = 500) -> web.Response:
    """Return an error as every client understands it: not 200, JSON, ``Err`` (G4)."""
    return answer(_encode({"Err": message}), status_code)
