"""Servers with the same events tell each other what they make of them: once, and when it changed."""

from __future__ import annotations

from p2pserver.federation import effects as fx
from tests.federation.servers import World
from tests.federation.test_peering import ROOM, shared_start, two

SEC, CURRENT = b"s" * 32, b"c" * 32


def told(world: World, ours: tuple[bytes, bytes] | None, theirs: tuple[bytes, bytes] | None) -> int:
    """How many messages are said at a contact beside Hello and beacons."""
    shared_start(world)
    for server, opinion in zip(world.servers, (ours, theirs), strict=True):
        server.rooms[ROOM].opinion = opinion
    world.connect(*world.servers)
    world.run(30)
    return world.messages - 4


def test_same_opinion_is_told_once_by_each_at_most() -> None:
    world = two()
    assert 1 <= told(world, (SEC, CURRENT), (SEC, CURRENT)) <= 2
    before = world.messages
    world.run(600)
    assert world.messages - before == 20  # a beacon of each in a minute, and nothing else
    assert all(server.differences == [] for server in world.servers)


def test_other_digest_is_reported_on_both_sides() -> None:
    world = two()
    told(world, (SEC, CURRENT), (b"t" * 32, CURRENT))
    for server in world.servers:
        [difference] = server.differences
        assert isinstance(difference, fx.Diverged)
        assert difference.ours != difference.theirs
        assert difference.room_id == ROOM


def test_other_current_state_is_reported_on_both_sides() -> None:
    world = two()
    told(world, (SEC, CURRENT), (SEC, b"d" * 32))
    assert [server.differences for server in world.servers] == [[fx.StatesDiffer(ROOM)]] * 2


def test_who_does_not_hold_everything_says_nothing_and_hears_nothing() -> None:
    world = two()
    assert told(world, None, (b"t" * 32, CURRENT)) <= 1
    assert all(server.differences == [] for server in world.servers)


def test_told_again_when_the_events_changed() -> None:
    world = two()
    a, b = world.servers
    told(world, (SEC, CURRENT), (SEC, CURRENT))
    b.rooms[ROOM].opinion = (SEC, b"d" * 32)
    a.post(ROOM, "new")
    world.run(30)
    assert [server.differences for server in world.servers] == [[fx.StatesDiffer(ROOM)]] * 2


def test_what_is_said_of_other_events_is_not_compared() -> None:
    """The peer's digests are of what it held when it said so; we hold more by now."""
    world = two()
    a, b = world.servers
    told(world, (SEC, CURRENT), (SEC, CURRENT))
    a.rooms[ROOM].opinion = (b"t" * 32, CURRENT)
    a.post(ROOM, "ours alone", owe=False)
    key = a.peerings[b.name]._beacon_key
    assert key is not None
    effect = fx.ReadStandings({ROOM: key.digests(ROOM, b.rooms[ROOM].leaves(), sec=SEC, current=CURRENT)})
    a.peerings[b.name].standings_read(effect, a.standings([ROOM]))
    assert not any(isinstance(each, fx.Diverged) for each in a.peerings[b.name].effects())
