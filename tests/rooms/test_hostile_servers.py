"""Servers with keys of their own that forge, flood, fork and replay: bounded costs, and honest ones go on."""

from __future__ import annotations

import time
from typing import Any

import pytest

from p2pserver.errors import Verdict
from p2pserver.events.build import build_event
from p2pserver.events.pdu import Pdu
from p2pserver.events.signing import sign_event
from p2pserver.events.versions import V12
from p2pserver.meg.resolution import differing_slots, distinct
from p2pserver.rooms.edus import receive_edu
from p2pserver.rooms.values import RoomLimits
from p2pserver.store import outbox, to_device
from p2pserver.store.accounts import register_user
from p2pserver.store.devices import log_in_device
from p2pserver.store.peers import peer_connected
from p2pserver.store.tx import Tx
from tests.rooms.servers import START_MS, Server, fetch, leaves, reconcile
from tests.rooms.test_receipt import event_of, shared_room


def forged(server: Server, resident: Server, room_id: str, prev_events: list[str], **options: Any) -> Pdu:
    """An event of a user of `server`, with the auth events that the state at `resident` has for him."""
    state = resident.run(lambda tx: resident.rooms.current_state(tx, room_id))
    slots = [("m.room.power_levels", ""), ("m.room.member", server.user), ("m.room.join_rules", "")]
    if options.get("event_type", "m.room.message") != "m.room.member":
        slots.pop()
    settings: dict[str, Any] = {
        "rules": V12,
        "room_id": room_id,
        "sender": server.user,
        "event_type": "m.room.message",
        "state_key": None,
        "content": {"body": "from outside"},
        "auth_events": [state[slot] for slot in slots if slot in state],
        "depth": 9,
        "origin_server_ts": START_MS,
        "signer": server.signer,
    }
    return build_event(**{**settings, **options, "prev_events": prev_events})


# Floods from outside the room


@pytest.mark.parametrize("chained", [False, True])
def test_a_stranger_fills_no_disk_with_events_that_are_rejected(chained: bool) -> None:
    room_id, alice, bob = shared_room()
    mallory = Server("mallory")
    tips = leaves(alice, room_id)
    flood = []
    for number in range(300):
        event = forged(mallory, alice, room_id, tips, content={"body": f"{number} " + "x" * 500})
        flood.append(event.raw)
        if chained:
            tips = [event.event_id]
    if chained:
        flood.reverse()  # each waits for the next, so that the first one to be judged sets all others free
    before = alice.one("SELECT count(*) FROM events")
    groups = alice.one("SELECT count(*) FROM state_groups")
    for start in range(0, 300, 50):
        report = alice.receive(room_id, flood[start : start + 50], mallory.name)
        assert len(report.results) == 50
    most = RoomLimits().outsider_events_per_hour
    assert alice.one("SELECT count(*) FROM events") == before + most
    assert alice.one("SELECT count(*) FROM state_groups") <= groups + most
    assert alice.one("SELECT count(*) FROM parked_pdus") <= RoomLimits().parked_per_source
    alice.send(room_id, "unimpressed")
    reconcile(room_id, alice, bob)
    assert alice.digest(room_id) == bob.digest(room_id)
    assert alice.operational(room_id) == bob.operational(room_id)


def test_a_banned_server_fills_no_disk_with_the_past_and_members_still_bring_what_they_hold() -> None:
    room_id, alice, bob = shared_room()
    carol = Server("carol")
    carol.join(room_id, alice)
    reconcile(room_id, alice, carol)
    reconcile(room_id, alice, bob)
    before_ban = leaves(alice, room_id)
    backdated = [event_of(bob, room_id, before_ban, body=f"{number}") for number in range(150)]
    carol.receive(room_id, [event.raw for event in backdated], bob.name)
    alice.member(room_id, bob.user, "ban")
    report = alice.receive(room_id, [event.raw for event in backdated], bob.name)
    verdicts = [receipt.verdict for receipt in report.results]
    assert verdicts == [Verdict.SOFT_FAILED] * 100 + [Verdict.DROPPED] * 50
    report = alice.receive(room_id, [event.raw for event in backdated], carol.name)
    assert {receipt.verdict for receipt in report.results} == {Verdict.SOFT_FAILED}
    reconcile(room_id, alice, carol)
    assert alice.digest(room_id) == carol.digest(room_id)


def test_a_server_that_has_just_joined_is_heard_while_a_stranger_floods() -> None:
    room_id, alice, bob = shared_room()
    mallory, dave = Server("mallory"), Server("dave")
    tips = leaves(alice, room_id)
    flood = [forged(mallory, alice, room_id, tips, content={"body": f"{number}"}).raw for number in range(110)]
    assert alice.receive(room_id, flood, mallory.name).results[-1].verdict is Verdict.DROPPED
    dave.join(room_id, bob)
    reconcile(room_id, dave, bob)
    dave.send(room_id, "hello from dave")
    reconcile(room_id, dave, alice)
    assert dave.name in alice.run(lambda tx: alice.rooms.member_servers(tx, room_id))
    reconcile(room_id, alice, bob)
    reconcile(room_id, dave, alice)
    assert alice.digest(room_id) == dave.digest(room_id)


# Forks


def test_a_member_that_forks_without_end_slows_nobody_down() -> None:
    room_id, alice, bob = shared_room()
    for number in range(100):
        alice.set_state(room_id, "org.example.setting", f"{number}", {"is": number})
    reconcile(room_id, alice, bob)
    tips = leaves(alice, room_id)
    forks = [
        forged(
            bob,
            alice,
            room_id,
            tips,
            event_type="m.room.member",
            state_key=bob.user,
            content={"membership": "join", "displayname": f"{number}"},
            origin_server_ts=START_MS + number,
        ).raw
        for number in range(100)
    ]
    report = alice.receive(room_id, forks, bob.name)
    assert {receipt.verdict for receipt in report.results} == {Verdict.ACCEPTED}
    assert alice.one("SELECT count(*) FROM forward_extremities") == 100
    for number in range(6):
        alice.send(room_id, f"merges {number}")
    assert alice.one("SELECT count(*) FROM forward_extremities") == 1
    fetch(room_id, alice, bob, octets_max=1_000_000)
    assert alice.digest(room_id) == bob.digest(room_id)


def test_thousands_of_forks_are_not_compared_in_pairs() -> None:
    shared = {("org.example.setting", f"{number}"): f"${number}" for number in range(200)}
    sets = [{**shared, ("m.room.member", "@bob:b"): f"$fork{number % 2500}"} for number in range(3000)]
    began = time.process_time()
    kept = distinct(sets, differing_slots(sets))
    assert time.process_time() - began < 4
    assert kept == sets[:2500]


# What waits


def test_thousands_of_unknown_parents_cost_little() -> None:
    """Events with a thousand parents that do not exist are tolerated in answers, as history may have them."""
    room_id, alice, bob = shared_room()
    floods = []
    for number in range(60):
        nowhere = ["$" + f"{number:04d}{parent:04d}".ljust(42, "x") + "A" for parent in range(1000)]
        short = forged(bob, alice, room_id, ["$" + "A" * 43], content={"body": f"{number}"})
        floods.append(sign_event({**short.raw, "prev_events": nowhere, "signatures": {}}, V12, bob.signer))
    limits = RoomLimits(parked_per_source=20)
    patient = Server("alice", limits=limits)
    patient.conn = alice.conn
    began = time.process_time()
    for start in range(0, 60, 20):
        patient.run(
            lambda tx, start=start: patient.rooms.receive(  # type: ignore[misc]
                tx, room_id=room_id, raws=floods[start : start + 20], source=bob.name, backfill=True
            )
        )
    assert patient.one("SELECT count(*) FROM parked_pdus") == 20
    assert patient.one("SELECT count(*) FROM parked_waits") == 20_000
    for _ in range(10):
        assert len(patient.run(lambda tx: patient.rooms.wanted(tx, room_id))) == limits.wanted_at_once
    assert time.process_time() - began < 10


def test_an_invite_that_was_refused_does_not_come_back() -> None:
    """A replay by anybody, or the inviter's own repetition after a lost acknowledgement."""
    alice, bob = Server("alice"), Server("bob")
    room_id = alice.create(public=False)
    invite = alice.member(room_id, bob.user, "invite")
    payload = alice.run(lambda tx: alice.rooms.invite_payload(tx, invite.event_id))

    def deliver_invite(origin: str) -> Verdict:
        return bob.run(lambda tx: bob.rooms.receive_invite(tx, origin=origin, payload=payload))

    assert deliver_invite(alice.name) is Verdict.ACCEPTED
    bob.run(lambda tx: bob.rooms.decline_invite(tx, user_id=bob.user, room_id=room_id))
    assert deliver_invite(alice.name) is Verdict.DROPPED
    assert deliver_invite(Server("mallory").name) is Verdict.DROPPED
    membership = bob.one("SELECT membership FROM local_memberships WHERE user_id = ?", bob.user)
    assert membership == "leave"


# To-device messages


def direct(sender: str, to: str, message_id: str, octets: int = 10) -> dict[str, Any]:
    messages = {to: {"PHONE": {"body": "x" * octets}}}
    return {"sender": sender, "type": "m.test", "message_id": message_id, "messages": messages}


def with_phone(server: Server) -> None:
    def make(tx: Tx) -> None:
        register_user(tx, server.user, None)
        log_in_device(tx, server.user, "PHONE", token="token", display_name=None, now_ms=START_MS, ip="")

    server.run(make)


def queued_from(server: Server, sender: Server) -> int:
    return sum(f'"{sender.user}"' in text for text in server.column("SELECT message FROM to_device"))


@pytest.mark.parametrize("octets", [10, 50_000])
def test_strangers_leave_room_in_the_queues_for_those_who_share_a_room(octets: int) -> None:
    _, alice, bob = shared_room()
    with_phone(alice)
    for name in ("mallory", "malvin"):
        stranger = Server(name)
        for number in range(150):
            content = direct(stranger.user, alice.user, f"{number}", octets)
            alice.run(lambda tx, content=content, stranger=stranger: flood_of(tx, stranger, content))  # type: ignore[misc]
    assert alice.one("SELECT count(*) FROM to_device") <= to_device.STRANGERS_MAX
    assert alice.one("SELECT total(octets) FROM to_device") <= to_device.STRANGERS_OCTETS_MAX
    before = queued_from(alice, bob)
    for number in range(5):
        alice.run(
            lambda tx, number=number: receive_edu(  # type: ignore[misc]
                tx, bob.name, "m.direct_to_device", direct(bob.user, alice.user, f"{number}")
            )
        )
    assert queued_from(alice, bob) == before + 5


def flood_of(tx: Tx, stranger: Server, content: dict[str, Any]) -> None:
    receive_edu(tx, stranger.name, "m.direct_to_device", content)


def test_nobody_speaks_for_the_users_of_another_server() -> None:
    _, alice, bob = shared_room()
    mallory = Server("mallory")
    with_phone(alice)
    alice.run(lambda tx: flood_of(tx, mallory, direct(bob.user, alice.user, "spoofed")))
    alice.run(lambda tx: flood_of(tx, mallory, direct(alice.user, alice.user, "as herself")))
    alice.run(lambda tx: receive_edu(tx, mallory.name, "m.device_list_update", {"user_id": bob.user}))
    alice.run(lambda tx: receive_edu(tx, mallory.name, "m.signing_key_update", {"user_id": alice.user}))
    assert alice.column("SELECT message FROM to_device") == []
    assert alice.column("SELECT user_id FROM device_list_changes") == []
    alice.run(lambda tx: receive_edu(tx, bob.name, "m.device_list_update", {"user_id": bob.user}))
    assert alice.column("SELECT user_id FROM device_list_changes") == [bob.user]


def test_the_memory_of_received_messages_is_bounded_over_all_origins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(to_device, "REMEMBERED_MAX", 500)
    _, alice, _ = shared_room()
    for key in range(30):
        alice.run(lambda tx, key=key: [to_device.is_first_receipt(tx, f"{key}", f"{n}") for n in range(100)])  # type: ignore[misc]
    assert alice.one("SELECT count(*) FROM to_device_received") == 500


# What is owed to servers that never come


def crowd(room_id: str, alice: Server, size: int) -> None:
    """Servers that exist only as a key and a join event."""
    tips = leaves(alice, room_id)
    joins = []
    for number in range(size):
        server = Server(f"crowd-{size}-{number}")
        join = forged(
            server,
            alice,
            room_id,
            tips,
            event_type="m.room.member",
            state_key=server.user,
            content={"membership": "join"},
        )
        joins.append(join.raw)
        tips = [join.event_id]
    alice.receive(room_id, joins, "whoever.example")


def test_a_crowd_that_never_comes_does_not_multiply_what_is_owed() -> None:
    room_id, alice, bob = shared_room()
    alice.run(lambda tx: peer_connected(tx, b"b" * 32, server_name=bob.name, agent="", link="", now_ms=0))
    crowd(room_id, alice, 60)
    few = alice.send(room_id, "to all of a room of some size")
    assert len(alice.column("SELECT destination FROM outbox WHERE event_id = ?", few.event_id)) == 61
    crowd(room_id, alice, 120)
    many = alice.send(room_id, "to whom it may concern")
    assert alice.column("SELECT destination FROM outbox WHERE event_id = ?", many.event_id) == [bob.name]
    assert alice.run(lambda tx: len(alice.rooms.member_servers(tx, room_id))) == 182
    reconcile(room_id, alice, bob)
    assert alice.digest(room_id) == bob.digest(room_id)


def test_events_owed_are_bounded_and_other_things_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "EVENTS_MAX", 300)
    _, alice, _ = shared_room()

    def queue(tx: Tx) -> None:
        outbox.queue_edu(tx, "away.example", "m.test", {"first": True})
        outbox.queue_pdu(tx, "away.example", "!room", "$refusal", raw={"kept": True})
        for number in range(2_500):
            outbox.queue_pdu(tx, "away.example", "!room", f"${number}")

    alice.run(queue)
    assert alice.one("SELECT count(*) FROM outbox WHERE kind = 'pdu' AND payload IS NULL") < 1_500
    assert alice.column("SELECT event_id FROM outbox ORDER BY number")[-1] == "$2499"
    assert alice.one("SELECT count(*) FROM outbox WHERE payload IS NOT NULL AND destination = 'away.example'") == 2
