"""docs/conformance.md: each endpoint of the Client-Server API, served or why not, and the test that shows it.

    python -m tests.client_api.conformance

writes the page from `endpoint_index.tsv` (the endpoints of the specification v1.19 and what clients ask for besides),
the routes of the node and `shown_by.json`.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from p2pserver.client_api.endpoints import all_routes
from p2pserver.errors import MethodNotAllowed, Unrecognized
from p2pserver.http_api.routing import Route, Router
from tests.client_api.shown_by import RECORD

INDEX = Path(__file__).parent / "endpoint_index.tsv"
PAGE = Path(__file__).parents[2] / "docs" / "conformance.md"

WHY_NOT = {
    "auth_metadata": "no OAuth; clients then log in with a password",
    "/v3/initialSync": "deprecated since r0; `/sync` is there",
    "/policy_server": "a node has no policy server",
    "/login/sso/": "no single sign-on",
    "/rtc/transports": "no group calls",
    "/rendezvous": "needs OAuth; `p2pserver login-qr` logs in the next device",
    "/subscription": "MSC4306 is not announced, so that no client asks",
    "/v3/keys/upload/{deviceId}": "of r0 only, where it is served",
}

HEAD = """# What of the Client-Server API is served

Written by `python -m tests.client_api.conformance`. Tier 1 is what every client needs to log in and chat, tier 2 what
people expect, tier 3 the rest, n/a what makes no sense on a node without mail, telephone and single sign-on. What is
not served is 404 `M_UNRECOGNIZED`. Everything under `v3` is served under `r0` too. The test named is one in which the
endpoint, or the same handler under another path, was asked and answered; others ask it too. [The client
API](client-api.md) tells how it is done, [operators](admin.md) lists the admin API.

"""


@dataclass(frozen=True, slots=True)
class Line:
    method: str
    path: str
    tier: str
    route: Route | None

    @property
    def reason(self) -> str:
        [reason] = {why for part, why in WHY_NOT.items() if part in self.path}
        return reason


def lines() -> list[Line]:
    router = Router(all_routes())
    with INDEX.open(newline="") as file:
        return [
            Line(row["method"], row["path"], row["tier"], _route(router, row["method"], row["path"]))
            for row in csv.DictReader(file, delimiter="\t")
        ]


def _route(router: Router, method: str, path: str) -> Route | None:
    target = re.sub(r"\{[^}]*\}", "x", path)
    try:
        return router.match(method, target.encode()).route
    except (Unrecognized, MethodNotAllowed):
        return None


def beyond(listed: list[Line]) -> list[Route]:
    """What is served and stands in no line, the copies under r0 aside."""
    told = {(line.route.method, line.route.pattern) for line in listed if line.route is not None}
    every = {(route.method, route.pattern): route for route in all_routes()}
    return [
        route
        for (method, pattern), route in sorted(every.items())
        if (method, pattern) not in told
        and (method, pattern.replace("/r0/", "/v3/", 1)) not in every.keys() - {(method, pattern)}
    ]


def shown_by() -> dict[str, str]:
    found: dict[str, str] = json.loads(RECORD.read_text())
    return found


def page() -> str:
    return HEAD + "\n".join(_rows()) + "\n"


def _rows() -> Iterator[str]:
    listed, shown = lines(), shown_by()
    for tier in ("1", "2", "3", "n/a"):
        of_tier = [line for line in listed if line.tier == tier]
        served = sum(line.route is not None for line in of_tier)
        yield f"## Tier {tier}: {served} of {len(of_tier)} served\n"
        yield "| endpoint | |"
        yield "|---|---|"
        for line in sorted(of_tier, key=lambda line: (line.path, line.method)):
            told = f"no: {line.reason}" if line.route is None else _told(line.route, shown)
            yield f"| {line.method} `{line.path}` | {told} |"
        yield ""
    yield "## Served besides\n"
    yield "| endpoint | |"
    yield "|---|---|"
    for route in beyond(listed):
        yield f"| {route.method} `{route.pattern}` | {_told(route, shown)} |"


def _told(route: Route, shown: dict[str, str]) -> str:
    test = shows(route, shown)
    return f"[{test.rpartition('::')[2]}](../{test.partition('::')[0]})"


def shows(route: Route, shown: dict[str, str]) -> str:
    """The test that shows a route, or the same handler under another path. Raises: KeyError, where none does."""
    own = shown.get(f"{route.method} {route.pattern}")
    if own is not None:
        return own
    others = [each for each in all_routes() if each.handler is route.handler and each.method == route.method]
    for other in others:
        if (test := shown.get(f"{other.method} {other.pattern}")) is not None:
            return test
    raise KeyError(f"no test shows {route.method} {route.pattern}")


if __name__ == "__main__":
    PAGE.write_text(page())
    print(f"{PAGE.name}: {len(PAGE.read_text()):,} characters")
