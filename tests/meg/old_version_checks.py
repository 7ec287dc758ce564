"""Checks against `tests/vectors/old_versions.json`: rooms of versions 1 to 9 as Synapse judged and resolved them."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from p2pserver.events.pdu import Pdu
from p2pserver.events.receipt import PduDropped, check_on_receipt
from p2pserver.events.signing import SelfCertifyingKeys
from p2pserver.events.versions import ROOM_VERSIONS
from p2pserver.meg.resolution import resolve
from p2pserver.meg.state import StateSlot
from tests.meg.rooms import JudgedRoom
from tests.meg.vector_checks import orders

FILE = Path(__file__).parent.parent / "vectors" / "old_versions.json"


@cache
def rooms() -> list[dict[str, Any]]:
    loaded: list[dict[str, Any]] = json.loads(FILE.read_text("utf-8"))["rooms"]
    return loaded


def names() -> list[str]:
    return [f"{room['room_version']}-{room['seed']}" for room in rooms()]


def room_named(name: str) -> dict[str, Any]:
    return rooms()[names().index(name)]


def of_version(version: str) -> list[str]:
    return [name for name in names() if name.partition("-")[0] == version]


def received(room: Mapping[str, Any]) -> list[Pdu]:
    """The events, past the checks on receipt. Raises: PduDropped."""
    rules = ROOM_VERSIONS[room["room_version"]]
    return [check_on_receipt(entry["pdu"], rules, SelfCertifyingKeys()) for entry in room["events"]]


def states_of(room: Mapping[str, Any], events: list[Pdu]) -> list[dict[StateSlot, str]]:
    states = []
    for places in room["states"]:
        state: dict[StateSlot, str] = {}
        for place in places:
            slot = events[place].state_slot
            assert slot is not None
            state[slot] = events[place].event_id
        states.append(state)
    return states


def failures(name: str, *, seed: int | None = None) -> list[str]:
    """IDs, verdicts, the states before and after each event, and the resolutions, in every order of their sets.

    With `seed` the events arrive in another order.
    """
    room = room_named(name)
    try:
        events = received(room)
    except PduDropped as dropped:
        return [f"{name}: {dropped.reason}"]
    found = [
        f"{name}: {entry['event_id']} is {event.event_id}"
        for entry, event in zip(room["events"], events, strict=True)
        if entry["event_id"] != event.event_id or event.redacted_copy
    ]
    if found:
        return found
    states = states_of(room, events)
    judged = JudgedRoom(ROOM_VERSIONS[room["room_version"]])
    judged.add_all(events if seed is None else random.Random(seed).sample(events, len(events)))
    for entry in room["events"]:
        event_id = entry["event_id"]
        if judged.verdicts[event_id] != entry["verdict"]:
            found.append(f"{name}: {event_id} is {judged.verdicts[event_id]}, not {entry['verdict']}")
        if judged.before[event_id] != states[entry["state_before"]]:
            found.append(f"{name}: state before {event_id}")
        if judged.after[event_id] != states[entry["state_after"]]:
            found.append(f"{name}: state after {event_id}")
    rng = random.Random(name)
    for case in room["resolutions"]:
        sets = [states[index] for index in case["state_sets"]]
        found += [
            f"{name}: resolution of {case['state_sets']} in order {order}"
            for order in orders(len(sets), rng)
            if resolve([sets[index] for index in order], judged, judged.rules) != states[case["expected"]]
        ]
    return found
