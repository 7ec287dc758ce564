"""Whole nodes on one radio channel: what all are owed goes out once, and nothing is believed because of the channel."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from benchmarks.shared_medium import NAMES, Village, cost_of_texts, village
from p2pserver.events.signing import Signer
from p2pserver.federation.limits import PeeringTimers
from p2pserver.identifiers import KEY_ID, server_name_of
from p2pserver.link.broadcast import Broadcaster
from p2pserver.link.frames import decode_varint
from p2pserver.link.network_key import OPEN_NETWORK, NetworkKey
from p2pserver.node.shared_medium import SharedMedium
from p2pserver.node.simulation import SimulatedMesh
from p2pserver.node.timers import NodeTimers
from p2pserver.store.networks import import_network, networks_in_use, rotate_network
from p2pserver.wire.broadcasts import BroadcastBeacons, BroadcastEvent, encode_broadcast
from p2pserver.wire.messages import Beacon
from transports.sim import run_virtual
from transports.sim.medium import SimMedium

TIMERS = NodeTimers(
    peering=PeeringTimers(
        compare_all_s=3_600.0,
        quiet_s=20.0,
        recheck_s=10.0,
        settle_s=20.0,
        answer_s=300.0,
        reload_s=60.0,
        forget_s=2.0,
        offer_s=(5.0, 20.0),
        resend_s=300.0,
    )
)
"""Of nodes on a slow radio: nothing is compared by the clock while a test looks."""


def medium(here: Village, name: str) -> SharedMedium:
    (found,) = here.mesh.nodes[name].running.mesh._media
    return found


def live(story: Coroutine[Any, Any, None]) -> None:
    run_virtual(story, limit_s=200_000)


def test_a_text_costs_one_broadcast_and_acknowledgements_in_place_of_four_copies() -> None:
    once, four_times = (
        run_virtual(cost_of_texts(loss=0.0, broadcast=broadcast, texts=3), limit_s=200_000)
        for broadcast in (True, False)
    )
    print(f"a text to four neighbors at 1,200 bit/s: {once} broadcast, {four_times} pairwise")
    assert once.is_complete
    assert four_times.is_complete
    assert once.unacknowledged == 0
    assert once.acknowledged_s == 240
    assert once.octets < 3_000
    assert once.octets < 0.4 * four_times.octets
    assert once.slowest_s < four_times.slowest_s


def test_all_get_it_where_each_loses_a_fifth() -> None:
    cost = run_virtual(cost_of_texts(loss=0.2, broadcast=True, texts=3), limit_s=200_000)
    print(f"at 20 % loss: {cost}")
    assert cost.is_complete
    assert cost.unacknowledged == 0
    assert cost.acknowledged_s == 240


@pytest.mark.long
@pytest.mark.parametrize("seed", [5, 35, 36])
def test_a_sender_knows_in_the_end_that_a_text_arrived_however_much_is_lost(seed: int) -> None:
    """Pairwise at 30 % loss an acknowledgement may take minutes; these seeds had some that took over four."""
    cost = run_virtual(cost_of_texts(loss=0.3, broadcast=False, seed=seed), limit_s=200_000)
    print(f"at 30 % loss, pairwise: {cost}")
    assert cost.is_complete
    assert cost.unacknowledged == 0


def test_two_neighbors_are_enough_and_one_is_not() -> None:
    async def story(names: str, broadcasts: int) -> None:
        here = await village(names, timers=TIMERS)
        spoken: list[bytes] = []
        said = SharedMedium._say

        async def say(self: SharedMedium, message: bytes, **how: Any) -> bool:
            spoken.append(message)
            return await said(self, message, **how)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(SharedMedium, "_say", say)
            await here.room.send("hello")
            await here.equal()
        assert len(spoken) == broadcasts
        await here.mesh.stop()

    live(story("abc", 1))
    live(story("ab", 0))


VILLAGE_KEY = NetworkKey(network_id=b"12345678", name="Village", epoch=1, key=b"v" * 32)


async def give(here: Village, names: str, key: NetworkKey) -> None:
    for name in names:
        await here.database(name).write(lambda tx: import_network(tx, key))
    await asyncio.sleep(10)  # running nodes look every two seconds


def test_who_does_not_have_the_key_gets_everything_pairwise() -> None:
    async def story() -> None:
        here = await village(timers=TIMERS)
        await give(here, "abcd", VILLAGE_KEY)
        heard_before = medium(here, "e")._listener.counts.messages
        for name in NAMES:
            await here.rooms[name].send(f"from {name}")
        await here.equal()
        assert medium(here, "e")._listener.counts.messages == heard_before
        assert medium(here, "e")._listener.counts.strange > 0
        assert medium(here, "d")._listener.counts.messages > 0
        await asyncio.sleep(200)
        assert set((await here.owed()).values()) == {0}
        await here.mesh.stop()

    live(story())


def test_after_a_rotation_old_and_new_are_read_and_who_is_left_behind_is_told() -> None:
    async def story() -> None:
        here = await village(timers=TIMERS)
        await give(here, NAMES, VILLAGE_KEY)
        second = await here.database("a").write(lambda tx: rotate_network(tx, key=b"w" * 32))
        await asyncio.sleep(10)
        await here.rooms["b"].send("under the old key")
        await here.equal()
        assert medium(here, "a")._listener.counts.messages > 0
        await give(here, "bcd", second)
        for number in range(4):
            await here.room.send(f"under the new key {number}")
            await here.equal()
        (note,) = medium(here, "e").notes()
        assert "under epoch 2 of the network 'Village', and this node has epoch 1" in note
        assert any(note in status.notes for status in here.mesh.nodes["e"].running.mesh.status())
        assert medium(here, "d").notes() == ()
        await here.mesh.stop()

    live(story())


class Forger:
    """Somebody on the channel who has the network key and no conversation with anybody."""

    def __init__(self, here: Village) -> None:
        self.here = here
        self.transport = here.mesh.network.transport("mallory")
        self.counter = 1_000

    async def start(self) -> None:
        await self.transport.start(b"mallory!")

    async def say(self, name: str, message: BroadcastEvent | BroadcastBeacons) -> None:
        """Says it in the name of a node."""
        assert self.transport.medium is not None
        key = self.here.mesh.nodes[name].identity.signer.verify_key
        salt = medium(self.here, name)._salt  # its neighbors know it
        speaker = Broadcaster(OPEN_NETWORK, key, 255, salt)
        speaker.use_counters(self.counter, 64)
        self.counter += 64
        for datagram in speaker.seal(encode_broadcast(message)) or ():
            await self.transport.medium.broadcast(datagram)
        await asyncio.sleep(5)


def test_a_forger_with_the_key_makes_nobody_accept_anything() -> None:
    async def story() -> None:
        here = await village("abcd", timers=TIMERS)
        forger = Forger(here)
        await forger.start()
        before = await here.mesh.digest("c", here.room.room_id)
        genuine = await here.pdu("a", await here.room.send("genuine"))
        await here.equal()
        after = await here.mesh.digest("c", here.room.room_id)
        assert before != after
        name = server_name_of(Signer("", KEY_ID, b"m" * 32).verify_key)
        for changed in (
            {**genuine, "content": {"msgtype": "m.text", "body": "not what she wrote"}},
            {**genuine, "depth": genuine["depth"] + 1},
            {**genuine, "signatures": {}},
            {**genuine, "sender": f"@mallory:{name}"},
            {**genuine, "room_id": "!" + genuine["room_id"][1:][::-1]},
            {"room_id": genuine["room_id"]},
        ):
            await forger.say("b", BroadcastEvent(changed))
        heard = medium(here, "c")._listener.counts.messages
        assert heard >= 6
        assert await here.mesh.digest("c", here.room.room_id) == after
        assert await here.mesh.digest("d", here.room.room_id) == after
        await here.mesh.stop()

    live(story())


def test_a_changed_copy_does_not_take_the_place_of_the_genuine_one() -> None:
    """It has the same event ID and a valid signature; acknowledged, it would keep the genuine one from coming."""

    async def story() -> None:
        here = await village("abc", timers=TIMERS)
        forger = Forger(here)
        await forger.start()
        here.mesh.network.set_link("a", "c", up=False)
        here.mesh.network.set_link("a", "b", up=False)
        event_id = await here.room.send("the true words")
        genuine = await here.pdu("a", event_id)
        await forger.say("a", BroadcastEvent({**genuine, "content": {"msgtype": "m.text", "body": "lies"}}))
        assert not await here.holds("c", event_id)
        here.mesh.network.set_link("a", "c", up=True)
        here.mesh.network.set_link("a", "b", up=True)
        await here.equal(within_s=8_000)
        assert (await here.pdu("c", event_id))["content"]["body"] == "the true words"
        await here.mesh.stop()

    live(story())


def test_a_forger_makes_nobody_think_that_a_neighbor_has_an_event() -> None:
    """b hears nobody; the forger brings a's event to c in the name of b."""

    async def story() -> None:
        here = await village("abcd", timers=TIMERS)
        forger = Forger(here)
        await forger.start()
        for far in "bcd":
            here.mesh.network.set_link("a", far, up=False)
        for far in ("mallory", "c", "d"):
            here.mesh.network.set_link("b", far, up=False)
        event_id = await here.room.send("not heard by b")
        await forger.say("b", BroadcastEvent(await here.pdu("a", event_id)))
        assert await here.holds("c", event_id)
        assert not await here.holds("b", event_id)
        session = here.mesh.nodes["c"].running.mesh.session_of(here.mesh.nodes["b"].identity.signer.verify_key)
        assert session is not None
        assert event_id not in session.peering._channel.stored
        assert event_id not in session.peering._channel.known
        assert (await here.owed())["a"] == 3
        for far in "bcd":
            here.mesh.network.set_link("a", far, up=True)
        await here.equal(within_s=8_000)
        assert await here.holds("b", event_id)
        await here.mesh.stop()

    live(story())


def test_forged_beacons_cost_a_comparison_now_and_then_and_nothing_else() -> None:
    async def story() -> None:
        here = await village("abc", timers=TIMERS)
        forger = Forger(here)
        await forger.start()
        key = medium(here, "a")._beacon_key
        digest = await here.mesh.digest("c", here.room.room_id)
        octets = here.counts().octets
        for number in range(40):
            beacon = Beacon(key.tag(here.room.room_id), number.to_bytes(8, "big"))
            await forger.say("b", BroadcastBeacons((beacon,)))
        assert here.counts().octets - octets < 40 * 40 + 100 * 200
        assert await here.mesh.digest("c", here.room.room_id) == digest
        await here.mesh.stop()

    live(story())


def test_whom_the_sender_does_not_reach_hears_of_it_from_a_beacon() -> None:
    """d is out of reach of a, whose event b and c heard: they do not offer it to d, they broadcast a beacon."""

    async def story() -> None:
        here = await village("abcd", timers=TIMERS)
        here.mesh.network.set_link("a", "d", up=False)
        for number in range(3):
            event_id = await here.room.send(f"around the corner {number}")
            await asyncio.sleep(60)
            assert await here.holds("d", event_id)
        await here.mesh.stop()

    live(story())


# Power cuts


async def nonces_over_power_cuts() -> list[bytes]:
    """What a node broadcasts over many power cuts, each in the middle of something: head, handle and counter."""
    here = await village("abc", timers=TIMERS)
    used: list[bytes] = []
    broadcast = SimMedium.broadcast

    async def noted(self: SimMedium, datagram: bytes) -> None:
        _, at = decode_varint(datagram, 3)
        used.append(datagram[:at])
        await broadcast(self, datagram)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SimMedium, "broadcast", noted)
        for number in range(12):
            sending = asyncio.ensure_future(here.room.send(f"before cut {number}"))
            await asyncio.sleep(0.05 + 0.021 * number)
            await here.mesh.crash("a")
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            await here.mesh.boot("a")
            await asyncio.sleep(0.004 * (number % 3))
            if number % 2:  # a cut while counters are being reserved
                await here.mesh.crash("a")
                await here.mesh.boot("a")
            await here.all_connected()
            await here.room.send(f"after cut {number}")
            await here.equal()
    await here.mesh.stop()
    return used


def test_no_nonce_is_used_twice_over_power_cuts() -> None:
    used = run_virtual(nonces_over_power_cuts(), limit_s=200_000)
    assert len(used) > 24
    assert len(set(used)) == len(used)


def counters_from_memory(patch: pytest.MonkeyPatch) -> None:
    """Reserves nothing: a node that starts again begins from 0."""

    async def reserve(self: SharedMedium, broadcaster: Broadcaster) -> None:
        broadcaster.use_counters(broadcaster.next_counter, 256)

    patch.setattr(SharedMedium, "_reserve", reserve)


def counters_before_they_are_durable(patch: pytest.MonkeyPatch) -> None:
    """Uses a block whose reservation is rolled back, as if the power had gone before the commit."""

    async def reserve(self: SharedMedium, broadcaster: Broadcaster) -> None:
        row = await self._database.read(lambda tx: tx.one("SELECT counters FROM network_keys"))
        broadcaster.use_counters(max(broadcaster.next_counter, 0 if row is None else row[0]), 256)

    patch.setattr(SharedMedium, "_reserve", reserve)


@pytest.mark.parametrize("fault", [counters_from_memory, counters_before_they_are_durable])
def test_a_repeated_nonce_is_noticed(
    fault: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    fault(monkeypatch)
    used = run_virtual(nonces_over_power_cuts(), limit_s=200_000)
    assert len(set(used)) < len(used)


def test_a_node_without_a_shared_medium_reserves_nothing() -> None:
    async def story() -> None:
        mesh = SimulatedMesh(["a"], seed=1)
        await mesh.start()
        database = mesh.nodes["a"].database
        assert database is not None
        assert await database.read(lambda tx: tx.all("SELECT * FROM network_keys")) == []
        assert await database.read(networks_in_use) == (OPEN_NETWORK,)
        await mesh.stop()

    live(story())
