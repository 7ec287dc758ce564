"""The core beside Synapse's own functions: the same inputs, in turn, in one process.

    pip install -e '.[bench]'
    python benchmarks/core.py            # all; or some of: resolution conflicts auth hashing signing receipt
    python benchmarks/core.py conflicts:duel:2.1      # one shape of a conflict, one algorithm, or both of one shape

What is compared, ours with theirs: `meg.resolution.resolve` with `synapse.state.v2.resolve_events_with_store` (versions
11 and 12, that is algorithms 2 and 2.1); `check_auth_events` and `authorize` with the state-independent and
state-dependent rules of `synapse.event_auth`; `content_hash` and `event_id_of` with `compute_content_hash` and
`compute_event_reference_hash`; `sign_event` with `add_hashes_and_signatures`; `check_all_on_receipt` with
`event_from_pdu_json`, signature check and `check_event_content_hash`. Parsed events are at hand on both sides where
events are what the function takes; ours come with what resolution notes of each event by itself (`EventFacts`,
`LevelTables`). Both databases keep an index over auth chains: ours is in dictionaries here and counted, theirs is
replaced by a function of this file whose time is not counted against it. Times are CPU times, ratios medians over the
rounds.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

from forked_rooms import ForkedRoom, bans_and_rejoins, members_conflict, power_duel, room_with_forks, topics_conflict
from nacl.bindings import crypto_sign_open
from side_by_side import Measured, header, measure, measure_in_parts
from signedjson.key import decode_signing_key_base64, decode_verify_key_bytes
from signedjson.sign import verify_signed_json
from synapse.api.room_versions import KNOWN_ROOM_VERSIONS
from synapse.crypto.event_signing import (
    add_hashes_and_signatures,
    check_event_content_hash,
    compute_content_hash,
    compute_event_reference_hash,
)
from synapse.event_auth import check_state_dependent_auth_rules, check_state_independent_auth_rules
from synapse.events import make_event_from_dict
from synapse.events.utils import prune_event
from synapse.federation.federation_base import event_from_pdu_json
from synapse.state.v2 import resolve_events_with_store
from synapse.storage.databases.main.event_federation import StateDifference

from p2pserver.events.hashing import content_hash, event_id_of, protected_octets
from p2pserver.events.pdu import Pdu
from p2pserver.events.receipt import check_all_on_receipt
from p2pserver.events.signing import SelfCertifyingKeys, sign_event
from p2pserver.events.unpadded_base64 import decode_base64, encode_base64
from p2pserver.events.versions import V11, V12, RoomVersionRules, StateRes
from p2pserver.identifiers import KEY_ID, server_of
from p2pserver.meg.auth import authorize, check_auth_events, state_of_auth_events
from p2pserver.meg.chains import AuthGraph, auth_difference, conflicted_subgraph
from p2pserver.meg.resolution import differing_slots, distinct, holders
from p2pserver.meg.state import StateMap
from p2pserver.node.session import PDUS_PER_UNIT_MAX

PACKAGES = ("p2pserver", "matrix-synapse", "signedjson", "canonicaljson", "PyNaCl", "Twisted", "immutabledict")
ROUNDS = 7
ROOM_EVENTS = 10_000
CONFLICTED = 1_000


def finished(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine that waits for nothing."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it waits for something")


class NoClock:
    async def sleep(self, duration: object) -> None:
        return None


class TheirStore:
    """What Synapse's resolution asks of its database, out of memory; `seconds` counts what the chains cost."""

    def __init__(self, room: ForkedRoom) -> None:
        self.room = room
        self.version = KNOWN_ROOM_VERSIONS[room.rules.version]
        self.events = {
            event_id: make_event_from_dict(json.loads(json.dumps(event.raw)), self.version)
            for event_id, event in room.events.items()
        }
        self.seconds = 0.0

    async def get_events(self, event_ids: Any, allow_rejected: bool = False, **_: object) -> dict[str, Any]:
        return {event_id: self.events[event_id] for event_id in event_ids}

    async def get_auth_chain_difference(
        self, room_id: str, state_sets: list[set[str]], conflicted: set[str] | None, additional: object
    ) -> StateDifference:
        started = time.process_time()
        maps = [{("", event_id): event_id for event_id in each} for each in state_sets]
        slots = differing_slots(maps)
        unconflicted = {event_id for slot, event_id in maps[0].items() if slot not in slots}
        sets = distinct(maps, slots)
        graph = AuthGraph(self.room)
        held_by = holders(sets, slots)
        chain = graph.closure(sorted(held_by))
        every = (1 << len(sets)) - 1
        difference = auth_difference(graph, chain, held_by, unconflicted, every, complete=True)
        subgraph = conflicted_subgraph(graph, chain, held_by) if conflicted is not None else None
        self.seconds += time.process_time() - started
        return StateDifference(auth_difference=difference, conflicted_subgraph=subgraph)

    def resolve(self, sets: Sequence[StateMap]) -> dict[Any, str]:
        return dict(finished(resolve_events_with_store(NoClock(), self.room.room_id, self.version, sets, None, self)))


class Lines:
    def __init__(self) -> None:
        print(f"\n{'what':52} {'ours ms':>9} {'theirs ms':>10} {'times faster':>13}")

    def add(self, name: str, measured: Measured, *, each: int = 1) -> None:
        """`each`: how many of the thing one round did."""
        ours, theirs = (measured.seconds(index) * 1000 / each for index in (0, 1))
        print(f"{name:52} {ours:9.4f} {theirs:10.4f} {measured.times_faster(0, 1):13.2f}", flush=True)


def resolutions_beside(lines: Lines, name: str, room: ForkedRoom, resolutions: list[list[StateMap]]) -> None:
    store = TheirStore(room)
    for sets in resolutions:
        ours, theirs = room.resolve(sets), store.resolve(sets)
        if ours != theirs:
            raise AssertionError(f"{name}: the two disagree")

    def run_ours() -> None:
        for sets in resolutions:
            room.resolve(sets)

    def run_theirs() -> None:
        store.seconds = 0.0
        for sets in resolutions:
            store.resolve(sets)

    rounds: list[tuple[float, ...]] = []
    for _ in range(ROUNDS):
        measured = measure([run_ours, run_theirs], rounds=1)
        ours, theirs = measured.rounds[0]
        rounds.append((ours, theirs - store.seconds))  # of that run, not of the one to warm up
    lines.add(name, Measured(rounds), each=len(resolutions))


def resolution(lines: Lines) -> None:
    for rules in (V11, V12):
        room = room_with_forks(rules, ROOM_EVENTS)
        resolutions = room.resolutions
        name = f"resolution {algorithm(rules)}: {len(room.events)} events, {len(resolutions)} merges, each"
        resolutions_beside(lines, name, room, resolutions)


def conflicts(lines: Lines, *wanted: str) -> None:
    """All shapes, or those of which the words `wanted` are in the name or name the algorithm."""
    shapes: list[tuple[str, Callable[[RoomVersionRules], tuple[ForkedRoom, list[StateMap]]]]] = [
        ("profiles of members, 2 sets", lambda rules: members_conflict(rules, CONFLICTED)),
        ("bans and profiles, 2 sets", lambda rules: bans_and_rejoins(rules, CONFLICTED)),
        ("power levels duel, 2 sets", lambda rules: power_duel(rules, CONFLICTED)),
        ("settings, 2 sets", lambda rules: topics_conflict(rules, CONFLICTED, 2)),
        ("settings, 20 sets", lambda rules: topics_conflict(rules, CONFLICTED, 20)),
    ]
    for rules in (V11, V12):
        for name, shape in shapes:
            if not all(word == algorithm(rules) or word in name for word in wanted):
                continue
            room, sets = shape(rules)
            resolutions_beside(lines, f"{CONFLICTED} conflicted, {algorithm(rules)}: {name}", room, [sets])


def algorithm(rules: RoomVersionRules) -> str:
    return "2.1" if rules.state_res is StateRes.V2_1 else "2"


def auth(lines: Lines) -> None:
    for rules in (V11, V12):
        room = room_with_forks(rules, 2_000)
        store = TheirStore(room)
        create = next(iter(room.events.values()))
        checked = list(room.events.values())[1:]
        pairs = [(event, store.events[event.event_id]) for event in checked]

        def ours(pairs: Any = pairs, room: ForkedRoom = room, create: Any = create) -> None:
            for event, _ in pairs:
                cited = [room.events[event_id] for event_id in event.auth_events]
                check_auth_events(event, cited, rejected=(), create=create)
                authorize(event, state_of_auth_events(cited, create))

        def theirs(pairs: Any = pairs, store: TheirStore = store) -> None:
            for _, event in pairs:
                finished(check_state_independent_auth_rules(store, event))
                check_state_dependent_auth_rules(event, [store.events[each] for each in event.auth_event_ids()])

        lines.add(f"event auth, version {rules.version}, each", measure([ours, theirs], rounds=ROUNDS), each=len(pairs))


def hashing(lines: Lines) -> None:
    room = room_with_forks(V12, 2_000)
    raws = [dict(event.raw) for event in room.events.values()]
    store = TheirStore(room)
    others = list(store.events.values())

    def ours_content() -> None:
        for raw in raws:
            content_hash(raw, V12)

    def theirs_content() -> None:
        for raw in raws:
            compute_content_hash(raw, hashlib.sha256)

    def ours_reference() -> None:
        for raw in raws:
            event_id_of(raw, V12)

    def theirs_reference() -> None:
        for event in others:
            compute_event_reference_hash(event)

    lines.add("content hash, each", measure([ours_content, theirs_content], rounds=ROUNDS), each=len(raws))
    lines.add("reference hash, each", measure([ours_reference, theirs_reference], rounds=ROUNDS), each=len(raws))


def signing(lines: Lines) -> None:
    room = room_with_forks(V12, 2_000)
    left_out = ("hashes", "signatures")
    drafts = [{key: value for key, value in each.raw.items() if key not in left_out} for each in room.events.values()]
    signer = room.signers[0]
    key = decode_signing_key_base64("ed25519", KEY_ID.partition(":")[2], encode_base64(seed_of(signer)))
    version = KNOWN_ROOM_VERSIONS["12"]
    theirs_first = dict(drafts[5])
    add_hashes_and_signatures(version, theirs_first, signer.server_name, key)
    if sign_event(drafts[5], V12, signer) != theirs_first:
        raise AssertionError("the two sign differently")

    def ours() -> None:
        for draft in drafts:
            sign_event(draft, V12, signer)

    def theirs() -> None:
        for draft in drafts:
            add_hashes_and_signatures(version, dict(draft), signer.server_name, key)

    lines.add("hashes and signature of an own event, each", measure([ours, theirs], rounds=ROUNDS), each=len(drafts))


def seed_of(signer: Any) -> bytes:
    return bytes(signer._signing_key)  # noqa: SLF001  # theirs shall sign with the same key


def receipt(lines: Lines) -> None:
    """As many events at once as a node takes from a peer in one unit of work."""
    room = room_with_forks(V12, 2_000)
    raws = [json.loads(json.dumps(event.raw)) for event in room.events.values()]
    keys = SelfCertifyingKeys()
    version = KNOWN_ROOM_VERSIONS["12"]
    verify_keys = {signer.server_name: decode_verify_key_bytes(KEY_ID, signer.verify_key) for signer in room.signers}
    bare = []
    for raw in raws:
        server = server_of(raw["sender"])
        signature = decode_base64(raw["signatures"][server][KEY_ID])
        bare.append((signature + protected_octets(raw, V12), verify_keys[server].encode()))

    def ours(raws: list[dict[str, Any]]) -> None:
        if not all(isinstance(each, Pdu) for each in check_all_on_receipt(raws, V12, keys)):
            raise AssertionError("an event is dropped")

    def theirs(raws: list[dict[str, Any]]) -> None:
        for raw in raws:
            event = event_from_pdu_json(raw, version)
            server = server_of(event.sender)
            verify_signed_json(prune_event(event).get_pdu_json(), server, verify_keys[server])
            if not check_event_content_hash(event) or not event.event_id:
                raise AssertionError("a hash does not match")

    def libsodium(bare: list[tuple[bytes, bytes]]) -> None:
        for signed, key in bare:
            crypto_sign_open(signed, key)

    units = [slice(start, start + PDUS_PER_UNIT_MAX) for start in range(0, len(raws), PDUS_PER_UNIT_MAX)]
    parts = [(partial(ours, raws[unit]), partial(theirs, raws[unit]), partial(libsodium, bare[unit])) for unit in units]
    measured = measure_in_parts(parts, rounds=ROUNDS)
    lines.add("check on receipt, each", measured, each=len(raws))
    share = 1 / measured.times_faster(2, 0)
    print(
        f"{'  of the rate of libsodium alone':52} {measured.seconds(2) * 1000 / len(raws):9.4f} {'':10} {share:12.0%}"
    )


ALL: dict[str, Callable[..., None]] = {
    "resolution": resolution,
    "conflicts": conflicts,
    "auth": auth,
    "hashing": hashing,
    "signing": signing,
    "receipt": receipt,
}


def main(names: Sequence[str]) -> None:
    header(PACKAGES)
    lines = Lines()
    for name in names or ALL:
        part, *wanted = name.split(":")
        ALL[part](lines, *wanted)


if __name__ == "__main__":
    asyncio.set_event_loop(asyncio.new_event_loop())
    main(sys.argv[1:])
