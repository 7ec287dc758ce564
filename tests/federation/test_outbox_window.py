"""What is owed to a peer on a shared medium: broadcast, repaired, declined, acknowledged."""

from __future__ import annotations

import base64
import random

from p2pserver.federation import effects as fx
from p2pserver.federation.channel import Channel
from p2pserver.federation.limits import PeeringLimits, PeeringTimers
from p2pserver.federation.outbox_window import BROADCASTS_MAX, OutboxWindow
from p2pserver.federation.recent_ids import RecentIds
from p2pserver.wire.messages import Pdus, decode_message

ROOM = "!room:example.org"


def owed(number: int, *, body: str = "hello") -> fx.OwedItem:
    event_id = "$" + base64.urlsafe_b64encode(number.to_bytes(32, "big")).decode().rstrip("=")
    pdu = {"room_id": ROOM, "content": {"body": body}}
    return fx.OwedItem(number=number, kind="pdu", room_id=ROOM, event_id=event_id, payload=pdu)


class Desk:
    """A window and the outbox that it reads."""

    def __init__(self, *, knows_room: bool = True) -> None:
        self.channel = Channel(
            rng=random.Random(1),
            limits=PeeringLimits(),
            timers=PeeringTimers(),
            known=RecentIds(100),
            stored=RecentIds(100),
            connected=True,
            greeted=True,
        )
        self.window = OutboxWindow(self.channel, lambda room, now: False, lambda room: knows_room)
        self.rows: list[fx.OwedItem] = []
        self.window.contact(0.0)
        self.window.share_medium(1_000)

    def turn(self, now: float) -> tuple[list[str], list[str]]:
        """(event IDs that are to be broadcast, event IDs' numbers pushed) of all that is read now."""
        broadcast: list[str] = []
        for _ in range(5):
            self.window.handle_timeout(now)
            self.window.pump(now)
            effects, self.channel.effects = self.channel.effects, []
            for effect in effects:
                if isinstance(effect, fx.ReadOutbox):
                    self.window.read([row for row in self.rows if row.number > effect.after], now, more=False)
                elif isinstance(effect, fx.Broadcast):
                    broadcast.append(effect.event_id)
                elif isinstance(effect, fx.ForgetOwed):
                    self.rows = [row for row in self.rows if row.event_id not in effect.event_ids]
        pushed = []
        while self.channel.outgoing:
            message = decode_message(self.channel.outgoing.popleft()[0])
            assert isinstance(message, Pdus)
            pushed += [str(pdu["content"]["body"]) for pdu in message.pdus]
        self.channel.outgoing_octets = 0
        return broadcast, pushed

    def post(self, item: fx.OwedItem) -> str:
        self.rows.append(item)
        self.window.grew()
        assert item.event_id is not None
        return item.event_id


def test_what_was_owed_before_the_contact_is_pushed_and_what_is_new_is_broadcast() -> None:
    desk = Desk()
    desk.post(owed(1, body="old"))
    assert desk.turn(0.0) == ([], ["old"])
    event_id = desk.post(owed(2))
    assert desk.turn(1.0) == ([event_id], [])


def test_an_acknowledged_broadcast_is_never_sent_again() -> None:
    desk = Desk()
    desk.turn(0.0)
    event_id = desk.post(owed(1))
    desk.turn(1.0)
    desk.window.broadcast_done(event_id, 10.0)
    assert desk.window.next_deadline() == 10.0
    assert desk.window.stored([event_id], 5.0)
    assert all(desk.turn(now) == ([], []) for now in (6.0, 10.0, 1_000.0))
    assert desk.rows == []


def test_who_does_not_acknowledge_is_broadcast_to_again_and_then_pushed_to_once() -> None:
    desk = Desk()
    desk.turn(0.0)
    event_id = desk.post(owed(1))
    for number in range(BROADCASTS_MAX):
        assert desk.turn(10.0 * number + 1) == ([event_id], [])
        desk.window.broadcast_done(event_id, 10.0 * number + 10)
        assert desk.turn(10.0 * number + 9) == ([], [])
    assert desk.turn(30.0) == ([], ["hello"])
    desk.window.broadcast_done(event_id, 40.0)  # late word of the last broadcast
    assert all(desk.turn(now) == ([], []) for now in (41.0, 100.0, 1_000.0))


def test_a_declined_broadcast_is_pushed_at_once_and_once() -> None:
    desk = Desk()
    desk.turn(0.0)
    event_id = desk.post(owed(1))
    desk.turn(1.0)
    desk.window.broadcast_declined(event_id)
    assert desk.turn(1.1) == ([], ["hello"])
    desk.window.broadcast_declined(event_id)
    assert all(desk.turn(now) == ([], []) for now in (2.0, 100.0, 1_000.0))


def test_a_broadcast_of_which_nobody_tells_anything_is_not_forgotten() -> None:
    desk = Desk()
    desk.turn(0.0)
    event_id = desk.post(owed(1))
    assert desk.turn(1.0) == ([event_id], [])
    assert desk.turn(2.0 + PeeringTimers().resend_s) == ([event_id], [])


def test_large_events_those_of_a_room_just_entered_and_those_without_a_medium_are_pushed() -> None:
    desk = Desk()
    desk.turn(0.0)
    desk.post(owed(1, body="x" * 1_000))
    assert desk.turn(1.0) == ([], ["x" * 1_000])
    desk.window.share_medium(0)
    desk.post(owed(2))
    assert desk.turn(2.0) == ([], ["hello"])
    entered = Desk(knows_room=False)
    entered.turn(0.0)
    entered.post(owed(1))
    assert entered.turn(1.0) == ([], ["hello"])


def test_a_repair_sends_nothing_else_again() -> None:
    desk = Desk()
    desk.turn(0.0)
    first, second = desk.post(owed(1, body="first")), desk.post(owed(2, body="second"))
    assert desk.turn(1.0) == ([first, second], [])
    desk.window.broadcast_done(first, 10.0)
    desk.window.broadcast_done(second, 50.0)
    assert desk.turn(11.0) == ([first], [])
