"""From a table of functions to routes: which one a request means, and what it gives to it."""

from __future__ import annotations

import re
from collections import abc
from collections.abc import Callable, Iterable, Mapping
from inspect import signature
from typing import Any, TypeVar, get_origin, get_type_hints
from urllib.parse import unquote

import msgspec
from msgspec import Struct
from multidict import MultiMapping

from snapvol.daemon.routes import Action
from snapvol.errors import InvalidName, NotFound, UnknownOption, UsageError, nearest
from snapvol.names import snapshot_name, volume_name

Record = TypeVar("Record", bound=Struct)
_REFERENCE = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,254}\Z")


def _reference(text: str) -> str:
    if not _REFERENCE.match(text):
        raise InvalidName(f"{text[:60]!r} is no id", "ids are letters and digits, as the listings show them")
    return text


_CHECKS: Mapping[str, Callable[[str], str]] = {
    "volume": volume_name,
    "snapshot": snapshot_name,
    "job": _reference,
    "ref": _reference,
}


class MethodNotAllowed(UsageError):
    """The path exists, with other methods: ``allowed``."""

    status = 405

    def __init__(self, method: str, path: str, allowed: list[str]) -> None:
        super().__init__(f"{path} does not take {method}", f"it takes {', '.join(allowed)}")
        self.allowed = allowed


class Route:
    """One line of the table.

    Attributes:
        method: GET, POST, PATCH or DELETE.
        path: with the parameters in braces.
        action: the function behind it.
        parameters: the names in the path.
        query: the record of the query string; None where it takes none.
        body: the record of the body; None where it takes none.
        answer: the type of the result.
        streams: the result is an iterator whose items are sent as they come.
        summary: what it does, in a line.
    """

    def __init__(self, method: str, path: str, action: Action) -> None:
        hints = get_type_hints(action)
        self.method, self.path, self.action = method, path, action
        self.parameters: list[str] = re.findall(r"{(\w+)}", path)
        self.query: type[Struct] | None = hints.get("query")
        self.body: type[Struct] | None = hints.get("body")
        self.answer: Any = hints["return"]
        self.streams = get_origin(self.answer) is abc.Iterator
        self.summary = (action.__doc__ or "").splitlines()[0]
        self._pattern = re.compile(re.sub(r"{(\w+)}", r"(?P<\1>[^/]*)", path) + r"\Z")
        expected = ["service", *self.parameters, *(extra for extra in ("query", "body") if extra in hints)]
        if list(signature(action).parameters) != expected:
            raise TypeError(f"{action.__name__} and {path} do not fit together")

    def match(self, path: str) -> dict[str, str] | None:
        """Return the path's parameters, unchecked, where it is this route's; ``path`` is as it was sent."""
        found = self._pattern.match(path)
        return {name: unquote(text) for name, text in found.groupdict().items()} if found else None

    def arguments(self, given: Mapping[str, str], query: MultiMapping[str], body: bytes) -> dict[str, Any]:
        """Return what the function takes.

        Raises:
            UsageError: something is not allowed, missing, unknown or of the wrong type.
        """
        arguments: dict[str, Any] = {name: _CHECKS[name](text) for name, text in given.items()}
        if self.query is not None:
            arguments["query"] = _from_query(query, self.query)
        elif query:
            raise UnknownOption(f"{self.path} takes no '{next(iter(query))}'")
        if self.body is not None:
            arguments["body"] = _from_body(body, self.body)
        elif body.strip():
            raise UsageError(f"{self.method} {self.path} takes no body")
        return arguments


class Router:
    """All routes."""

    def __init__(self, table: Iterable[tuple[str, str, Action]]) -> None:
        self.routes = [Route(*line) for line in table]

    def find(self, method: str, path: str) -> tuple[Route, dict[str, str]]:
        """Return the route that a request means, and its unchecked parameters.

        Raises:
            NotFound: there is no such path.
            MethodNotAllowed: it takes other methods.
        """
        allowed = []
        for route in self.routes:
            parameters = route.match(path)
            if parameters is not None:
                if route.method == method:
                    return route, parameters
                allowed.append(route.method)
        if allowed:
            raise MethodNotAllowed(method[:20], path[:200], allowed)
        raise NotFound(f"the API has no {path[:200]}", "see GET /v1/openapi.json")


def _from_query(query: MultiMapping[str], kind: type[Record]) -> Record:
    for key in query:
        if len(query.getall(key)) > 1:
            raise UsageError(f"'{key}' is given more than once")
    return _explained(kind, "parameter", lambda: msgspec.convert(dict(query), kind, strict=False))


def _from_body(body: bytes, kind: type[Record]) -> Record:
    return _explained(kind, "field", lambda: msgspec.json.decode(body if body.strip() else b"{}", type=kind))


def _explained(kind: type[Record], word: str, read: Callable[[], Record]) -> Record:
    """Say of a wrong record which field is wrong, and which one was perhaps meant (T16)."""
    try:
        return read()
    except (ValueError, RecursionError) as error:
        said = str(error)
    fields = [known.encode_name for known in msgspec.structs.fields(kind)]
    unknown = re.match(r"Object contains unknown field `(.*)`\Z", said, re.DOTALL)
    if unknown:
        raise UnknownOption(f"unknown {word} '{unknown[1][:60]}'", nearest(unknown[1], fields) if fields else None)
    said = " ".join(said.replace("`$.", "`").replace(" - at `$`", "").split())
    raise UsageError(f"the {word}s cannot be read: {said[:200]}", f"{word}s: {', '.join(fields)}" if fields else None)
