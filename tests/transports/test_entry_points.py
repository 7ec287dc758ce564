"""What `p2pserver run` finds without a search is what the package says that it brings."""

from importlib.metadata import entry_points

from p2pserver.node.run import ENTRY_POINT_GROUP, OWN_TRANSPORTS


def test_own_transports_are_the_entry_points_of_this_package() -> None:
    found = {entry.name: entry.value for entry in entry_points(group=ENTRY_POINT_GROUP)}
    assert found == OWN_TRANSPORTS
