"""B15, B16, B20: floods of forks, of conflicts and of invites, with their costs counted and not timed."""

from __future__ import annotations

import asyncio
import csv
import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from p2pserver.events.build import build_event
from p2pserver.events.pdu import Pdu
from p2pserver.events.versions import V12
from p2pserver.meg import iterative_checks, resolution
from p2pserver.meg.parents import PREV_EVENTS_MAX
from p2pserver.meg.state import StateMap
from p2pserver.node.sabotage import replaced
from p2pserver.node.simulation import RoomActions
from p2pserver.rooms import state as room_state
from p2pserver.rooms.values import RoomLimits
from p2pserver.store import events, graph_ends, memberships
from p2pserver.wire import messages as m
from tests.byzantine.liar import Liar
from tests.byzantine.scenario import Scenario, case
from tests.byzantine.watch import Budget
from tests.rooms.servers import START_MS, Server

TABLE = Path(__file__).parent.parent / "vectors" / "meg-table.csv"
D = PREV_EVENTS_MAX
AGAIN = 1.2
"""How many times the table's rounds the healing may take."""


# B15


def rounds_to_equilibrium(width: int, posts: int) -> int:
    """Rounds until the expected width is within 1 of `posts`, for d = 20, where that is the equilibrium."""
    expected, rounds = float(width), 0
    while expected > posts + 1:
        expected = expected * (1 - D / expected) ** posts + posts if expected > D else float(posts)
        rounds += 1
    return rounds


def test_b15_rounds_are_those_of_the_table() -> None:
    """The reference of the next test: the exact chain, where the table has it."""
    with TABLE.open(encoding="utf-8") as file:
        rows = {(int(row["u0"]), int(row["k"]), int(row["d"])): row for row in csv.DictReader(file)}
    compared = 0
    for (width, posts, parents), row in rows.items():
        if parents == D and posts <= 5 and row["rounds_to_within_1"]:
            assert rounds_to_equilibrium(width, posts) == pytest.approx(int(row["rounds_to_within_1"]), abs=1)
            compared += 1
    assert compared >= 6


@case(budget=Budget(outbox=50_000))
@pytest.mark.parametrize("rounds", [4, pytest.param(60, marks=[pytest.mark.long, pytest.mark.timeout(3600)])])
async def test_b15_fan_out_flood(scene: Scenario, rounds: int) -> None:
    """Twice as many loose events a round as the correct nodes can cover, on one old parent: all are taken, none costs
    a resolution, and when it ends the width heals as fast as the theory says."""
    k = len(scene.honest)
    flood, root, peak = 2 * k * (D - 1), await scene.liar.leaves(), 0
    with counted(room_state, "resolved_changes") as resolutions:
        for number in range(rounds):
            for part, liar in enumerate(scene.liars):
                share = range(part, flood, len(scene.liars))
                made = [await liar.make(body=f"{number}.{each}", prev=root, hide=False) for each in share]
                liar.push_all(scene.honest, made)
            await scene.pass_time(5)
            await scene.until_same_events(within_s=600)
            peak = max(peak, await width_at(scene))
            await post_together(scene, f"in the flood, {number}")
        assert resolutions.calls == 0
    width = await width_at(scene)
    assert peak > 2 * D, "the graph was never wide"
    healing = "SELECT count(*) FROM events WHERE type = 'org.matrix.dummy_event'"
    healed = (await scene.read("a", lambda tx: tx.one(healing)))[0]
    assert healed <= rounds * flood / (D - 1) + k, "healing events flood the room too"
    allowed = math.ceil(AGAIN * rounds_to_equilibrium(width, k))
    for number in range(allowed):
        await post_together(scene, f"after it, {number}")
    assert await width_at(scene) <= k + 1, f"from {width} in {allowed} rounds"


async def post_together(scene: Scenario, body: str) -> None:
    """One round of the chain: every correct node builds on the same extremities, then all hear of all."""
    await asyncio.gather(*(scene.rooms[name].send(body) for name in scene.honest))
    await scene.pass_time(1)
    await scene.until_same_events(within_s=600)


async def width_at(scene: Scenario) -> int:
    return len(await scene.read("a", lambda tx: graph_ends.extremities(tx, scene.room_id)))


class Calls:
    def __init__(self) -> None:
        self.calls = 0


@contextmanager
def counted(module: Any, name: str) -> Iterator[Calls]:
    counter, honest = Calls(), getattr(module, name)

    def count(*args: Any, **options: Any) -> Any:
        counter.calls += 1
        return honest(*args, **options)

    with replaced(module, name, count):
        yield counter


# B16


class CountingSource:
    """Events of a room that is held in memory; each look is counted."""

    def __init__(self, held: dict[str, Pdu]) -> None:
        self._held = held
        self.looks = 0

    def event(self, event_id: str) -> Pdu:
        self.looks += 1
        return self._held[event_id]

    def is_rejected(self, event_id: str) -> bool:
        self.looks += 1
        return False


def bomb(conflicted: int, sets: int) -> tuple[dict[str, Pdu], list[StateMap]]:
    """State sets with `conflicted` events in all that contradict each other, half of them power events in chains."""
    alice = Server("alice")
    room_id = alice.create()
    held = {
        event_id: alice.run(lambda tx, event_id=event_id: events.pdu(tx, event_id))  # type: ignore[misc]
        for event_id in alice.graph(room_id)
    }
    base = alice.run(lambda tx: dict(alice.rooms.current_state(tx, room_id)))
    made: list[StateMap] = []
    for number in range(sets):
        state, tip = dict(base), base["m.room.power_levels", ""]
        for step in range(conflicted // sets):
            is_power = step % 2 == 0
            content: dict[str, Any] = {"users": {f"@{number}:{alice.name}": step}} if is_power else {"name": f"{step}"}
            slot = ("m.room.power_levels", "") if is_power else ("org.example.slot", f"{step}")
            event = build_event(
                rules=V12,
                room_id=room_id,
                sender=alice.user,
                event_type=slot[0],
                state_key=slot[1],
                content=content,
                prev_events=[tip],
                auth_events=[tip, base["m.room.member", alice.user]],
                depth=10 + step,
                origin_server_ts=START_MS + (7 * step + number) % 50,
                signer=alice.signer,
            )
            held[event.event_id] = event
            state[slot] = event.event_id
            if is_power:
                tip = event.event_id
        made.append(state)
    return {event_id: event for event_id, event in held.items() if event is not None}, made


def cost(conflicted: int, sets: int) -> tuple[int, int]:
    """(events looked at, authorizations) of one resolution."""
    held, states = bomb(conflicted, sets)
    source = CountingSource(held)
    with counted(iterative_checks, "allows") as checks:
        resolution.resolve(states, source, V12)
    return source.looks, checks.calls


def test_b16_resolution_grows_in_proportion() -> None:
    """A thousand conflicted events in twenty sets: looked at a few times each, authorized once, at every size."""
    sizes = (125, 250, 500, 1000)
    costs = {size: cost(size, 20) for size in sizes}
    for size, (looks, checks) in costs.items():
        assert checks <= size + 50, f"{checks} authorizations for {size} events"
        assert looks <= 4 * size, f"{looks} looks at {size} events"
    for smaller, larger in pairwise(sizes):
        most = 2 * math.log2(larger) / math.log2(smaller) * 1.15
        for before, after in zip(costs[smaller], costs[larger], strict=True):
            assert after <= most * before + 50, f"from {smaller} to {larger} events: {costs}"


@case
@pytest.mark.parametrize("forks", [12, pytest.param(60, marks=[pytest.mark.long, pytest.mark.timeout(1800)])])
async def test_b16_resolution_bomb(scene: Scenario, forks: int) -> None:
    """Forks of power events that contradict each other and sit on chains of their own: no unit of work takes a second
    of CPU, and everybody comes to the same."""
    await scene.give_power(scene.liar.user_id, 100)
    levels = await scene.creator.read_state("m.room.power_levels")
    place = await scene.liar.leaves()
    made = []
    for fork in range(forks):
        prev = place
        for step in range(8):
            users = {**levels["users"], f"@{fork}:{scene.liar.server_name}": step}
            content: tuple[str, dict[str, Any]] = (
                ("m.room.power_levels", {**levels, "users": users})
                if step % 2 == 0
                else ("m.room.join_rules", {"join_rule": ("public", "invite")[(fork + step) % 4 // 2]})
            )
            made.append(await scene.liar.make(*content, state_key="", prev=prev, ts=1 + (fork * 7 + step) % 11))
            prev = [made[-1].event_id]
    for number, name in enumerate(scene.honest):
        scene.liar.push_all([name], made[:: 1 if number % 2 else -1])
    await scene.until_held(*(each.event_id for each in made), within_s=900)
    await scene.creator.state("m.room.join_rules", {"join_rule": "public"})


# B20


async def fake_invite(liar: Liar, number: int, user_id: str, *, padding: int = 0, **lies: Any) -> dict[str, Any]:
    """An invite to a room that exists only in this message."""
    create = build_event(
        rules=V12,
        room_id=None,
        sender=liar.user_id,
        event_type="m.room.create",
        state_key="",
        content={"room_version": "12", "number": number},
        prev_events=[],
        auth_events=[],
        depth=1,
        origin_server_ts=liar.now_ms(),
        signer=liar.signer,
    )
    shared: dict[str, Any] = {
        "rules": V12,
        "room_id": lies.get("room_id", create.room_id),
        "sender": liar.user_id,
        "origin_server_ts": liar.now_ms(),
        "signer": liar.signer,
    }
    join = build_event(
        **shared,
        event_type="m.room.member",
        state_key=liar.user_id,
        content={"membership": "join"},
        prev_events=[create.event_id],
        auth_events=[],
        depth=2,
    )
    invite = build_event(
        **shared,
        event_type="m.room.member",
        state_key=user_id,
        content={"membership": "invite"},
        prev_events=[join.event_id],
        auth_events=[join.event_id],
        depth=3,
    )
    state = [dict(create.raw), dict(join.raw)]
    if padding:
        state.append({**dict(join.raw), "unsigned": {"padding": "x" * padding}})
    raw = dict(invite.raw)
    if lies.get("unsigned"):
        raw["signatures"] = {}
    return {"room_version": "12", "event": raw, "invite_room_state": state}


async def push_items(liar: Liar, victim: str, payloads: list[dict[str, Any]], first: int) -> None:
    for number, payload in enumerate(payloads):
        data = json.dumps(payload).encode()
        for at in range(0, len(data), m.PART_OCTETS_MAX):
            part, more = data[at : at + m.PART_OCTETS_MAX], at + m.PART_OCTETS_MAX < len(data)
            liar.say(victim, m.Item(first + number, "invite", part, more))
        if number % 50 == 49:
            await asyncio.sleep(5)
    await asyncio.sleep(5)


@case
@pytest.mark.parametrize("invites", [240, pytest.param(10_000, marks=[pytest.mark.long, pytest.mark.timeout(3600)])])
async def test_b20_invite_spam(scene: Scenario, invites: int) -> None:
    """Thousands of invites: few are kept, the rest leaves no trace, and an honest one still arrives."""
    client = scene.rooms["b"].client
    liars = scene.liars
    for part, liar in enumerate(liars):
        made = [await fake_invite(liar, each, client.user_id) for each in range(part, invites, len(liars))]
        await push_items(liar, "b", made, 10_000)
    limits = RoomLimits()
    kept = await scene.read("b", lambda tx: tx.one("SELECT count(*) FROM invites"))
    assert 0 < kept[0] <= min(limits.invites_held, limits.invites_per_origin_per_hour * len(liars))
    rooms = await scene.read("b", lambda tx: tx.one("SELECT count(*) FROM rooms"))
    assert rooms == (1,)
    honest = await scene.make_room(name="honest")
    await honest.membership("invite", client.user_id)
    await scene.pass_time(5)
    shown = (await scene._sync("b"))["rooms"]["invite"]
    assert honest.room_id in shown
    await RoomActions.join(client, honest.room_id, via=scene.mesh.nodes["a"].server_name)


@case
async def test_b20_invites_that_are_no_invites(scene: Scenario) -> None:
    """Huge room state, a user who does not exist, no signature, a room whose ID is not the hash of its create event, a
    room that is held: nothing is kept, no room is made, nothing changes."""
    liar, client = scene.liar, scene.rooms["b"].client
    elsewhere = await fake_invite(liar, 99, client.user_id)
    stranger = f"@nobody:{scene.mesh.nodes['b'].server_name}"
    lies: dict[str, Callable[[int], Any]] = {
        "huge": lambda n: fake_invite(liar, n, client.user_id, padding=900_000),
        "nobody": lambda n: fake_invite(liar, n, stranger),
        "unsigned": lambda n: fake_invite(liar, n, client.user_id, unsigned=True),
        "another room's create": lambda n: fake_invite(liar, n, client.user_id, room_id=elsewhere["event"]["room_id"]),
        "a room that is held": lambda n: fake_invite(liar, n, client.user_id, room_id=scene.room_id),
    }
    before = await scene.state("b")
    await push_items(liar, "b", [await lie(number) for number, lie in enumerate(lies.values())], 20_000)
    assert await scene.read("b", lambda tx: tx.one("SELECT count(*) FROM invites")) == (0,)
    assert await scene.read("b", lambda tx: tx.one("SELECT count(*) FROM rooms")) == (1,)
    assert await scene.state("b") == before
    assert await scene.read("b", lambda tx: memberships.current_membership(tx, scene.room_id, client.user_id)) == "join"
