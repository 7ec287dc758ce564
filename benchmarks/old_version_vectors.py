"""Makes `tests/vectors/old_versions.json`: random rooms of versions 1 to 9, judged and resolved by Synapse's own code.

    python -m benchmarks.old_version_vectors > tests/vectors/old_versions.json

The events are made, signed and numbered by this project; which of them are rejected, the states before and after each,
and the resolutions are what Synapse's functions say (`synapse.event_auth`, `synapse.state.v1`, `synapse.state.v2`).
Nothing of it is computed by `p2pserver.meg`, not even which auth events an event cites or what differs between auth
chains. Needs the extra `bench`.
"""

from __future__ import annotations

import hashlib
import json
import random
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version as version_of
from typing import Any

from synapse.api.errors import AuthError
from synapse.api.room_versions import KNOWN_ROOM_VERSIONS
from synapse.crypto.event_signing import check_event_content_hash
from synapse.event_auth import (
    auth_types_for_event,
    check_state_dependent_auth_rules,
    check_state_independent_auth_rules,
)
from synapse.events import make_event_from_dict
from synapse.state import v1, v2
from synapse.storage.databases.main.event_federation import StateDifference

from p2pserver.events.build import build_event
from p2pserver.events.hashing import reference_hash
from p2pserver.events.pdu import Pdu
from p2pserver.events.signing import Signer
from p2pserver.events.unpadded_base64 import encode_base64
from p2pserver.events.versions import ROOM_VERSIONS
from p2pserver.identifiers import KEY_ID, server_name_of, server_of

ROOMS = {"1": 24, **{str(number): 3 for number in range(2, 10)}}
STEPS = 22
RESOLUTIONS = 4

State = Mapping[tuple[str, str], str]


def finished(coroutine: Any) -> Any:
    """The result of a coroutine that waits for nothing."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it waits for something")


def signer_of(number: int) -> Signer:
    seed = hashlib.sha256(f"old versions {number}".encode()).digest()
    return Signer(server_name_of(Signer("", KEY_ID, seed).verify_key), KEY_ID, seed)


SIGNERS = [signer_of(number) for number in range(4)]
USERS = [f"@{name}:{signer.server_name}" for name, signer in zip(("ann", "bo", "cy", "di"), SIGNERS, strict=True)]


class NoClock:
    async def sleep(self, duration: object) -> None:
        return None


class JudgedBySynapse:
    """A room that grows; every question about it is answered by Synapse."""

    def __init__(self, version: str, seed: int) -> None:
        self.rules, self.theirs = ROOM_VERSIONS[version], KNOWN_ROOM_VERSIONS[version]
        self.rng = random.Random(f"old versions {version} {seed}")
        self.room_id = f"!room{seed}:{SIGNERS[0].server_name}"
        self.pdus: list[Pdu] = []
        self.events: dict[str, Any] = {}
        self.verdicts: dict[str, str] = {}
        self.before: dict[str, dict[tuple[str, str], str]] = {}
        self.after: dict[str, dict[tuple[str, str], str]] = {}

    # What Synapse asks of its database

    async def get_events(self, event_ids: Any, **_: object) -> dict[str, Any]:
        return {event_id: self.events[event_id] for event_id in event_ids}

    async def get_auth_chain_difference(
        self, room_id: str, state_sets: list[set[str]], conflicted: object, additional: object
    ) -> StateDifference:
        chains = [self.chain(each) for each in state_sets]
        return StateDifference(
            auth_difference=set().union(*chains) - set.intersection(*chains), conflicted_subgraph=None
        )

    def chain(self, event_ids: set[str]) -> set[str]:
        found: set[str] = set()
        waiting = list(event_ids)
        while waiting:
            current = waiting.pop()
            if current not in found:
                found.add(current)
                waiting += self.events[current].auth_event_ids()
        return found

    def resolve(self, states: Sequence[State]) -> dict[tuple[str, str], str]:
        if not states:
            return {}
        if self.rules.version == "1":
            resolving = v1.resolve_events_with_store(self.room_id, self.theirs, states, None, self.get_events)
        else:
            resolving = v2.resolve_events_with_store(NoClock(), self.room_id, self.theirs, states, None, self)
        return dict(finished(resolving))

    def judge(self, event: Any, before: State) -> str:
        try:
            finished(check_state_independent_auth_rules(self, event))
            check_state_dependent_auth_rules(event, [self.events[each] for each in event.auth_event_ids()])
        except AuthError:
            return "rejected_by_auth_events"
        try:
            check_state_dependent_auth_rules(event, [self.events[each] for each in before.values()])
        except AuthError:
            return "rejected_by_state_before"
        return "accepted"

    # Growing

    def grow(
        self,
        user: int,
        event_type: str,
        state_key: str | None,
        content: dict[str, Any],
        parents: list[str],
        *,
        redacts: str | None = None,
    ) -> None:
        before = self.resolve([self.after[parent] for parent in parents])
        told = before
        if self.pdus and self.rng.random() < 0.1:
            told = self.after[self.rng.choice(self.pdus).event_id]
        fields: dict[str, Any] = {
            "rules": self.rules,
            "room_id": self.room_id,
            "sender": USERS[user],
            "event_type": event_type,
            "state_key": state_key,
            "content": content,
            "prev_events": parents,
            "depth": self.depth_after(parents),
            "origin_server_ts": 1_700_000_000_000 + self.rng.randrange(4),
            "signer": SIGNERS[user],
            "redacts": redacts,
        }
        draft = build_event(**fields, auth_events=[])
        wanted = auth_types_for_event(self.theirs, make_event_from_dict(dict(draft.raw), self.theirs))
        cited = [told[slot] for slot in sorted(wanted) if slot in told]
        hashes = {
            each.event_id: encode_base64(reference_hash(each.raw, self.rules))
            for each in self.pdus
            if each.event_id in (*parents, *cited)
        }
        self.add(build_event(**fields, auth_events=cited, reference_hashes=hashes), before)

    def depth_after(self, parents: list[str]) -> int:
        if parents and self.rng.random() < 0.15:
            return self.rng.randrange(1, 40)
        return 1 + max((self.events[parent].depth for parent in parents), default=0)

    def add(self, pdu: Pdu, before: dict[tuple[str, str], str]) -> None:
        event = make_event_from_dict(json.loads(json.dumps(pdu.raw)), self.theirs)
        if event.event_id != pdu.event_id or not check_event_content_hash(event):
            raise AssertionError(f"Synapse reads {pdu.event_id} otherwise")
        if pdu.event_id in self.events:
            return
        verdict = self.judge(event, before)
        if verdict != "accepted":
            event = make_event_from_dict(json.loads(json.dumps(pdu.raw)), self.theirs, rejected_reason=verdict)
        after = before
        if verdict == "accepted" and pdu.state_slot is not None:
            after = {**before, pdu.state_slot: pdu.event_id}
        self.pdus.append(pdu)
        self.events[pdu.event_id] = event
        self.verdicts[pdu.event_id], self.before[pdu.event_id], self.after[pdu.event_id] = verdict, before, after

    def leaves(self) -> list[str]:
        accepted = [pdu for pdu in self.pdus if self.verdicts[pdu.event_id] == "accepted"]
        cited = {parent for pdu in accepted for parent in pdu.prev_events}
        return [pdu.event_id for pdu in accepted if pdu.event_id not in cited]

    def live(self) -> None:
        self.grow(0, "m.room.create", "", {"room_version": self.rules.version, "creator": USERS[0]}, [])
        self.grow(0, "m.room.member", USERS[0], {"membership": "join"}, self.leaves())
        self.grow(0, "m.room.power_levels", "", {"users": {USERS[0]: 100, USERS[1]: 50}, "invite": 0}, self.leaves())
        self.grow(0, "m.room.join_rules", "", {"join_rule": "public"}, self.leaves())
        for user in (1, 2, 3):
            self.grow(user, "m.room.member", USERS[user], {"membership": "join"}, self.leaves())
        for _ in range(STEPS):
            self.step()

    def step(self) -> None:
        rng, leaves = self.rng, self.leaves()
        if rng.random() < 0.4:
            parents = [rng.choice(self.pdus).event_id]
        else:
            parents = rng.sample(leaves, rng.randint(1, min(3, len(leaves))))
        user, target = rng.choice((0, 0, 0, 1, 1, 2, 3)), rng.choice(USERS)
        kind = rng.choice(
            ("join", "join", "join", "leave", "kick", "ban", "invite", "knock", "levels", "levels", "levels", "rule",
             "topic", "topic", "aliases", "redaction")
        )  # fmt: skip
        if kind in ("join", "leave", "knock"):
            self.grow(user, "m.room.member", USERS[user], {"membership": kind}, parents)
        elif kind in ("kick", "ban", "invite"):
            membership = "leave" if kind == "kick" else kind
            self.grow(user, "m.room.member", target, {"membership": membership}, parents)
        elif kind == "levels":
            self.grow(user, "m.room.power_levels", "", self.some_levels(), parents)
        elif kind == "rule":
            rule = rng.choice(("public", "public", "invite", "knock", "restricted"))
            self.grow(user, "m.room.join_rules", "", {"join_rule": rule}, parents)
        elif kind == "aliases":
            self.grow(user, "m.room.aliases", server_of(rng.choice((USERS[user], target))), {"aliases": []}, parents)
        elif kind == "redaction":
            redacted = rng.choice(self.pdus).event_id
            self.grow(user, "m.room.redaction", None, {}, parents, redacts=redacted)
        else:
            self.grow(user, "m.room.topic", "", {"topic": str(len(self.pdus))}, parents)

    def some_levels(self) -> dict[str, Any]:
        rng = self.rng
        levels: dict[str, Any] = {user: rng.choice((0, 50, 50, "50", "+50 ", 100)) for user in USERS[1:]}
        content: dict[str, Any] = {"users": {USERS[0]: 100, **levels}, "invite": 0}
        if rng.random() < 0.3:
            content["notifications"] = {"room": rng.choice((0, 50, 100))}
        if rng.random() < 0.3:
            content["events"] = {"m.room.topic": rng.choice((0, "50", 50))}
        return content

    # Writing down

    def written(self, seed: int) -> dict[str, Any]:
        place = {pdu.event_id: index for index, pdu in enumerate(self.pdus)}
        states: dict[tuple[int, ...], int] = {}

        def number(state: State) -> int:
            return states.setdefault(tuple(sorted(place[each] for each in state.values())), len(states))

        events = [
            {
                "pdu": pdu.raw,
                "event_id": pdu.event_id,
                "verdict": self.verdicts[pdu.event_id],
                "state_before": number(self.before[pdu.event_id]),
                "state_after": number(self.after[pdu.event_id]),
            }
            for pdu in self.pdus
        ]
        resolutions = []
        for _ in range(RESOLUTIONS):
            chosen = self.rng.sample(self.pdus, self.rng.randint(2, 4))
            sets = [self.after[pdu.event_id] for pdu in chosen]
            resolutions.append({"state_sets": [number(each) for each in sets], "expected": number(self.resolve(sets))})
        return {
            "room_version": self.rules.version,
            "seed": seed,
            "events": events,
            "states": [list(state) for state in states],
            "resolutions": resolutions,
        }


def main() -> None:
    rooms = []
    for version, count in ROOMS.items():
        for seed in range(count):
            room = JudgedBySynapse(version, seed)
            room.live()
            rooms.append(room.written(seed))
    made = {
        "_doc": "made by benchmarks/old_version_vectors.py: random rooms as signed events; verdicts, states (as places"
        " in `events`) and resolutions are by Synapse's own functions",
        "synapse": version_of("matrix-synapse"),
        "rooms": rooms,
    }
    json.dump(made, sys.stdout, ensure_ascii=True, separators=(",", ":"))
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
