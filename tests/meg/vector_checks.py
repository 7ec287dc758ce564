"""Every check against the vector files as a function that returns what failed, so that sabotage can be shown to fail.

Source of the vectors: tests/vectors/state_res/README.md.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from itertools import permutations
from pathlib import Path
from typing import Any

from p2pserver.events.pdu import Pdu
from p2pserver.events.receipt import load_pdu
from p2pserver.events.versions import ROOM_VERSIONS, RoomVersionRules
from p2pserver.meg import auth, resolution
from p2pserver.meg.power import DEFAULTS
from p2pserver.meg.state import CREATE, JOIN_RULES, POWER_LEVELS, NotAllowed, StateSlot, member_slot
from tests.meg.rooms import JudgedRoom, load, pdu

VECTORS = Path(__file__).parent.parent / "vectors"
STATE_RES = sorted(path.stem for path in (VECTORS / "state_res").glob("*.json"))
TRACE_LISTS = ("conflicted_set", "auth_difference", "conflicted_subgraph", "full_conflicted_set")
TRACE_ORDERS = ("power_order", "mainline", "rest_order")


@cache
def table(name: str) -> Any:
    return json.loads((VECTORS / f"{name}.json").read_text("utf-8"))


@cache
def state_res_file(name: str) -> Any:
    return json.loads((VECTORS / "state_res" / f"{name}.json").read_text("utf-8"))


# auth_membership.json, auth_send.json, auth_power_levels.json -----------------------------------------------------


def table_state(
    data: Mapping[str, Any], rules: RoomVersionRules, *, setup: str = "normal", with_levels: bool = True
) -> dict[StateSlot, Pdu]:
    """The state that the tables describe in words."""
    roles = data["roles"]
    creator = roles["creator"]
    content: dict[str, Any] = {"room_version": rules.version}
    if rules.creator_in_content:
        content["creator"] = creator
    if setup == "not_federated":
        content["m.federate"] = False
    room_id = "!create" if rules.room_id_is_create_hash else "!room:s1.example"
    state = {
        CREATE: pdu(
            rules,
            "$create",
            "m.room.create",
            sender=creator,
            content=content,
            state_key="",
            prev_events=(),
            room_id=room_id,
        )
    }
    joined = dict.fromkeys(("creator", "admin", "mod", "user"), "join")
    for role, membership in data.get("role_membership", joined).items():
        user = roles[role]
        state[member_slot(user)] = pdu(
            rules,
            f"$member-{role}",
            "m.room.member",
            sender=user,
            content={"membership": membership},
            state_key=user,
            room_id=room_id,
        )
    if with_levels and setup != "no_power_levels":
        users = {roles["admin"]: 100, roles["mod"]: 50}
        if not rules.creators_privileged:
            users[creator] = 100
        levels: dict[str, Any] = {
            "users": users,
            "invite": 50,
            "kick": 50,
            "ban": 60,
            "state_default": 50,
            "redact": 50,
            "events_default": 0,
            "events": {"m.room.topic": 60, "m.room.name": 20, "org.example.open": 0},
        }
        state[POWER_LEVELS] = pdu(
            rules, "$levels", "m.room.power_levels", sender=creator, content=levels, state_key="", room_id=room_id
        )
    return state


def allowed(event: Pdu, state: Mapping[StateSlot, Pdu]) -> bool:
    try:
        auth.authorize(event, state)
    except NotAllowed:
        return False
    return True


def membership_failures(version: str) -> list[str]:
    data, rules = table("auth_membership"), ROOM_VERSIONS[version]
    failures = []
    base = table_state(data, rules)
    room_id = base[CREATE].room_id
    for row in data["rows"]:
        row_version, join_rule, sender, target, membership, via, expected = row
        if row_version != version:
            continue
        state = dict(base)
        if join_rule is not None:
            state[JOIN_RULES] = pdu(
                rules,
                "$rules",
                "m.room.join_rules",
                sender=data["roles"]["creator"],
                state_key="",
                content={"join_rule": join_rule},
                room_id=room_id,
            )
        content = {"membership": membership}
        if via is not None:
            content["join_authorised_via_users_server"] = data["roles"][via]
        event = pdu(
            rules,
            "$event",
            "m.room.member",
            sender=data["roles"][sender],
            state_key=data["roles"][target],
            content=content,
            prev_events=("$create",),
            room_id=room_id,
        )
        if allowed(event, state) is not expected:
            failures.append(f"{row}")
    return failures


def send_failures(version: str) -> list[str]:
    data, rules = table("auth_send"), ROOM_VERSIONS[version]
    failures = []
    for row in data["rows"]:
        row_version, setup, sender, event_type, state_key, expected = row
        if row_version != version:
            continue
        state = table_state(data, rules, setup=setup)
        event = pdu(
            rules,
            "$event",
            event_type,
            sender=data["roles"][sender],
            state_key=state_key,
            content={},
            room_id=state[CREATE].room_id,
        )
        if allowed(event, state) is not expected:
            failures.append(f"{row}")
    return failures


def power_levels_failures(version: str) -> list[str]:
    data, rules = table("auth_power_levels"), ROOM_VERSIONS[version]
    failures = []
    base = table_state(data, rules, with_levels=False)
    room_id = base[CREATE].room_id
    for case in data["cases"]:
        if case["room_version"] != version:
            continue
        state = dict(base)
        if case["old"] is not None:
            state[POWER_LEVELS] = pdu(
                rules,
                "$levels",
                "m.room.power_levels",
                sender=data["roles"]["creator"],
                state_key="",
                content=case["old"],
                room_id=room_id,
            )
        event = pdu(
            rules,
            "$event",
            "m.room.power_levels",
            sender=data["roles"][case["sender"]],
            state_key="",
            content=case["new"],
            room_id=room_id,
        )
        if allowed(event, state) is not case["allowed"]:
            failures.append(f"{case}")
    return failures


NOT_INTEGERS = (True, False, None, "50", " 50 ", "5_0", 50.0, [], {})
NOT_READABLE = (None, [], {})
"""Of these, what is no level before version 10 either."""


def covered(name: str, key: str) -> Counter[str]:
    """How many rows or cases a table has of each room version; all of them are known here."""
    rows = table(name)[key]
    counted = Counter(row["room_version"] if isinstance(row, dict) else row[0] for row in rows)
    assert counted.keys() <= ROOM_VERSIONS.keys(), counted
    return counted


def level_type_failures(version: str) -> list[str]:
    """Power levels that are not integers, in every place that has one; sent by the creator, who may set any level.

    Before version 10 only `users` is looked at where there are no levels to compare with.
    """
    rules = ROOM_VERSIONS[version]
    state = table_state(table("auth_send"), rules)
    state.pop(POWER_LEVELS)
    creator = state[CREATE].sender
    places: list[Callable[[object], dict[str, Any]]] = [
        *((lambda level, name=name: {name: level}) for name in DEFAULTS),
        lambda level: {"events": {"m.room.name": level}},
        lambda level: {"notifications": {"room": level}},
        lambda level: {"users": {"@admin:s2.example": level}},
    ]
    failures = []
    for place in places:
        for level in (50, *NOT_INTEGERS):
            event = pdu(
                rules,
                "$event",
                "m.room.power_levels",
                sender=creator,
                state_key="",
                content=place(level),
                room_id=state[CREATE].room_id,
            )
            expected = type(level) is int
            if int(version) < 10:
                expected = "users" not in event.content or level not in NOT_READABLE
            if allowed(event, state) is not expected:
                failures.append(f"{version}: {place(level)}")
    return failures


def power_change_failures(version: str) -> list[str]:
    """What a member of level 50 may change, where the versions differ: who compares what, and what is a number."""
    number = int(version)
    rules = ROOM_VERSIONS[version]
    data = table("auth_send")
    base = table_state(data, rules, with_levels=False)
    mod = data["roles"]["mod"]
    levels: dict[str, Any] = {"users": {mod: 50}, "state_default": 50, "events": {"m.room.power_levels": 50}}
    cases: list[tuple[dict[str, Any], dict[str, Any], bool]] = [
        ({}, {"notifications": {"room": 51}}, number < 6),
        ({"notifications": {"room": 51}}, {}, number < 6),
        ({"notifications": {"room": 50}}, {"notifications": {"room": 0}}, True),
        ({}, {"ban": 51}, False),
        ({}, {"ban": "50"}, number < 10),
        ({}, {"ban": " +050 "}, number < 10),
        ({}, {"ban": "51"}, False),
        ({}, {"ban": "abc"}, False),
        ({}, {"ban": "٥"}, False),
        ({}, {"ban": None}, False),
        ({}, {"events": {**levels["events"], "m.room.name": "51"}}, False),
        ({}, {"users": {**levels["users"], "@new:s4.example": " 49"}}, number < 10),
        ({}, {"users": {**levels["users"], "@new:s4.example": "51"}}, False),
        ({}, {"users": {**levels["users"], "new": 0}}, False),
        ({"ban": "51"}, {"ban": 51}, True),
        ({"ban": "50"}, {"ban": 50}, True),
    ]
    failures = []
    for old, new, expected in cases:
        before = dict(levels | old)
        if number >= 10 and any(isinstance(value, str) for value in old.values()):
            continue  # such an event is never accepted
        state = dict(base)
        state[POWER_LEVELS] = pdu(
            rules,
            "$levels",
            "m.room.power_levels",
            sender=mod,
            content=before,
            state_key="",
            room_id=base[CREATE].room_id,
        )
        event = pdu(
            rules, "$event", "m.room.power_levels", sender=mod, content=levels | new, state_key="",
            room_id=base[CREATE].room_id,
        )  # fmt: skip
        if allowed(event, state) is not expected:
            failures.append(f"{version}: {old} to {new}")
    return failures


def redaction_rule_failures(version: str) -> list[str]:
    """Who may redact what by the auth rules: only versions 1 and 2 ask, and go by the servers of the event IDs."""
    rules = ROOM_VERSIONS[version]
    data = table("auth_send")
    state = table_state(data, rules)
    failures = []
    for role, target, expected in (
        ("creator", "$x:s9.example", True),
        ("mod", "$x:s9.example", True),
        ("user", "$x:s4.example", True),
        ("user", "$x:s9.example", int(version) > 2),
        ("user", None, int(version) > 2),
    ):
        sender = data["roles"][role]
        event = pdu(
            rules,
            "$event:" + sender.partition(":")[2],
            "m.room.redaction",
            sender=sender,
            content={} if not rules.redacts_in_content or target is None else {"redacts": target},
            room_id=state[CREATE].room_id,
            raw={} if target is None else {"redacts": target},
        )
        if allowed(event, state) is not expected:
            failures.append(f"{version}: {role} redacts {target}")
    return failures


# auth_events_checks.json -------------------------------------------------------------------------------------------


def auth_events_failures(version: str) -> list[str]:
    rules = ROOM_VERSIONS[version]
    failures = []
    for case in table("auth_events_checks")["cases"]:
        if case["room_version"] != version:
            continue
        event = load_pdu(case["pdu"], rules)
        chain = {entry["event_id"]: load(entry, rules) for entry in case["auth_chain"]}
        rejected = [entry["event_id"] for entry in case["auth_chain"] if entry["rejected"]]
        cited = [chain[event_id] for event_id in event.auth_events]
        creates = [other for other in chain.values() if other.type == "m.room.create"]
        create = next((other for other in creates if other.room_id == event.room_id), None)
        try:
            auth.check_auth_events(event, cited, rejected=rejected, create=create)
            verdict = "pass"
        except NotAllowed:
            verdict = "reject"
        if verdict != case["must"]:
            failures.append(f"{version}: {case['what']}: {verdict}")
    return failures


# state_res/*.json --------------------------------------------------------------------------------------------------


def state_map(nested: Mapping[str, Mapping[str, str]]) -> dict[StateSlot, str]:
    return {
        (event_type, state_key): event_id
        for event_type, by_key in nested.items()
        for state_key, event_id in by_key.items()
    }


def events_of(name: str) -> list[Pdu]:
    data = state_res_file(name)
    rules = ROOM_VERSIONS[data["room_version"]]
    return [load(entry, rules) for entry in data["events"]]


def states_of(name: str) -> list[dict[StateSlot, str]]:
    return [state_map(nested) for nested in state_res_file(name)["states"]]


def graph_failures(name: str, seed: int | None = None) -> list[str]:
    """Verdicts and states of all events, computed from the graph: in the file's order, or shuffled by a seed."""
    data, states = state_res_file(name), states_of(name)
    events = events_of(name)
    if seed is not None:
        random.Random(seed).shuffle(events)
    room = JudgedRoom(ROOM_VERSIONS[data["room_version"]])
    room.add_all(events)
    failures = []
    for entry in data["events"]:
        event_id = entry["event_id"]
        if room.verdicts[event_id] != entry["verdict"]:
            failures.append(f"{name}: {event_id} is {room.verdicts[event_id]}, not {entry['verdict']}")
        if room.before[event_id] != states[entry["state_before"]]:
            failures.append(f"{name}: state before {event_id}")
        if room.after[event_id] != states[entry["state_after"]]:
            failures.append(f"{name}: state after {event_id}")
    cited = {
        parent
        for event_id, event in room.events.items()
        if not room.is_rejected(event_id)
        for parent in event.prev_events
    }
    leaves = sorted(event_id for event_id in room.events if not room.is_rejected(event_id) and event_id not in cited)
    if leaves != sorted(data["forward_extremities"]):
        failures.append(f"{name}: forward extremities")
    return failures


def given_room(name: str) -> JudgedRoom:
    """The room with the verdicts of the file: what the resolutions are computed with."""
    data = state_res_file(name)
    room = JudgedRoom(ROOM_VERSIONS[data["room_version"]])
    for entry, event in zip(data["events"], events_of(name), strict=True):
        room.events[event.event_id] = event
        room.verdicts[event.event_id] = entry["verdict"]
    return room


def orders(count: int, rng: random.Random) -> Iterator[list[int]]:
    """All orders of up to three state sets, six shuffled ones of more, always with the given one first."""
    if count <= 3:
        yield from (list(order) for order in permutations(range(count)))
        return
    yield list(range(count))
    for _ in range(6):
        yield rng.sample(range(count), count)


def resolution_failures(name: str) -> list[str]:
    """Every resolution in every order of its state sets, without and with a trace, and the trace itself."""
    data, states = state_res_file(name), states_of(name)
    room = given_room(name)
    rng = random.Random(name)
    failures = []
    for case in data["resolutions"]:
        where = f"{name}/{case['name']}"
        sets = [states[index] for index in case["state_sets"]]
        for order in orders(len(sets), rng):
            in_order = [sets[index] for index in order]
            if resolution.resolve(in_order, room, room.rules) != states[case["expected"]]:
                failures.append(f"{where}: wrong state, sets in order {order}")
            trace: dict[str, Any] = {}
            if resolution.resolve(in_order, room, room.rules, trace=trace) != states[case["expected"]]:
                failures.append(f"{where}: wrong state with a trace, sets in order {order}")
            failures += [f"{where}: {what}, sets in order {order}" for what in trace_failures(trace, case["trace"])]
    return failures


def trace_failures(trace: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    failures = [name for name in TRACE_LISTS if name in expected and trace[name] != sorted(expected[name])]
    failures += [name for name in TRACE_ORDERS if trace[name] != expected[name]]
    if trace["conflicted_keys"] != sorted(tuple(slot) for slot in expected["conflicted_keys"]):
        failures.append("conflicted_keys")
    if "state_after_power" in expected and trace["state_after_power"] != state_map(expected["state_after_power"]):
        failures.append("state_after_power")
    return failures
