"""docs/admin.md lists what is served."""

import re
from pathlib import Path

from p2pserver.admin_api.api import BASE
from p2pserver.admin_api.endpoints import admin_routes
from tests.admin_api.harness import running_admin_node

PAGE = Path(__file__).parents[2] / "docs" / "admin.md"


async def test_the_page_lists_exactly_what_is_served() -> None:
    async with running_admin_node() as at:
        served = {(route.method, route.pattern.removeprefix(BASE)) for route in admin_routes(at.admin)}
    listed = {
        (method, path)
        for methods, path in re.findall(r"^- ([A-Z ]+) `(/[^`]*)`$", PAGE.read_text(), re.MULTILINE)
        for method in methods.split()
    }
    assert listed == served
