"""From a raw HTTP target to a handler: path patterns, percent-decoding, the request that a handler sees.

    routes = Routes()

    @routes.route("PUT", "/rooms/{room_id}/send/{event_type}/{txn_id}")
    async def send_event(api: ClientApi, request: ApiRequest) -> dict[str, Any]: ...

The raw path is split on `/` first and each segment is decoded once, so that room IDs, state keys and aliases may hold
any character. A `{parameter}` matches one segment that is not empty; a trailing `/` is a segment of its own, which may
be there or not where only one of the two is a pattern. Source: RFC 3986, 3.3; client-server API, "API Standards".
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, TypeAlias
from urllib.parse import quote

from p2pserver.errors import InvalidParam, MethodNotAllowed, MissingParam, Unrecognized
from p2pserver.rooms.app_services import AppService

QUERY_PARAMETERS_MAX = 100
_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")


class Auth(Enum):
    """Whether a route needs an access token."""

    REQUIRED = "required"
    OPTIONAL = "optional"
    NONE = "none"


class Pace(Enum):
    """Which token bucket a request draws from; see rate_limits.py."""

    ORDINARY = "ordinary"
    LOGIN = "login"
    REGISTER = "register"
    UNLIMITED = "unlimited"


@dataclass(frozen=True, slots=True, kw_only=True)
class Requester:
    """Whose access token a request carries."""

    user_id: str
    device_id: str
    """"": an application service acts for the user and names no device."""
    token_id: int
    admin: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiRequest:
    """One request, past routing, authentication, rate limit and JSON parsing.

    `path` is without version, `/rooms/!r/send/m.room.message/1` under v3 and r0 alike, and in one spelling whatever the
    client escaped: with `user_id` and `device_id` it names a transaction. `body` is the JSON object of the request,
    `{}` where none was sent.
    """

    method: str
    path: str
    params: Mapping[str, str]
    query_lists: Mapping[str, list[str]]
    body: dict[str, Any]
    authenticated: Requester | None
    remote_address: str
    base_url: str
    """How the client reached this node: scheme and authority, no trailing slash."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """By lower-case name."""
    app_service: AppService | None = None
    """Whose `as_token` the request carries."""
    parts: AsyncIterator[bytes] | None = None
    """The octets of the body as they come, on a route that streams."""
    query: Mapping[str, str] = field(init=False)
    """The first value of each query parameter."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "query", {name: values[0] for name, values in self.query_lists.items()})

    @property
    def requester(self) -> Requester:
        """Whose request it is, on a route that requires authentication."""
        assert self.authenticated is not None, "the route does not require authentication"
        return self.authenticated

    def query_integer(self, name: str, *, default: int | None, least: int = 0, most: int = 2**53 - 1) -> int:
        """A query parameter as a decimal integer, cut to `most`.

        Raises: MissingParam, if it is absent and has no default; InvalidParam, if it is no integer or below `least`.
        """
        text = self.query.get(name)
        if text is None:
            if default is None:
                raise MissingParam(f"query parameter {name!r} is missing")
            return default
        if not re.fullmatch(r"-?[0-9]{1,16}", text, re.ASCII) or int(text) < least:
            raise InvalidParam(f"query parameter {name!r} is not an integer of at least {least}")
        return min(int(text), most)

    def query_boolean(self, name: str, *, default: bool = False) -> bool:
        """A query parameter that is `true` or `false`.

        Raises: InvalidParam.
        """
        text = self.query.get(name)
        if text is None:
            return default
        if text not in ("true", "false"):
            raise InvalidParam(f"query parameter {name!r} is neither true nor false")
        return text == "true"


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiResponse:
    """An answer other than 200 with a JSON object: another status, other headers, or bytes that are not JSON.

    `body` may be an `AsyncIterator[bytes]`, with Content-Length among the headers: it is sent as it comes.
    """

    status: int = 200
    body: Any = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)


Handler: TypeAlias = Callable[[Any, ApiRequest], Awaitable[dict[str, Any] | list[Any] | ApiResponse]]
"""Is given what its edge works with (a `ClientApi`, an `AdminApi`) and the request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One operation under one full path pattern."""

    method: str
    pattern: str
    path_offset: int
    """How many segments come before the part that is the same under every version."""
    handler: Handler
    auth: Auth
    pace: Pace
    cancelable: bool
    """Whether a client that hangs up stops the handler: for those that only wait and read."""
    streams: bool
    """The body is no JSON: the handler reads it as it comes."""

    @property
    def path(self) -> str:
        """The part of the pattern that is the same under every version."""
        return "/" + "/".join(self.pattern.split("/")[self.path_offset + 1 :])


class Routes:
    """The operations of one module."""

    def __init__(self) -> None:
        self.all: list[Route] = []

    def route(
        self,
        method: str,
        path: str,
        *,
        versions: Iterable[str] = ("v3", "r0"),
        base: str = "/_matrix/client",
        auth: str = "required",
        pace: str = "ordinary",
        cancelable: bool | None = None,
        streams: bool = False,
    ) -> Callable[[Handler], Handler]:
        """Registers a handler at `{base}/{version}{path}` for each version; a version of "" adds no segment.

        `cancelable` is true for GET unless said otherwise. May be stacked.
        """

        def register(handler: Handler) -> Handler:
            for version in versions:
                prefix = f"{base}/{version}" if version else base
                self.all.append(
                    Route(
                        method=method,
                        pattern=prefix + path,
                        path_offset=len(prefix.split("/")) - 1,
                        handler=handler,
                        auth=Auth(auth),
                        pace=Pace(pace),
                        cancelable=method == "GET" if cancelable is None else cancelable,
                        streams=streams,
                    )
                )
            return handler

        return register


@dataclass(frozen=True, slots=True)
class Match:
    route: Route
    params: dict[str, str]
    path: str


class _Node:
    """One segment of the tree of patterns."""

    __slots__ = ("children", "methods", "parameter")

    def __init__(self) -> None:
        self.children: dict[str, _Node] = {}
        self.parameter: _Node | None = None
        self.methods: dict[str, Route] = {}


LaterRoutes: TypeAlias = Mapping[str, Callable[[], Iterable[Route]]]
"""What finds the routes whose patterns begin with a prefix of literal segments, once such a path is asked for."""


class Router:
    """Finds the route of a target. Literal segments win over parameters."""

    def __init__(self, routes: Iterable[Route], later: LaterRoutes | None = None) -> None:
        """`later`: routes of areas that most nodes never need, and whose modules are not loaded until then."""
        self._root = _Node()
        self._later = {tuple(prefix.split("/")[1:]): find for prefix, find in (later or {}).items()}
        for route in routes:
            self._add(route)

    def _add(self, route: Route) -> None:
        node = self._root
        for segment in route.pattern.split("/")[1:]:
            if segment.startswith("{"):
                if node.parameter is None:
                    node.parameter = _Node()
                node = node.parameter
            else:
                node = node.children.setdefault(segment, _Node())
        if route.method in node.methods:
            raise ValueError(f"two handlers for {route.method} {route.pattern}")
        node.methods[route.method] = route

    def _find_later(self, segments: list[str]) -> None:
        for prefix in [prefix for prefix in self._later if tuple(segments[: len(prefix)]) == prefix]:
            for route in self._later.pop(prefix)():
                self._add(route)

    def match(self, method: str, raw_path: bytes) -> Match:
        """The route of a request.

        Raises: InvalidParam, if a segment is not valid percent-encoded UTF-8; Unrecognized (404), if there is no such
        path; MethodNotAllowed (405), if the path has other methods only.
        """
        if not raw_path.startswith(b"/"):
            raise Unrecognized("unrecognized request")
        segments = [percent_decode(segment) for segment in raw_path[1:].split(b"/")]
        self._find_later(segments)
        found = list(_leaves(self._root, segments))
        if not found and segments[-2:] != ["", ""]:
            segments = segments[:-1] if segments[-1] == "" else [*segments, ""]
            found = list(_leaves(self._root, segments))
        if not found:
            raise Unrecognized("unrecognized request")
        for node in found:
            route = node.methods.get(method)
            if route is not None:
                names = route.pattern.split("/")[1:]
                params = {
                    name[1:-1]: segment for name, segment in zip(names, segments, strict=True) if name.startswith("{")
                }
                path = "".join("/" + quote(segment, safe="!$:@") for segment in segments[route.path_offset :])
                return Match(route, params, path)
        raise MethodNotAllowed(f"{method} is not possible here")


def _leaves(root: _Node, segments: list[str]) -> Iterable[_Node]:
    """The nodes with handlers that the segments lead to, the most literal first."""
    waiting: list[tuple[_Node, int]] = [(root, 0)]
    while waiting:
        node, depth = waiting.pop()
        if depth == len(segments):
            if node.methods:
                yield node
            continue
        segment = segments[depth]
        if node.parameter is not None and segment:
            waiting.append((node.parameter, depth + 1))
        child = node.children.get(segment)
        if child is not None:
            waiting.append((child, depth + 1))


def percent_decode(octets: bytes) -> str:
    """Decodes one segment, or one name or value of a query, once.

    Raises: InvalidParam, on `%` without two hexadecimal digits behind it and on octets that are not UTF-8.
    """
    if b"%" in octets:
        if _BAD_ESCAPE.search(octets):
            raise InvalidParam("a percent sign is not followed by two hexadecimal digits")
        octets = _ESCAPE.sub(lambda found: bytes((int(found[1], 16),)), octets)
    try:
        return octets.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidParam("the address is not UTF-8") from error


def parse_query(query_string: bytes) -> dict[str, list[str]]:
    """The parameters of a query string, each with its values in order.

    Raises: InvalidParam, on broken encoding and on more than `QUERY_PARAMETERS_MAX` parameters.
    """
    parameters: dict[str, list[str]] = {}
    pairs = [pair for pair in query_string.split(b"&") if pair]
    if len(pairs) > QUERY_PARAMETERS_MAX:
        raise InvalidParam(f"more than {QUERY_PARAMETERS_MAX} query parameters")
    for pair in pairs:
        name, _, value = pair.replace(b"+", b" ").partition(b"=")
        parameters.setdefault(percent_decode(name), []).append(percent_decode(value))
    return parameters
