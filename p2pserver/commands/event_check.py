"""One PDU in a file: what a node would make of it, check by check.

Taken are a bare PDU, or an object with `pdu` and any of `room_version`, `servers` (or `server` and `verify_key`),
`auth_events` or `auth_chain` (PDUs, or objects with `pdu` and `rejected`) and `state` (PDUs); or an object with a list
`cases` of such objects, as the tamper and auth vectors are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from p2pserver.commands.json_files import BadFile, FileKeys, keys_of
from p2pserver.errors import UnsupportedRoomVersion
from p2pserver.events.examination import Examination, examine
from p2pserver.events.pdu import Pdu
from p2pserver.events.versions import RoomVersionRules, rules_of
from p2pserver.meg.auth import create_id_of
from p2pserver.meg.replay import Replay
from p2pserver.meg.state import StateMap

ACCEPTED, REDACTED_COPY, REJECTED, DROPPED = "accepted", "redacted copy", "rejected", "dropped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A PDU with what came along to judge it by. `rejected` are the auth events that are said to be rejected."""

    pdu: object
    rules: RoomVersionRules
    keys: FileKeys
    beside: Sequence[object] = ()
    state: Sequence[object] | None = None
    said_rejected: Sequence[bool | None] = ()


@dataclass(slots=True)
class Checked:
    """What came out. `auth` says how far the auth rules could be asked."""

    verdict: str
    reason: str | None
    auth: str
    room_version: str
    examination: Examination
    pdu: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        found = self.examination
        return {
            "verdict": self.verdict,
            "reason": self.reason,
            "event_id": found.event_id,
            "room_version": self.room_version,
            "signatures": found.signatures,
            "content_hash": None if found.content_hash is None else ("matches" if found.content_hash else "differs"),
            "auth": self.auth,
        }

    def lines(self) -> Iterable[str]:
        found = self.examination
        yield f"event      {found.event_id or 'has no ID'}"
        yield f"is         {self.pdu.get('type')} from {self.pdu.get('sender')}, room version {self.room_version}"
        signatures = [
            f"{server} {key_id}: {said}" for server, own in found.signatures.items() for key_id, said in own.items()
        ]
        yield f"signature  {', '.join(signatures) or 'none'}"
        if found.content_hash is not None:
            yield f"hash       {'matches the content' if found.content_hash else 'does not match the content'}"
        yield f"auth       {self.auth}"
        yield f"verdict    {self.verdict}" + (f": {self.reason}" if self.reason else "")


def cases_of(data: object, *, version: str | None, beside: Sequence[object]) -> tuple[list[Case], bool]:
    """The PDUs in a file, and whether it was a list of cases. `version` and `beside` come from the command line.

    Raises: BadFile.
    """
    if not isinstance(data, dict):
        raise BadFile("the file is not a JSON object")
    if isinstance(data.get("cases"), list):
        return [_case(each, version, beside, f"`cases`, number {n}: ") for n, each in enumerate(data["cases"])], True
    return [_case(data if "pdu" in data else {"pdu": data}, version, beside, "")], False


def _case(data: object, version: str | None, beside: Sequence[object], where: str) -> Case:
    if not isinstance(data, dict) or "pdu" not in data:
        raise BadFile(f"{where}no `pdu`")
    own = data.get("auth_events", data.get("auth_chain", []))
    state = data.get("state")
    if not isinstance(own, list) or not (state is None or isinstance(state, list)):
        raise BadFile(f"{where}`auth_events`, `auth_chain` and `state` are lists of PDUs")
    others = [*beside, *own, *(state or [])]
    pdus = [each["pdu"] if isinstance(each, dict) and "pdu" in each else each for each in others]
    said = [each.get("rejected") if isinstance(each, dict) and "pdu" in each else None for each in others]
    named = version or data.get("room_version") or _version_in([data["pdu"], *pdus])
    if named is None:
        raise BadFile(f"{where}nothing says which room version it is of: give --room-version")
    try:
        rules = rules_of(str(named))
    except UnsupportedRoomVersion as error:
        raise BadFile(f"{where}{error}") from None
    in_state = None if state is None else [each.get("pdu", each) if isinstance(each, dict) else each for each in state]
    return Case(pdu=data["pdu"], rules=rules, keys=keys_of(data), beside=pdus, state=in_state, said_rejected=said)


def _version_in(pdus: Iterable[object]) -> str | None:
    """What a create event says; version 1 where it says nothing."""
    for pdu in pdus:
        if isinstance(pdu, dict) and pdu.get("type") == "m.room.create" and isinstance(pdu.get("content"), dict):
            return str(pdu["content"].get("room_version", "1"))
    return None


def check(case: Case) -> Checked:
    """The verdict on the PDU of a case. Raises: BadFile, if what came beside it would itself be dropped."""
    found = examine(case.pdu, case.rules, case.keys)
    raw = case.pdu if isinstance(case.pdu, dict) else {}
    if found.pdu is None:
        return Checked(DROPPED, found.dropped, "not asked", case.rules.version, found, raw)
    held = _held(case)
    said = {
        event_id: rejected
        for event_id, rejected in zip(held, case.said_rejected, strict=False)
        if isinstance(rejected, bool)
    }
    rejection, auth = _judge(case, found.pdu, held, said)
    if rejection is not None:
        return Checked(REJECTED, rejection, auth, case.rules.version, found, raw)
    if found.pdu.redacted_copy:
        reason = "the content does not match its hash, so only the redacted form counts"
        return Checked(REDACTED_COPY, reason, auth, case.rules.version, found, raw)
    return Checked(ACCEPTED, None, auth, case.rules.version, found, raw)


def _held(case: Case) -> dict[str, Pdu]:
    held: dict[str, Pdu] = {}
    for number, other in enumerate(case.beside):
        found = examine(other, case.rules, case.keys)
        event = found.pdu or found.unverified
        if event is None:
            raise BadFile(f"number {number} of the events beside the PDU would be dropped: {found.dropped}")
        held[event.event_id] = event
    return held


def _judge(case: Case, event: Pdu, held: Mapping[str, Pdu], said: Mapping[str, bool]) -> tuple[str | None, str]:
    """Why it is rejected, or None; and how far the auth rules could be asked."""
    missing = [each for each in event.auth_events if each not in held]
    creates = [each for each in held.values() if each.type == "m.room.create" and each.room_id == event.room_id]
    if event.type != "m.room.create":
        if missing:
            return None, f"not judged: {len(missing)} of its auth events are not here, such as {missing[0]}"
        if not creates:
            wanted = f" ({create_id_of(event.room_id)})" if case.rules.room_id_is_create_hash else ""
            return None, f"not judged: the create event of its room{wanted} is not here"
    replay = Replay(case.rules, held.get, create_event_id=creates[0].event_id if creates else None)
    replay.rejected |= {event_id for event_id, rejected in said.items() if rejected}
    for other in held.values():
        judgeable = all(each in held for each in other.auth_events)
        if other.event_id not in said and judgeable and replay.rejection_by_auth_events(other) is not None:
            replay.rejected.add(other.event_id)
    rejection = replay.rejection_by_auth_events(event)
    if rejection is not None or case.state is None:
        return rejection, "judged by its auth events" + ("" if rejection else "; no state was given")
    state = _state_of(case, held)
    return replay.rejection(event, state), "judged by its auth events and by the state"


def _state_of(case: Case, held: Mapping[str, Pdu]) -> StateMap:
    ids = [examine(each, case.rules, case.keys).event_id for each in case.state or ()]
    events = [held[each] for each in ids if each is not None]
    return {event.state_slot: event.event_id for event in events if event.state_slot is not None}
