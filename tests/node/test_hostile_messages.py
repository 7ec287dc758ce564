"""A member server that sends nonsense to a whole node, over a conversation that is in order: real rooms, real store."""

from __future__ import annotations

import asyncio
import copy
import json
import random
from typing import Any

import pytest

from p2pserver.events.signing import Signer
from p2pserver.federation.peering import PeeringState
from p2pserver.identifiers import KEY_ID, server_name_of
from p2pserver.node.node import Node
from p2pserver.node.session import Session
from p2pserver.node.simulation import RoomActions, SimulatedMesh
from p2pserver.wire import messages as m
from tests.wire.test_messages import mutated
from transports.sim import run_virtual

CASES = 10_000
ODD = (None, True, 0, -1, 2**53 - 1, "", "x", "$", [], {}, [None], {"a": "b"}, "\0", "é" * 200, "@a:b", ["$x"] * 30)


class Intruder:
    """Authenticated by the link as whoever it says; what it says goes straight to the node's peering."""

    def __init__(self, node: Node, key: bytes, name: str) -> None:
        self.node, self.key, self.name = node, key, name
        self.epoch = 1
        self.session = self.begin()

    def begin(self) -> Session:
        mesh = self.node.mesh
        before = mesh._sessions.get(self.key)
        if before is not None:
            mesh._end_session(before, "test")
        self.epoch += 1
        self.session = session = mesh._new_session(self.key, self.epoch, mesh._epochs.current)
        mesh._session_tasks[session].pop().cancel()  # the test does what its task would
        session.peering.contact(mesh._clock(), clock_ms=0)
        hello = m.Hello(server_name=self.name, agent="intruder", salt=b"intruder", clock_ms=0)
        session.peering.receive(m.encode_message(hello), mesh._clock())
        return session

    async def say(self, data: bytes) -> bool:
        """Whether it was understood."""
        peering, mesh = self.session.peering, self.node.mesh
        peering.receive(data, mesh._clock())
        for _ in range(50):
            effects = peering.effects()
            sent = peering.messages_to_send(mesh._clock(), 1_000_000)
            if not effects and not sent:
                break
            await mesh.exchange.execute(self.session, effects)
        if peering.state is PeeringState.LEFT:
            self.begin()
            return False
        return True


def twisted(rng: random.Random, value: Any) -> Any:
    """A JSON value with one thing in it replaced, removed or doubled."""
    value = copy.deepcopy(value)
    holder, steps = value, rng.randrange(1, 4)
    for _ in range(steps):
        if isinstance(holder, dict) and holder:
            key = rng.choice(sorted(holder))
            if rng.random() < 0.4 or not isinstance(holder[key], dict | list):
                if rng.random() < 0.2:
                    del holder[key]
                else:
                    holder[key] = rng.choice(ODD)
                break
            holder = holder[key]
        elif isinstance(holder, list) and holder:
            index = rng.randrange(len(holder))
            holder[index] = rng.choice(ODD)
            break
        else:
            break
    return value


async def story(seed: int) -> None:
    rng = random.Random(seed)
    mesh = SimulatedMesh(["a", "b"], seed=seed)
    await mesh.start()
    await asyncio.sleep(5)
    anna, boris = await mesh.user("a", "anna"), await mesh.user("b", "boris")
    room = await RoomActions.create(anna, preset="public_chat", name="harbor")
    joined = await RoomActions.join(boris, room.room_id, via=mesh.nodes["a"].server_name)
    for n in range(5):
        await room.send(f"anna {n}")
        await joined.send(f"boris {n}")
    assert await mesh.until_equal(room.room_id, within_s=60) is not None
    before = await mesh.digest("a", room.room_id)
    node = mesh.nodes["a"].running
    raws = [
        json.loads(raw)
        for (raw,) in await node.database.read(lambda tx: tx.all("SELECT raw FROM events WHERE outlier = 0"))
    ]
    ids = [row[0] for row in await node.database.read(lambda tx: tx.all("SELECT event_id FROM events"))]
    outsider = Signer("", KEY_ID, rng.randbytes(32)).verify_key
    b = mesh.nodes["b"]
    key, name = (b.identity.signer.verify_key, b.server_name) if seed % 2 else (outsider, server_name_of(outsider))
    if seed % 2:
        mesh.network.set_link("a", "b", up=False)
        await asyncio.sleep(90)
    intruder = Intruder(node, key, name)

    def pdus() -> m.Message:
        chosen = [rng.choice(raws) for _ in range(rng.randrange(1, 4))]
        made = tuple(twisted(rng, raw) if rng.random() < 0.9 else raw for raw in chosen)
        return m.Pdus(room.room_id, made, rng.random() < 0.2, rng.random() < 0.3)

    def some() -> tuple[str, ...]:
        return tuple(dict.fromkeys(rng.choice(ids) for _ in range(3)))

    def body(**fields: Any) -> bytes:
        return m.encode_json(twisted(rng, fields))

    def request() -> m.Message:
        question, fields = rng.choice(
            [
                ("join", {"room_id": room.room_id, "user_id": f"@x:{name}", "versions": ["12"]}),
                ("directory", {"alias": "#x:y"}),
                ("public_rooms", {"limit": 10}),
                ("profile", {"user_id": anna.user_id}),
                ("users", {"search": "a", "limit": 5}),
                ("keys_query", {"device_keys": {anna.user_id: []}}),
                ("keys_claim", {"one_time_keys": {anna.user_id: {"SIM": "signed_curve25519"}}}),
                ("devices", {"user_id": anna.user_id}),
                ("nothing", {}),
            ]
        )
        return m.Request(rng.randrange(10_000), question, body(**fields))

    def item() -> m.Message:
        kind, fields = rng.choice(
            [
                (
                    "edu",
                    {
                        "edu_type": "m.direct_to_device",
                        "content": {"sender": f"@x:{name}", "type": "t", "message_id": "1", "messages": {}},
                    },
                ),
                ("edu", {"edu_type": "m.device_list_update", "content": {"user_id": f"@x:{name}", "device_id": "D"}}),
                ("invite", {"room_version": "12", "event": rng.choice(raws), "invite_room_state": raws[:3]}),
            ]
        )
        return m.Item(rng.randrange(1000), kind, body(**fields), more=False)

    makers = [
        pdus,
        pdus,
        request,
        item,
        lambda: m.Leaves(room.room_id, some(), rng.random() < 0.5),
        lambda: m.Want(room.room_id, some(), some(), rng.randrange(500_000)),
        lambda: m.Offer(room.room_id, some()),
        lambda: m.Lacking(room.room_id, some()),
        lambda: m.Stored(room.room_id, some()),
    ]
    understood = refused = 0
    for number in range(CASES // 4):
        data = m.encode_message(rng.choice(makers)())
        if rng.random() < 0.3:
            data = mutated(rng, data)
        if await intruder.say(data):
            understood += 1
        else:
            refused += 1
        if number % 50 == 0:
            await asyncio.sleep(2)
    assert understood > CASES // 4 // 5
    assert refused > 50
    after = await mesh.digest("a", room.room_id)
    assert before is not None
    assert after is not None
    assert (after.sec, after.events) == (before.sec, before.events)
    node.mesh._end_session(intruder.session, "test")
    node.mesh._neighbors._penalty_until.clear()
    mesh.network.set_link("a", "b", up=True)
    await room.send("and still")
    assert await mesh.until_equal(room.room_id, within_s=200) is not None
    assert "and still" in await joined.messages()
    await mesh.stop()


@pytest.mark.parametrize("seed", range(4))
def test_nonsense_from_a_member_or_a_stranger_changes_nothing(seed: int, caplog: pytest.LogCaptureFixture) -> None:
    run_virtual(story(seed))
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []
