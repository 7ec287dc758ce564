"""Random hostile histories on several servers, lost and shuffled deliveries: the same digest after healing."""

from __future__ import annotations

import random

import pytest

from p2pserver.errors import Forbidden, NotFound
from p2pserver.store import outbox
from tests.rooms.servers import Server, fetch, leaves, reconcile
from tests.store.integrity import graph_contradictions

STEPS = 60


def stays(server: Server) -> str:
    """A user whom nobody throws out, so that the server stays in the room and is told of everything."""
    return f"@stays:{server.name}"


def act(server: Server, room_id: str, others: list[Server], rng: random.Random) -> None:
    """One thing a user of the server might do; what the room forbids him is not done."""
    other = rng.choice(others)
    levels = {each.user: rng.choice([0, 50, 100]) for each in others if rng.random() < 0.7}
    kind = rng.randrange(10)
    try:
        if kind < 4:
            server.send(room_id, f"{rng.random()}")
        elif kind == 4:
            server.set_state(room_id, "m.room.name", "", {"name": f"{rng.random()}"})
        elif kind == 5:
            server.set_state(room_id, "m.room.power_levels", "", {"users": levels, "state_default": 0})
        elif kind == 6:
            server.member(room_id, other.user, rng.choice(["ban", "leave"]))
        elif kind == 7:
            server.member(room_id, server.user, rng.choice(["join", "leave"]))
        elif kind == 8:
            server.member(room_id, other.user, "invite")
        else:
            server.set_state(room_id, "m.room.join_rules", "", {"join_rule": rng.choice(["public", "invite"])})
    except Forbidden:
        return


def lose_and_shuffle(sender: Server, receiver: Server, room_id: str, rng: random.Random) -> None:
    """Delivers some of what is owed, in any order, and forgets the rest."""
    items = sender.run(lambda tx: outbox.page(tx, receiver.name, most=1000, octets_max=10**9))
    raws = [item.payload for item in items if item.kind == "pdu" and rng.random() < 0.8]
    rng.shuffle(raws)
    receiver.receive(room_id, raws, sender.name)
    sender.run(lambda tx: outbox.forget_numbers(tx, receiver.name, [item.number for item in items]))


def exchange(servers: list[Server], room_id: str) -> None:
    for one in servers:
        for other in servers:
            if one is not other:
                reconcile(room_id, one, other)


def healed(servers: list[Server], room_id: str) -> None:
    for _ in range(10):
        exchange(servers, room_id)
        if len({tuple(leaves(server, room_id)) for server in servers}) == 1:
            return
    raise AssertionError("the leaves stay different")


def check_what_is_kept(server: Server, room_id: str, *, digest: bool) -> None:
    """Leaves, extremities and digest are kept event by event: they must be what the whole graph gives."""
    if server.complete(room_id):
        assert graph_contradictions(server.conn, room_id) == []
        assert not digest or server.kept_digest(room_id) == server.digest_of_everything(room_id)


def three_in_a_room(seed: int, version: str) -> tuple[list[Server], str]:
    """Three servers that hold the same room, each with a user that nobody acts against."""
    servers = [Server(name, seed=seed) for name in ("alice", "bob", "carol")]
    room_id = servers[0].create(version=version)
    for server in servers[1:]:
        server.join(room_id, servers[0])
    healed(servers, room_id)
    for server in servers:
        server.member(room_id, stays(server), "join", sender=stays(server))
    healed(servers, room_id)
    return servers, room_id


@pytest.mark.parametrize("seed", range(24))
def test_any_history_converges(seed: int) -> None:
    rng = random.Random(seed)
    version = rng.choice(["10", "11", "12"])
    servers, room_id = three_in_a_room(seed, version)
    for step in range(STEPS):
        server = rng.choice(servers)
        act(server, room_id, [each for each in servers if each is not server], rng)
        if rng.random() < 0.4:
            one, other = rng.sample(servers, 2)
            lose_and_shuffle(one, other, room_id, rng)
            check_what_is_kept(other, room_id, digest=step % 4 == 0)
        check_what_is_kept(server, room_id, digest=step % 4 == 0)
    healed(servers, room_id)
    assert all(server.complete(room_id) for server in servers)
    assert len({server.digest(room_id) for server in servers}) == 1
    for server in servers:
        post_once(server, room_id)
        healed(servers, room_id)
    assert len({server.digest(room_id) for server in servers}) == 1
    assert len({server.operational(room_id) for server in servers}) == 1


def post_once(server: Server, room_id: str) -> None:
    try:
        server.send(room_id, "healing", sender=stays(server))
    except Forbidden:
        return


@pytest.mark.parametrize("seed", range(16))
def test_joins_in_the_middle_of_it_converge(seed: int) -> None:
    """Servers join at any time, through anybody, and act and hear of things long before the history is theirs."""
    rng = random.Random(1000 + seed)
    servers = [Server("alice", seed=seed)]
    waiting = [Server(name, seed=seed) for name in ("bob", "carol", "dave")]
    room_id = servers[0].create(version=rng.choice(["10", "11", "12"]))
    servers[0].member(room_id, stays(servers[0]), "join", sender=stays(servers[0]))
    for step in range(STEPS):
        server = rng.choice(servers)
        if waiting and step % 12 == 5:
            try:
                waiting[0].join(room_id, server)
                waiting[0].member(room_id, stays(waiting[0]), "join", sender=stays(waiting[0]))
                servers.append(waiting.pop(0))
            except (Forbidden, NotFound):
                continue
        others = [each for each in servers if each is not server]
        if not others:
            server.send(room_id, f"{step}")
            continue
        act(server, room_id, others, rng)
        other = rng.choice(others)
        if rng.random() < 0.3:
            lose_and_shuffle(server, other, room_id, rng)
        if rng.random() < 0.2:
            fetch(room_id, server, other, octets_max=2000)
        for each in servers:
            check_what_is_kept(each, room_id, digest=step % 8 == 0)
    for _ in range(5):
        exchange(servers, room_id)
    members = [server for server in servers if all(sees(other, server, room_id) for other in servers)]
    healed(members, room_id)
    assert all(server.complete(room_id) for server in members)
    assert len({server.digest(room_id) for server in members}) == 1


def sees(one: Server, other: Server, room_id: str) -> bool:
    return one is other or other.name in one.run(lambda tx: one.rooms.member_servers(tx, room_id))
