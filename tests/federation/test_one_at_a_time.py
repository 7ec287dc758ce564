"""A question about a room waits while another peer is asked about it; not for long, and not again and again."""

from __future__ import annotations

import random

from p2pserver.federation.channel import Channel
from p2pserver.federation.effects import ReadHave
from p2pserver.federation.limits import PeeringLimits, PeeringTimers
from p2pserver.federation.recent_ids import RecentIds
from p2pserver.federation.reconciliation import Reconciliation, _RoomExchange
from p2pserver.wire.messages import Lacking

ROOM = "!room:a.example"
IDS = [f"${letter * 43}" for letter in "AEIM"]


def talking() -> tuple[Channel, Reconciliation]:
    channel = Channel(
        rng=random.Random(1),
        limits=PeeringLimits(),
        timers=PeeringTimers(),
        known=RecentIds(64),
        stored=RecentIds(64),
        connected=True,
        greeted=True,
    )
    rooms = Reconciliation(channel, settled=lambda: None, room_equal=lambda _: None)
    rooms._rooms[ROOM] = _RoomExchange()
    return channel, rooms


def asked(channel: Channel) -> ReadHave:
    found = [effect for effect in channel.effects if isinstance(effect, ReadHave)]
    channel.effects.clear()
    assert len(found) == 1
    return found[0]


def test_it_is_asked_when_the_other_has_answered() -> None:
    channel, rooms = talking()
    rooms.want(ROOM, IDS[:2])
    assert rooms.put_off(asked(channel), now=10.0)
    assert not rooms.is_asking(ROOM, now=10.0)
    due = rooms.next_deadline()
    assert due is not None
    assert 10.0 < due < 11.0
    rooms.handle_timeout(due)
    effect = asked(channel)
    assert effect.event_ids == tuple(IDS[:2])
    rooms.have_read(effect, IDS[1:2], [], b"", due)  # the other has brought the first
    assert rooms.is_asking(ROOM, now=due)
    assert channel.outgoing


def test_patience_ends_and_does_not_begin_again_in_this_contact() -> None:
    channel, rooms = talking()
    now, tries = 10.0, 0
    rooms.want(ROOM, IDS[:1])
    while rooms.put_off(asked(channel), now):
        tries += 1
        now = rooms.next_deadline() or now
        rooms.handle_timeout(now)
    assert (tries, now) == (20, 15.0)
    rooms.have_read(ReadHave(ROOM, tuple(IDS[:1]), b"salt"), IDS[:1], [], b"", now)
    rooms.lacking(Lacking(ROOM, tuple(IDS[:1])), now)
    channel.effects.clear()
    rooms.want(ROOM, IDS[1:2])
    assert not rooms.put_off(asked(channel), now + 1)


def test_who_is_silent_counts_as_being_asked_for_some_seconds() -> None:
    channel, rooms = talking()
    rooms.want(ROOM, IDS)
    rooms.have_read(asked(channel), IDS, [], b"", 10.0)
    assert rooms.is_asking(ROOM, now=14.9)
    assert not rooms.is_asking(ROOM, now=15.1)
