"""The rooms of tests/vectors/state_res through the real receipt, and what of them comes out wrong."""

from __future__ import annotations

import base64
import json
import random
from functools import cache
from pathlib import Path
from typing import Any

from p2pserver.errors import Verdict
from p2pserver.events.receipt import check_on_receipt
from p2pserver.events.versions import rules_of
from p2pserver.meg.state import StateSlot
from p2pserver.rooms.sending import found_room
from p2pserver.store.tx import Tx
from tests.rooms.servers import Server

FOLDER = Path(__file__).parent.parent / "vectors" / "state_res"
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))


class VectorKeys:
    """The keys of the servers in one file."""

    def __init__(self, servers: dict[str, Any]) -> None:
        self._keys = {
            (name, entry["key_id"]): base64.b64decode(entry["verify_key"] + "==") for name, entry in servers.items()
        }

    def verify_key(self, server_name: str, key_id: str, valid_at_ms: int | None = None) -> bytes | None:
        return self._keys.get((server_name, key_id))


@cache
def vector_room(name: str) -> dict[str, Any]:
    room: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return room


def server_for(room: dict[str, Any]) -> Server:
    """A server that holds nothing of the room but its create event."""
    server = Server("observer", keys=VectorKeys(room["servers"]))
    create = check_on_receipt(room["events"][0]["pdu"], rules_of(room["room_version"]), VectorKeys(room["servers"]))
    server.run(lambda tx: found_room(server.context, tx, create))
    return server


def received(room: dict[str, Any], *, seed: int | None) -> Server:
    """A server that got all events: in the order of the file, or shuffled and in random batches."""
    server = server_for(room)
    raws = [event["pdu"] for event in room["events"][1:]]
    if seed is None:
        server.receive(room["room_id"], raws)
        return server
    rng = random.Random(seed)
    rng.shuffle(raws)
    while raws:
        some = rng.randint(1, len(raws))
        server.receive(room["room_id"], raws[:some])
        del raws[:some]
    return server


def failures(room: dict[str, Any], server: Server) -> list[str]:
    """Where the server's verdicts, states before and after, or extremities are not those of the file."""
    return server.run(lambda tx: list(_failures(room, server, tx)))


def _failures(room: dict[str, Any], server: Server, tx: Tx) -> list[str]:
    found: list[str] = []
    soft_failed = False
    for event in room["events"]:
        event_id = event["event_id"]
        stored = server.rooms.stored(tx, event_id)
        if stored is None or stored.outlier:
            found.append(f"{event_id} is not in the graph")
            continue
        soft_failed = soft_failed or stored.verdict is Verdict.SOFT_FAILED
        rejected = {"accepted": "", "rejected_by_auth_events": "by its auth events"}.get(
            event["verdict"], "by the state"
        )
        if (stored.verdict is Verdict.REJECTED) != bool(rejected) or not (stored.reason or "").startswith(rejected):
            found.append(f"{event_id}: {stored.verdict} ({stored.reason}), not {event['verdict']}")
        for moment in ("state_before", "state_after"):
            ours = getattr(server.rooms, moment)(tx, event_id)
            if ours != slots(room["states"][event[moment]]):
                found.append(f"{event_id}: {moment} is wrong")
    if not soft_failed:
        extremities = [row[0] for row in tx.all("SELECT event_id FROM forward_extremities ORDER BY event_id")]
        if extremities != sorted(room["forward_extremities"]):
            found.append(f"the extremities are {extremities}")
    return found


def slots(state: dict[str, dict[str, str]]) -> dict[StateSlot, str]:
    return {(kind, key): event_id for kind, keys in state.items() for key, event_id in keys.items()}
