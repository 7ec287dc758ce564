"""The documentation lists what is served, all of it under every version it should be under."""

import re
from pathlib import Path

from p2pserver.client_api.endpoints import all_routes
from p2pserver.client_api.rate_limits import FAILED_LOGINS, RATES
from p2pserver.http_api.routing import Pace

PAGE = Path(__file__).parents[2] / "docs" / "client-api.md"


def documented() -> set[tuple[str, str]]:
    """(method, pattern) of each line of the page's two lists."""
    found = set()
    for methods, path in re.findall(r"^- ([A-Z ]+) `(/[^`]*)`$", PAGE.read_text(), re.MULTILINE):
        for method in methods.split():
            prefixes = [""] if path.startswith(("/_matrix", "/.well")) else ["/_matrix/client/v3", "/_matrix/client/r0"]
            found |= {(method, prefix + path) for prefix in prefixes}
    return found


def test_the_page_lists_exactly_what_is_served() -> None:
    assert documented() == {(route.method, route.pattern) for route in all_routes()}


def test_the_page_tells_the_rates() -> None:
    rows = re.findall(
        r"^\| [^|]+ \| ([\d,]+) \| (\d+) (?:a second|in (\d+) seconds) \|$", PAGE.read_text(), re.MULTILINE
    )
    told = [(int(burst.replace(",", "")), int(count) / int(seconds or 1)) for burst, count, seconds in rows]
    rates = [RATES[Pace.ORDINARY], RATES[Pace.LOGIN], RATES[Pace.REGISTER], FAILED_LOGINS]
    assert told == [(rate.burst, rate.per_second) for rate in rates]
