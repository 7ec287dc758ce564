"""A room in a file: its events judged and its states resolved, with every step on request.

The format is that of the state resolution vectors (tests/vectors/state_res/README.md). Read are `room_version`,
`servers`, the `pdu` of each of `events`, `states`, and the `state_sets` of each of `resolutions`. Whatever else a file
says of the results (verdicts, states before and after, `expected`) is not looked at.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from p2pserver.commands.json_files import BadFile, FileKeys, keys_of
from p2pserver.errors import UnsupportedRoomVersion
from p2pserver.events.examination import examine
from p2pserver.events.pdu import Pdu
from p2pserver.events.versions import RoomVersionRules, StateRes, rules_of
from p2pserver.meg.auth import NotAllowed, auth_slots_of, authorize, create_id_of
from p2pserver.meg.replay import Replay, Replayed
from p2pserver.meg.resolution import resolve
from p2pserver.meg.state import StateMap, StateSlot

STEPS = (
    "conflicted_keys",
    "conflicted_set",
    "auth_difference",
    "conflicted_subgraph",
    "full_conflicted_set",
    "power_order",
    "state_after_power",
    "mainline",
    "rest_order",
)
"""Of a resolution, as `resolve` calls them, in the order in which they follow from each other."""


@dataclass(slots=True)
class Scenario:
    """The room of one file, judged. `warnings` are for people: what was believed because it could not be checked."""

    rules: RoomVersionRules
    events: dict[str, Pdu]
    state_sets: list[list[StateMap]]
    names: list[str | None]
    replay: Replay = field(init=False)
    judged: dict[str, Replayed] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.replay = Replay(self.rules, self.events.get)

    @classmethod
    def of(cls, data: object) -> Scenario:
        """Raises: BadFile."""
        if not isinstance(data, dict):
            raise BadFile("the file is not a JSON object")
        version = data.get("room_version")
        if not isinstance(version, str):
            raise BadFile("`room_version` is not a string")
        try:
            rules = rules_of(version)
        except UnsupportedRoomVersion as error:
            raise BadFile(str(error)) from None
        warnings: list[str] = []
        events = _events(_list(data, "events"), rules, keys_of(data), warnings)
        states = [_state(state, events, f"`states`, number {n}") for n, state in enumerate(_list(data, "states"))]
        resolutions = _list(data, "resolutions")
        scenario = cls(
            rules,
            events,
            [_sets(entry, n, states, events) for n, entry in enumerate(resolutions)],
            [entry.get("name") if isinstance(entry.get("name"), str) else None for entry in resolutions],
            warnings=warnings,
        )
        scenario._judge()
        return scenario

    def _judge(self) -> None:
        for event in _in_order(self.events):
            after = [self.judged[parent].after for parent in event.prev_events]
            self.judged[event.event_id] = self.replay.judge(event, after)

    def answer(self, *, trace: bool) -> dict[str, Any]:
        """`{"resolutions": [{"state": {type: {state_key: event_id}}}, …]}`, in the order of the file.

        With `trace` also `events` with their verdicts and states, and in each resolution its name and every step.
        """
        if not trace:
            return {
                "resolutions": [{"state": nested(resolve(sets, self.replay, self.rules))} for sets in self.state_sets]
            }
        return {
            "resolutions": [self._traced(name, sets) for name, sets in zip(self.names, self.state_sets, strict=True)],
            "events": [
                {
                    "event_id": event_id,
                    "verdict": "accepted" if judged.rejection is None else "rejected",
                    "reason": judged.rejection,
                    "state_before": nested(judged.before),
                    "state_after": nested(judged.after),
                }
                for event_id, judged in self.judged.items()
            ],
        }

    def _traced(self, name: str | None, sets: Sequence[StateMap]) -> dict[str, Any]:
        steps: dict[str, Any] = {}
        state = resolve(sets, self.replay, self.rules, trace=steps)
        shown: dict[str, Any] = {}
        for step in sorted(steps, key=lambda step: STEPS.index(step) if step in STEPS else len(STEPS)):
            value = steps[step]
            if isinstance(value, Mapping):
                shown[step] = nested(value)
            else:
                shown[step] = [list(each) if isinstance(each, tuple) else each for each in value]
        if "power_order" in steps and "rest_order" in steps:
            shown["auth_decisions"] = self._decisions(sets, [*steps["power_order"], *steps["rest_order"]])
        return {"name": name, "state": nested(state), "trace": shown}

    def _decisions(self, sets: Sequence[StateMap], order: Sequence[str]) -> list[dict[str, Any]]:
        """The iterative auth checks again, written down: of each event whether it enters the state, or why not."""
        state: dict[StateSlot, str] = {}
        if self.rules.state_res is not StateRes.V2_1:
            state = {slot: each for slot, each in sets[0].items() if all(other.get(slot) == each for other in sets)}
        decisions: list[dict[str, Any]] = []
        for event_id in order:
            event, slot = self.events[event_id], self.events[event_id].state_slot
            reason: str | None = None
            if slot is None:
                reason = "not a state event"
            elif self.replay.is_rejected(event_id):
                reason = f"rejected {self.judged[event_id].rejection}"
            else:
                try:
                    authorize(event, self._auth_state(event, state))
                    state[slot] = event_id
                except NotAllowed as error:
                    reason = error.reason
            decisions.append({"event_id": event_id, "allowed": reason is None, "reason": reason})
        return decisions

    def _auth_state(self, event: Pdu, state: StateMap) -> dict[StateSlot, Pdu]:
        cited = [*event.auth_events]
        if self.rules.room_id_is_create_hash and event.type != "m.room.create":
            cited.append(create_id_of(event.room_id))
        wanted = [state[slot] for slot in auth_slots_of(event) if slot in state]
        usable = [self.events[each] for each in [*cited, *wanted] if not self.replay.is_rejected(each)]
        return {each.state_slot: each for each in usable if each.state_slot is not None}


def nested(state: StateMap) -> dict[str, dict[str, str]]:
    """`{type: {state_key: event_id}}`, sorted."""
    found: dict[str, dict[str, str]] = {}
    for (event_type, state_key), event_id in sorted(state.items()):
        found.setdefault(event_type, {})[state_key] = event_id
    return found


def _list(data: Mapping[str, Any], name: str) -> list[Any]:
    value = data.get(name)
    if not isinstance(value, list):
        raise BadFile(f"`{name}` is not a list" if name in data else f"`{name}` is missing")
    return value


def _events(entries: Sequence[object], rules: RoomVersionRules, keys: FileKeys, warnings: list[str]) -> dict[str, Pdu]:
    """Every event that passes the checks on receipt. One whose server has no known key is believed, and warned of."""
    events: dict[str, Pdu] = {}
    unknown: set[str] = set()
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict) or not isinstance(entry.get("pdu"), dict):
            raise BadFile(f"`events`, number {number}: no object `pdu`")
        found = examine(entry["pdu"], rules, keys)
        event = found.pdu or found.unverified
        if event is None:
            raise BadFile(f"`events`, number {number}: dropped on receipt: {found.dropped}")
        if found.pdu is None:
            unknown.add(event.server)
        if entry.get("event_id", event.event_id) != event.event_id:
            raise BadFile(f"`events`, number {number}: its ID is {event.event_id}, not {entry['event_id']}")
        events[event.event_id] = event
    if unknown:
        warnings.append(f"signatures not checked, as no key is known of: {', '.join(sorted(unknown))}")
    for event in events.values():
        missing = next((each for each in (*event.prev_events, *event.auth_events) if each not in events), None)
        if missing is not None:
            raise BadFile(f"{event.event_id} cites {missing}, which is not among the `events`")
    return events


def _in_order(events: Mapping[str, Pdu]) -> list[Pdu]:
    """Each event after those that it cites, else in the order of the file."""
    cites = {each.event_id: {*each.prev_events, *each.auth_events} for each in events.values()}
    waits_for = {event_id: len(cited) for event_id, cited in cites.items()}
    cited_by: dict[str, list[str]] = {event_id: [] for event_id in events}
    for event_id, cited in cites.items():
        for each in cited:
            cited_by[each].append(event_id)
    free = deque(event_id for event_id, count in waits_for.items() if count == 0)
    order: list[Pdu] = []
    while free:
        event_id = free.popleft()
        order.append(events[event_id])
        for child in cited_by[event_id]:
            waits_for[child] -= 1
            if waits_for[child] == 0:
                free.append(child)
    if len(order) < len(events):
        stuck = next(event_id for event_id, count in waits_for.items() if count)
        raise BadFile(f"events cite each other in a circle, {stuck} among them or after them")
    return order


def _state(value: object, events: Mapping[str, Pdu], where: str) -> StateMap:
    if not isinstance(value, dict) or not all(isinstance(keys, dict) for keys in value.values()):
        raise BadFile(f"{where}: not an object {{type: {{state_key: event_id}}}}")
    state: dict[StateSlot, str] = {}
    for event_type, keys in value.items():
        for state_key, event_id in keys.items():
            event = events.get(event_id) if isinstance(event_id, str) else None
            if event is None:
                raise BadFile(f"{where}: {event_id} is not among the `events`")
            if event.state_slot != (event_type, state_key):
                raise BadFile(f"{where}: {event_id} is not an event for {event_type}, {state_key!r}")
            state[event_type, state_key] = event_id
    return state


def _sets(entry: object, number: int, states: Sequence[StateMap], events: Mapping[str, Pdu]) -> list[StateMap]:
    where = f"`resolutions`, number {number}"
    if not isinstance(entry, dict) or not isinstance(entry.get("state_sets"), list):
        raise BadFile(f"{where}: no list `state_sets`")
    sets: list[StateMap] = []
    for each in entry["state_sets"]:
        if isinstance(each, dict):
            sets.append(_state(each, events, where))
        elif type(each) is int and 0 <= each < len(states):
            sets.append(states[each])
        else:
            raise BadFile(f"{where}: {each!r} is no index into `states`")
    return sets
