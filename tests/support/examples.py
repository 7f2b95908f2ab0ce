"""One good request for each route of the admin API."""

from __future__ import annotations

import json
from collections.abc import Iterator

from snapvol.daemon.routes import TABLE

_BODIES: dict[str, object] = {
    "POST /v1/volumes": {"name": "new"},
    "PATCH /v1/volumes/{volume}": {"options": {"policy": None}},
    "POST /v1/volumes/{volume}/rename": {"name": "other"},
    "POST /v1/volumes/{volume}/resize": {"size": "2G"},
    "POST /v1/volumes/{volume}/rollback": {"snapshot": "s"},
    "POST /v1/snapshots": {"volumes": ["web"], "name": "s"},
    "POST /v1/backups": {"objects": ["web"]},
    "POST /v1/restores": {"backup": "b", "volume": "new"},
    "POST /v1/verifications": {"backups": ["b"]},
    "POST /v1/notify/test": {"target": "pager"},
    "POST /v1/forget": {"backups": ["b"]},
}


def api_requests() -> Iterator[tuple[str, str, bytes]]:
    """Yield method, target and body for each route: of volume web, its snapshot s and job j1."""
    for method, path, _ in TABLE:
        target = path.format(volume="web", snapshot="s", job="j1", ref="web")
        body = _BODIES.get(f"{method} {path}")
        query = "?a=web@s&b=web" if path == "/v1/diff" else ""
        yield method, f"{target}{query}", b"" if body is None else json.dumps(body).encode()
