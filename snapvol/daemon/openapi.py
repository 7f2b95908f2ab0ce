"""The OpenAPI document, made from the routes themselves: what it says is what the server does."""

from __future__ import annotations

from collections.abc import Sequence
from types import UnionType
from typing import Any, get_args

import msgspec
from msgspec import Struct

from snapvol import __version__
from snapvol.daemon.routing import Route

_REFERENCE = "#/components/schemas/{name}"
JSON, LINES, TEXT = "application/json", "application/x-ndjson", "text/plain"


class ErrorBody(Struct, frozen=True, kw_only=True):
    """What went wrong: the kind (`NotFound`, `Refused` …), a line for people, and what to do next."""

    kind: str
    message: str
    hint: str | None = None


class Error(Struct, frozen=True, kw_only=True):
    """Every answer that is not 200."""

    error: ErrorBody


def document(routes: Sequence[Route]) -> dict[str, Any]:
    """Return the OpenAPI 3.1 description of ``routes``."""
    schemas, components = _schemas(routes)
    paths: dict[str, dict[str, Any]] = {
        "/v1/openapi.json": {"get": _plain("get_openapi", "Show this document.", JSON)},
        "/metrics": {"get": _plain("get_metrics", "Show the metrics, for Prometheus.", TEXT)},
    }
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "snapvol",
            "version": __version__,
            "summary": "Volumes, snapshots and backups",
            "description": "Spoken at the unix socket daemon.api_socket. Times are RFC 3339 with a zone, sizes bytes.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {"schemas": components},
    }


def _answers(route: Route) -> tuple[Any, ...]:
    """Return what a route may answer: one type, or several where it depends on the request."""
    answer = get_args(route.answer)[0] if route.streams else route.answer
    return get_args(answer) if isinstance(answer, UnionType) else (answer,)


def _schemas(routes: Sequence[Route]) -> tuple[dict[Any, dict[str, Any]], dict[str, Any]]:
    kinds: dict[Any, None] = {Error: None}
    for route in routes:
        kinds |= dict.fromkeys(_answers(route))
        kinds |= dict.fromkeys(kind for kind in (route.body, route.query) if kind is not None)
    found, components = msgspec.json.schema_components(kinds, ref_template=_REFERENCE)
    return dict(zip(kinds, found, strict=True)), components


def _plain(name: str, summary: str, media: str) -> dict[str, Any]:
    schema = {"type": "object"} if media == JSON else {"type": "string"}
    return {
        "operationId": name,
        "summary": summary,
        "tags": ["about"],
        "responses": {"200": {"description": "it", "content": {media: {"schema": schema}}}},
    }


def _operation(route: Route, schemas: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    media = LINES if route.streams else JSON
    answers = [schemas[kind] for kind in _answers(route)]
    operation: dict[str, Any] = {
        "operationId": route.action.__name__,
        "summary": route.summary,
        "tags": [route.path.split("/")[2]],
        "parameters": [
            *(
                {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
                for name in route.parameters
            ),
            *_query(route.query),
        ],
        "responses": {
            "200": {
                "description": "done",
                "content": {media: {"schema": answers[0] if len(answers) == 1 else {"anyOf": answers}}},
            },
            "default": {"description": "not done", "content": {JSON: {"schema": schemas[Error]}}},
        },
    }
    if route.body is not None:
        required = any(known.required for known in msgspec.structs.fields(route.body))
        content = {JSON: {"schema": schemas[route.body]}}
        operation["requestBody"] = {"required": required, "content": content}
    return operation


def _query(kind: type[Struct] | None) -> list[dict[str, Any]]:
    if kind is None:
        return []
    (_,), components = msgspec.json.schema_components([kind], ref_template=_REFERENCE)
    properties = components[kind.__name__]["properties"]
    return [
        {
            "name": known.encode_name,
            "in": "query",
            "required": known.required,
            "schema": properties[known.encode_name],
            "description": (kind.__doc__ or "").splitlines()[0],
        }
        for known in msgspec.structs.fields(kind)
    ]
